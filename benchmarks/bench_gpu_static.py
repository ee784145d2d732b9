"""What the compiler makes of the kernels for GPUs, without having one.

    PYTHONPATH=.venv/triton python benchmarks/bench_gpu_static.py [targets]

Compiled for each target: registers and bytes of spills of a thread, and bytes of shared memory of a program. Instructions an
element, and loads and stores by their width, are counted in a build of the branch for whole tiles of usual blocks alone.
Without arguments: all of ``TARGETS``. Needs Triton, which `make` installs into that folder.
"""

from __future__ import annotations

import linecache
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget

from adamas.rule.members import MEMBERS
from adamas.rule.shared import defaults
from adamas.rule.triton import Kind, source
from adamas.rule.triton_statistics import watched_source
from adamas.step.kernels import ROWS

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
    "gfx950": GPUTarget("hip", "gfx950", 64),
}
ADAMW = MEMBERS["AdamW"].rule(defaults(MEMBERS["AdamW"], "torch"))


def kind(weight: str, weights: str, state: str) -> Kind:
    return Kind(ADAMW, False, weight, weight, weights, (state,) * len(ADAMW.states), True, True)


KINDS = {
    "float32": kind("float32", "nearest", "float32"),
    "bfloat16 stochastic, bfloat16 moments": kind("bfloat16", "stochastic", "bfloat16"),
    "float32, int8 moments": kind("float32", "nearest", "int8"),
    "bfloat16 split, int8 moments": kind("bfloat16", "split", "int8"),
    "bfloat16 stochastic, int8 moments": kind("bfloat16", "stochastic", "int8"),
    "float32, int6 moments": kind("float32", "nearest", "int6"),
}
KINDS |= {f"{name}, watched": KINDS[name]._replace(is_watched=True) for name in KINDS}
BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class Usage(NamedTuple):
    """What a compiled kernel takes.

    Attributes:
        registers: of a thread.
        spills: bytes of a thread.
        shared: bytes of shared memory of a program.
        accesses: the number of loads and stores of global memory by their name in the assembly.
        instructions: how many a thread executes at most once each.
    """

    registers: int
    spills: int
    shared: int
    accesses: dict[str, int]
    instructions: int


def source_of(one: Kind) -> str:
    return watched_source(one) if one.is_watched else source(one)


def compiled(text: str, one: Kind, target: GPUTarget) -> Any:
    """The kernel that this source of a kind defines, compiled."""
    name = f"<kernel {len(linecache.cache)}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    module: dict[str, Any] = {"__name__": name}
    exec(compile(text, name, "exec"), module)
    signature = {"table": "*i64", "tensors": "*i32", "numbers": "*i32"}
    if one.is_watched:
        signature["partial_sums"] = "*fp64" if one.is_wide else "*fp32"
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(len(signature))}
    signature["ROWS"] = "constexpr"
    ast = triton.compiler.ASTSource(module["step"], signature, constexprs={"ROWS": ROWS}, attrs=aligned)
    return triton.compile(
        ast, target=target, options={"num_warps": ROWS * one.threads // target.warp_size, "enable_fp_fusion": False}
    )


def usual(text: str) -> str:
    """The source without its branches for tiles that are not whole and for blocks that are not usual."""
    text = text.replace("        else:\n            step_tile(row, at, tile, ROWS, False)\n", "")
    text = re.sub(r"if size >= .*:\n(            .* = step_tile.*\n)        else:\n.*\n", r"if True:\n\1", text)
    text = re.sub(r"    if WHOLE:\n        if not is_usual:\n(            .*\n)+", "", text)
    return re.sub(r"        if not is_done:\n(            .*\n)+", "", text)


def usage(kernel: Any, target: GPUTarget) -> Usage:
    if target.backend == "hip":
        assembly = kernel.asm["amdgcn"]

        def number(name: str) -> int:
            found = re.search(rf"\.{name}: +(\d+)", assembly)
            assert found is not None, f"the assembly does not tell {name}"
            return int(found[1])

        accesses = Counter(re.findall(r"\b((?:global|buffer)_(?:load|store)_\w+)", assembly))
        lines = [line for line in assembly.splitlines() if re.match(r"\t[vs]_|\t(global|buffer|ds)_", line)]
        return Usage(
            number("vgpr_count"), number("private_segment_fixed_size"), kernel.metadata.shared, accesses, len(lines)
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(kernel.asm["cubin"])

        def dumped(what: str) -> str:
            return subprocess.run(
                [BINARIES / "cuobjdump", what, file], capture_output=True, text=True, check=True
            ).stdout

        resources, assembly = dumped("-res-usage"), dumped("-sass")
    lines = re.findall(r"/\*[0-9a-f]{4,5}\*/ +(?:@!?U?P\w+ +)?([A-Z][\w.]*)", assembly)
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", resources)}
    accesses = Counter(line for line in lines if line.startswith(("LDG", "STG")))
    return Usage(
        found["REG"], found["STACK"] + found["LOCAL"], found["SHARED"], accesses, len(lines) - lines.count("NOP")
    )


def main(targets: list[str]) -> None:
    print(
        "| target | kernel | registers | spills | shared | instructions an element | loads and stores of usual blocks |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in targets or TARGETS:
        target = TARGETS[name]
        for title, one in KINDS.items():
            whole = usage(compiled(source_of(one), one, target), target)
            found = usage(compiled(usual(source_of(one)), one, target), target)
            each = found.instructions / (128 / one.threads)
            accesses = ", ".join(f"{count} {access}" for access, count in sorted(found.accesses.items()))
            print(
                f"| {name} | {title} | {whole.registers} | {whole.spills} | {whole.shared} | {each:.0f} | {accesses} |",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
