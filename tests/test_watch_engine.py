"""The statistics of ``watch=`` from the engine: those of their definition, and the step's bits as without them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from members import CASES, Case, has

from adamas import _engine
from adamas.rule import statistics
from adamas.rule.members import RULES
from adamas.rule.recorder import digest, record_statistics
from adamas.rule.shared import defaults
from adamas.rule.statistics import LARGEST, ROW, SUMS, joined, terms
from adamas.step import arrays_executor, sums
from adamas.step.arrays_executor import ArraysExecutor
from adamas.step.plan import GroupPlan, look, step
from adamas.step.record import Place, Record, State, begin_state
from adamas.torch.tensors import TENSORS

CODED = ("int8", "int6", "mixed")


class Kind(NamedTuple):
    """How parameters are stored, and the learning rate of the step."""

    state: str
    dtype: torch.dtype = torch.float32
    weights: str = "nearest"
    lr: float = 0.1


KINDS = [
    Kind("float32"),
    Kind("float32", lr=0.0),
    Kind("float32", torch.bfloat16),
    Kind("float32", torch.float16, "stochastic"),
    Kind("float32", torch.bfloat16, "split", 0.0),
    Kind("float32", torch.float64),
    Kind("float32", torch.complex64),
    Kind("bfloat16"),
    Kind("bfloat16", torch.bfloat16, "stochastic"),
    Kind("int8"),
    Kind("int8", lr=0.0),
    Kind("int8", torch.bfloat16, "split"),
    Kind("int8", torch.float64),
    Kind("int6"),
    Kind("int6", torch.bfloat16, "stochastic"),
    Kind("int6", torch.float16, "split"),
    Kind("mixed", torch.bfloat16),
]
# Rows of which a block is shorter, or that lie apart in memory; several blocks, and several portions of threads.
SHAPES = [(), (3, 5), (1000,), (7, 401), (33, 48), (5, 640), (17, 1000), (4, 6, 5, 3)]
STORED = [(case, kind) for case in CASES for kind in KINDS if has(case, {"state": kind.state})]
ADAMW, ADEMAMIX = (next(case for case in CASES if case.name == name) for name in ("adamw", "ademamix"))


def options_of(case: Case, kind: Kind) -> dict[str, Any]:
    """The hyperparameters of a group, whose ε is as large as many gradients. "mixed" stores the moments in several formats."""
    formats = dict(zip(case.declared.states, itertools.cycle(("int8", "bfloat16", "int6")), strict=False))
    declared = defaults(case.declared, "torch")
    given = {"state": formats if kind.state == "mixed" else kind.state, "weights": kind.weights, "lr": kind.lr}
    found = {**declared, **given, "weight_decay": 0.0314159, **case.options, "lr": kind.lr}
    return {**found, "eps": 0.0123} if "eps" in declared else found


def drawn(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Normal random numbers."""
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(shape, generator=generator, dtype=wide).to(dtype)


def weights_of(kind: Kind) -> list[torch.Tensor]:
    """A weight of each shape; some are transposed, strided or channels-last."""
    generator = torch.Generator().manual_seed(1)
    found = [drawn(shape, kind.dtype, generator) for shape in SHAPES]
    found[-1] = found[-1].to(memory_format=torch.channels_last)
    if kind.state not in CODED:
        found += [found[4][:13, :31].t().contiguous().t(), found[6].clone()[:, ::2]]
    found.append(torch.empty(0, 5, dtype=kind.dtype))
    return found


def gradients_of(weights: Sequence[torch.Tensor], seed: int) -> list[torch.Tensor]:
    """Gradients in the weights' dtypes with elements of very different sizes, and with zeros."""
    generator = torch.Generator().manual_seed(seed)

    def one(like: torch.Tensor) -> torch.Tensor:
        sizes = 10.0 ** torch.randint(-3, 2, like.shape, generator=generator)
        return drawn(like.shape, like.dtype, generator) * sizes * (torch.rand(like.shape, generator=generator) > 0.1)

    return [one(weight) for weight in weights]


