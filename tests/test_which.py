"""The page of the comparison over the family: its tables are those that the script writes, and say what the results say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import which
from which import Column, Row

from adamas.lab.compare import design
from adamas.lab.compare.comparison import Request, open_study
from adamas.lab.compare.study import Outcome, Study

FIRST, GOOD, BAD, LIKE = Row("adamw"), Row("good"), Row("bad"), Row("like")


def task(schedule: str = "cosine", **rows: list[float | None]) -> dict[str, Any]:
    return {
        "mode": "max",
        "target": 0.9,
        "rows": {f"{name}, {schedule}": {"values": values, "at_edge": name == "good"} for name, values in rows.items()},
    }


def test_the_tables_of_the_page_are_those_of_the_results() -> None:
    text = which.PAGE.read_text("utf-8")
    assert which.page(json.loads(which.RESULTS.read_text("utf-8")), text) == text


@pytest.mark.parametrize(("mode", "sign"), [("max", 1), ("min", -1)])
def test_better_is_above_0_for_losses_and_for_accuracies(mode: str, sign: int) -> None:
    base = [0.5, 0.52, 0.48, 0.51, 0.49]
    noise = [0.001, -0.001, 0.002, 0.0, -0.002]
    values = {
        FIRST: [*base],
        GOOD: [value + sign * (0.1 + more) for value, more in zip(base, noise, strict=True)],
        BAD: [value - sign * (0.1 + more) for value, more in zip(base, noise, strict=True)],
        LIKE: [value + 10 * more for value, more in zip(base, noise, strict=True)],
    }
    found = which.differences(Column("a", mode, 0.9, {row: {"values": own} for row, own in values.items()}), FIRST)
    assert {row: one.verdict for row, one in found.items()} == {GOOD: 1, BAD: -1, LIKE: 0}
    assert found[GOOD].mean == pytest.approx(0.1)
    assert found[BAD].mean == pytest.approx(-0.1)
    # Student's interval: t(0.975, 4) = 2.776, the deviation of the noise is 0.00158
    assert found[GOOD].half == pytest.approx(2.776 * 0.00158114 / 5**0.5, rel=1e-3)


def test_a_line_that_diverged_is_named_and_one_that_was_not_tried_is_empty() -> None:
    tasks = {
        "digits": task(adamw=[0.5, 0.6, 0.7], good=[0.6, None, 0.8], like=[0.5, 0.6, 0.7]),
        "speech": task(adamw=[0.5, 0.6, 0.7], like=[0.5, 0.6, 0.7]),
        "chars-gpt": task("warmup_cosine", adamw=[0.5, 0.6, 0.7], good=[0.5, 0.6, 0.7], like=[0.5, 0.6, 0.7]),
    }
    table = which._table(tasks, [FIRST, GOOD, LIKE]).replace("\N{NO-BREAK SPACE}", " ")
    assert "| `good` | diverged |  | +0.00 ± 0.00 |" in table
    assert "| `like` | +0.00 ± 0.00 | +0.00 ± 0.00 | +0.00 ± 0.00 |" in table
    assert "- **speech**: better: none; worse: none; tied: 1\n" in table
    assert "- **chars-gpt**: better: none; worse: none; tied: 2; best rate at the edge: `good`\n" in table


def test_a_row_takes_the_schedule_of_the_task_unless_it_names_one() -> None:
    digits, chars = which.SETUPS["digits"], which.SETUPS["chars-gpt"]
    assert [setup.key(Row("adamw")) for setup in (digits, chars)] == ["adamw, cosine", "adamw, warmup_cosine"]
    free = Row("adamw_schedule_free")
    assert [setup.schedule(free) for setup in (digits, chars)] == ["constant", "warmup"]
    named = Row("adamw(state='int8')", "linear")
    assert {setup.file(named) for setup in (digits, chars)} == {"adamw-state-int8-linear.sqlite"}


def test_codes_are_compared_only_where_a_parameter_takes_them() -> None:
    rows = which.GROUPS["formats"]
    assert [which.SETUPS["sentiment"].has(row) for row in rows] == [True, True, False, False]
    assert all(which.SETUPS["speech"].has(row) for row in rows)


def test_gathering_adds_the_rows_of_complete_studies_and_keeps_the_others(tmp_path: Path) -> None:
    def train(study: Study, leave: int) -> None:
        while len(trials := design.missing(study.settings, study.finished())) > leave:
            study.record(trials[0], Outcome("done", 1 / (1 + trials[0].seed)))

    paths = {name: tmp_path / "digits" / which.SETUPS["digits"].file(Row(name)) for name in ("sgd", "adam")}
    for name, path in paths.items():
        with open_study(Request("digits", (name,), budget=2, seeds=3, epochs=1, out=path)) as study:
            train(study, leave=1)
    nothing: dict[str, Any] = {"tasks": {}}
    assert which.gather(tmp_path, nothing)["tasks"] == {}
    for path in paths.values():
        with Study.open(path, write=True) as study:
            train(study, leave=0)
    both = which.gather(tmp_path, nothing)
    assert list(both["tasks"]) == ["digits"]
    rows = both["tasks"]["digits"]["rows"]
    assert [(key, row["values"]) for key, row in rows.items()] == [
        ("adam, cosine", [0.5, 0.333333, 0.25]),
        ("sgd, cosine", [0.5, 0.333333, 0.25]),
    ]
    assert json.loads(which._as_json(both)) == both
    paths["sgd"].unlink()
    assert list(which.gather(tmp_path, nothing)["tasks"]["digits"]["rows"]) == ["adam, cosine"]
    assert which.gather(tmp_path, both) == both
    steps = both["tasks"]["digits"]["steps"]
    both["tasks"]["digits"]["steps"] += 1
    with pytest.raises(
        ValueError, match=f"digits: the study of 'adam, cosine' has .*'steps': {steps}.*'steps': {steps + 1}"
    ):
        which.gather(tmp_path, both)
