"""What a member of the family is declared as: its hyperparameters, the tensors it keeps, its numbers of a step, its rule."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

Array = Any
Hypers = Mapping[str, Any]
Scalars = Mapping[str, float]
Numbers = dict[str, Any]


# ---- state


@dataclass(frozen=True)
class State:
    """A tensor that a rule keeps for each parameter, of the parameter's shape.

    Attributes:
        role: what the rule calls it.
        signed: whether its values can be negative.
        decay: the number of the rule that multiplies it at every step; None if nothing does. A state that decays is flushed to
            zero where it falls below the smallest normal number and the gradient is zero, and the scale of its 8-bit codes
            decays with it.
        of: what it remembers: the gradient, its square or its size, the largest of the state before it (``"maximum"``), or
            something else (None).
        gain: the number of the rule that multiplies what is added to it; None if nothing does.
        draw: the index of its random numbers, with which an average in 16 bits is rounded stochastically. None: it is
            rounded to the nearest, as a maximum has to be.
        codes: how its 8-bit codes are rounded: ``"nearest"``, or ``"dithered"`` with the same random numbers.
    """

    role: str
    signed: bool
    decay: str | None
    draw: int | None
    of: Literal["gradient", "square", "size", "maximum"] | None = None
    gain: str | None = None
    codes: Literal["nearest", "dithered"] = "nearest"

    @property
    def code_draw(self) -> int | None:
        """The index of the random numbers that round its 8-bit codes; None if they are rounded to the nearest."""
        return self.draw if self.codes == "dithered" else None


WEIGHT_DRAW = 2  # the index of the random numbers that round a weight


# ---- the rule


@dataclass(frozen=True)
class Sum:
    """A sum that a rule needs before it can compute an update.

    Attributes:
        name: what the numbers of the step call it.
        over: ``"tensor"``: the sum over the elements of the parameter's whole tensor, wherever its parts lie; ``"all"``: over
            those of all tensors.
        term: what is summed, ``term(k, xp, p, g, *states)``: an array of p's shape. ``k`` has the numbers of the step and the
            rule's sums before this one, p is the weight before the step, and g and the states are what ``Rule.update`` takes.
            What it has in common with the update is computed again.
    """

    name: str
    over: Literal["tensor", "all"]
    term: Callable[..., Array]


class Rule(ABC):
    """A rule: how the gradient changes the states, and which update comes of them.

    The step of the weight, and with it the decay, is not the rule's: it is ``p ← k·p − η·u`` (``adamas.rule.house``). Rules
    that compare equal are the same.

    Attributes:
        name: of the rule, unique among all rules.
        states: the tensors that it keeps, in the order in which ``update`` takes them.
        numbers: the names of the numbers that it reads, in the order in which the engine takes them.
        sums: that it needs, in the order in which they are computed. The engine steps rules without sums alone.
    """

    name: str
    states: tuple[State, ...]
    numbers: tuple[str, ...]
    sums: tuple[Sum, ...] = ()

    @abstractmethod
    def update(self, k: Any, xp: Any, g: Array, *states: Array) -> tuple[Array, ...]:
        """The update ``u`` and the new states, in order. Nothing is written in place.

        Args:
            k: has the numbers of the step, and the sums, as attributes.
            xp: an array namespace with ``abs``, ``sqrt``, ``sign``, ``where`` and ``maximum``.
            g: the gradient, in float32 (float64 for float64 weights).
            states: as they were after the last step.
        """

    def at(self, numbers: Numbers) -> Rule:
        """The rule for a step with these numbers: itself, but for rules that leave out a part of themselves in some steps."""
        return self

    def variants(self) -> Iterator[Rule]:
        """The rules that ``at`` returns for numbers that are known."""
        yield self


@dataclass(frozen=True)
class OwnRule(Rule):
    """A rule that is a function of its own: ``function(k, xp, g, *states)``."""

    name: str
    states: tuple[State, ...]
    numbers: tuple[str, ...]
    function: Callable[..., tuple[Array, ...]]
    sums: tuple[Sum, ...] = ()

    def update(self, k: Any, xp: Any, g: Array, *states: Array) -> tuple[Array, ...]:
        """See ``Rule.update``."""
        return self.function(k, xp, g, *states)


# ---- numbers of a step


class Host:
    """What the formulas of a step use beside arithmetic, on Python's numbers."""

    number = float
    sqrt, log, exp, minimum, maximum = math.sqrt, math.log, math.exp, min, max

    @staticmethod
    def either(
        condition: bool, yes: Callable[[], tuple[Any, ...]], no: Callable[[], tuple[Any, ...]]
    ) -> tuple[Any, ...]:
        """The numbers of ``yes`` if the condition holds, else those of ``no``."""
        return yes() if condition else no()


