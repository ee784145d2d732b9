"""``adamas/keras/members.py``: the classes of ``keras.optimizers``, with the arguments of their base class."""

from __future__ import annotations

from collections.abc import Sequence

from adamas.rule.declaration import Member
from adamas.rule.shared import declared

from .spelling import equations_in, hyperparameters, spelled
from .text import HEADER, STAR, Argument, docstring, documented, exported, formula, in_order, note, parameters, raises

PATH = "src/adamas/keras/members.py"
_INDENT = " " * 4

_CLASSES = {"LAMB": "Lamb", "NAdam": "Nadam"}
_ORDER = {
    "AdamW": "lr weight_decay betas eps amsgrad * eps_mode bias_correction",
    "NAdam": "lr betas eps * eps_mode bias_correction momentum_decay",
    "RMSprop": "lr alpha momentum eps centered * eps_mode",
}
_TYPES = {"lr": "Rate", "eps_mode": "EpsMode", "RootMode": "RootMode", "decay": "Decay", "weights": "Weights"} | {
    "state": "State",
    "seed": "int",
}
_OF_KERAS = [
    Argument("clipnorm", "float | None", "None"),
    Argument("clipvalue", "float | None", "None"),
    Argument("global_clipnorm", "float | None", "None"),
    Argument("use_ema", "bool", "False"),
    Argument("ema_momentum", "float", "0.99"),
    Argument("ema_overwrite_frequency", "int | None", "None"),
    Argument("loss_scale_factor", "float | None", "None"),
    Argument("gradient_accumulation_steps", "int | None", "None"),
    Argument("name", "str | None", "None"),
]
_OPTIONS = ("decay", "cautious", "l1", "state", "weights", "seed")
_ONLY_HERE = ("ADOPT", "AdEMAMix", "AdamH", "Adan", "LARS", "LaProp", "MARS", "RAdam", "Signum", "StableAdamW")
_VELOCITY = (
    "{of} ``keras.optimizers.{name}`` includes the learning rate. At a constant rate the steps are the same; if the rate "
    "changes, the whole step has the new rate at once here, as in PyTorch."
)
_NOTES = {
    "SGD": _VELOCITY.format(of="The velocity of", name="SGD"),
    "Adagrad": (
        "Of a sparse gradient, on TensorFlow, only the rows that are there are stepped, unless there is weight decay, a "
        "penalty, clipping or accumulation; a row that is there twice is summed before it is squared. On JAX it is made dense."
    ),
    "RMSprop": _VELOCITY.format(of="The momentum of", name="RMSprop"),
    "Adamax": (
        "``keras.optimizers.Adamax`` adds ε to :math:`v_t` in the denominator, not to :math:`|g_t|`; this differs if the "
        "gradients are not much larger than ε."
    ),
    **dict.fromkeys(_ONLY_HERE, "Keras has no optimizer of this name."),
}

_TOP = '''"""The optimizers of the family for Keras, with the arguments, defaults and meaning of their namesakes in Keras.

``clipnorm``, ``clipvalue``, ``global_clipnorm``, ``use_ema``, ``ema_momentum``, ``ema_overwrite_frequency``,
``loss_scale_factor``, ``gradient_accumulation_steps`` and ``name`` are Keras's own: see ``keras.optimizers.Optimizer``. All
optimizers also have these options:

- ``weight_decay``: coefficient of the weight decay. ``decay`` is its kind: ``"decoupled"``, as in Keras, subtracts
  ``learning_rate * weight_decay * p`` from the weight; ``"l2"`` adds ``weight_decay * p`` to the gradient; ``"independent"``
  subtracts ``factor * weight_decay * p``, where factor is the schedule's, without the learning rate; ``"corrected"`` subtracts
  ``factor * learning_rate * weight_decay * p``; ``"cautious"`` does as ``"decoupled"`` where the update does not enlarge the
  weight; ``"update"``, only in Lamb, LARS and StableAdamW, adds ``weight_decay * p`` to the update before it is scaled.
- ``cautious``: whether the elements of the update whose sign is not that of the gradient are left out, and the others divided
  by their share of the tensor's elements, at least 1/1000 (Liang et al., 2024, arXiv:2411.16085). Not in AdamH and Prodigy.
- ``l1``: coefficient of a penalty, added to the gradient as ``l1 * sign(p)``. Variables that are excluded from weight decay
  (``exclude_from_weight_decay``) do not have it.
- ``state``: how the moments are stored, ``"float32"``, ``"bfloat16"``, ``"int8"`` or ``"int6"`` (see ``adamas.rule.formats``),
  or a mapping from the names of moments to formats: ``{"exp_avg": "int8"}``.
- ``weights``: how bfloat16 and float16 variables are rounded. ``"split"`` stores the low bits in the state, so that they train
  exactly as in float32; ``"stochastic"`` rounds up or down at random, without bias; ``"nearest"`` loses updates that are
  smaller than half the spacing of the numbers.
- ``seed``: seed of the stochastic rounding of ``state`` and ``weights``. The random numbers of a variable depend on its
  position.

A learning rate may be a schedule of ``adamas.schedules`` or of Keras. Both count optimizer steps, even if gradients are
accumulated. All arithmetic is in float32, or in float64 for float64 variables.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import keras

from ..rule.layout import State
from ..rule.members import MEMBERS
from ..rule.options import Decay, Weights
from .optimizer import Optimizer, Rate

'''
_ALIASES = """
EpsMode: TypeAlias = Literal["hat", "torch"]
RootMode: TypeAlias = Literal["root", "torch"]

_registered = keras.saving.register_keras_serializable("adamas")
"""


def write(members: Sequence[Member]) -> str:
    """The whole module."""
    ordered = in_order(members, "keras")
    names = sorted(_CLASSES.get(member.name, member.name) for member in ordered)
    top = HEADER + _TOP + exported(names) + _ALIASES
    return top + "".join(_class(member) for member in ordered)


def _class(member: Member) -> str:
    def arguments(*names: str) -> list[Argument]:
        return [
            one for name in names for one in spelled("keras", member, declared(member)[name], _TYPES, "float", "float")
        ]

    found = hyperparameters("keras", member, _ORDER)
    own = [one for h in found for one in spelled("keras", member, h, _TYPES, "float", "float")]
    star = own.index(STAR)
    rate = own[0]._replace(doc=f"{own[0].doc}; a number, a schedule, or a function without arguments")
    decay = [] if any(one.name == "weight_decay" for one in own) else arguments("weight_decay")
    signature = [rate, *own[1:star], *decay, *_OF_KERAS, *own[star:], *arguments(*_OPTIONS)]
    text = docstring(
        member.title,
        [
            formula(equations_in("keras", member), _INDENT),
            note(member.notes, _INDENT),
            note(_NOTES.get(member.name, ""), _INDENT),
            documented(
                [
                    *(rate, *own[1:star], *own[star:]),
                    Argument(
                        f"{'weight_decay, ' if decay else ''}clipnorm to name, decay to seed",
                        doc="see ``adamas.keras.members``",
                    ),
                ],
                _INDENT,
            ),
            raises(_INDENT),
        ],
        _INDENT,
    )
    return (
        f"\n\n@_registered\nclass {_CLASSES.get(member.name, member.name)}(Optimizer):\n{text}\n"
        f'    _member = MEMBERS["{member.name}"]\n\n'
        f"    def __init__(\n{parameters([Argument('self'), *signature], ' ' * 8)}    ) -> None:\n"
        f"        super().__init__(locals())\n"
    )
