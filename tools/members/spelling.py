"""The arguments of adapters whose names differ from those of ``torch.optim``."""

from __future__ import annotations

from collections.abc import Mapping

from adamas.rule.declaration import Choice, Flag, Hyperparameter, Member
from adamas.rule.names import arguments
from adamas.rule.shared import declared

from .text import STAR, Argument, doc_of, literal

# The hyperparameters of a namesake in its order, if that is not the declaration's; ``*`` as in a signature.
Order = Mapping[str, str]


def hyperparameters(
    adapter: str, member: Member, order: Order, positional: tuple[str, ...] = ()
) -> list[Hyperparameter | None]:
    """The member's own hyperparameters in the order of its signature, with None for ``*``.

    ``positional`` has options that are among the arguments of the namesakes.
    """
    known = declared(member)
    if member.name in order:
        return [None if name == "*" else known[name] for name in order[member.name].split()]
    own = [h for h in member.hyperparameters if h.name not in ("weight_decay", "decay")]
    own = [h for h in own if not h.only or adapter in h.only]
    named = [h for h in own if h.is_option and h.name not in positional]
    return [*(h for h in own if h not in named), None, *named]


def spelled(
    adapter: str, member: Member, h: Hyperparameter | None, types: Mapping[str, str], scheduled: str, number: str
) -> list[Argument]:
    """The arguments for a hyperparameter.

    ``types`` has the annotations of choices by hyperparameter or argument; those of others are ``scheduled`` or ``number``.
    """
    if h is None:
        return [STAR]
    default = h.default_in(adapter)
    names = arguments(adapter, member)[h.name]
    if isinstance(h, Flag):
        kind = "bool"
    elif isinstance(h, Choice):
        kind = types["RootMode" if "root" in h.choices else h.name]
    else:
        kind = types.get(h.name, scheduled if h.may_be_scheduled else number)
    kind += " | None" if default is None else ""
    if len(names) == 1:
        return [Argument(names[0], kind, literal(default), doc_of(h))]
    return [Argument(name, kind, literal(default[i]), doc_of(h, i)) for i, name in enumerate(names)]


def equations_in(adapter: str, member: Member) -> tuple[str, ...]:
    """The equations of a member, with ε under the root if that is its place in the adapter."""
    place = declared(member).get("eps_mode")
    if place is None or place.default_in(adapter) != "root":
        return member.equations
    return tuple(line.replace(r"\sqrt{v_t} + \epsilon", r"\sqrt{v_t + \epsilon}") for line in member.equations)
