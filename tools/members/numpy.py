"""``adamas/numpy/members.py``: the hyperparameters of ``torch.optim``, without its flags."""

from __future__ import annotations

from collections.abc import Sequence

from adamas.rule.declaration import Member

from .options import options_class
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
)
from .torch import annotation, hyperparameters, passed_on, start_of

PATH = "src/adamas/numpy/members.py"
_INDENT = " " * 4
_NOTES = {"Adagrad": "Gradients must be dense arrays: sparse matrices are refused."}

_TOP = '''"""The optimizers of the family for NumPy, with the arguments and defaults of ``torch.optim``, and the options of
``adamas.rule.options``.

``params`` are the arrays: a list, a dict by name, or a list of groups, dictionaries with ``"params"`` and their own
hyperparameters. Arrays must be writable, must not share memory, and must have dtype float16, float32, float64, complex64,
complex128, or ml_dtypes' bfloat16, with any shape and strides. Arithmetic is in float64 for float64 weights, and in float32
for all others. ``lr``, ``weight_decay`` and ``betas`` may be schedules. A parameter that is not a NumPy array or an unknown
option raises TypeError, an invalid value ValueError.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from ..rule.members import MEMBERS
'''
_REST = """from ..schedules import Schedule
from .optimizer import Optimizer, Params
from .schedule_free import ScheduleFreeOptimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

"""


def write(members: Sequence[Member]) -> str:
    """The whole module."""
    ordered = in_order(members, "numpy")
    classes = sorted({options_class("numpy", member) for member in ordered}, key=lambda name: name.lower())
    imports = f"from ..rule.options import {', '.join(classes)}\n"
    names = exported(sorted(member.name for member in ordered))
    return HEADER + _TOP + imports + _REST + names + "".join(_class(member) for member in ordered)


def _class(member: Member) -> str:
    options = options_class("numpy", member)
    own = [
        Argument(h.name, annotation(h, "float | Schedule"), literal(h.default_in("numpy")), doc_of(h))
        for h in hyperparameters("numpy", member)
    ]
    arguments = [*own, STAR, Argument("maximize", "bool", "False", "maximize the objective")]
    text = docstring(
        member.title,
        [
            formula(member.equations, _INDENT),
            note(member.notes, _INDENT),
            note(_NOTES.get(member.name, ""), _INDENT),
            documented(
                [
                    Argument("params", doc="the arrays; see ``adamas.numpy.members``"),
                    *arguments,
                    Argument("**options", doc=f"see ``adamas.rule.options.{options}``"),
                ],
                _INDENT,
            ),
            example(
                [
                    ">>> import numpy as np, adamas.numpy",
                    f">>> x = np.array({start_of(member)})",
                    f">>> optimizer = adamas.numpy.{member.name}([x], {example_arguments(member, 'numpy')})",
                    ">>> optimizer.step([2 * x])",
                    f">>> round(float(x{'[0, 0]' if start_of(member) == '[[5.0]]' else '[0]'}), 5)",
                    after_a_step(member, "numpy"),
                ],
                _INDENT,
            ),
        ],
        _INDENT,
    )
    signature = parameters(
        [Argument("self"), Argument("params", "Params"), *arguments, Argument("**options", f"Unpack[{options}]")],
        " " * 8,
    )
    body = "        super().__init__(params, locals(), options)\n"
    if member.variant_of is not None:
        body = call("super().__init__", ["params", *passed_on(arguments), "**options"], " " * 8)
    base = member.variant_of or ("ScheduleFreeOptimizer" if member.offset else "Optimizer")
    return (
        f"\n\nclass {member.name}({base}):\n{text}\n"
        f'    _member = MEMBERS["{member.name}"]\n\n'
        f"    def __init__(\n{signature}    ) -> None:\n{body}"
    )