class Traced:
    """The same on float64 arrays of a namespace, whose values are known only when a compiled program runs."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp

    @staticmethod
    def number(value: Any) -> Any:
        """The value itself."""
        return value

    def sqrt(self, value: Any) -> Any:
        """The root, and 0 for negative numbers: ``either`` computes both sides, of which one may have no root."""
        return self._xp.sqrt(self._xp.maximum(value, 0.0))

    def log(self, value: Any) -> Any:
        """The natural logarithm."""
        return math.log(value) if isinstance(value, int | float) else self._xp.log(value)

    def exp(self, value: Any) -> Any:
        """The exponential."""
        return math.exp(value) if isinstance(value, int | float) else self._xp.exp(value)

    def minimum(self, one: Any, other: Any) -> Any:
        """The smaller of two numbers."""
        return self._xp.minimum(one, other)

    def maximum(self, one: Any, other: Any) -> Any:
        """The larger of two numbers."""
        return self._xp.maximum(one, other)

    def either(self, condition: Any, yes: Callable[[], tuple[Any, ...]], no: Callable[[], tuple[Any, ...]]) -> Any:
        """See ``Host.either``."""
        return tuple(self._xp.where(condition, one, other) for one, other in zip(yes(), no(), strict=True))


# ---- hyperparameters


@dataclass(frozen=True)
class Range:
    """The numbers that a hyperparameter may be, in words and as a condition."""

    words: str
    holds: Callable[[float], bool]


FROM_0 = Range("a number from 0 up", lambda x: 0 <= x < math.inf)
FROM_0_TO_INFINITY = Range("a number from 0 up", lambda x: x >= 0)
ABOVE_0 = Range("a number above 0", lambda x: 0 < x < math.inf)
BELOW_1 = Range("from 0 up to but not including 1", lambda x: 0 <= x < 1)
FINITE = Range("a finite number", math.isfinite)


@dataclass(frozen=True)
class Hyperparameter:
    """A hyperparameter.

    Attributes:
        name: as in ``torch.optim``; ``adamas.rule.names`` has those of other frameworks.
        default: as in ``torch.optim`` or in the paper.
        doc: what it is, for the docstrings: a clause that begins in lower case, without a full stop at its end.
        may_be_scheduled: whether a schedule may stand there.
        structural: whether the rule is another one where it is 0 or False.
        is_option: whether it can be given by name alone, after the arguments of the namesake.
        elsewhere: the defaults of other adapters, where they differ, by the adapter's name (``"keras"``, …).
        only: the adapters that have it; empty: all. For the others the formulas know its value.
    """

    name: str
    default: Any
    doc: str
    may_be_scheduled: bool = False
    structural: bool = False
    is_option: bool = False
    elsewhere: Mapping[str, Any] = field(default_factory=dict)
    only: tuple[str, ...] = ()

    def default_in(self, adapter: str) -> Any:
        """The default in an adapter."""
        return self.elsewhere.get(adapter, self.default)


@dataclass(frozen=True)
class Number(Hyperparameter):
    """A number within a range."""

    range: Range = FROM_0


@dataclass(frozen=True)
class Share(Number):
    """A number from 0 up to but not including 1."""

    range: Range = BELOW_1


@dataclass(frozen=True)
class Shares(Share):
    """Several of them as a tuple, as many as the default has."""


class Flag(Hyperparameter):
    """True or False."""


@dataclass(frozen=True)
class Choice(Hyperparameter):
    """One of a few words."""

    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Limit(Number):
    """A number, ``"auto"`` or None."""

    range: Range = ABOVE_0


class Seed(Hyperparameter):
    """An int."""


class Formats(Hyperparameter):
    """How the states are stored: a format for all of them, or one for each by its name."""


class Rows(Hyperparameter):
    """Where each parameter of a group lies in a larger tensor."""


# ---- the member


@dataclass(frozen=True)
class Preset:
    """A member with some of its hyperparameters set, which has a name of its own in some adapters.

    Attributes:
        name: in lower case, as in these adapters.
        title: what it is, in one sentence, with its source.
        hyper: the hyperparameters that it sets.
        only: the adapters in which it has that name.
    """

    name: str
    title: str
    hyper: Mapping[str, Any]
    only: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Member:
    """One member of the family.

    Attributes:
        name: of the class in ``adamas.torch``, as in ``torch.optim`` where there is such a one.
        title: what it is, in one sentence, with its source.
        equations: its rule in LaTeX, line by line; where there are several, they are aligned at ``&``.
        hyperparameters: in the order of the signature. Those of ``adamas.rule.shared`` belong to every member; one that is
            among these too has another default, or a place in the signature.
        make_rule: makes the rule for some hyperparameters, of which only whether the structural ones are 0 or False counts.
        numbers: the numbers that the rule reads, by name, for hyperparameters and scalars; ``eta`` is the rate where that is
            not ``lr``. The last argument is ``Host`` or a ``Traced``. Computed in float64.
        names: what the state calls the tensors, by their roles: PyTorch's names.
        starts: the hyperparameter that a state begins with, by its role; others begin with 0.
        scalars: the numbers that each parameter carries, with their initial values.
        advance: the scalars of the next step.
        conflict: what is wrong with hyperparameters that contradict each other, in PyTorch's words; empty if nothing is.
        variant_of: the member whose state it has, where only defaults differ (AdamW's is Adam's).
        notes: what else the docstrings say, in reStructuredText.
        heading: of its section in ``docs/members.md``, if that is not its name.
        page: that section in Markdown: what it is for, and its sources.
        presets: see ``Preset``.
    """

    name: str
    title: str
    equations: tuple[str, ...]
    hyperparameters: tuple[Hyperparameter, ...]
    make_rule: Callable[[Hypers], Rule]
    numbers: Callable[[Hypers, Scalars, Any], Numbers]
    names: Mapping[str, str]
    starts: Mapping[str, str] = field(default_factory=dict)
    scalars: tuple[tuple[str, float], ...] = (("step", 0.0),)
    advance: Callable[[Hypers, Scalars], dict[str, float]] = lambda hyper, scalars: {"step": scalars["step"] + 1}
    conflict: Callable[[Hypers], str] = lambda hyper: ""
    variant_of: str | None = None
    notes: str = ""
    heading: str = ""
    page: str = ""
    presets: tuple[Preset, ...] = ()

    @cached_property
    def states(self) -> dict[str, State]:
        """All tensors that it may keep, by their names in the state, whatever the options are."""
        found = {self.names[state.role]: state for rule in self._rules.values() for state in rule.states}
        return {name: found[name] for name in self.names.values()}

    @cached_property
    def scalar_names(self) -> tuple[str, ...]:
        """The names of the numbers that each parameter carries, the step first."""
        return tuple(name for name, _ in self.scalars)

    @cached_property
    def _structural(self) -> tuple[str, ...]:
        return tuple(h.name for h in self.hyperparameters if h.structural)

    @cached_property
    def _rules(self) -> dict[tuple[bool, ...], Rule]:
        """The rule by whether each of the structural hyperparameters is there."""
        names = self._structural
        return {
            values: self.make_rule(dict(zip(names, values, strict=True)))
            for values in itertools.product((False, True), repeat=len(names))
        }

    def rule(self, hyper: Hypers) -> Rule:
        """The rule for these hyperparameters."""
        return self._rules[tuple([bool(hyper[name]) for name in self._structural])]

    def rules(self) -> list[Rule]:
        """All rules that a step of it can follow, each once."""
        return list(dict.fromkeys(rule for one in self._rules.values() for rule in one.variants()))

    def state_names(self, hyper: Hypers) -> tuple[str, ...]:
        """The names of the tensors that the hyperparameters call for, in the order of the rule's states."""
        return tuple([self.names[state.role] for state in self.rule(hyper).states])

    @cached_property
    def denominators(self) -> tuple[str, ...]:
        """The names of the averages of the gradient's size: without them, a step could be of any size."""
        return tuple(name for name, state in self.states.items() if state.of in ("square", "size"))

    @property
    def base(self) -> str:
        """The name of the member whose state it has: its own, but for AdamW."""
        return self.variant_of or self.name

    def start_of(self, name: str, hyper: Hypers) -> Any:
        """The value that the state of this name begins with everywhere."""
        for role, hyperparameter in self.starts.items():
            if self.names[role] == name:
                return hyper.get(hyperparameter, 0.0)
        return 0.0

    def numbers_of(self, hyper: Hypers, scalars: Scalars, scale: float = 1.0, f: Any = Host) -> Numbers:
        """The numbers of a step: the rule's, and the house's (scale of the gradient, penalties, decay, rate).

        Args:
            hyper: the hyperparameters.
            scalars: after ``advance``.
            scale: multiplies the gradient (clipping, loss scaling).
            f: ``Host``, or a ``Traced`` where numbers are arrays.
        """
        lr, weight_decay = f.number(hyper["lr"]), hyper["weight_decay"]
        keep, l2 = 1.0, 0.0
        if hyper["decay"] == "l2":
            l2 = weight_decay
        elif hyper["decay"] == "decoupled":
            keep = 1 - lr * weight_decay
        else:  # independent: by the schedule's factor alone, not by the learning rate
            base = float(hyper["base_lr"])
            keep = 1 - (lr / base if base else 0.0) * weight_decay
        house = {"s": -scale if hyper["maximize"] else scale, "l2": l2, "l1": hyper["l1"], "k": keep, "eta": lr}
        return house | self.numbers(hyper, scalars, f)


HOUSE_NUMBERS = ("s", "l2", "l1", "k", "eta")  # those of every rule, which come before its own


def undecayed(numbers: Numbers) -> Numbers:
    """The numbers for parameters that neither weight decay nor the penalties apply to."""
    return numbers | {"l2": 0.0, "l1": 0.0, "k": 1.0}


def has_penalty(hyper: Hypers) -> bool:
    """Whether a penalty goes through the gradient."""
    return bool(hyper["l1"] != 0 or (hyper["weight_decay"] != 0 and hyper["decay"] == "l2"))
