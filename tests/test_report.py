"""The report: one page that needs nothing else, whose sentences and tables have the figures of the files."""

from __future__ import annotations

import errno
import html
import json
import math
import os
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import typer
from report_material import judgement, make_run, make_study, settings, standing, trials, write_lines
from typer.testing import CliRunner

from adamas.lab.charts import Chart, Series
from adamas.lab.commands.report import report
from adamas.lab.compare.study import Finished, Outcome, Study, Trial
from adamas.lab.inputs import InputError
from adamas.lab.report import numbers
from adamas.lab.report.compose import compose
from adamas.lab.report.groups import averaged, averaged_over_time, grouped
from adamas.lab.report.page import render
from adamas.lab.report.performance import performance_section, ratios, within
from adamas.lab.report.run_section import run_section
from adamas.lab.report.runs import read_run
from adamas.lab.report.section import Section, has_data
from adamas.lab.report.study_section import study_section
from adamas.lab.train import folder


def text_of(page: str) -> str:
    """The words of a page, without its scripts and styles."""
    body = re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.DOTALL)
    body = re.sub(r'<span class="unbroken">(.*?)</span>', r"\1", body)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def run_command(*arguments):
    application = typer.Typer()
    application.command()(report)
    return CliRunner().invoke(application, list(map(str, arguments)))


def test_the_page_holds_everything_and_asks_for_nothing(tmp_path):
    page = tmp_path / "page.html"
    result = run_command(make_run(tmp_path / "run"), "--out", page)
    assert result.exit_code == 0, result.exception
    content = page.read_text(encoding="utf-8")
    assert content.count("* plotly.js v") == 1
    own = re.sub(r"<script>/\*\*\s*\* plotly\.js.*?</script>", "", content, count=1, flags=re.DOTALL)
    assert len(own) < len(content) / 4, "the script was not found"
    assert not re.search(r"https?:|//[a-z]|<link|<iframe|@import|url\(|\ssrc=", own)
    assert str(page) in result.stdout


def test_the_page_says_how_to_run_it_again_and_with_what(tmp_path):
    title, sections = compose([make_run(tmp_path / "run", seed=3)])
    words = text_of(render(title, "", sections))
    assert "adamas train digits --seed 3" in words
    assert "torch 2.13.0" in words
    command = "adamas train digits --optimizer \"m:A(state='int8')\" --out run --seed 3"
    section = run_section([read_run(make_run(tmp_path / "own", command=command))], {})
    assert section.commands == ["adamas train digits --optimizer \"m:A(state='int8')\" --seed 3"]


