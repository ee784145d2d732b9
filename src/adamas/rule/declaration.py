"""The parts of a member's declaration: its hyperparameters, the tensors it keeps, the numbers of a step, and its rule."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from numbers import Real
from types import SimpleNamespace
from typing import Any, Literal

Array = Any
Hypers = Mapping[str, Any]
Scalars = Mapping[str, float]
Numbers = dict[str, Any]


# ---- state


@dataclass(frozen=True)
class State:
    """A tensor that a rule keeps for each parameter, of the parameter's shape unless it is ``over`` something.

    Attributes:
        role: what the rule calls it.
        signed: whether its values can be negative.
        decay: the name of the rule's number that multiplies it at every step; None if there is none. A state with a decay is
            flushed to zero where it falls below the smallest normal number and the gradient is zero, and the scale of its
            8-bit codes decays with it.
        of: what it tracks: the gradient, its square or its magnitude (``"size"``), the maximum of the preceding state, or
            something else (None).
        gain: the name of the rule's number that multiplies what is added to it; None if there is none.
        draw: the index of the random numbers that round it stochastically in 16 bits: each state of a rule has its own, and
            the weight has ``WEIGHT_DRAW``. If None, it is rounded to the nearest, as a maximum has to be.
        over: None if it has a number for each element; else whether it has one for each row or for each column of the matrices
            that the last two dimensions of the parameter form. It is stored in float32 (float64 for float64 weights).
    """

    role: str
    signed: bool
    decay: str | None
    draw: int | None
    of: Literal["gradient", "square", "size", "maximum"] | None = None
    gain: str | None = None
    over: Literal["rows", "columns"] | None = None

    def shape_in(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Its shape for a parameter of this shape."""
        if self.over is None or len(shape) < 2:
            return tuple(shape)
        *others, rows, columns = shape
        return (*others, rows, 1) if self.over == "rows" else (*others, 1, columns)

    @property
    def code_draw(self) -> int | None:
        """The index of the random numbers that round its 8-bit codes; None if they are always rounded to the nearest.

        A decaying maximum is rounded to the nearest: its codes do not change while it only decays, and it is the larger of two
        numbers, which would turn random errors into a bias.
        """
        return None if self.of in ("size", "maximum") else self.draw


WEIGHT_DRAW = 2  # the index of the random numbers that round a weight


# ---- the rule


@dataclass(frozen=True)
class Sum:
    """A sum that a rule needs before it can compute an update.

    Attributes:
        name: its name among the numbers of the step.
        over: ``"tensor"`` sums over the elements of the parameter's whole tensor, wherever its parts lie; ``"all"`` sums over
            the elements of all tensors.
        term: ``term(k, xp, p, g, *states)`` returns the summands, an array of p's shape. It has the arguments of
            ``Rule.update``, but ``k`` only has the preceding sums of the rule. Values that the term and the update both need
            are computed twice.
        is_mean: whether a sum over a tensor is divided by the number of its elements; those of complex numbers are two.
        from_sums: as ``Rule.from_sums``, for numbers that the term reads and that depend on the preceding sums.
    """

    name: str
    over: Literal["tensor", "all"]
    term: Callable[..., Array]
    is_mean: bool = False
    from_sums: Callable[[Any, Any], Numbers] = lambda k, f: {}

    def given(self, numbers: Numbers, f: Any) -> SimpleNamespace:
        """The numbers that the term takes, as attributes; ``numbers`` has the preceding sums."""
        k = SimpleNamespace(**numbers)
        vars(k).update(self.from_sums(k, f))
        return k

    def of(self, total: Any, numel: int) -> Any:
        """The number of the step, given the total over a tensor of so many elements, or over all."""
        return total / max(numel, 1) if self.is_mean else total


