"""The adapters' names of hyperparameters, where they differ from those of ``torch.optim``.

Imports only the standard library.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any

from .declaration import Member
from .shared import declared

# By the hyperparameter's name, or by "Member.name". A name with {} is formatted with the index of each of several numbers.
NAMES: Mapping[str, Mapping[str, str]] = {
    "keras": {"lr": "learning_rate", "betas": "beta_{}", "eps": "epsilon", "RMSprop.alpha": "rho"},
    "optax": {
        **{"lr": "learning_rate", "betas": "b{}", "decay": "decay_mode"},
        **{"RMSprop.alpha": "decay", "RMSprop.eps_mode": "eps_in_sqrt", "Signum.momentum": "beta"},
        "SGDScheduleFree.momentum": "b1",
        **{"Prodigy.d0": "estim_lr0", "Prodigy.d_coef": "estim_lr_coef"},
    },
}


@cache
def arguments(adapter: str, member: Member) -> dict[str, tuple[str, ...]]:
    """The names of the arguments for each hyperparameter: one, or one for each of its numbers."""
    names = NAMES.get(adapter, {})
    found = {}
    for h in declared(member).values():
        name = names.get(f"{member.name}.{h.name}", names.get(h.name, h.name))
        found[h.name] = tuple(name.format(i + 1) for i in range(len(h.default))) if "{}" in name else (name,)
    return found


def suggestion(member: Member, unknown: Iterable[str], known: Iterable[str]) -> str:
    """The question for an error message whether the nearest of the known options were meant; empty if none is near.

    The names that the other adapters have for a hyperparameter (``learning_rate``, ``beta_1``) are near to it.
    """
    others = {
        argument: name for adapter in NAMES for name, names in arguments(adapter, member).items() for argument in names
    }
    options, near = list(known), []
    for name in unknown:
        near += [others[name]] if others.get(name) in options else get_close_matches(name.lower(), options, n=1)
    return f"did you mean {', '.join(dict.fromkeys(near))}?" if near else ""


def from_arguments(adapter: str, member: Member, given: Mapping[str, Any]) -> dict[str, Any]:
    """All hyperparameters of a member by name: from the arguments of an adapter, and its defaults for the rest."""
    found = {}
    names = arguments(adapter, member)
    for name, h in declared(member).items():
        first, *others = names[name]
        if first not in given:
            found[name] = h.default_in(adapter)
        else:
            found[name] = tuple(given[one] for one in names[name]) if others else given[first]
    return found