def test_the_sentences_have_the_figures_of_the_files(tmp_path):
    said = " ".join(run_section([read_run(make_run(tmp_path / "run", data=0.5))], {}).sentences)
    assert "adam made 300 steps on digits in 1.5 s of training, and ended at a test accuracy of 0.9731." in said
    assert "Its target, 0.97, was reached after 300 steps and 1.5 s." in said
    assert "The learning rate was 0.001 (constant)." in said
    total = 0.5 + 0.3 + 0.4 + 0.19 + 0.1 + 0.11  # the last is what of 1.5 s of training no part accounts for
    assert f"the gradient took {0.7 / total:.0%}, the optimizer {0.19 / total:.0%}, the data {0.5 / total:.0%}" in said
    assert "Loading the data slows training down" in said
    assert "8 kB of state, 8 bytes for each of 1,000 parameters; the peak memory of the process was 123 MB" in said
    assert "no spike" in said
    assert "near the usual 0.001" in said


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"accuracies": (0.9, 0.96, 0.8)}, "It did not reach its target, 0.97."),
        ({"accuracies": (0.9, 0.96, 0.8)}, "It had been better before: 0.96 at step 200."),
        ({"accuracies": (0.9, 0.96, 0.8)}, "It overfits: the test loss was lowest at step 200 (0.04) and rose to 0.2"),
        (
            {"spike": 44.4},
            "1 of 30 sampled steps were over 10 times the median of those before, the largest 44 times, at 44.4 in step 51.",
        ),
        ({"ratio": 0.05}, "A step changed the weights by 0.05 of their norm (median), far more than the usual"),
        ({"ratio": 2e-5}, "far less than the usual"),
        ({"summary": {"lr_found": "it falls fastest at 0.02"}}, "found by a search: it falls fastest at 0.02."),
        (
            {"cut": "learning rate 0.001 → 0.0005 from step 101: because"},  # that after the last step has no effect
            "The plateau reduced the rate 2 times; at the last evaluation it was 0.001. "
            "The first cut: learning rate 0.001 → 0.0005 from step 101: because.",
        ),
        ({"plateau": "default"}, "The learning rate was 0.001 (constant, times the factor of a plateau)."),
        ({"plateau_follows": ["validation_loss"]}, "The plateau never reduced the rate."),
        (
            {"plateau_follows": ["validation_loss"], "validation_examples": 143},
            "The plateau followed validation loss, on 143 examples that training left out.",
        ),
        (
            {"plateau_follows": ["f"], "validation_examples": 0},
            "The plateau followed f; the task has no validation data.",
        ),
    ],
)
def test_what_stands_out_is_said(tmp_path, files, said):
    assert said in " ".join(run_section([read_run(make_run(tmp_path / "run", **files))], {}).sentences)


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        ({"diverged": True}, "Run r diverged: its loss was no longer a finite number after step 300."),
        ({"interrupted": True}, "Run r was interrupted after step 300"),
        (False, "Run r is still running or was killed"),
    ],
)
def test_a_run_that_did_not_end_well_is_shown_with_a_caution(tmp_path, summary, said):
    section = run_section([read_run(make_run(tmp_path / "r", summary=summary))], {})
    assert said in section.warnings[0]
    assert "test accuracy of 0.9731" in section.sentences[0]
    assert ("it has no end" in section.sentences[0]) == (summary is False) != ("ended at" in section.sentences[0])
    assert all(has_data(chart) for chart in section.charts)


def test_a_metric_that_is_no_number_at_the_end_is_not_taken_from_before(tmp_path):
    run = read_run(make_run(tmp_path / "r", summary={"value": None}))
    assert run.value is None
    sentence = run_section([run], {}).sentences[0]
    assert sentence.endswith("and ended at a test accuracy that is not a finite number.")


def test_without_a_summary_the_target_is_looked_for_in_the_evaluations(tmp_path):
    run = read_run(make_run(tmp_path / "r", summary=False))
    assert run.to_target() == (300, 1.5)
    assert (run.steps, run.train_seconds, run.value) == (300, 1.5, 0.9731)


def test_what_was_not_recorded_is_a_sentence_and_not_an_empty_chart(tmp_path):
    folder = make_run(tmp_path / "r", summary=False)
    (folder / "steps.jsonl").unlink()
    section = run_section([read_run(folder)], {})
    titles = [chart.title for chart in section.charts]
    assert "Gradient norm" not in titles
    assert "Gradient norm is not drawn: steps.jsonl has no gradient norms." in section.missing
    (folder / "metrics.jsonl").unlink()
    section = run_section([read_run(folder)], {})
    assert section.charts == []
    assert "has not been evaluated yet" in section.sentences[0]
    assert "metrics" not in render("t", "", [section]).partition("<main>")[0]


