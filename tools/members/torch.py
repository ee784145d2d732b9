"""``adamas/torch/members.py``: the classes of ``torch.optim``, their arguments and flags in PyTorch's order."""

from __future__ import annotations

from collections.abc import Sequence

from adamas.rule.declaration import Choice, Count, Flag, Hyperparameter, MatrixRule, Member, Several
from adamas.rule.members import MEMBERS

from .options import options_class, own_options
from .rule import after_a_step, example_arguments
from .text import (
    HEADER,
    STAR,
    Argument,
    call,
    doc_of,
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

PATH = "src/adamas/torch/members.py"
_INDENT = " " * 4

# What the classes of torch.optim have after their hyperparameters.
_FLAGS = {
    "SGD": "* maximize foreach differentiable fused capturable",
    "Adagrad": "foreach * maximize differentiable fused capturable",
    "RMSprop": "capturable foreach maximize differentiable",
    "Adam": "* foreach maximize capturable differentiable fused decoupled_weight_decay",
    "Adamax": "foreach * maximize differentiable capturable",
    "NAdam": "decoupled_weight_decay * foreach maximize capturable differentiable",
    "RAdam": "decoupled_weight_decay * foreach maximize capturable differentiable",
}
_USUAL_FLAGS = "* maximize foreach capturable differentiable fused"
_WITHOUT_EFFECT = "accepted, but has no effect"
_FLAG_ARGUMENTS = {
    "*": STAR,
    "maximize": Argument("maximize", "bool", "False", "maximize the objective"),
    "foreach": Argument("foreach", "bool | None", "None", _WITHOUT_EFFECT),
    "capturable": Argument(
        "capturable",
        "bool",
        "False",
        "let the step be captured in a CUDA graph, which then replays it with the present rates, schedules, clipping and "
        "skipping: the parameters' device counts the steps",
    ),
    "differentiable": Argument("differentiable", "bool", "False", "True is refused"),
    "fused": Argument(
        "fused",
        "bool | None",
        "None",
        "as in ``torch.optim``, with True the step itself undoes the loss scale of ``torch.amp.GradScaler`` and skips "
        "overflows, instead of the scaler; gradients stay scaled. On a GPU, the host does not wait to learn of one. The "
        "speed is the same: every step is fused",
    ),
    "decoupled_weight_decay": Argument("decoupled_weight_decay", "bool", "False", 'the same as ``decay="decoupled"``'),
}
_BASES = {
    "Adagrad": "EagerOptimizer",  # its state is created at construction
    "Muon": "MatrixOptimizer",
}
_PARAMS = Argument(
    "params", "ParamsT", doc="parameters, named parameters or groups of either, as ``torch.optim`` takes them"
)
_PARAMS_OF = {
    "Muon": Argument(
        "params",
        "ParamsT | nn.Module",
        doc="a model, whose parameters are grouped by ``adamas.torch.matrix_groups`` (it prints how); or parameters, named "
        "parameters or groups of either, as ``torch.optim`` takes them: matrices, and groups with ``use_muon=False``, which "
        "AdamW steps",
    )
}
_PARAMS_OR_MODEL = Argument(
    "params",
    "ParamsT | nn.Module",
    doc="parameters, named parameters or groups of either, as ``torch.optim`` takes them; or a model, whose use in another "
    "mode than that of its weights is then told by a warning",
)
_STEPS_ROWS = (
    "Of a sparse gradient (``torch.nn.Embedding(sparse=True)``), on the CPU, the rows that are there are stepped, and all "
    "others stay as they are, with their states."
)
_NOTES = {name: _STEPS_ROWS for name, member in MEMBERS.items() if member.steps_rows}

_TOP = '''"""The optimizers of the family for PyTorch.

Each has the arguments of its namesake in ``torch.optim``, then the options of ``adamas.rule.options``.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import nn
from torch.optim.optimizer import ParamsT
from typing_extensions import Unpack

from ..rule import options as rule_options
from ..rule.members import MEMBERS
from .matrices import MatrixOptimizer
from .optimizer import EagerOptimizer, Optimizer
from .options import Options, Scheduled
from .schedule_free import ScheduleFreeOptimizer

'''


def write(members: Sequence[Member]) -> str:
    """The whole module."""
    ordered = in_order(members, "torch")
    names = sorted(member.name for member in ordered)
    top = HEADER + _TOP + exported(names)
    classes = dict.fromkeys(options_class("torch", member) for member in ordered if own_options("torch", member))
    top += "".join(
        f'\n\nclass {name}(Options, rule_options.{name}, total=False):\n    """Those of ``Options`` and '
        f'``adamas.rule.options.{name}``."""\n'
        for name in classes
    )
    return top + "".join(_class(member) for member in ordered)


def hyperparameters(adapter: str, member: Member) -> list[Hyperparameter]:
    """The hyperparameters in the namesake's signature, without options."""
    return [h for h in member.hyperparameters if not h.is_option and (not h.only or adapter in h.only)]


def start_of(member: Member) -> str:
    """The parameter of the example: a matrix, if the member needs one."""
    usual = member.rule({h.name: h.default for h in member.hyperparameters})
    return "[[5.0]]" if isinstance(usual, MatrixRule) else "[5.0]"


def annotation(h: Hyperparameter, scheduled: str) -> str:
    """The annotation of a hyperparameter; ``scheduled`` is that of hyperparameters that may be schedules."""
    if isinstance(h, Flag):
        return "bool"
    if isinstance(h, Choice):
        return f"Literal[{', '.join(map(literal, h.choices))}]" + (" | None" if h.default is None else "")
    if isinstance(h, Count):
        return "int"
    one = scheduled if h.may_be_scheduled else "float"
    if not isinstance(h, Several):
        return one
    return f"tuple[{', '.join(f'{one} | None' if default is None else one for default in h.default)}]"


def _arguments(member: Member) -> list[Argument]:
    own = [
        Argument(h.name, annotation(h, "Scheduled"), literal(h.default_in("torch")), doc_of(h))
        for h in hyperparameters("torch", member)
    ]
    rate = own[0]._replace(doc=f"{own[0].doc}; a float, a schedule or a tensor of one element")
    return [rate, *own[1:], *(_FLAG_ARGUMENTS[name] for name in _FLAGS.get(member.name, _USUAL_FLAGS).split())]


def _class(member: Member) -> str:
    options = options_class("torch", member)
    arguments = _arguments(member)
    keywords = Argument("**options", f"Unpack[{options}]")
    where = f"adamas.torch.{'members' if own_options('torch', member) else 'options'}.{options}"
    params = _PARAMS_OF.get(member.name, _PARAMS_OR_MODEL if member.offset else _PARAMS)
    text = docstring(
        member.title,
        [
            formula(member.equations, _INDENT),
            note(member.notes, _INDENT),
            note(_NOTES.get(member.name, ""), _INDENT),
            documented(
                [
                    params,
                    *arguments,
                    Argument("**options", doc=f"see ``{where}``"),
                ],
                _INDENT,
            ),
            raises(_INDENT),
            example(
                [
                    ">>> import torch, adamas.torch",
                    f">>> x = torch.nn.Parameter(torch.tensor({start_of(member)}))",
                    f">>> optimizer = adamas.torch.{member.name}([x], {example_arguments(member, 'torch')})",
                    ">>> (x**2).sum().backward()",
                    ">>> optimizer.step()",
                    ">>> round(x.item(), 5)",
                    after_a_step(member, "torch"),
                ],
                _INDENT,
            ),
        ],
        _INDENT,
    )
    usual = "ScheduleFreeOptimizer" if member.offset else "Optimizer"
    base = member.variant_of or _BASES.get(member.name, usual)
    signature = parameters([Argument("self"), params._replace(doc=""), *arguments, keywords], " " * 8)
    return (
        f"\n\nclass {member.name}({base}):\n{text}\n"
        f'    _member = MEMBERS["{member.name}"]\n\n'
        f"    def __init__(\n{signature}    ) -> None:\n{_body(member, arguments)}"
    )


def _body(member: Member, arguments: Sequence[Argument]) -> str:
    if member.variant_of is None:
        return "        super().__init__(params, locals(), options)\n"
    return call("super().__init__", ["params", *passed_on(arguments), "**options"], " " * 8)


def passed_on(arguments: Sequence[Argument]) -> list[str]:
    """The arguments as they are passed on to a function with the same signature."""
    star = arguments.index(STAR)
    return [one.name for one in arguments[:star]] + [f"{one.name}={one.name}" for one in arguments[star + 1 :]]
