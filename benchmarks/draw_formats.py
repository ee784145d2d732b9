"""The picture of the README: memory and time of a step of AdamW by storage format, beside PyTorch's.

    python benchmarks/draw_formats.py measure --machine "AMD EPYC (Zen 4)"   # writes docs/images/formats.json
    python benchmarks/draw_formats.py draw                                   # and from it the pictures beside it

``measure`` steps the tensors of GPT-2 small on two threads, all sides in turn in one process, and draws as well. It needs a
quiet machine and 5 GB. The pictures are transparent, one for light pages and one for dark ones in each language, and their
letters can be read where the picture is as narrow as a phone.
"""

from __future__ import annotations

import argparse
import json
import platform
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

IMAGES = Path(__file__).parents[1] / "docs" / "images"
FIGURES = IMAGES / "formats.json"
FORMATS = ("float32", "bfloat16", "int8", "int6")
BASELINE = "PyTorch fused"

WORDS = {
    "en": {
        "memory": ("State memory", "bytes per parameter"),
        "time": ("Step time", "ms"),
        "caption": (
            "AdamW, {millions} million float32 parameters (GPT-2 small).",
            "{threads} threads of an {machine}, PyTorch {torch}.",
        ),
    },
    "zh": {
        "memory": ("状态内存", "字节/参数"),
        "time": ("每步用时", "毫秒"),
        "caption": (
            "AdamW，GPT-2 small，{parameters:,} 个 float32 参数。",
            "{machine}，{threads} 个线程，PyTorch {torch}。",
        ),
    },
}
# The text and the bars of PyTorch, which are hollow; the axes; the bars of Adamas.
COLORS = {
    "light": {"text": "#1f2328", "line": "#c8cdd3", "adamas": "#0b7285"},
    "dark": {"text": "#e6edf3", "line": "#3d444d", "adamas": "#3bc9db"},
}

WIDTH, ROW, TOP, BAR = 720, 46, 80, 28
COLUMNS = {"memory": (248, 180), "time": (548, 106)}  # where the bars of each begin, and the length of the longest


def measure(machine: str, rounds: int) -> dict[str, Any]:
    """The bytes of state per parameter and the median milliseconds of a step, of each side."""
    import torch
    from bench_step import THREADS, fused, gpt2_small, in_turn, seconds, with_gradients

    import adamas.torch

    torch.set_num_threads(THREADS)
    params = with_gradients(gpt2_small(), torch.float32)  # the same for all sides: a step depends on where they lie
    theirs = fused(params)
    ours = {state: adamas.torch.AdamW(params, state=state) for state in FORMATS}
    sides = {name: lambda o=o: seconds(o.step) for name, o in {BASELINE: theirs, **ours}.items()}
    times = in_turn(sides, rounds)
    count = sum(p.numel() for p in params)
    state_of_theirs = sum(x.nbytes for entry in theirs.state.values() for x in entry.values())
    memory = {BASELINE: state_of_theirs / count, **{state: o.memory().bytes_per_parameter for state, o in ours.items()}}
    return {
        "machine": machine,
        "threads": THREADS,
        "torch": torch.__version__.partition("+")[0],
        "parameters": count,
        "rows": {
            name: {"memory": round(memory[name], 2), "time": round(1e3 * median(times[name]), 1)} for name in sides
        },
    }


def picture(figures: dict[str, Any], words: dict[str, Any], colors: dict[str, str]) -> str:
    """The picture as SVG: a row for each side, with a bar for its memory and one for its time."""
    rows = figures["rows"]
    bottom = TOP + ROW * len(rows)
    parts = []

    def text(x: float, y: float, content: str, size: int = 24, bold: bool = False) -> None:
        weight = ' font-weight="600"' if bold else ""
        parts.append(f'<text x="{x:g}" y="{y:g}" font-size="{size}"{weight}>{escape(content)}</text>')

    for column, (left, _) in COLUMNS.items():
        title, unit = words[column]
        text(left, 26, title, bold=True)
        text(left, 56, unit, 22)
        parts.append(f'<path d="M{left - 2} {TOP - 8}V{bottom - 8}" stroke="{colors["line"]}" stroke-width="2"/>')
    for index, (name, values) in enumerate(rows.items()):
        adamas = name != BASELINE
        top = TOP + ROW * index
        text(0, top + 23, f"Adamas {name}" if adamas else BASELINE, bold=adamas)
        style = f'fill="{colors["adamas"]}"' if adamas else f'fill="none" stroke="{colors["text"]}" stroke-width="2"'
        for column, (left, longest) in COLUMNS.items():
            length = longest * values[column] / max(row[column] for row in rows.values())
            parts.append(f'<rect x="{left}" y="{top}" width="{length:.1f}" height="{BAR}" {style}/>')
            figure = f"{values[column]:.2f}" if column == "memory" else f"{values[column]:.0f}"
            text(left + length + 10, top + 23, figure, bold=adamas)
    facts = {**figures, "millions": round(figures["parameters"] / 1e6)}
    for index, line in enumerate(words["caption"]):
        text(0, bottom + 28 + 32 * index, line.format(**facts), 22)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 72}" fill="{colors["text"]}" '
        "font-family=\"system-ui, -apple-system, 'Segoe UI', 'Noto Sans', 'Noto Sans CJK SC', sans-serif\">\n"
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def pictures(figures: dict[str, Any]) -> dict[str, str]:
    """The text of each picture, by the name of its file."""
    return {
        f"formats-{language}-{scheme}.svg": picture(figures, words, colors)
        for language, words in WORDS.items()
        for scheme, colors in COLORS.items()
    }


def main() -> None:
    """Measures or draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "draw"))
    parser.add_argument("--machine", default=platform.processor() or platform.machine(), help="its name in the caption")
    parser.add_argument("--rounds", type=int, default=31, help="steps of each side")
    given = parser.parse_args()
    if given.what == "measure":
        figures = measure(given.machine, given.rounds)
        FIGURES.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    for name, text in pictures(json.loads(FIGURES.read_text(encoding="utf-8"))).items():
        (IMAGES / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