def test_seeds_are_one_line_in_a_band_and_settings_are_told_apart(tmp_path):
    runs = [make_run(tmp_path / f"adam{seed}", seed=seed, accuracies=(0.9, 0.9 + seed / 100)) for seed in range(3)]
    runs += [make_run(tmp_path / "slow", lr=1e-4), make_run(tmp_path / "sgd", optimizer="sgd", lr=0.1)]
    groups = grouped([read_run(run) for run in runs], {})
    assert [(group.label, len(group.runs)) for group in groups] == [
        ("adam (lr 0.001, 2 epochs)", 3),
        ("adam (lr 0.0001, 3 epochs)", 1),
        ("sgd", 1),
    ]
    (chart, *_) = run_section([read_run(run) for run in runs], {}).charts
    first = chart.series[0]
    assert (list(first.y), list(first.low), list(first.high)) == ([0.9, 0.91], [0.9, 0.9], [0.9, 0.92])


def test_several_settings_are_ranked_in_words(tmp_path):
    good = [make_run(tmp_path / f"a{seed}", seed=seed, accuracies=(0.9, 0.98 + seed / 1000)) for seed in range(2)]
    bad = [make_run(tmp_path / f"s{seed}", seed=seed, optimizer="sgd", accuracies=(0.7, 0.8)) for seed in range(2)]
    said = run_section([read_run(run) for run in good + bad], {}).sentences
    assert said[1] == "Highest test accuracy: 0.9805 with adam, the mean of 2 seeds (0.98 to 0.981)."
    assert said[2].startswith("Next: 0.8 with sgd, a difference of 0.18; every seed of the first beats every")
    assert said[3:] == [
        "The target, 0.97, was reached first by adam, after 200 steps (median).",
        "It was not reached by sgd.",
    ]


def test_a_difference_of_nothing_is_a_tie(tmp_path):
    runs = [make_run(tmp_path / f"{name}", optimizer=name, accuracies=(0.98,)) for name in ("adam", "nadam")]
    runs += [make_run(tmp_path / "sgd", optimizer="sgd", accuracies=(0.9,))]
    runs += [make_run(tmp_path / "radam", optimizer="radam", accuracies=(0.98 + 1e-9,))]
    said = run_section([read_run(run) for run in runs], {}).sentences
    assert said[1] == "Highest test accuracy: 0.98 with radam, adam and nadam, which are tied."
    assert said[2].startswith("Next: 0.9 with sgd, a difference of 0.08;")
    tied = run_section([read_run(run) for run in runs[:2]], {}).sentences
    assert tied[1] == "Highest test accuracy: 0.98 with adam and nadam, which are tied."
    assert not any("Next: " in sentence for sentence in tied)


def test_runs_that_are_not_alike_are_compared_with_a_warning(tmp_path):
    alike = {"batch_size": 32, "schedule": "constant", "torch": "2.13.0"}
    runs = [
        make_run(tmp_path / "adam", optimizer="adam", **alike),
        make_run(tmp_path / "sgd", optimizer="sgd", lr=0.1, **alike),
    ]
    assert run_section([read_run(run) for run in runs], {}).warnings == []
    other = {"batch_size": 64, "schedule": "cosine", "torch": "2.12.0", "clip": 0.5}
    runs.append(make_run(tmp_path / "longer", optimizer="nadam", accuracies=(0.9,) * 12, **other))
    section = run_section([read_run(run) for run in runs], {})
    assert section.warnings == [
        "Besides the optimizer, the runs differ in length (300 or 1,200 steps), batch size (32 or 64), schedule (constant or "
        "cosine), clip (none or 0.5) and torch (2.13.0 or 2.12.0), so a difference in the result need not come from the "
        "optimizer."
    ]
    given = [{"lr": 0.1, "state": "int8"}, {"weight_decay": 0.1}]
    runs = [make_run(tmp_path / f"given{place}", optimizer=f"o{place}", options=one) for place, one in enumerate(given)]
    assert (
        run_section([read_run(run) for run in runs], {})
        .warnings[0]
        .startswith(
            "Besides the optimizer, the runs differ in lr (0.1 or default), weight decay (default or 0.1) and state (int8 or "
        )
    )
    sweep = [make_run(tmp_path / f"clip{clip}", clip=clip) for clip in (None, 0.1, 0.2, 0.5, 1.0)]
    section = run_section([read_run(run) for run in sweep[:2]], {})
    assert section.warnings == ["The runs differ in clip (none or 0.1)."]
    assert [row[0] for row in section.tables[0].rows] == ["adam (no clip)", "adam (clip 0.1)"]
    assert run_section([read_run(run) for run in sweep], {}).warnings == ["The runs differ in clip (5 values)."]


