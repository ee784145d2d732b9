"""``adamas/optax/members.py``: the functions of ``optax``, with the options of the family as further keyword arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adamas.rule.declaration import Member
from adamas.rule.shared import declared

from .rule import after_a_step, example_arguments
from .spelling import equations_in, hyperparameters, spelled
from .text import (
    HEADER,
    Argument,
    docstring,
    documented,
    example,
    exported,
    formula,
    in_order,
    literal,
    note,
    parameters,
    raises,
)

PATH = "src/adamas/optax/members.py"
_INDENT = " " * 4

_FUNCTIONS = {"AdamWScheduleFree": "schedule_free_adamw", "SGDScheduleFree": "schedule_free_sgd"}
_ORDER = {
    "SGD": "lr momentum nesterov * dampening",
    "Adagrad": "lr initial_accumulator_value eps * lr_decay",
    "RMSprop": "lr alpha eps initial_scale eps_mode centered momentum *",
    "NAdam": "lr betas eps eps_root * momentum_decay eps_mode bias_correction",
    "LARS": "lr * momentum trust_coefficient eps nesterov",
    "Prodigy": "lr * betas eps d0 d_coef safeguard_warmup use_bias_correction growth_rate",
    "AdamWScheduleFree": "lr warmup_steps betas eps * weight_lr_power r",
    "SGDScheduleFree": "lr warmup_steps momentum * weight_lr_power r",
}
_TYPES = {
    "eps_mode": "EpsMode",
    "RootMode": "bool",
    "decay": "Decay",
    "weights": "Weights",
    "on_nonfinite": "OnNonfinite",
} | {
    "state": "StateOption",
    "seed": "int",
}
_OPTIONS = ("weight_decay", "decay", "cautious", "l1", "mask", "state", "weights", "seed", "on_nonfinite")
_NOTES = {
    "Adan": (
        "``optax.adan`` multiplies the differences of gradients by ``1 - b2`` where the paper and its authors' code, and this "
        "function, have ``b2``."
    ),
    "Prodigy": (
        "``optax.contrib.prodigy`` has ``betas`` in place of ``b1`` and ``b2``, and ``beta3``, which is ``b2 ** 0.5`` here."
    ),
    "RMSprop": (
        "``momentum`` averages before the learning rate is applied, as in PyTorch; optax averages after that, which differs "
        "if the rate changes."
    ),
    "amsgrad": (
        "The maximum is taken of v as in the paper, and then corrected for bias; optax corrects first, unless "
        "``bias_correction_nu=False``."
    ),
}

_TOP = '''"""The optimizers of the family for JAX, with the arguments, defaults and meaning of their namesakes in optax.

All have the same further options, which are keyword-only:

- ``weight_decay``: coefficient of the weight decay. ``decay_mode`` is its kind: ``"l2"`` adds ``weight_decay * p`` to the
  gradient; ``"decoupled"`` subtracts ``learning_rate * weight_decay * p`` from the weight; ``"independent"`` subtracts
  ``factor * weight_decay * p``, where factor is the schedule's, without the learning rate; ``"corrected"`` subtracts
  ``factor * learning_rate * weight_decay * p``; ``"cautious"`` does as ``"decoupled"`` where the update does not enlarge the
  weight; ``"update"``, only in lamb, lars and stableadamw, adds ``weight_decay * p`` to the update before it is scaled.
- ``cautious``: whether the elements of the update whose sign is not that of the gradient are left out, and the others divided
  by their share of the tensor's elements, at least 1/1000 (Liang et al., 2024, arXiv:2411.16085). Not in adamh, prodigy and
  the schedule-free functions.
- ``l1``: coefficient of a penalty, added to the gradient as ``l1 * sign(p)``.
- ``mask``: a tree of bools, or a function from the parameters to one, that selects the parameters with decay and penalty.
- ``state``: how the moments are stored, ``"float32"``, ``"bfloat16"``, ``"int8"`` or ``"int6"`` (see ``adamas.rule.formats``),
  or a mapping from the names of moments to formats: ``{"exp_avg": "int8"}``.
- ``weights``: how bfloat16 and float16 weights are rounded. ``"nearest"`` loses updates that are too small for the weight, as
  in optax; ``"stochastic"`` is unbiased; ``"split"`` stores the remaining bits in the state. With the last two, an update is
  the difference between the new weight and the old one, for ``apply_updates`` of ``adamas.optax``, optax or Flax. Updates have
  the dtype of the gradients (or of the weights, if that is wider). In 16 bits the difference is exact unless a weight changes
  its sign, or by more than a factor of 2; then it is rounded. In float32 it is always exact.
