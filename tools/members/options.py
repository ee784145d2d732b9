"""``adamas/rule/options.py``: the types of the options that the optimizers of ``torch`` and ``numpy`` have besides the
arguments of their namesakes."""

from __future__ import annotations

from collections.abc import Sequence

from adamas.rule.declaration import Choice, Flag, Formats, Hyperparameter, Limit, Member, Rows, Seed, Several
from adamas.rule.shared import SHARED

from .text import HEADER, in_order, literal, wrapped

PATH = "src/adamas/rule/options.py"

# Sets of options that have a name.
_CLASSES = {
    (): "Options",
    ("eps_root",): "RootOptions",
    ("eps_mode", "bias_correction", "eps_root"): "AdamOptions",
    ("bias_correction",): "AdamaxOptions",
}

_TOP = '''"""The types of the options that optimizers have besides the arguments of their namesakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

from ..schedules import Schedule
from .layout import State

Decay = Literal["l2", "decoupled", "independent", "corrected", "cautious", "update"]
Weights = Literal["nearest", "stochastic", "split"]


class WholeOptions(TypedDict, total=False):
    """Options of an optimizer as a whole.

    Attributes:
        watch: True keeps statistics of each tensor in the last 512 steps, computed in the same pass as the step, for
            ``optimizer.watch``: see ``adamas.step.watch.Watch``. Or a string: ``"every=10"`` watches one step in ten
            (but all steps in a CUDA graph), ``"keep=256"`` keeps 256 watched steps, ``"save"`` saves them in the state
            dict; several are separated by commas. Default: False.
        on_spike: what to do with a step that is far out of the usual: ``"skip"`` skips it, ``"clip"`` shortens it to the
            limit. ``optimizer.spikes`` counts such steps. Settings can follow, separated by commas. What is measured:
            ``"of=grad_norm"`` (the default), ``"of=loss"`` (given to ``step(loss=loss)``, or returned by a closure; with
            DTensors, the mean over the processes), ``"of=update_norm"`` (of the previous step; needs ``watch=True``) or
            ``"of=exact"`` (the update of this step, which is computed twice for this), or several joined by ``+``. The
            limit: ``"sigma=6"``, standard deviations above the mean of the last values, or ``"quantile=0.99"``, 1.5 times
            that quantile. The number of last values: ``"last=128"``, half of which must be known before anything is
            limited. Default: None.
    """

    watch: bool | str
    on_spike: str | None
'''


def own_options(adapter: str, member: Member) -> list[Hyperparameter]:
    """The options that a member has besides those of every member."""
    shared = {h.name for h in SHARED}
    return [
        h for h in member.hyperparameters if h.is_option and h.name not in shared and (not h.only or adapter in h.only)
    ]


def options_class(adapter: str, member: Member) -> str:
    """The name of the type of a member's options."""
    return _CLASSES.get(tuple(h.name for h in own_options(adapter, member)), f"{member.name}Options")


def write(members: Sequence[Member]) -> str:
    """The whole module."""
    shared = [h for h in SHARED if h.is_option]
    text = HEADER + _TOP + _class("Options", "WholeOptions", "Options that every optimizer of the family has", shared)
    written = {"Options"}
    for member in in_order(members):
        name = options_class("torch", member)
        if name not in written:
            written.add(name)
            text += _class(
                name, "Options", f"Those of ``Options``, and the options of {member.name}", own_options("torch", member)
            )
    return text


def _class(name: str, base: str, title: str, options: Sequence[Hyperparameter]) -> str:
    end = "; each can be set for a parameter group." if base == "WholeOptions" else " and of members like it."
    lines = "".join(f"{wrapped(f'{h.name}: {_with_default(h)}', ' ' * 8, ' ' * 4)}\n" for h in options)
    fields = "".join(f"    {h.name}: {_annotation(h)}\n" for h in options)
    return f'\n\nclass {name}({base}, total=False):\n    """{title}{end}\n\n    Attributes:\n{lines}    """\n\n{fields}'


def _with_default(h: Hyperparameter) -> str:
    is_namesakes = h.name in ("decay", "eps_mode")
    default = (
        "the namesake's"
        if is_namesakes
        else f"``{literal(h.default)}``"
        if isinstance(h.default, str)
        else literal(h.default)
    )
    return f"{h.doc}. Default: {default}."


def _annotation(h: Hyperparameter) -> str:
    if h.name in ("decay", "weights"):
        return h.name.capitalize()
    if isinstance(h, Choice):
        return f"Literal[{', '.join(map(literal, h.choices))}]"
    if isinstance(h, Several):
        one = "float | Schedule" if h.may_be_scheduled else "float"
        return f"tuple[{', '.join([one] * len(h.default))}]"
    special = {
        Flag: "bool",
        Seed: "int",
        Formats: "State",
        Limit: 'float | Schedule | Literal["auto"] | None',
        Rows: "Sequence[tuple[int, int] | None] | None",
    }
    return special.get(type(h), "float")
