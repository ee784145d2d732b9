"""Recordings compute what the rules do, before and after each lowering: run over NumPy, and written out as the engine."""

from __future__ import annotations

import operator
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rules_with_sums

import adamas.numpy
from adamas.rule import house
from adamas.rule.declaration import Host, OwnRule, Rule, State, Sum, maskable
from adamas.rule.lowering import LOWERINGS, lowered
from adamas.rule.members import RULES
from adamas.rule.recorder import Recording, Value, digest, reads_weight, record, record_penalties, record_term
from adamas.step import engine


def decayed(a: Any, x: np.ndarray, g: np.ndarray) -> np.ndarray:
    is_faded = (g == 0) & (np.abs(x) < np.finfo(x.dtype).tiny)
    return np.where(is_faded, np.zeros_like(x), a * x)


# What the lowerings bring in. Fused operations are rounded twice here.
LOWERED = {
    "fused": lambda a, b, c: a * b + c,
    "fused_less": lambda a, b, c: a * b - c,
    "fused_from": lambda a, b, c: c - a * b,
    "decayed": decayed,
    "read": lambda a, x: a * x,
    "estimated_root": lambda x, a: np.sqrt(x + a),
    "estimated_quotient": lambda a, b: a / b,
}


def run(recording: Recording, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The recording over NumPy: a second way to compute what the rule does."""
    results: dict[Value, Any] = {}
    for value in recording.operations:
        operands = [results[x] if isinstance(x, Value) else x for x in value.operands]
        if value.operation == "input":
            results[value] = inputs[value.name]
        else:
            function = LOWERED.get(value.operation) or getattr(operator, value.operation, None)
            result = (function or getattr(np, value.operation))(*operands)
            # A number stays Python's: NumPy's float64 would make arrays of float64.
            results[value] = float(result) if value.is_number else result
    return {name: results[value] for name, value in recording.outputs.items()}


# Two rules that are not the sentence: Lion (Chen et al., 2023), whose momentum is read undecayed too, and AdEMAMix
# (Pagliardini et al., 2024), with three averages.
def _lion(k: Any, xp: Any, p: Any, g: Any, m: Any) -> tuple[Any, ...]:
    return xp.sign(k.c * m + k.d * g), k.a1 * m + k.b1 * g


def _ademamix(k: Any, xp: Any, p: Any, g: Any, fast: Any, slow: Any, v: Any) -> tuple[Any, ...]:
    fast, slow, v = k.a1 * fast + k.b1 * g, k.a3 * slow + k.b3 * g, k.a2 * v + k.b2 * g * g
    return (k.c * fast + k.e * slow) / (xp.sqrt(k.w * v) + k.eps), fast, slow, v


LION = OwnRule("lion", (State("first", True, "a1", 0),), ("a1", "b1", "c", "d"), _lion)
ADEMAMIX = OwnRule(
    "ademamix",
    (State("fast", True, "a1", 0), State("slow", True, "a3", 4), State("second", False, "a2", 1)),
    ("a1", "b1", "a2", "b2", "a3", "b3", "c", "e", "w", "eps"),
    _ademamix,
)

NUMBERS = {
    **{"s": -0.75, "l2": 0.1, "l1": 0.01, "cautious": 0.002, "k": 0.999, "eta": 0.0123},
    **{"a1": 0.9, "b1": 0.1, "a2": 0.999, "b2": 0.001, "c": 1.7, "d": 0.3, "w": 3.1, "eps": 1e-6, "root": 1e-9},
    **{"z": 1.0, "q": 0.8, "a3": 0.9999, "b3": 1e-4, "e": 2.5, "decay": 0.2, "most": 0.9, "least": -0.9},
    **{"rest": 0.95, "gain": 0.01, "push": 0.6, "pull": 0.7},
    **{"weights": 7.0, "updates": 3.0, "count": 11.0, "total": 0.7, "squares": 9.0, "gradients": 5.0, "ratio": 2.0},
    **{"coefficient": 0.001, "floor": 1e-12, "gamma": 0.4, "has_previous": 1.0, "corrected": 4.0, "both": 0.6},
    **{
        "b4": 0.3,
        "d0": 0.1,
        "d_max": 0.4,
        "d_numerator": 2.0,
        "d_coef": 1.5,
        "growth_rate": 1.3,
        "along": 0.5,
        "size": 4.0,
    },
}


def arrays(rule: Rule, dtype: type, n: int = 1000) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {"p": rng.standard_normal(n), "g": rng.standard_normal(n) * np.exp(rng.standard_normal(n) * 5)}
    for state in rule.states:
        x = rng.standard_normal(n) * found["g"]
        found[state.role] = x if state.signed else x * x
    for x in found.values():
        x[:4] = 0.0, -0.0, np.nan, 1.0
    return {name: x.astype(dtype) for name, x in found.items()}


def stepped(rule: Rule, x: Mapping[str, Any], penalized: bool) -> dict[str, Any]:
    """The same step as the rule itself computes it."""
    states = tuple(x[state.role] for state in rule.states)
    k = SimpleNamespace(**{**NUMBERS, **rule.from_sums(SimpleNamespace(**NUMBERS), Host)})
    p, after = house.step(rule, k, np, x["p"], x["g"], states, penalized)
    return {**dict(zip((state.role for state in rule.states), after, strict=True)), "p": p}


every_rule = pytest.mark.parametrize(
    "rule", [*RULES, LION, ADEMAMIX, *rules_with_sums.RULES], ids=lambda rule: rule.name
)
with_and_without_penalties = pytest.mark.parametrize("penalized", [False, True], ids=["plain", "penalized"])
precisions = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@every_rule
@with_and_without_penalties
@precisions
def test_a_recording_computes_the_rule_to_the_bit(rule: Rule, penalized: bool, dtype: type) -> None:
    x = arrays(rule, dtype)
    with np.errstate(all="ignore"):
        expected, got = stepped(rule, x, penalized), run(record(rule, penalized), NUMBERS | x)
    assert got.keys() == expected.keys()
    for name in expected:
        assert got[name].dtype == dtype
        np.testing.assert_array_equal(got[name].view(np.uint8), expected[name].view(np.uint8), err_msg=name)


@pytest.mark.parametrize("rule", rules_with_sums.RULES, ids=lambda rule: rule.name)
@with_and_without_penalties
@precisions
def test_a_recorded_term_of_a_sum_computes_it_to_the_bit(rule: Rule, penalized: bool, dtype: type) -> None:
    x = arrays(rule, dtype)
    k, states = SimpleNamespace(**NUMBERS), tuple(x[state.role] for state in rule.states)
    for i, wanted in enumerate(rule.sums):
        with np.errstate(all="ignore"):
            expected = wanted.term(k, np, x["p"], house.gradient(k, np, x["p"], x["g"], penalized), *states)
            got = run(record_term(rule, i, penalized), NUMBERS | x)["term"]
        np.testing.assert_array_equal(got.view(np.uint8), expected.view(np.uint8), err_msg=wanted.name)


def test_a_sum_knows_those_before_it_alone() -> None:
    rule = OwnRule("early", (), (), lambda k, xp, p, g: (g,), (Sum("one", "all", lambda k, xp, p, g: k.one * g),))
    with pytest.raises(AttributeError, match="one"):
        record_term(rule, 0, penalized=False)


def test_rules_that_read_the_weight_are_told_from_those_that_do_not() -> None:
    lamb, standardized = rules_with_sums.RULES
    in_a_sum = OwnRule("in_a_sum", (), (), lambda k, xp, p, g: (g,), (Sum("one", "all", lambda k, xp, p, g: p),))
    assert [reads_weight(rule) for rule in (lamb, in_a_sum, standardized, LION)] == [True, True, False, False]


@every_rule
@with_and_without_penalties
@precisions
@pytest.mark.parametrize("count", range(1, len(LOWERINGS) + 1), ids=lambda count: LOWERINGS[count - 1].__name__)
def test_a_lowered_recording_computes_the_rule_up_to_rounding(
    rule: Rule, penalized: bool, dtype: type, count: int
) -> None:
    x = arrays(rule, dtype)
    recording = record(rule, penalized)
    for lowering in LOWERINGS[:count]:
        recording = lowering(recording)
    with np.errstate(all="ignore"):
        expected, got = stepped(rule, x, penalized), run(recording, NUMBERS | x)
        for name, value in expected.items():
            # Sums of terms with different signs are as exact as their terms.
            terms = stepped(rule, {**x, name: np.abs(x[name])}, penalized)[name]
            size = np.abs(value) + np.abs(terms) + np.abs(x["g"]) + np.abs(x["p"])
            close = np.abs(got[name] - value) <= 64 * np.finfo(dtype).eps * size
            assert np.all(close | (np.isnan(got[name]) & np.isnan(value)) | (got[name] == value)), name


@every_rule
def test_a_penalized_step_is_the_plain_one_after_the_penalties(rule: Rule) -> None:
    """So the engine has one loop for both."""
    x = arrays(rule, np.float32)
    with np.errstate(all="ignore"):
        expected = run(record(rule, True), NUMBERS | x)
        g = run(record_penalties(), NUMBERS | x)["g"]
        got = run(record(rule, False), {**NUMBERS, "s": 1.0, **x, "g": g})
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)


def operations(rule: Rule) -> list[str]:
    return [x.operation for x in lowered(record(rule, False)).operations if not x.is_number]


def test_the_lowered_step_of_adam_is_as_short_as_one_written_by_hand() -> None:
    adam = next(rule for rule in RULES if rule.name == "first_square_use_first")
    done = sorted(x for x in operations(adam) if x not in ("input", "read"))
    assert done == sorted(
        ["fused", "mul", "fused", "mul", "estimated_root", "fused", "estimated_quotient", "fused_less"]
    )


def test_a_state_that_is_also_used_undecayed_is_decayed_by_an_operation_of_its_own() -> None:
    assert "decayed" in operations(LION)
    assert "read" not in operations(LION)
    assert operations(ADEMAMIX).count("read") == 3


def test_a_fading_state_is_flushed_to_zero() -> None:
    x = {name: value[:1] for name, value in arrays(LION, np.float32).items()}
    x["g"], x["first"] = np.zeros(1, np.float32), np.full(1, 1e-40, np.float32)
    assert run(lowered(record(LION, False)), NUMBERS | x)["first"][0] == 0
    assert run(lowered(record(LION, False)), NUMBERS | x | {"g": np.ones(1, np.float32)})["first"][0] != 0


def test_what_is_stored_is_not_estimated() -> None:
    for rule in RULES:
        recording = lowered(record(rule, False))
        stored = recording.depends_on(state.role for state in rule.states)
        assert not any(x.operation.startswith("estimated") for x in stored)


def test_the_rate_stays_outside_an_update_that_is_stored() -> None:
    trace = next(rule for rule in RULES if rule.name == "square_trace_use_gradient")
    x = arrays(trace, np.float64)
    with np.errstate(all="ignore"):
        once = run(lowered(record(trace, False)), NUMBERS | x)
        twice = run(lowered(record(trace, False)), NUMBERS | x | {"eta": 2 * NUMBERS["eta"]})
    np.testing.assert_array_equal(once["trace"], twice["trace"])


def test_a_rule_cannot_branch_on_a_value() -> None:
    def rule(k: Any, xp: Any, p: Any, g: Any) -> tuple[Any, ...]:
        return (g if g > 0 else -g,)

    with pytest.raises(TypeError, match="cannot branch"):
        record(OwnRule("branching", (), (), rule), False)


def test_the_digest_tells_rules_apart() -> None:
    def other(k: Any, xp: Any, p: Any, g: Any, m: Any) -> tuple[Any, ...]:
        return xp.sign(k.d * g + k.c * m), k.a1 * m + k.b1 * g

    assert digest([LION, ADEMAMIX]) == digest([LION, ADEMAMIX])
    different = [
        [ADEMAMIX, LION],
        [LION],
        [OwnRule("lion", LION.states, LION.numbers, other), ADEMAMIX],
        [OwnRule("lion", (State("first", True, "a1", 5),), LION.numbers, _lion), ADEMAMIX],
        [OwnRule("lion", LION.states, LION.numbers, _lion, (Sum("one", "all", lambda k, xp, p, g, m: g),)), ADEMAMIX],
        [OwnRule("lion", LION.states, LION.numbers, _lion, (Sum("one", "all", lambda k, xp, p, g, m: p),)), ADEMAMIX],
    ]
    assert len({digest(rules) for rules in [[LION, ADEMAMIX], *different]}) == 7


def test_a_stale_engine_does_not_step(monkeypatch: pytest.MonkeyPatch) -> None:
    w = np.ones(3, np.float32)
    optimizer = adamas.numpy.Adam([w])
    engine._indices.cache_clear()
    monkeypatch.setattr(engine, "RULES", RULES[::-1])
    with pytest.raises(ImportError, match="built from other rules"):
        optimizer.step([w.copy()])
    assert (w == 1).all()
    monkeypatch.undo()
    optimizer.step([w.copy()])
    assert (w != 1).all()


def test_the_headers_of_the_engine_are_written_with_the_standard_library_alone(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "engine" / "write_rules.py"
    subprocess.run([sys.executable, "-I", "-S", script, tmp_path], check=True)
    assert digest(map(maskable, RULES)) in (tmp_path / "rules.h").read_text(encoding="utf-8")
    steps = (tmp_path / "steps.h").read_text(encoding="utf-8")
    assert [f"struct Step<{i}> " in steps for i in range(len(RULES) + 1)] == [True] * len(RULES) + [False]
