"""``adamas train --watch``: what is watched of a whole run, its files, and its place in a report."""

from __future__ import annotations

import io
import json
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import browser
from command_line import adamas
from report_material import make_run
from test_report_browser import until

from adamas.lab.charts import HeatMap
from adamas.lab.report.compose import compose
from adamas.lab.report.page import pictures, render
from adamas.lab.train import InputError, Listener, fit
from adamas.lab.train.watched import MOST, STATISTICS, History
from adamas.step.watch import Watch
from adamas.step.watching import COLUMNS, PER_STEP

pytestmark = pytest.mark.long
QUIET = Listener()


def watch_of(steps: int, names: list[str], seed: int = 0) -> Watch:
    """A watch with random statistics, all of them nonnegative but ``m_dot_g``."""
    random = np.random.default_rng(seed)
    numbers = random.uniform(0.1, 1, (steps, len(PER_STEP)))
    numbers[:, 0] = np.arange(1, steps + 1)
    rows = np.exp(random.normal(0, 1, (steps, len(names), len(COLUMNS)))).astype(np.float32)
    rows[:, :, COLUMNS.index("m_dot_g")] *= -1
    rows[:, 0, COLUMNS.index("lost")] = np.nan
    return Watch(names, numbers, rows)


def history_of(folder: Path) -> History:
    return History.parsed((folder / "watch.npz").read_bytes())


def test_a_history_has_every_step_while_there_is_room() -> None:
    watch, history = watch_of(MOST, ["a", "b"]), History()
    for _ in range(2):  # what is there already is not added again
        history.add(watch)
    assert (len(history), history.length, history.count) == (MOST, 1, MOST)
    assert history.steps == [*range(1, MOST + 1)]
    for name in STATISTICS:
        np.testing.assert_array_equal(history[name], watch[name])


def test_thinning_keeps_the_largest_of_each_stretch() -> None:
    watch, history = watch_of(4 * MOST + 3, ["a", "b", "c"]), History()
    history.add(watch)
    size = 8
    assert (history.length, history.count) == (size, 4 * MOST + 3)
    assert MOST / 2 <= len(history) <= MOST
    starts = range(0, 4 * MOST + 3, size)
    assert history.steps == [min(start + size, 4 * MOST + 3) for start in starts]
    for name in STATISTICS:
        parts = [watch[name][start : start + size] for start in starts]
        largest = [part.min(axis=0) if name == "m_dot_g" else part.max(axis=0) for part in parts]
        np.testing.assert_array_equal(history[name], largest)
    clip = [watch.per_step["clip"][start : start + size].min() for start in starts]
    with np.load(io.BytesIO(history.content())) as arrays:
        assert arrays["steps"][:, PER_STEP.index("clip")].tolist() == clip


def test_a_history_goes_on_after_it_was_read_from_its_file() -> None:
    watch, whole = watch_of(MOST + 301, ["a", "b"]), History()
    whole.add(watch)
    first = History()
    first.add(
        Watch(
            watch.names,
            np.column_stack([watch.steps[:700], *(watch.per_step[n][:700] for n in PER_STEP[1:])]),
            watch._rows[:700],
        )
    )
    again = History.parsed(first.content())
    again.add(watch)
    assert again.content() == whole.content()


@pytest.mark.parametrize("cut", [0, 1, 500, -30])
def test_a_damaged_history_is_refused(cut: int) -> None:
    history = History()
    history.add(watch_of(3, ["a"]))
    content = bytearray(history.content())
    if cut == 500:
        content[cut] ^= 1
    else:
        content = content[:cut]
    with pytest.raises(ValueError, match="it cannot be read"):
        History.parsed(bytes(content))


def test_a_run_keeps_what_its_optimizer_did(tmp_path: Path) -> None:
    summary = fit(epochs=2, watch=True, out=tmp_path / "run", listener=QUIET)
    history = history_of(tmp_path / "run")
    assert history.names == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert history.steps == [*range(1, summary.steps + 1)]
    samples = [json.loads(line) for line in (tmp_path / "run/steps.jsonl").read_text().splitlines()]
    for sample in samples:
        row = history.steps.index(sample["step"])
        norm = float(np.sqrt((history["grad_norm"][row].astype(float) ** 2).sum()))
        assert sample["grad_norm"] == pytest.approx(norm, rel=1e-6)