class Stepper:
    """Parameters of one group."""

    def __init__(
        self, case: Case, options: dict[str, Any], weights: Sequence[torch.Tensor], places: Sequence[Any] = ()
    ):
        self.case, self.options, self.records = case, options, list[Record]()
        for i, weight in enumerate(weights):
            state: State = {}
            place = places[i] if places else None
            begin_state(TENSORS, case.declared, options, weight, place, state)
            self.records.append(Record(weight, state, f"'{i}'", 77 + i, place))

    def step(
        self, gradients: list[torch.Tensor], is_watched: bool = True, kind: Any = None, threads: int = 1
    ) -> np.ndarray:
        """Makes a step and returns its statistics."""
        member, options = self.case.declared, self.options

        def advance(before: Sequence[float]) -> Any:
            scalars = member.advance(options, dict(zip(member.scalar_names, before, strict=True)))
            self.numbers = member.numbers_of(options, scalars, 0.5)
            return self.numbers, tuple(scalars.values())

        plan = GroupPlan(member, options, self.records, TENSORS, None, kind_of=kind and (lambda _: kind))
        look([plan], [gradients])
        plan.prepare(advance)
        sums.compute([plan], None, threads)
        plan.watch(is_watched)
        step([plan], threads, [])
        (executor,) = plan.executors
        assert (executor.statistics is not None) == is_watched
        plan.release()
        return np.asarray(executor.statistics) if kind is None else np.empty(0)

    def tensors(self) -> Iterator[torch.Tensor]:
        for record in self.records:
            yield record.weight
            yield from record.state.values()


def by_definition(stepper: Stepper, gradients: list[torch.Tensor]) -> np.ndarray:
    """The statistics of a step over arrays, computed by ``terms`` in float64."""
    rows = []

    def computed(kind: Any, k: Any, xp: Any, *arrays: Any) -> Any:
        with np.errstate(all="ignore"):
            found = terms(kind, k, np, *(None if x is None else x.double().numpy() for x in arrays))
        row = [found[name].sum() if name in found else np.nan for name in SUMS]
        decay = stepper.numbers["k_minus_one"] ** 2 * found["weight"].sum()
        rows.append([*row, found[LARGEST].max(initial=0.0), decay, found[LARGEST].size])
        return terms(kind, k, xp, *arrays)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays_executor, "terms", computed)
        stepper.step(gradients, kind=ArraysExecutor)
    return np.array(rows)


def assert_alike(found: np.ndarray, wanted: np.ndarray, rtol: float) -> None:
    """Sums agree, and numbers of elements but for the few that lie at a threshold."""
    rounded = 2.0**-22 * np.sqrt(wanted[:, ROW.index("update")] * wanted[:, ROW.index("weight")])  # of the weights
    allowed = {"alignment": rtol * wanted[:, 0], "update": rounded, LARGEST: 1e-6}
    allowed |= {"under_eps": 2, "behind": 2, "lost": 2}
    for at, name in enumerate(ROW):
        atol = allowed.get(name, 1e-30)
        assert (np.isnan(found[:, at]) == np.isnan(wanted[:, at])).all(), name
        off = np.abs(found[:, at] - wanted[:, at]) - rtol * np.abs(wanted[:, at]) - atol
        assert not (off > 0).any(), (name, found[:, at], wanted[:, at])


# Every member, and every kind, several times; all combinations of the two are nightly.
@pytest.mark.parametrize(
    ("case", "kind"),
    [pytest.param(*one, marks=[] if i % 6 == 0 else pytest.mark.nightly) for i, one in enumerate(STORED)],
    ids=str,
)
def test_statistics_are_those_of_the_definition(case: Case, kind: Kind) -> None:
    options, weights = options_of(case, kind), weights_of(kind)
    stepper = Stepper(case, options, weights)
    for seed in range(2):
        gradients = gradients_of(weights, seed)
        plain, over_arrays = copy.deepcopy(stepper), copy.deepcopy(stepper)
        found, wanted = stepper.step(gradients), by_definition(over_arrays, gradients)
        assert_alike(found, wanted, 3e-4 if kind.state in CODED else 5e-5)  # the steps of codes estimate quotients
        plain.step(gradients, is_watched=False)
        assert all(torch.equal(x, y) for x, y in zip(stepper.tensors(), plain.tensors(), strict=True))