class Rule(ABC):
    """A rule: how the gradient changes the states, and the update that results.

    A rule does not change the weight. The step of the weight and its decay, ``p ← k·p − η·u``, are the same for all rules
    (``adamas.rule.house``). Rules that compare equal are the same.

    Attributes:
        name: a name that no other rule has.
        states: the tensors that it keeps, in the order in which ``update`` takes them.
        numbers: the names of the numbers that it reads, in the order in which the engine takes them.
        sums: the sums that it needs, in the order in which they are computed.
        is_elementwise: whether each element of the update depends only on the same element of its arguments. If so, the rule
            can be recorded, for the engine and for kernels.
        is_cautious: whether the weight decays only where the update does not enlarge it (``decay="cautious"``).
        is_masked: whether the weight moves only where the update agrees with the gradient (``Masked``).
    """

    name: str
    states: tuple[State, ...]
    numbers: tuple[str, ...]
    sums: tuple[Sum, ...] = ()
    is_elementwise: bool = True
    is_cautious: bool = False
    is_masked: bool = False

    @abstractmethod
    def update(self, k: Any, xp: Any, p: Array, g: Array, *states: Array) -> tuple[Array, ...]:
        """The update ``u``, followed by the new states in order. Nothing is written in place.

        Args:
            k: the numbers of the step, the sums, and the numbers of ``from_sums``, as attributes.
            xp: an array namespace with ``abs``, ``sqrt``, ``sign``, ``where`` and ``maximum``.
            p: the weight before the step, in the dtype of the gradient.
            g: the gradient, in float32 (float64 for float64 weights).
            states: the states after the last step.
        """

    def from_sums(self, k: Any, f: Any) -> Numbers:
        """The numbers that are computed from the sums, by name, in float64.

        Args:
            k: the numbers of the step and all sums, as attributes.
            f: ``Host`` or a ``Traced``.
        """
        return {}

    def second_of(self, state: State) -> int | None:
        """The index of the second moment that an average of the gradient takes its 8-bit grids from.

        None for other states, and if the rule has none.
        """
        seconds = [i for i, other in enumerate(self.states) if other.of in ("square", "size")]
        return seconds[0] if seconds and state.signed and state.of == "gradient" else None

    def counts(self, state: State) -> bool:
        """Whether the 8-bit blocks of a state choose their grids by their own elements.

        If not, they take those of the second moment, a mean square. A decaying maximum (``of="size"``) has codes for smaller
        elements than an average of the gradient on the same grid, so there, the wider choice counts.
        """
        second = self.second_of(state)
        return second is None or self.states[second].of != "square"

    def given(self, hyper: Hypers) -> Rule:
        """The rule with these hyperparameters: the rule itself, unless it reads hyperparameters that are not numbers of a
        step."""
        return self

    def for_shape(self, shape: Sequence[int]) -> Rule:
        """The rule for a parameter of this shape: the rule itself, unless its states depend on the shape."""
        return self

    def shaped(self) -> Iterator[Rule]:
        """The rules that ``for_shape`` can return."""
        yield self

    def rests(self, numbers: Numbers) -> bool:
        """Whether a step with these numbers does not change elements whose gradient is 0, nor their states, except for
        decay and penalties."""
        return False

    def at(self, numbers: Numbers) -> Rule:
        """The rule for a step with these numbers: the rule itself, unless it omits one of its parts in some steps."""
        return self

    def variants(self) -> Iterator[Rule]:
        """The rules that ``at`` can return for numbers whose values are known. They have the same states and sums."""
        yield self


@dataclass(frozen=True)
class OwnRule(Rule):
    """A rule given by functions.

    Attributes:
        function: ``function(k, xp, p, g, *states)``, with the arguments and results of ``Rule.update``.
        measured: ``measured(k, f)``, with those of ``Rule.from_sums``.
    """

    name: str
    states: tuple[State, ...]
    numbers: tuple[str, ...]
    function: Callable[..., tuple[Array, ...]]
    sums: tuple[Sum, ...] = ()
    measured: Callable[[Any, Any], Numbers] = lambda k, f: {}
    is_cautious: bool = False

    def update(self, k: Any, xp: Any, p: Array, g: Array, *states: Array) -> tuple[Array, ...]:
        """See ``Rule.update``."""
        return self.function(k, xp, p, g, *states)

    def from_sums(self, k: Any, f: Any) -> Numbers:
        """See ``Rule.from_sums``."""
        return self.measured(k, f)