def test_what_the_plateaus_of_several_runs_followed_is_said_and_drawn(tmp_path):
    followed = {"plateau_follows": ["validation_loss"], "validation_examples": 143, "validated": True}
    plain = make_run(tmp_path / "sgd", optimizer="sgd")
    plateaus = [make_run(tmp_path / name, optimizer=name, plateau="default", **followed) for name in ("adam", "adamw")]
    section = run_section([read_run(run) for run in (plain, *plateaus)], {})
    assert section.sentences[-2:] == [
        "The plateau of adam and adamw followed validation loss, on 143 examples that training left out.",
        "The other runs were trained on all training examples.",
    ]
    drawn = {chart.title: ([one.name for one in chart.series], chart.note) for chart in section.charts}
    note = "at each evaluation, on the examples that training left out."
    assert drawn["Validation accuracy"] == (["adam", "adamw"], f"Validation accuracy {note}")
    assert drawn["Validation loss"] == (["adam", "adamw"], f"Validation loss {note}")
    assert drawn["Test loss"] == (["sgd", "adam", "adamw"], "Test loss at each evaluation.")
    section = run_section([read_run(run) for run in plateaus], {})
    assert section.sentences[-1] == (
        "The plateau of every run followed validation loss, on 143 examples that training left out."
    )


def test_what_runs_differ_in_has_a_row_for_each(tmp_path):
    runs = [make_run(tmp_path / name, optimizer=name, lr=lr) for name, lr in (("adam", 1e-3), ("sgd", 0.1))]
    differing, alike = run_section([read_run(run) for run in runs], {}).tables[-2:]
    assert differing.header == ["run", "optimizer", "lr"]
    assert differing.rows == [["adam", "adam", "0.001"], ["sgd", "sgd", "0.1"]]
    assert ["seed", "0"] in alike.rows
    assert not any(row[0] in ("optimizer", "lr") for row in alike.rows)


def test_a_mean_over_time_is_of_the_same_step_of_each_run():
    slow, fast = [(1, 0.0), (2, 1.0)], [(1, 0.0), (2, 1.0)]
    line = averaged_over_time("a", [slow, fast], [[(1, 10.0), (2, 20.0)], [(1, 1.0), (2, 2.0)]], 0)
    assert (list(line.x), list(line.y)) == ([5.5, 11.0], [0.0, 1.0])


def test_curves_at_other_steps_are_read_between_their_points():
    line = averaged("a", [[(0, 0.0), (10, 10.0)], [(5, 7.0), (20, 7.0)]], 0)
    assert list(zip(line.x, line.y, strict=True)) == [(0, 0.0), (5, 6.0), (10, 8.5), (20, 7.0)]