class Findings(Listener):
    """Keeps the lines about what left its usual course."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def on_finding(self, line: str) -> None:
        self.lines.append(line)


def test_a_finding_is_told_once_and_is_in_the_summary_and_the_report(tmp_path: Path) -> None:
    """ε of 0.1 is far above the gradients, in every step."""
    found = Findings()
    options: Any = {"optimizer": "adam", "eps": 0.1, "watch": "keep=64", "epochs": 5}
    summary = fit(out=tmp_path / "run", listener=found, **options)
    patterns = [line.partition(", ")[2].partition(":")[0] for line in found.lines]
    assert "eps too large" in patterns, found.lines
    assert len(patterns) == len({*patterns})
    assert summary.explanation is not None
    assert len(summary.explanation) == len(found.lines)
    for line, told in zip(found.lines, summary.explanation, strict=True):
        assert told.startswith(" ".join(line.split()))
    assert json.loads((tmp_path / "run/summary.json").read_text())["explanation"] == summary.explanation
    assert compose([tmp_path / "run"])[1][-1].notes == summary.explanation


def test_a_run_without_findings_says_what_was_looked_at(tmp_path: Path) -> None:
    found = Findings()
    summary = fit("quadratic", watch=True, epochs=20, out=tmp_path / "run", listener=found)
    assert found.lines == []
    assert summary.explanation == [
        "Nothing has left its usual course in 200 watched steps of 1 tensor; the last was step 200."
    ]


def test_without_the_option_nothing_is_kept(tmp_path: Path) -> None:
    summary = fit(epochs=1, out=tmp_path / "run", listener=QUIET)
    assert summary.explanation is None
    assert not (tmp_path / "run/watch.npz").exists()


def test_watching_changes_no_bit(tmp_path: Path) -> None:
    for watch in (True, False):
        fit(epochs=1, watch=watch, out=tmp_path / str(watch), listener=QUIET)
    one, other = ((tmp_path / str(watch) / "model.safetensors").read_bytes() for watch in (True, False))
    assert one == other


def test_a_resumed_run_goes_on_watching(tmp_path: Path) -> None:
    for name, epochs in (("whole", 4), ("resumed", 2)):
        fit(epochs=epochs, watch="keep=60", out=tmp_path / name, listener=QUIET)
    fit(resume=tmp_path / "resumed", epochs=4, listener=QUIET)
    assert (tmp_path / "whole/watch.npz").read_bytes() == (tmp_path / "resumed/watch.npz").read_bytes()


def test_a_resumed_run_watches_the_same_steps(tmp_path: Path) -> None:
    fit(epochs=1, watch="every=7", out=tmp_path / "run", listener=QUIET)
    summary = fit(resume=tmp_path / "run", epochs=3, listener=QUIET)
    assert {*range(1, summary.steps, 7)} <= {*history_of(tmp_path / "run").steps}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"watch": True, "optimizer": "torch:Adam"},
            "watch is not an option of torch:Adam, only of Adamas's optimizers",
        ),
        ({"watch": "each"}, "watch must be every=10, keep=256, both with a comma, or nothing, got 'each'"),
        ({"optimizer": "adam(watch=True)"}, "has watch as an argument: give it as the option watch"),
    ],
)
def test_what_cannot_be_watched_is_refused(options: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        fit(out=tmp_path / "run", listener=QUIET, **options)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "words", [["--watch", "quadratic"], ["quadratic", "--watch"], ["quadratic", "--watch", "every=2"]]
)
def test_the_option_may_stand_alone(words: list[str], tmp_path: Path) -> None:
    done = adamas("train", *words, "--epochs", "30", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "checkpoint.pt and watch.npz" in " ".join(done.stdout.split())
    given = json.loads((tmp_path / "run/config.json").read_text())["watch"]
    assert given == ("every=2" if "every=2" in words else True)
    assert len(history_of(tmp_path / "run")) >= 30 / 2


# --- the report -----------------------------------------------------------------------------------------------------


def watched_run(folder: Path, names: list[str], steps: int = 1500) -> Path:
    """A run in whose RMSₜ one step of one tensor stands out."""
    run, history, watch = make_run(folder), History(), watch_of(steps, names)
    watch._rows[steps // 2, -1, COLUMNS.index("rms")] = 1e4
    watch._rows[:, :, COLUMNS.index("weight_norm")] = 1
    # Two decades with two powers of ten in them: the scale of colours could have the most marks, with the longest texts.
    watch._rows[:, :, COLUMNS.index("update_norm")] = np.geomspace(1.6e-4, 1.5e-2, steps)[:, None]
    watch._rows[:, 1, COLUMNS.index("update_norm")] = 0
    history.add(watch)
    (run / "watch.npz").write_bytes(history.content())
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "explanation": ["Step 750, v too slow: it was."]}))
    return run


def test_the_report_says_what_the_optimizer_did(tmp_path: Path) -> None:
    _, sections = compose([watched_run(tmp_path / "run", ["a", "b", "c"])])
    section = sections[-1]
    assert section.title == "What the optimizer did: run"
    assert section.sentences == ["1,500 steps of 3 tensors were watched; the explanation is below the heat maps."]
    assert section.notes == ["Step 750, v too slow: it was."]
    ratio, rms = section.charts
    assert isinstance(ratio, HeatMap)
    assert isinstance(rms, HeatMap)
    assert rms.rows == ["a", "b", "c"]
    assert rms.x[-1] == 1500
    assert max(x for row in rms.values for x in row if x is not None) == 1e4
    assert all(x is None for x in ratio.exponents()[1])
    assert len(pictures([section])) == 2


def test_a_damaged_file_of_what_was_watched_is_named(tmp_path: Path) -> None:
    run = watched_run(tmp_path / "run", ["a", "b"])
    (run / "watch.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"watch\.npz' is not what was watched"):
        compose([run])


def test_the_marks_of_a_scale_of_colours_lie_on_it() -> None:
    for values, marks in (
        ([[1e-4, 1e-2, 5.0]], [1e-4, 1e-2, 1]),
        ([[0.9, 2.1]], [1, 2]),
        ([[3.0, 3.0]], [1, 2, 5]),
        ([[None, 0.0]], [0.5, 1, 2]),
    ):
        chart = HeatMap("", "step", "", ["a"], [*range(len(values[0]))], values)
        low, high = chart.scale()
        assert low < high
        assert chart.ticks() == marks


def overlap(one: list[float], other: list[float]) -> bool:
    """Whether two boxes (left, right, top, bottom) have more than the edges of letters in common."""
    width, height = (min(one[i + 1], other[i + 1]) - max(one[i], other[i]) for i in (0, 2))
    return width > 1 and height > 2


@pytest.mark.parametrize("tensors", [4, 150])
def test_a_browser_draws_the_heat_maps_without_cutting_a_label(tensors: int, tmp_path: Path) -> None:
    names = [f"transformer.h.{i}.attention.c_attn.weight" for i in range(tensors)]
    title, sections = compose([watched_run(tmp_path / "run", names)])
    page = tmp_path / "page.html"
    page.write_text(render(title, "", sections), encoding="utf-8")
    with browser() as launched:
        for width, scheme in ((1300, "light"), (400, "dark")):
            context = launched.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
            view = context.new_page()
            view.goto(page.as_uri())
            until(view, "document.documentElement.dataset.charts === 'drawn'")
            assert view.evaluate("document.documentElement.scrollWidth") <= width
            boxes = view.evaluate(
                "[...document.querySelectorAll('figure.wide .plot')].map(plot => {"
                "const boxes = what => [...plot.querySelectorAll(what)].map(node => node.getBoundingClientRect())"
                ".filter(b => b.width).map(b => [b.left, b.right, b.top, b.bottom]);"
                "const b = plot.getBoundingClientRect();"
                "return [[b.left, b.right, b.top, b.bottom], boxes('.heatmaplayer image'), boxes('.ytick text'),"
                " boxes('.xtick text, .xtitle, .cbaxis text, .cbtitle text')]; })"
            )
            assert len(boxes) == 2
            for (left, right, top, bottom), (heat_map,), rows, others in boxes:
                assert len(rows) == tensors
                assert len(others) >= 6
                for one in (*rows, *others):
                    assert left <= one[0] < one[1] <= right
                    assert top <= one[2] < one[3] <= bottom
                assert max(one[1] for one in rows) < (left + right) / 2  # and there is room for the map
                rows.sort(key=lambda one: one[2])
                assert all(one[3] <= other[2] + 2 for one, other in pairwise(rows))
                assert not [pair for pair in combinations([heat_map, *others], 2) if overlap(*pair)]
            context.close()