LEAST_AGREEMENT = 1e-3  # of a tensor's elements, which bounds how much a masked update is enlarged


@dataclass(frozen=True)
class Masked(Rule):
    """Another rule whose update is left out where its sign is not that of the gradient, and enlarged elsewhere by the inverse
    of the share of the tensor's elements that are left (``cautious=True``): Liang et al., 2024, arXiv:2411.16085, algorithm 1.

    Attributes:
        base: the other rule.
        is_masked: whether the mask is applied to the weight (``adamas.rule.house.masked``); if not, all elements are enlarged.
        is_cautious: see ``Rule``.
    """

    base: Rule
    is_masked: bool = True
    is_cautious: bool = False

    # Properties of a rule that is never written to, where mypy expects attributes that can be.

    @property
    def name(self) -> str:  # type: ignore[override]
        """See ``Rule``."""
        return f"masked_{self.base.name}" if self.is_masked else self.base.name

    @property
    def states(self) -> tuple[State, ...]:  # type: ignore[override]
        """See ``Rule``."""
        return self.base.states

    @property
    def numbers(self) -> tuple[str, ...]:  # type: ignore[override]
        """See ``Rule``."""
        return self.base.numbers

    @cached_property
    def sums(self) -> tuple[Sum, ...]:  # type: ignore[override]
        """See ``Rule``."""
        return (*self.base.sums, Sum("agreement", "tensor", self._agrees, is_mean=True, from_sums=self.base.from_sums))

    def _agrees(self, k: Any, xp: Any, p: Array, g: Array, *states: Array) -> Array:
        update, *_ = self.update(k, xp, p, g, *states)
        return xp.where(xp.sign(update) * g > 0, 1.0, 0.0)

    def from_sums(self, k: Any, f: Any) -> Numbers:
        """See ``Rule.from_sums``."""
        found = self.base.from_sums(k, f)
        return found | {"eta": found.get("eta", k.eta) / f.maximum(k.agreement, LEAST_AGREEMENT)}

    def update(self, k: Any, xp: Any, p: Array, g: Array, *states: Array) -> tuple[Array, ...]:
        """See ``Rule.update``."""
        return self.base.update(k, xp, p, g, *states)

    def at(self, numbers: Numbers) -> Rule:
        """See ``Rule.at``."""
        return _with_base(self, self.base.at(numbers))

    def variants(self) -> Iterator[Rule]:
        """See ``Rule.variants``."""
        return (_with_base(self, base) for base in self.base.variants())


def maskable(rule: Rule) -> Masked:
    """The rule as the engine has it, whose steps are masked or, with an agreement of 1, are those of the rule itself."""
    return Masked(rule, is_masked=False)


@cache
def _with_base(rule: Masked, base: Rule) -> Masked:
    return replace(rule, base=base)


@dataclass(frozen=True)
class FactorableRule(OwnRule):
    """A rule of one state, a mean square of the gradient, and of sums that do not depend on each other.

    For parameters of two or more dimensions, only the means of its rows and columns are kept.
    """

    def for_shape(self, shape: Sequence[int]) -> Rule:
        """See ``Rule.for_shape``."""
        return factored(self) if len(shape) >= 2 else self

    def shaped(self) -> Iterator[Rule]:
        """See ``Rule.shaped``."""
        yield self
        yield factored(self)


# The largest mean of squares of a row or column. Squares may overflow, and the sum of means over all rows must not.
MOST_SQUARE = 2.0**100