def test_tasks_have_a_section_each_and_a_setting_one_colour_on_the_page(tmp_path):
    runs = [
        make_run(tmp_path / "a", optimizer="sgd"),
        make_run(tmp_path / "b"),
        make_run(tmp_path / "c", task="mnist"),
        make_run(tmp_path / "d", task="mnist", optimizer="lion"),
    ]
    title, sections = compose([*runs, runs[0]])
    assert title == "Report: a, b, c and 1 more"
    assert [section.title for section in sections] == ["digits: 2 runs", "mnist: 2 runs"]
    colours = [{one.name: one.colour for one in section.charts[0].series[:2]} for section in sections]
    assert colours == [{"sgd": 0, "adam": 1}, {"adam": 1, "lion": 2}]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: shutil.rmtree(run), "does not exist"),
        (lambda run: (run / "config.json").unlink(), "holds no run, it has no config.json"),
        (lambda run: (run / "config.json").write_text('{"task":\n oops'), "config.json' is not JSON, line 2"),
        (lambda run: (run / "config.json").write_text("[]"), "config.json' is not a JSON object"),
        (lambda run: (run / "summary.json").write_bytes(b"\xff\xfe"), "summary.json' cannot be read"),
        (
            lambda run: (run / "metrics.jsonl").write_text('{"a": 1}\n{"a"\n{"a": 1}\n'),
            "metrics.jsonl' is not JSON, line 2",
        ),
        (lambda run: (run / "steps.jsonl").write_text("{}\n3\n"), "steps.jsonl' is not a JSON object, line 2"),
        (lambda run: (run / "config.json").write_text("[" * 100_000), "config.json' is not JSON"),
        (lambda run: (run / "metrics.jsonl").write_text("9" * 6000 + "\n"), "metrics.jsonl' is not JSON, line 1"),
        (
            lambda run: (run / "metrics.jsonl").write_text('{"step": 1}\n{"step": "x"}\n'),
            "metrics.jsonl' has step = 'x', line 2, which is of another type: leave this run out, or repair the file",
        ),
        (lambda run: (run / "chart.json").write_text("{}"), "chart.json' is not a chart"),
        (lambda run: (run / "chart.json").write_text('{"series": 5}'), "chart.json' has series = 5"),
        (lambda run: (run / "chart.json").write_text('{"series": [{"x": [1], "y": "ab"}]}'), "has y = 'ab'"),
        (lambda run: (run / "chart.json").write_text('{"series": [{"x": [1], "y": null}]}'), "has y = None"),
        (lambda run: (run / "chart.json").write_text('{"series": [{"x": [1], "y": [1, 2]}]}'), "is not a chart"),
        (
            lambda run: (run / "chart.json").write_text('{"series": [{"x": [1], "y": [1], "diverged": ["a"]}]}'),
            "has diverged = ['a']",
        ),
    ],
)
def test_what_is_missing_or_damaged_is_named_in_one_line(tmp_path, damage, said):
    run = make_run(tmp_path / "run")
    damage(run)
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        compose([run])
    assert caught.value.parameter == "runs"
    assert "\n" not in str(caught.value)


WRONG_TYPES = [3, -1, "x", "", [], [1], {}, {"a": "b"}, True, 1e308, 10**400]


def test_a_value_of_any_type_in_a_run_is_shown_or_named_in_one_line(tmp_path):
    run = make_run(tmp_path / "run")
    named = 0
    for file in ("config.json", "summary.json"):
        content = (run / file).read_text()
        values = json.loads(content)
        for name in [*values, "cuts", "seed"]:
            for wrong in WRONG_TYPES:
                (run / file).write_text(json.dumps({**values, name: wrong}))
                try:
                    compose([run])
                except InputError as error:
                    lines = str(error).splitlines()
                    named += len(lines) == 1 and f"{file}' has {name} = " in lines[0] and len(lines[0]) < 400
        (run / file).write_text(content)
    assert named > 200


def test_a_folder_of_runs_is_an_error_that_says_what_to_give(tmp_path):
    make_run(tmp_path / "runs" / "one")
    with pytest.raises(InputError, match=r"but runs are inside: give those, .*runs/\*$"):
        compose([tmp_path / "runs"])


def test_a_line_that_was_being_written_is_left_out(tmp_path):
    run = make_run(tmp_path / "run")
    with (run / "steps.jsonl").open("a") as stream:
        stream.write('{"step": 301, "los')
    assert len(read_run(run).samples) == 30


def test_a_file_that_is_no_study_is_an_error(tmp_path):
    file = tmp_path / "study.sqlite"
    file.write_text("no")
    with pytest.raises(InputError, match="is not a study, or is damaged") as caught:
        compose([file])
    assert caught.value.parameter == "runs"