- ``seed``: seed of the stochastic rounding of ``state`` and ``weights``. The random numbers of a parameter depend on its path
  in the tree, and are those of ``adamas.torch`` for a parameter of that name.
- ``on_nonfinite``: what to do if a gradient has a NaN or an infinity. ``"propagate"`` steps with it, as optax does; ``"skip"``
  skips the whole step (the updates are 0 and the state does not change) and counts it in the state's ``skipped_steps``.
  ``"raise"``, which other adapters have, is refused: a compiled step cannot raise.

Learning rate, decay and β's are numbers, arrays whose values are known only when the program runs, or functions of the number
of steps done: schedules of ``adamas.schedules`` or of optax. ``optax.inject_hyperparams`` works with all of these functions;
with bfloat16 or float16 weights give it ``hyperparam_dtype=jnp.float32``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import optax

from ..rule.layout import State as StateOption
from ..rule.members import MEMBERS
from ..rule.options import Decay, Weights
from .options import Number, Scheduled
from .transformation import Tree, transformation

'''
_ALIASES = """
EpsMode = Literal["torch", "hat"]
OnNonfinite = Literal["propagate", "skip"]
Mask: TypeAlias = Tree | Callable[[Tree], Tree] | None
"""


def write(members: Sequence[Member]) -> str:
    """The whole module."""
    functions = []
    for member in in_order(members, "optax"):
        functions.append((_FUNCTIONS.get(member.name, member.lower_name), member, member.title, {}))
        functions += [
            (preset.name, member, preset.title, dict(preset.hyper))
            for preset in member.presets
            if "optax" in preset.only
        ]
    names = sorted(name for name, *_ in functions)
    top = HEADER + _TOP + exported(names) + _ALIASES
    return top + "".join(_function(*one) for one in functions)


def call_arguments(fixed: Mapping[str, Any]) -> str:
    """The arguments of the function, with what a preset sets."""
    return (
        f"{{**locals(), {', '.join(f'{literal(name)}: {literal(value)}' for name, value in fixed.items())}}}"
        if fixed
        else "locals()"
    )


def _function(name: str, member: Member, title: str, fixed: Mapping[str, Any]) -> str:
    known = declared(member)
    own = [
        one
        for h in hyperparameters("optax", member, _ORDER, ("eps_root",))
        for one in spelled("optax", member, h, _TYPES, "Scheduled", "Number")
    ]
    rate = own[0]._replace(default=None, doc=f"{own[0].doc}; a number, an array or a function of the step")
    own = [
        one._replace(default="True", doc="ε under the root; False adds it to the root, as in PyTorch")
        if one.name == "eps_in_sqrt"
        else one
        for one in own[1:]
    ]
    options = [
        one
        for option in _OPTIONS
        for one in (
            [Argument("mask", "Mask", "None")]
            if option == "mask"
            else spelled("optax", member, known[option], _TYPES, "Scheduled", "Number")
        )
    ]
    see = ", ".join(one.name for one in options)
    text = docstring(
        title,
        [
            "" if fixed else formula(equations_in("optax", member), _INDENT),
            note("" if fixed else member.notes, _INDENT),
            note(_NOTES.get(name, _NOTES.get(member.name, "")), _INDENT),
            example(
                [
                    ">>> import jax.numpy as jnp, adamas.optax",
                    f">>> tx = adamas.optax.{name}({example_arguments(member, 'optax')})",
                    ">>> x = jnp.array([5.0])",
                    ">>> updates, state = tx.update(2 * x, tx.init(x), x)",
                    ">>> round(float(adamas.optax.apply_updates(x, updates)[0]), 5)",
                    after_a_step(member, "optax", **fixed),
                ],
                _INDENT,
            ),
            documented([rate, *own, Argument(see, doc="see ``adamas.optax.members``")], _INDENT),
            raises(_INDENT),
        ],
        _INDENT,
    )
    given = call_arguments(fixed)
    return (
        f"\n\ndef {name}(\n{parameters([rate, *own, *options], _INDENT)}) -> optax.GradientTransformation:\n{text}"
        f'    return transformation(MEMBERS["{member.name}"], {given})\n'
    )
