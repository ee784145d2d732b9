"""What Triton's compiler makes of the kernels, which needs no GPU."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import pytest
from members import CASES, Case, hyperparameters

from adamas.rule import recorded_formats, triton
from adamas.rule.formats import INT8
from adamas.rule.recorder import Recording

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import bench_gpu_static

pytestmark = pytest.mark.kernels

ESTIMATES = {"estimated_quotient": "div.full.f32", "estimated_root": "sqrt.approx.ftz.f32"}
FUSED = ("fused", "fused_less", "fused_from")
ELEMENTS = 16  # of a thread


def operations(recordings: list[Recording]) -> Counter[str]:
    """The operations on elements."""
    values = {value for recording in recordings for value in recording.operations if not value.is_number}
    return Counter(value.operation for value in values)


@pytest.mark.parametrize("state", ["float32", "int8"])
@pytest.mark.parametrize(
    "case",
    [
        case if case.name == "adamw" else pytest.param(case, marks=pytest.mark.nightly)
        for case in CASES
        if not case.options.get("centered")
    ],
    ids=str,
)
def test_the_compiler_fuses_and_estimates_what_the_recording_does(case: Case, state: str) -> None:
    """Counted in the assembly of NVIDIA, in the branch for whole tiles of usual blocks: the interpreter shows none of this."""
    rule = next(iter(case.declared.rule(hyperparameters(case.declared, **case.options)).variants()))
    kind = triton.Kind(rule, False, "float32", "float32", "nearest", (state,) * len(rule.states), True, True)
    text = bench_gpu_static.usual(triton.source(kind))
    assembly = bench_gpu_static.compiled(text, bench_gpu_static.TARGETS["sm_90"]).asm["ptx"]
    done = Counter(re.findall(r"\b((?:fma|div|sqrt)\.[\w.]+)", assembly))

    of_rule = operations([triton.written(rule).recording])
    for estimate, instruction in ESTIMATES.items():
        assert done.pop(instruction, 0) == ELEMENTS * of_rule[estimate], instruction
    of_formats = 0
    if kind.is_coded:
        for one in rule.states:
            factor = one.role in triton.written(rule).read
            random = one.code_draw is not None, rule.second_of(one) is not None, rule.counts(one)
            of_state = [
                recorded_formats.decode(one.signed, INT8, factor, is_usual=True),
                recorded_formats.encode(one.signed, INT8, *random, is_usual=True),
            ]
            of_formats += sum(operations(of_state)[name] for name in FUSED)
    fused = sum(of_rule[name] for name in FUSED) + of_formats
    assert done.pop("fma.rn.f32", 0) == ELEMENTS * fused
    assert set(done) <= {"div.rn.f32", "sqrt.rn.f32"}, done  # rounded to the nearest