@pytest.mark.parametrize(
    ("arguments", "parameter"),
    [(["--out", "page.pdf"], "out"), (["--out", "no/page.html"], "out"), (["--png", "file"], "png")],
)
def test_where_nothing_can_be_written_is_said_before_anything_is_read(tmp_path, monkeypatch, arguments, parameter):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    result = run_command(tmp_path / "no such run", *arguments)
    assert isinstance(result.exception, InputError)
    assert result.exception.parameter == parameter


@pytest.mark.parametrize(("arguments", "parameter"), [(["--out", "page.html"], "out"), (["--png", "charts"], "png")])
def test_what_cannot_be_written_is_named(tmp_path, monkeypatch, arguments, parameter):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "run")

    def full(*paths):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    result = run_command(tmp_path / "run", *arguments)
    assert isinstance(result.exception, InputError)
    assert str(result.exception) == f"{parameter} {arguments[1]!r} cannot be written: No space left on device"


def test_the_pictures_are_one_for_each_chart_and_the_page_is_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "run", optimizer="a $ and a $")
    assert run_command(run, "--png", "pictures").exit_code == 0
    _, (section,) = compose([run])
    drawn = list((tmp_path / "pictures").iterdir())
    assert len(drawn) == len(section.charts) == 7
    assert (tmp_path / "pictures" / "test-accuracy-by-step.png") in drawn
    assert not (tmp_path / "report.html").exists()


def test_the_validation_is_drawn_beside_the_test(tmp_path):
    run = make_run(tmp_path / "run", accuracies=(0.9, 0.95))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    write_lines(
        run / "metrics.jsonl", [{**row, "validation_accuracy": 0.8, "validation_loss": 0.2, "other": 1} for row in rows]
    )
    _, (section,) = compose([run])
    charts = {chart.title: chart for chart in section.charts}
    accuracy = {one.name: list(one.y) for one in charts["Test accuracy by step"].series}
    assert accuracy["validation"] == [0.8, 0.8]
    note = charts["Test accuracy by step"].note
    assert note == "Test accuracy at each evaluation; beside it that of the examples that training left out."
    loss = {one.name: list(one.y) for one in charts["Loss"].series}
    assert (loss["validation loss"], loss["test loss"]) == ([0.2, 0.2], pytest.approx([0.1, 0.05]))
    assert "Other" in charts
    assert not any("alidation" in title for title in charts)


def test_a_metric_that_a_task_calls_validation_is_not_said_to_be_of_what_training_left_out(tmp_path):
    runs = [make_run(tmp_path / name, optimizer=name) for name in ("adam", "sgd")]
    for run in runs:
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        write_lines(run / "metrics.jsonl", [{**row, "validation_loss": 0.2} for row in rows])
    notes = {chart.title: chart.note for section in compose(runs)[1] for chart in section.charts}
    assert notes["Validation loss"].startswith("Validation loss at each evaluation")
    assert not any("left out" in note for note in notes.values())


def test_a_study_is_shown_with_its_ranking_pairs_search_and_failures():
    judged = judgement(standing("adam", 1, [50, 70]), standing("sgd", 2, [90, None], mean=0.9312, failed=1))
    section = study_section(Path("s.sqlite"), settings(), trials(), judged, {})
    assert list(section.sentences) == judged.sentences
    assert list(section.warnings) == judged.warnings
    charts = {chart.title: chart for chart in section.charts}
    assert list(charts) == [
        "Ranking by test accuracy",
        "Reached the target, by step",
        "Reached the target, by time",
        "Sensitivity to the learning rate",
        "Test accuracy by step",
        "Test accuracy over time",
        "Where the time went",
    ]
    reached = {one.name: list(zip(one.x, one.y, strict=True)) for one in charts["Reached the target, by step"].series}
    assert reached["adam"] == [(0, 0), (50, 50), (70, 100), (100, 100)]
    assert reached["sgd"] == [(0, 0), (90, 50), (100, 50)]
    words = text_of(render(section.title, "", [section]))
    for figure in (
        "0.9312",
        "0.9189 to 0.9435",  # the interval of sgd
        "adam – sgd 0.0456 0.012 0.025 adam is better",
        "sgd 0.0001 to 0.1 (log)",
        "Each optimizer had 7 trials in this space, and 2 seeds at its best setting",
        "sgd tune 0 lr 0.1 diverged the loss was no longer finite <at step 7>",
        "0.0005 to 0.002 0.6 yes",
        "adamas compare digits",
    ):
        assert figure in words, figure


