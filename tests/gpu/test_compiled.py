"""What Triton's compiler makes of the kernels, which needs no GPU."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from members import CASES, Case, hyperparameters, with_sums
from triton.compiler import ASTSource
from triton.compiler import compile as compile_kernel

from adamas.rule import recorded_formats, triton, triton_statistics, triton_sums
from adamas.rule.declaration import Rule
from adamas.rule.formats import INT8
from adamas.rule.recorder import Recording
from adamas.rule.triton_numbers import NumbersKind, fixed_of, numbers_source
from adamas.step import kernels

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[1]))
import bench_gpu_static
from rules_with_sums import LAMB as LAMB_MEMBER

LAMB = LAMB_MEMBER.rule(hyperparameters(LAMB_MEMBER))
pytestmark = pytest.mark.kernels

ESTIMATES = {"estimated_quotient": "div.full.f32", "estimated_root": "sqrt.approx.ftz.f32"}
OF_QUOTIENT = triton.QUOTIENT.count("tl.fma")  # a thread has one block
FUSED = ("fused", "fused_less", "fused_from")


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
    assembly = bench_gpu_static.compiled(text, kind, bench_gpu_static.TARGETS["sm_90"]).asm["ptx"]
    done = Counter(re.findall(r"\b((?:fma|div|sqrt)\.[\w.]+)", assembly))

    elements = 128 // kind.threads  # of a thread
    of_rule = operations([triton.written(rule).recording])
    for estimate, instruction in ESTIMATES.items():
        assert done.pop(instruction, 0) == elements * of_rule[estimate], instruction
    of_formats = of_blocks = 0
    if kind.is_coded:
        for one in rule.states:
            factor = one.role in triton.written(rule).read
            random = one.code_draw is not None, rule.second_of(one) is not None, rule.counts(one)
            of_state = [
                recorded_formats.decode(one.signed, INT8, factor, is_usual=True),
                recorded_formats.encode(one.signed, INT8, *random, is_usual=True),
            ]
            of_formats += sum(operations(of_state)[name] for name in FUSED)
            quotients = operations(of_state)["truediv"]
            if one.decay is None and one.signed:  # a scale over a factor of 1, which the compiler knows
                quotients -= 1
            of_blocks += OF_QUOTIENT * quotients
    fused = sum(of_rule[name] for name in FUSED) + of_formats
    assert done.pop("fma.rn.f32", 0) == elements * fused + of_blocks
    assert set(done) <= {"div.rn.f32", "sqrt.rn.f32"}, done  # rounded to the nearest


def compiled_sums(index: int, rule: Rule, target: str, *stored: Any, **options: Any) -> Any:
    """The kernel of a rule's sum."""
    text = triton_sums.sum_source(triton.Kind(rule, *stored, True, True), index)
    kernel = kernels.defined(text)["sum"]
    signature = {"table": "*i64", "tensors": "*i32", "numbers": "*i32", "partial_sums": "*fp64"}
    constants = {"ROWS": kernels.ROWS, "TILES": kernels.TILES}
    ast = ASTSource(
        kernel,
        signature | dict.fromkeys(constants, "constexpr"),
        constexprs=constants,
        attrs={(i,): [["tt.divisibility", 16]] for i in range(len(signature))},
    )
    on = bench_gpu_static.TARGETS[target]
    options = kernels.OPTIONS | {"num_warps": 128 // on.warp_size} | options
    return compile_kernel(ast, target=on, options=options)


SUMS = [
    (0, triton_sums.SQUARES, (False, "float64", "float32", "nearest", ())),
    (0, triton_sums.SQUARES, (False, "float64", "bfloat16", "nearest", ())),
    (1, LAMB, (True, "bfloat16", "float32", "split", ("int8", "int6"))),
]


@pytest.mark.parametrize(
    "target", ["sm_90", *(pytest.param(x, marks=pytest.mark.nightly) for x in bench_gpu_static.TARGETS if x != "sm_90")]
)
@pytest.mark.parametrize(("index", "rule", "stored"), SUMS, ids=["float32", "bfloat16", "lamb"])
def test_the_compiler_fuses_nothing_of_a_sum(index: int, rule: Rule, stored: tuple[Any, ...], target: str) -> None:
    kernel = compiled_sums(index, rule, target, *stored)
    fused = re.compile(r"fma\.rn\.f64|v_fma\w*_f64")
    assert not fused.search(kernel.asm.get("ptx") or kernel.asm["amdgcn"])
    assert bench_gpu_static.usage(kernel, bench_gpu_static.TARGETS[target]).spills == 0


def test_the_compiler_would_fuse_squares_if_it_was_allowed_to() -> None:
    assert "fma.rn.f64" in compiled_sums(*SUMS[0][:2], "sm_90", *SUMS[0][2], enable_fp_fusion=True).asm["ptx"]


@pytest.mark.parametrize(
    ("case", "target"),
    [
        pytest.param(
            case,
            target,
            marks=() if (case.name, target) == ("ademamix", "sm_90") else pytest.mark.nightly,
            id=f"{case.name}-{target}",
        )
        for case in CASES
        if not with_sums(case)  # the host computes those
        for target in bench_gpu_static.TARGETS
    ],
)
def test_the_numbers_of_a_step_are_computed_in_float64(case: Case, target: str) -> None:
    hyper = {"base_lr": 1e-3, **hyperparameters(case.declared, **case.options)}
    rule = case.declared.rule(hyper)
    kind = NumbersKind(case.declared, fixed_of(case.declared, hyper), rule, False, False, True)
    words = triton.Kind(rule, False, "float32", "float32", "nearest", ("float32",) * len(rule.states), True, True).words
    kernel = kernels.defined(numbers_source(kind, words))["numbers"]
    signature = {
        "before": "*fp64",
        "inputs": "*fp64",
        "after": "*fp64",
        "words": "*i32",
        "count": "i32",
        "LANES": "constexpr",
    }
    on = bench_gpu_static.TARGETS[target]
    options = {"num_warps": 128 // on.warp_size, "enable_fp_fusion": False}
    compiled = compile_kernel(
        ASTSource(kernel, signature, constexprs={"LANES": kernels.SETS}), target=on, options=options
    )
    text = compiled.asm.get("ptx") or compiled.asm["amdgcn"]
    assert not re.search(r"cvt\.f64\.f32|v_cvt_f64_f32", text)
    assert not re.search(r"(?:mul|add|sub|fma)\.(?:rn\.)?f32|v_(?:mul|add|sub|fma)\w*_f32", text)


@pytest.mark.parametrize(
    "target", ["sm_90", *(pytest.param(x, marks=pytest.mark.nightly) for x in bench_gpu_static.TARGETS if x != "sm_90")]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_statistics_are_added_up_in_float64(dtype: str, target: str) -> None:
    kind = bench_gpu_static.KINDS["float32, watched"]._replace(weight=dtype)
    kernel = kernels.defined(triton_statistics.add_up_statistics_source(kind))["add_up"]
    signature = {
        "table": "*i64",
        "numbers": "*i32",
        "partial_sums": "*fp64" if kind.is_wide else "*fp32",
        "programs": "i32",
        "places": "*i64",
        "statistics": "*fp64",
        "LANES": "constexpr",
    }
    on = bench_gpu_static.TARGETS[target]
    options = kernels.STATISTICS | {"num_warps": 4 * 128 // on.warp_size}
    ast = ASTSource(kernel, signature, constexprs={"LANES": options.pop("LANES")})
    compiled = compile_kernel(ast, target=on, options=options)
    text = compiled.asm.get("ptx") or compiled.asm["amdgcn"]
    assert re.search(r"add\.(?:rn\.)?f64|v_add_f64", text)
    assert not re.search(r"(?:mul|add|sub|fma)\.(?:rn\.)?f32|v_(?:mul|add|sub|fma)\w*_f32", text)
    assert bench_gpu_static.usage(compiled, on).spills == 0


@pytest.mark.nightly
@pytest.mark.parametrize("target", bench_gpu_static.TARGETS)
@pytest.mark.parametrize("kind", bench_gpu_static.KINDS)
def test_nothing_spills(kind: str, target: str) -> None:
    one, on = bench_gpu_static.KINDS[kind], bench_gpu_static.TARGETS[target]
    assert bench_gpu_static.usage(bench_gpu_static.compiled(bench_gpu_static.source_of(one), one, on), on).spills == 0