def watched_rows(threads: int, state: str, dtype: torch.dtype = torch.float32) -> np.ndarray:
    """The statistics of a step of large and of small tensors."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(300, 401), (70, 1000), (5,), (130, 640), (100_000,), (257, 48)]
    weights = [drawn(shape, dtype, generator) for shape in shapes]
    stepper = Stepper(ADEMAMIX, options_of(ADEMAMIX, Kind(state, weights="stochastic")), weights)
    return stepper.step(gradients_of(weights, 1), threads=threads)


@pytest.mark.parametrize(
    ("state", "dtype"), [("float32", torch.float32), ("int8", torch.bfloat16), ("mixed", torch.float64)]
)
def test_threads_do_not_show_in_statistics(state: str, dtype: torch.dtype) -> None:
    np.testing.assert_array_equal(watched_rows(1, state, dtype), watched_rows(2, state, dtype))


@pytest.mark.parametrize("state", ["float32", "int8", "int6"])
def test_tensors_before_it_do_not_show_in_its_statistics(state: str) -> None:
    weights = [drawn(shape, torch.float32, torch.Generator().manual_seed(4)) for shape in [(123,), (90, 401)]]
    options = options_of(ADAMW, Kind(state))
    gradients = gradients_of(weights, 1)
    both, alone = Stepper(ADAMW, options, copy.deepcopy(weights)), Stepper(ADAMW, options, weights[1:])
    np.testing.assert_array_equal(both.step(gradients)[1:], alone.step(gradients[1:]))


@pytest.mark.parametrize("state", ["float32", "int8", "mixed"])
def test_statistics_of_parts_add_up_to_those_of_the_whole(state: str) -> None:
    (whole,) = weights = [drawn((60, 1000), torch.float32, torch.Generator().manual_seed(5))]
    options = options_of(ADAMW, Kind(state))
    gradients = gradients_of(weights, 1)
    cuts = [0, 7, 8, 41, 60]
    parts = [slice(*pair) for pair in itertools.pairwise(cuts)]
    places = [Place((part.start, 0), (60, 1000)) for part in parts]
    of_parts = Stepper(ADAMW, options, [whole[part].clone() for part in parts], places)
    rows = of_parts.step([gradients[0][part] for part in parts])
    (wanted,) = Stepper(ADAMW, options, weights).step(gradients)
    total = rows[0]
    for row in rows[1:]:
        total = joined(np, total, row)
    np.testing.assert_allclose(total, wanted, rtol=1e-6)


def test_each_instruction_set_has_them() -> None:
    before, found = _engine.instruction_set(), []
    try:
        for name in _engine.instruction_sets():
            _engine.use_instruction_set(name)
            found.append([watched_rows(2, state) for state in ("float32", "bfloat16", "int8")])
    finally:
        _engine.use_instruction_set(before)
    for rows in found:
        for one, other in zip(rows, found[0], strict=True):
            assert_alike(one, other, 3e-4)


@pytest.mark.parametrize("state", ["float32", "int8"])
def test_a_weight_may_be_its_own_gradient(state: str) -> None:
    options, weights = (
        options_of(ADAMW, Kind(state)),
        [drawn((9, 401), torch.float32, torch.Generator().manual_seed(6))],
    )
    same, other = Stepper(ADAMW, options, copy.deepcopy(weights)), Stepper(ADAMW, options, copy.deepcopy(weights))
    np.testing.assert_array_equal(same.step([same.records[0].weight]), other.step(weights))


@pytest.mark.parametrize("state", ["float32", "int8"])
def test_nan_stays_nan(state: str) -> None:
    weights = [drawn((9, 401), torch.float32, torch.Generator().manual_seed(7)), torch.ones(300)]
    stepper, gradients = Stepper(ADAMW, options_of(ADAMW, Kind(state)), weights), gradients_of(weights, 1)
    gradients[0][2, 200] = torch.nan
    of_nan, of_ones = stepper.step(gradients)
    for name in ("gradient", "update", "alignment", LARGEST):
        assert np.isnan(of_nan[ROW.index(name)]), name
    assert np.isfinite(of_nan[ROW.index("weight")])
    assert np.isfinite(of_ones).all()


def test_a_rule_lacks_some_of_them() -> None:
    known = {"sgd": (), "momentum": ("alignment",), "lion": ("alignment",), "rmsprop": ("ratio", "under_eps", "behind")}
    optional = {"alignment", "ratio", "under_eps", "behind"}
    for case in CASES:
        if case.name in known:
            weights = [torch.ones(3)]
            (row,) = Stepper(case, options_of(case, Kind("float32")), weights).step([torch.ones(3)])
            lacking = {name for name, value in zip(ROW, row, strict=True) if np.isnan(value)}
            assert lacking == optional - set(known[case.name]), case.name


def test_the_digest_covers_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(RULES)
    monkeypatch.setattr(statistics, "FACTOR_BEHIND", 20.0)
    record_statistics.cache_clear()
    try:
        assert digest(RULES) != before
    finally:
        monkeypatch.undo()
        record_statistics.cache_clear()
    assert digest(RULES) == before
