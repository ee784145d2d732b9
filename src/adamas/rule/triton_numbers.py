"""Generates Triton for the numbers of a step: the source of the kernel that computes them where the device decides about it.

The formulas of a member run over values that record them, in float64. A lane computes the numbers of one parameter: the
scalars after the step, and the words that the kernel of the step reads (``adamas.rule.triton``).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .declaration import Hypers, Member, Number, Numbers, Several, Traced, undecayed
from .formats import moved_by
from .recorder import Namespace, Recording, Value, recorded
from .shared import declared
from .triton import HEADER, WIDE, Kind, Triton, constants_of_statistics, function, written
from .writing import NUMBER_FUNCTIONS, NUMBER_OPERATORS, constants_of, lines

RUNS = "runs"  # the input that tells whether the step is made
_SCALE = "scale"


class NumbersKind(NamedTuple):
    """What the numbers of a step depend on besides their inputs.

    Attributes:
        member: the member.
        fixed: the hyperparameters that are not inputs, by name.
        rule: the rule of the step.
        penalized: whether penalties are added to the gradient.
        is_wide: whether the arithmetic of the step is in float64.
        is_decayed: whether weight decay and the penalties apply.
        is_watched: whether the step has statistics.
    """

    member: Member
    fixed: tuple[tuple[str, Any], ...]
    rule: Any
    penalized: bool
    is_wide: bool
    is_decayed: bool
    is_watched: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs: hyperparameters, with an index where one has several numbers; the factor of the gradients;
        and ``RUNS``."""
        return (*inputs_of(self.member), _SCALE, RUNS)


@cache
def inputs_of(member: Member) -> tuple[str, ...]:
    """The hyperparameters of a member that may change from step to step, with an index where one has several numbers."""
    found = list[str]()
    for name, h in declared(member).items():
        if isinstance(h, Number) and h.may_be_scheduled and name != "max_grad_norm":
            found += [f"{name}[{i}]" for i in range(len(h.default))] if isinstance(h, Several) else [name]
    return tuple(found)


def values_of(member: Member, hyper: Hypers) -> list[Any]:
    """The values of ``inputs_of``."""
    return [hyper[name] if name in hyper else _element(hyper, name) for name in inputs_of(member)]


def _element(hyper: Hypers, name: str) -> Any:
    of, _, index = name.partition("[")
    return hyper[of][int(index[:-1])]


def fixed_of(member: Member, hyper: Hypers) -> tuple[tuple[str, Any], ...]:
    """The other hyperparameters that formulas read."""
    known, inputs = declared(member), {name.partition("[")[0] for name in inputs_of(member)}
    given = {name: hyper[name] for name in (*known, "base_lr") if name in hyper and name not in inputs}
    found: list[tuple[str, Any]] = []
    for name, x in given.items():
        if isinstance(known.get(name), Several):
            found.append((name, tuple(x)))
        elif isinstance(x, bool | int | float | str):
            found.append((name, x))
    return tuple(found)


@cache
def record_numbers(kind: NumbersKind) -> tuple[Recording, Mapping[str, float]]:
    """The recording of the numbers of a step, and those among them that are known.

    The outputs are the scalars after the step, under their names; the constants of the rule in order, as ``"constant0"`` and
    so on; and ``"eta"`` and ``"k"``.
    """
    member, rule = kind.member, written(kind.rule)
    numbers: dict[str, Any] = {name: _input(name) for name in kind.inputs}
    hyper: dict[str, Any] = dict(kind.fixed)
    for name in inputs_of(member):
        of, _, index = name.partition("[")
        hyper[of] = (*hyper.get(of, ()), numbers[name]) if index else numbers[name]
    xp = _Formulas()
    before: dict[str, Any] = {name: _input(f"{name}_before") for name in member.scalar_names}
    f = Traced(xp)
    now = member.advance(hyper, before, f)
    found: Numbers = member.numbers_of(hyper, now, numbers[_SCALE], f)
    found = found if kind.is_decayed else undecayed(found)
    constants = constants_of(
        rule, found, kind.penalized, {name: getattr(xp, name) for name in (*NUMBER_FUNCTIONS, *NUMBER_OPERATORS)}
    )
    if kind.is_watched:
        constants += constants_of_statistics(kind.rule, found)
    outputs = {**now, "eta": found["eta"], "k": found["k"]}
    outputs |= {f"constant{i}": x for i, x in enumerate(constants)}
    values = {name: x for name, x in outputs.items() if isinstance(x, Value)}
    return Recording((), numbers[_SCALE], values), {n: float(x) for n, x in outputs.items() if n not in values}