@dataclass(frozen=True)
class FactoredRule(Rule):
    """A rule with its mean square factored: the product of the means of rows and columns, divided by the mean of all
    (Shazeer and Stern, 2018, arXiv:1804.04235, section 3).

    The last two dimensions of a parameter are rows and columns; those before them number the matrices.

    Attributes:
        whole: the rule that keeps the mean square itself.
    """

    name: str
    states: tuple[State, ...]
    numbers: tuple[str, ...]
    whole: Rule
    sums: tuple[Sum, ...] = ()
    is_cautious: bool = False

    is_elementwise = False

    def update(self, k: Any, xp: Any, p: Array, g: Array, *states: Array) -> tuple[Array, ...]:
        """See ``Rule.update``. The arrays have two or more dimensions."""
        after = self.means(k, xp, g * g, *states)
        update, _ = self.whole.update(self.held(k), xp, p, g, self.product(k, xp, *after))
        return update, *after

    def from_sums(self, k: Any, f: Any) -> Numbers:
        """See ``Rule.from_sums``."""
        return self.whole.from_sums(k, f)

    def means(self, k: Any, xp: Any, square: Array, rows: Array, columns: Array) -> tuple[Array, Array]:
        """The new states, from the squares of the gradient."""
        return self.averaged(k, xp, square.mean(-1)[..., None], square.mean(-2)[..., None, :], rows, columns)

    def averaged(
        self, k: Any, xp: Any, of_rows: Array, of_columns: Array, rows: Array, columns: Array
    ) -> tuple[Array, Array]:
        """The new states, from the means of the squares of the gradient over the rows and columns."""
        (state,), numbers = self.whole.states, vars(k)
        decay, gain = numbers[str(state.decay)], numbers[str(state.gain)]
        of_rows, of_columns = (xp.where(mean > MOST_SQUARE, MOST_SQUARE, mean) for mean in (of_rows, of_columns))
        return decay * rows + gain * of_rows, decay * columns + gain * of_columns

    def product(self, k: Any, xp: Any, rows: Array, columns: Array) -> Array:
        """The mean square of each element."""
        return rows * self.shares(k, xp, rows, columns)

    def shares(self, k: Any, xp: Any, rows: Array, columns: Array) -> Array:
        """What the mean square of a row is multiplied by in each column."""
        mean = rows.sum(-2)[..., None, :] / max(1, rows.shape[-2])  # there may be no rows
        return columns / xp.where(mean < k.eps, k.eps, mean)

    def held(self, k: Any) -> SimpleNamespace:
        """The numbers with which ``whole`` takes the mean square as it is."""
        (state,) = self.whole.states
        return SimpleNamespace(**{**vars(k), str(state.decay): 1.0, str(state.gain): 0.0})

    def term(self, term: Callable[..., Array], k: Any, xp: Any, p: Array, g: Array, *states: Array) -> Array:
        """A sum's ``term`` of ``whole``."""
        return term(self.held(k), xp, p, g, self.product(k, xp, *self.means(k, xp, g * g, *states)))


@cache
def factored(whole: FactorableRule) -> FactoredRule:
    """The rule with its mean square factored."""
    (state,) = whole.states
    rows, columns = (replace(state, role=f"{state.role} {over}", draw=None, over=over) for over in ("rows", "columns"))
    rule = FactoredRule(f"factored {whole.name}", (rows, columns), whole.numbers, whole, is_cautious=whole.is_cautious)
    return replace(rule, sums=tuple(replace(one, term=partial(rule.term, one.term)) for one in whole.sums))