def test_a_study_marks_zeros_and_what_diverged_and_the_captions_say_so():
    judged = judgement(standing("adam", 1, [50, 70], mean=0.0), standing("sgd", 2, [90, None], mean=1e-3))
    sensitive = [
        replace(one, sensitivity=replace(one.sensitivity, values=[1.0, one.mean, None])) for one in judged.standings
    ]
    judged = replace(judged, mode="min", standings=sensitive)
    rows = [{"test_accuracy": 0.5, "step": 30, "train_seconds": 0.3}]
    lost = Finished(Trial("sgd", "final", 3, 3, {"lr": 0.1}), Outcome("diverged", error="inf", evaluations=rows))
    section = study_section(Path("s.sqlite"), settings(mode="min"), [*trials(), lost], judged, {})
    charts = {chart.title: chart for chart in section.charts}
    marked = {title: {one.name: list(one.diverged) for one in chart.series} for title, chart in charts.items()}
    assert marked["Ranking by test accuracy"] == {"adam": [], "sgd": [1], "target 0.97": []}
    assert marked["Sensitivity to the learning rate"] == {"adam": [1e-2], "sgd": [1e-2]}
    assert marked["Test accuracy by step"] == {"adam": [], "sgd": [30]}
    assert marked["Test accuracy over time"] == {"adam": [], "sgd": [0.3]}
    sensitivity = charts["Sensitivity to the learning rate"]
    assert sensitivity.zeros(sensitivity.series[0]) == [1e-3]
    words = text_of(render(section.title, "", [section]))
    for chart in charts.values():
        assert chart.caption in words
    assert "a gap" not in words
    said = (
        "flatter is more forgiving. A triangle at the lower edge is exactly 0. A cross at the upper edge is a run that "
        "diverged"
    )
    assert said in words


def test_a_run_that_diverged_is_marked_where_it_did(tmp_path):
    runs = [
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b", optimizer="sgd", summary={"diverged": True, "steps": 250}),
    ]
    _, (section,) = compose(runs)
    charts = {chart.title: chart for chart in section.charts}
    for title, place in (("Test accuracy by step", 250), ("Test accuracy over time", 1.5), ("Training loss", 250)):
        assert [list(one.diverged) for one in charts[title].series[:2]] == [[], [place]]
    assert charts["Test accuracy by step"].higher_is_better
    assert not charts["Training loss"].higher_is_better


def test_the_chart_that_a_task_draws_is_read_as_it_was_written(tmp_path):
    series = [
        Series(
            "the run",
            [1.0, 2.0],
            [3.0, None],
            low=[1.0, None],
            high=[4.0, None],
            colour=2,
            style="marked",
            diverged=[2.0],
        ),
        Series("another", [1.0, 2.0], [3.0, 4.0]),
    ]
    drawn = Chart("The way", "x", "y", series, log_x=True, log_y=True, note="A note.", higher_is_better=True)
    run = make_run(tmp_path / "run")
    folder.write(run / folder.CHART, folder.to_json(asdict(drawn)))
    found = read_run(run).chart
    assert found is not None
    assert json.loads(folder.to_json(asdict(found))) == json.loads(folder.to_json(asdict(drawn)))