def _input(name: str) -> Value:
    """An input: for the writer, an array with one element for each parameter."""
    return Value("input", (), False, name)


class _Formulas(Namespace):
    """Records what depends on an input, and computes the rest."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        known = getattr(operator, name) if name in NUMBER_OPERATORS else getattr(np, name, None)

        def run(*operands: Any) -> Any:
            if known is None or any(isinstance(x, Value) for x in operands):
                return recorded(name, *operands)
            with np.errstate(all="ignore"):
                return float(known(*[np.float64(x) for x in operands]))

        return run


class _Numbers(Triton):
    """See ``adamas.rule.writing.Language``. All is in float64."""

    @staticmethod
    def literal(x: float) -> str:
        return f"tl.full((LANES,), {Triton.literal(float(x))}, tl.float64)"

    @staticmethod
    def variable(name: str) -> str:
        return "x_" + name.replace("[", "_").removesuffix("]")


_SPELLINGS = WIDE | {
    "log": "tl.log({0})",
    "exp": "tl.exp({0})",
    "pow": "tl.exp({1} * tl.log({0}))",  # of nonnegative numbers
}


def numbers_source(kind: NumbersKind, words: int) -> str:
    """The source of the kernel ``numbers(before, inputs, after, words, count, LANES)``.

    Args:
        kind: what the numbers depend on.
        words: the integers of 32 bits of a set (``adamas.rule.triton.Kind.words``).

    It takes the scalars before the step, of which it has ``count`` for each name, the inputs (``NumbersKind.inputs``), and
    where to write: the scalars after the step, which are those before it if it is not made, and the words of each set.
    """
    recording, known = record_numbers(kind)
    language, dtype = _Numbers(_SPELLINGS), "float64" if kind.is_wide else "float32"

    def text(name: str) -> str:
        return language.variable(name) if name in recording.outputs else language.literal(known[name])

    body = ["lane = tl.program_id(0) * LANES + tl.arange(0, LANES)", "ok = lane < count"]
    names = kind.member.scalar_names
    for i, name in enumerate(names):
        body.append(f"{language.variable(f'{name}_before')} = tl.load(before + {i} * count + lane, ok, other=0.0)")
    for i, name in enumerate(kind.inputs):
        body.append(f"{language.variable(name)} = tl.load(inputs + {i} + 0 * lane)")
    body += lines(recording, lambda number: number.name, language)
    body.append(f"is_made = {language.variable(RUNS)} != 0")
    for i, name in enumerate(names):
        new = f"tl.where(is_made, {text(name)}, {language.variable(f'{name}_before')})"
        body.append(f"tl.store(after + {i} * count + lane, {new}, ok)")
    body += [
        f"at = words + lane.to(tl.int64) * {words}",
        f"forward = {text('step')}.to(tl.int64) * {moved_by(1)}",
        f"moves = ({text('eta')} != 0) | ({text('k')} != 1)",
    ]
    header = {"forward": "forward.to(tl.int32)", "runs": "is_made.to(tl.int32)", "moves": "moves.to(tl.int32)"}
    for i, name in enumerate(HEADER):
        if name in header:
            body.append(f"tl.store(at + {i}, {header[name]}, ok)")
    body.append(f"constants = (at + {len(HEADER)}).to(tl.pointer_type(tl.{dtype}))")
    count = len(Kind(kind.rule, kind.penalized, dtype, dtype, "nearest", (), True, True, kind.is_watched).constants)
    for i in range(count):
        body.append(f"tl.store(constants + {i}, {text(f'constant{i}')}.to(tl.{dtype}), ok)")
    parameters = ["before", "inputs", "after", "words", "count", "LANES: tl.constexpr"]
    return _HEAD + function("numbers", parameters, body).replace(
        "@triton.jit", '@triton.jit(do_not_specialize=["count"])'
    )


_HEAD = """# Written by adamas/rule/triton_numbers.py.
import triton
import triton.language as tl


"""