class MatrixRule(Rule):
    """A rule whose update is a function of whole matrices, not of their elements.

    A parameter of more than two dimensions is one matrix, with the dimensions after the first flattened or, if the rule
    ``is_stacked``, a stack of matrices, which are its last two dimensions.
    """

    is_elementwise = False
    is_stacked: bool = False

    @abstractmethod
    def direction(self, k: Any, xp: Any, p: Array, g: Array, *states: Array) -> tuple[Array, ...]:
        """The direction that the update is a function of, followed by the new states in order: elementwise.

        The arguments are those of ``update``.
        """

    @abstractmethod
    def of_matrices(self, xp: Any, directions: Array) -> Array:
        """The updates of matrices, from their directions; both of shape (matrices, rows, columns)."""

    def update(self, k: Any, xp: Any, p: Array, g: Array, *states: Array) -> tuple[Array, ...]:
        """See ``Rule.update``. The arrays have two or more dimensions."""
        direction, *after = self.direction(k, xp, p, g, *states)
        matrices = direction.reshape(self.matrices_in(direction.shape))
        return self.of_matrices(xp, matrices).reshape(direction.shape), *after

    def matrices_in(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """The number of matrices that a parameter of this shape has, and their rows and columns."""
        if self.is_stacked:
            return math.prod(shape[:-2]), shape[-2], shape[-1]
        return 1, shape[0], math.prod(shape[1:])


# ---- numbers of a step


class Host:
    """The functions that the formulas of a step use besides arithmetic, for Python's numbers."""

    number = float
    sqrt, log, exp, minimum, maximum = math.sqrt, math.log, math.exp, min, max

    @staticmethod
    def either(
        condition: bool, yes: Callable[[], tuple[Any, ...]], no: Callable[[], tuple[Any, ...]]
    ) -> tuple[Any, ...]:
        """The numbers of ``yes`` if the condition holds, else those of ``no``."""
        return yes() if condition else no()


class Traced:
    """The same functions for float64 arrays of a namespace, whose values are known only when a compiled program runs."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp

    @staticmethod
    def number(value: Any) -> Any:
        """The value itself."""
        return value

    def sqrt(self, value: Any) -> Any:
        """The root, and 0 for negative numbers: ``either`` computes both sides, one of which may have no root."""
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


class PartlyTraced(Traced):
    """The same functions where some numbers are known: floats, which stay floats."""

    def sqrt(self, value: Any) -> Any:
        """See ``Traced.sqrt``."""
        return Host.sqrt(value) if isinstance(value, float) and value >= 0 else super().sqrt(value)

    def minimum(self, one: Any, other: Any) -> Any:
        """See ``Traced.minimum``."""
        return min(one, other) if _are_known(one, other) else super().minimum(one, other)

    def maximum(self, one: Any, other: Any) -> Any:
        """See ``Traced.maximum``."""
        return max(one, other) if _are_known(one, other) else super().maximum(one, other)

    def either(self, condition: Any, yes: Callable[[], tuple[Any, ...]], no: Callable[[], tuple[Any, ...]]) -> Any:
        """See ``Traced.either``."""
        return Host.either(condition, yes, no) if isinstance(condition, bool) else super().either(condition, yes, no)


def _are_known(*numbers: Any) -> bool:
    return all(isinstance(x, int | float) for x in numbers)


# ---- hyperparameters


@dataclass(frozen=True)
class Range:
    """The range of a hyperparameter, in words and as a condition."""

    words: str
    holds: Callable[[float], bool]


FROM_0 = Range("a nonnegative number", lambda x: 0 <= x < math.inf)
FROM_0_TO_INFINITY = Range("a nonnegative number", lambda x: x >= 0)
ABOVE_0 = Range("a number above 0", lambda x: 0 < x < math.inf)
BETWEEN_0_AND_1 = Range("above 0 and below 1", lambda x: 0 < x < 1)
BELOW_1 = Range("from 0 up to but not including 1", lambda x: 0 <= x < 1)
FINITE = Range("a finite number", math.isfinite)
FROM_1_TO_INFINITY = Range("a number of at least 1", lambda x: x >= 1)
FROM_1_TO_99 = Range("a whole number from 1 to 99", lambda x: 1 <= x < 100 and x == int(x))


@dataclass(frozen=True)
class Hyperparameter:
    """A hyperparameter.

    Attributes:
        name: its name, as in ``torch.optim``; ``adamas.rule.names`` has the names of other frameworks.
        default: its default, as in ``torch.optim`` or in the paper.
        doc: its description in docstrings: a clause in lower case without a full stop.
        may_be_scheduled: whether it can be a schedule.
        structural: whether a value of 0 or False selects another rule.
        is_option: whether it is keyword-only, after the arguments of the namesake.
        elsewhere: the defaults of adapters where they differ, by the adapter's name (``"keras"``, …).
        only: the adapters that have it; all of them if empty. In the others, the formulas supply its value.
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
class Several(Number):
    """A tuple of numbers, as many as the default has."""


@dataclass(frozen=True)
class Shares(Share, Several):
    """A tuple of numbers from 0 up to but not including 1."""


@dataclass(frozen=True)
class Count(Number):
    """A whole number from 1 to 99."""

    range: Range = FROM_1_TO_99


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
    """How the states are stored: one format for all of them, or a mapping from names of states to formats."""


class Rows(Hyperparameter):
    """Where each parameter of a group lies in a larger tensor."""


# ---- the member


@dataclass(frozen=True)
class Preset:
    """A member with some of its hyperparameters set, which has its own name in some adapters.

    Attributes:
        name: that name, in lower case.
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
        name: the name of its class in ``adamas.torch``; that of ``torch.optim`` if it exists there.
        function: its name as a function, a method of SciPy and an argument of the command: the name in lower case if empty.
        title: what it is, in one sentence, with its source.
        equations: its rule in LaTeX, one string per line; several lines are aligned at ``&``.
        hyperparameters: its hyperparameters, in the order of the signature. Those of ``adamas.rule.shared`` belong to every
            member, and are repeated here only to change a default or to place them in the signature.
        make_rule: makes the rule from hyperparameters. It may only depend on whether the structural ones are 0 or False; for
            others see ``Rule.given``.
        numbers: computes the numbers that the rule reads, by name and in float64, from hyperparameters, scalars and ``Host``
            or a ``Traced``. It may set ``eta``, what multiplies the update, which otherwise is ``rate``.
        rate: computes the learning rate of a step, from what ``numbers`` takes.
        names: the name of each tensor in the state, by its role: PyTorch's names.
        starts: the hyperparameter that gives the initial value of a state, by its role; other states begin with 0.
        scalars: the numbers that each parameter carries, with their initial values.
        next_scalars: computes the scalars of the next step, from what ``numbers`` takes.
        shared: the names of the scalars that are numbers of the whole model. The first counts its steps; those that the rule
            computes from its sums over all tensors (``Rule.from_sums``) are the scalars after the step. A parameter that had
            no gradient takes over those of the parameters that had one.
        same: the hyperparameters that must be the same in all parameter groups, because ``shared`` scalars depend on them.
        offset: the name of the state that is subtracted from the weights before they are evaluated: the gradients of
            schedule-free members are taken at other weights. The scalars of these depend on the learning rate.
        conflict: returns what is wrong with hyperparameters that contradict each other, in PyTorch's words, or ``""``.
        variant_of: the member with the same state, if only defaults differ (Adam for AdamW).
        steps_rows: whether a sparse gradient, which has only some rows of a weight, steps only these rows and does not change
            the others and their states.
        notes: further text for the docstrings, in reStructuredText.
        heading: the heading of its section in ``docs/members.md``, if that is not its name.
        page: the text of that section in Markdown: what the member is for, and its sources.
        presets: see ``Preset``.
        absent: the adapters that do not have it, each with the reason and what would work in its place.
        no_mask: why its update cannot be masked (``cautious=True``), if it cannot.
    """

    name: str
    title: str
    equations: tuple[str, ...]
    hyperparameters: tuple[Hyperparameter, ...]
    make_rule: Callable[[Hypers], Rule]
    numbers: Callable[[Hypers, Scalars, Any], Numbers]
    names: Mapping[str, str]
    rate: Callable[[Hypers, Scalars, Any], Any] = lambda hyper, scalars, f: f.number(hyper["lr"])
    starts: Mapping[str, str] = field(default_factory=dict)
    scalars: tuple[tuple[str, float], ...] = (("step", 0.0),)
    next_scalars: Callable[[Hypers, Scalars, Any], dict[str, Any]] = lambda hyper, scalars, f: {
        "step": scalars["step"] + 1
    }
    shared: tuple[str, ...] = ()
    same: tuple[str, ...] = ()
    offset: str | None = None
    conflict: Callable[[Hypers], str] = lambda hyper: ""
    variant_of: str | None = None
    steps_rows: bool = False
    notes: str = ""
    heading: str = ""
    page: str = ""
    presets: tuple[Preset, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    no_mask: str = ""
    function: str = ""

    @property
    def lower_name(self) -> str:
        """Its name as a function."""
        return self.function or self.name.lower()

    @cached_property
    def states(self) -> dict[str, State]:
        """All tensors that it may keep under any options, by their names in the state."""
        found = {self.names[state.role]: state for rule in self._shaped for state in rule.states}
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
        """The rules, by whether each of the structural hyperparameters is set."""
        names = self._structural
        return {
            values: self.make_rule(dict(zip(names, values, strict=True)))
            for values in itertools.product((False, True), repeat=len(names))
        }

    @property
    def _shaped(self) -> Iterator[Rule]:
        """The rules for parameters of any shape."""
        return (shaped for rule in self._rules.values() for shaped in rule.shaped())

    def rule(self, hyper: Hypers, shape: Sequence[int] = ()) -> Rule:
        """The rule for these hyperparameters, and for a parameter of this shape."""
        rule = self._rules[tuple([bool(hyper[name]) for name in self._structural])].given(hyper).for_shape(shape)
        return with_caution(rule, hyper.get("decay") == "cautious" and has_decay(hyper), hyper.get("cautious", False))

    def rules(self) -> list[Rule]:
        """All rules that its steps can follow, each once."""
        return list(dict.fromkeys(rule for one in self._shaped for rule in one.variants()))

    def rests(self, hyper: Hypers, is_decayed: bool) -> bool:
        """Whether a step of only the rows of a sparse gradient (``steps_rows``) is the step of the dense gradient: elements
        whose gradient is 0 stay as they are, with their states.

        Args:
            hyper: the hyperparameters.
            is_decayed: whether weight decay and the penalties apply to the parameter.
        """
        if not self.steps_rows or (is_decayed and (has_decay(hyper) or has_penalty(hyper))):
            return False
        hyper = {"lr": 0.0, **hyper}
        return self.rule(hyper).rests(self.numbers(hyper, self.advance(hyper, dict(self.scalars)), Host))

    def state_names(self, hyper: Hypers, shape: Sequence[int] = ()) -> tuple[str, ...]:
        """The names of the tensors that it keeps with these hyperparameters for a parameter of this shape, in the order of the
        rule's states."""
        return tuple([self.names[state.role] for state in self.rule(hyper, shape).states])

    def grids_of(self, name: str) -> tuple[str | None, bool]:
        """The name of the state that a state takes its 8-bit grids from, and whether it makes choices of its own.

        They are the same in all of its rules; see ``Rule.second_of`` and ``Rule.counts``.
        """
        state = self.states[name]
        rule = next(rule for rule in self._shaped if state in rule.states)
        second = rule.second_of(state)
        return None if second is None else self.names[rule.states[second].role], rule.counts(state)

    @cached_property
    def denominators(self) -> tuple[str, ...]:
        """The names of the states that the update is divided by. Without them, a step could be of any size."""
        return tuple(name for name, state in self.states.items() if state.of in ("square", "size"))

    @property
    def base(self) -> str:
        """The name of the member whose state it has: its own, except for AdamW."""
        return self.variant_of or self.name

    def advance(self, hyper: Hypers, scalars: Scalars, f: Any = Host) -> dict[str, Any]:
        """The scalars of the next step. The arguments are those of ``numbers_of``."""
        return self.next_scalars(hyper, scalars, f)

    def start_of(self, name: str, hyper: Hypers) -> Any:
        """The initial value of all elements of the state with this name."""
        for role, hyperparameter in self.starts.items():
            if self.names[role] == name:
                return hyper.get(hyperparameter, 0.0)
        return 0.0

    def numbers_of(self, hyper: Hypers, scalars: Scalars, scale: float = 1.0, f: Any = Host) -> Numbers:
        """The numbers of a step: the rule's own, and those of every rule (gradient scale, penalties, decay, learning rate).

        Args:
            hyper: the hyperparameters.
            scalars: the scalars, after ``advance``.
            scale: a factor for the gradient (clipping, loss scaling).
            f: ``Host``, or a ``Traced`` if the numbers are arrays.
        """
        rate, weight_decay = self.rate(hyper, scalars, f), hyper["weight_decay"]
        keep, l2, cautious = 1.0, 0.0, 0.0
        if hyper["decay"] == "l2":
            l2 = weight_decay
        elif hyper["decay"] == "decoupled":
            keep = 1 - rate * weight_decay
        elif hyper["decay"] == "cautious":
            cautious = rate * weight_decay
        elif hyper["decay"] in RELATIVE:
            base = float(hyper["base_lr"])
            factor = f.number(hyper["lr"]) / base if base else 0.0  # of the schedule
            keep = 1 - factor * (weight_decay if hyper["decay"] == "independent" else rate * weight_decay)
        house = {"s": -scale if hyper["maximize"] else scale, "l2": l2, "l1": hyper["l1"], "k": keep, "eta": rate}
        house["cautious"] = cautious
        house["k_minus_one"] = keep - 1  # precise in float32, where k may round to 1
        return house | self.numbers(hyper, scalars, f)


HOUSE_NUMBERS = ("s", "l2", "l1", "cautious", "k", "eta")  # the numbers of every rule; they come before its own
RELATIVE = ("independent", "corrected")  # the kinds of decay that depend on the schedule's factor: lr over base_lr


@cache
def with_caution(rule: Rule, is_cautious: bool, is_masked: bool) -> Rule:
    """The rule with cautious decay or without, masked or not. All rules of members are dataclasses, which their base class
    cannot say."""
    if is_masked:
        return Masked(rule, is_cautious=is_cautious)
    return rule if rule.is_cautious is is_cautious else replace(rule, is_cautious=is_cautious)  # type: ignore[type-var]


@cache
def as_written(rule: Rule) -> Rule:
    """The rule without what is written once for all rules, and comes after it: the mask and cautious decay."""
    return replace(rule, is_cautious=False, **({"is_masked": False} if rule.is_masked else {}))  # type: ignore[type-var]


def undecayed(numbers: Numbers) -> Numbers:
    """The numbers for parameters that are exempt from weight decay and penalties.

    ``decay`` is the coefficient in rules that decay the weight in their own update.
    """
    return numbers | {"l2": 0.0, "l1": 0.0, "cautious": 0.0, "k": 1.0, "k_minus_one": 0.0, "decay": 0.0}


def has_penalty(hyper: Hypers) -> bool:
    """Whether a penalty is added to the gradient. A number that is an array counts as nonzero."""
    return _is_nonzero(hyper["l1"]) or (hyper["decay"] == "l2" and _is_nonzero(hyper["weight_decay"]))


def has_decay(hyper: Hypers) -> bool:
    """Whether the weight itself decays, rather than through the gradient or the update of the rule.

    A number that is an array counts as nonzero.
    """
    return hyper["decay"] in ("decoupled", "cautious", *RELATIVE) and _is_nonzero(hyper["weight_decay"])


def _is_nonzero(number: Any) -> bool:
    return not isinstance(number, Real) or bool(number != 0)