def test_a_study_where_nothing_reached_the_target_has_no_profile_of_it():
    section = study_section(Path("s.sqlite"), settings(), [], judgement(standing("adam", 1, [None, None])), {})
    assert not any(chart.title.startswith("Reached") for chart in section.charts)
    assert any(sentence.startswith("Reached the target, by step is not drawn") for sentence in section.missing)


def test_the_performance_profile_counts_each_seed_of_each_study():
    first = judgement(standing("adam", 1, [10, 20]), standing("sgd", 2, [20, 20]))
    second = judgement(standing("sgd", 1, [30]), standing("adam", 2, [None]), standing("lion", 3, [1]))
    found = ratios([first, second], ["adam", "sgd"], "steps")
    assert found == {"adam": [1, 1, math.inf], "sgd": [2, 1, 1]}
    assert [within(found["sgd"], tau) for tau in (1, 2)] == [pytest.approx(2 / 3), 1]
    section = performance_section([first, second], {})
    assert section.warnings == ["Left out, because not every study has them: lion."]
    assert section.sentences[0] == "3 problems: one for each seed of 2 studies."
    assert "Most often successful was sgd in 100% of the problems." in section.sentences


def test_studies_are_read_from_their_files_and_compared(tmp_path):
    paths = [tmp_path / name for name in ("one.sqlite", "two.sqlite")]
    for path in paths:
        make_study(path)
    title, sections = compose(paths)
    assert title == "Report: one.sqlite and two.sqlite"
    assert [section.title for section in sections] == [
        "All 2 studies: performance profile",
        "digits: comparison one",
        "digits: comparison two",
    ]


def test_a_study_without_a_trial_is_an_error(tmp_path):
    Study.create(tmp_path / "s.sqlite", settings()).close()
    with pytest.raises(InputError) as caught:
        compose([tmp_path / "s.sqlite"])
    assert caught.value.parameter == "runs"


def test_no_line_ends_within_a_number_or_an_option():
    sentences = ["adam & sgd are at 2.799e-13 ± 0 and <3e-05", "1e-1 to 12"]
    commands = ["adamas train 'a.py' --batch-size 8"]
    page = render("t", "", [Section("t", sentences, warnings=["below 5e-8"], commands=commands)])
    unbroken = ["2.799e-13", "3e-05", "1e-1", "5e-8", "--batch-size"]
    assert sorted(re.findall(r'<span class="unbroken">(.*?)</span>', page)) == sorted(unbroken)
    assert re.search(r"\.unbroken {[^}]*white-space: nowrap", page)
    words = text_of(page)
    assert all(sentence in words for sentence in (*sentences, *commands))


def test_a_page_of_many_long_runs_stays_small(tmp_path):
    runs = [make_run(tmp_path / f"{place}", optimizer=f"o{place // 4}", seed=place % 4) for place in range(60)]
    samples = [{"step": at, "loss": 1 / at, "learning_rate": at * 1e-7, "grad_norm": 1 / at} for at in range(1, 1500)]
    for run in runs:
        write_lines(run / "steps.jsonl", samples)
    title, sections = compose(runs)
    assert len(render(title, "", sections)) < 4.9e6 + 4e6


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (numbers.figure(0.97316), "0.9732"),
        (numbers.figure(1e-8), "1e-8"),
        (numbers.figure(12345.6), "12,346"),
        (numbers.figure(math.nan), "–"),
        (numbers.seconds(0.0123), "12.3 ms"),
        (numbers.seconds(100), "1 min 40 s"),
        (numbers.seconds(5000), "83 min 20 s"),
        (numbers.seconds(7265), "2 h 1 min"),
        (numbers.size(123_456), "123 kB"),
        (numbers.share(0.004), "0.4%"),
        (numbers.listed(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_numbers_have_the_digits_that_mean_something(value, written):
    assert value == written
