"""What the command line prints fits a terminal of 80 columns, and no line ends inside a word."""

from __future__ import annotations

import re

import pytest
import typer
from report_material import judgement, standing
from typer.testing import CliRunner

from adamas.lab import terminal
from adamas.lab.commands.tasks import tasks
from adamas.lab.compare.display import table
from adamas.lab.tasks import TASKS

LONG = "adam is behind sgd by 0.0456 (p = 0.012), and tied with torch:AdamW(weight_decay=0.1) and nadam in this comparison."


def test_the_table_of_a_comparison_fits_80_columns_and_breaks_no_word():
    judged = judgement(standing("adam", 1, [50, 70]), standing("torch:AdamW(betas=(0.8,0.9))", 2, [90, None], mean=0.9))
    narrow, wide = table(judged, 80), table(judged)
    assert max(map(len, narrow)) <= 80 < max(map(len, wide))
    assert len(wide) == 3
    assert sorted(" ".join(narrow).split()) == sorted(" ".join(wide).split())


def test_what_fits_is_laid_out_as_where_there_is_no_terminal():
    rows = [["rank", "optimizer"], ["1", "adam"], ["2", "momentum"]]
    assert (
        terminal.columns(rows, 80)
        == terminal.columns(rows, None)
        == ["rank  optimizer", "1     adam", "2     momentum"]
    )
    assert terminal.columns(rows[:1], 8) == ["rank  optimizer"]  # words that are too long stay whole
    assert terminal.columns([["a b c", ""], ["1", "x y"]], 8) == ["a b", "c", "1    x y"]  # titles first


def test_sentences_are_broken_between_words_and_the_rest_is_indented():
    lines = terminal.filled(f"Short.\n\n  {LONG}", 40).split("\n")
    assert lines[:2] == ["Short.", ""]
    assert max(map(len, lines)) <= 40
    assert all(line.startswith("    ") for line in lines[3:])
    assert " ".join(" ".join(lines[2:]).split()) == LONG
    assert terminal.filled(f"Short.\n\n  {LONG}", None) == f"Short.\n\n  {LONG}"


def test_a_comment_that_does_not_fit_stands_above_its_command():
    lines = [("adamas train digits --epochs 3", "let the rate fall"), ("adamas tasks", "others")]
    beside = ["  adamas train digits --epochs 3  # let the rate fall", "  adamas tasks                    # others"]
    assert terminal.commands(lines, None) == terminal.commands(lines, 80) == beside
    above = ["  # let the rate fall", "  adamas train digits --epochs 3", "  # others", "  adamas tasks"]
    assert terminal.commands(lines, 50) == above


@pytest.mark.parametrize("width", [80, 100])
def test_the_list_of_tasks_breaks_no_word(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    application = typer.Typer()
    application.command()(tasks)
    shown = CliRunner().invoke(application, []).stdout
    assert max(map(len, shown.split("\n")[:-2])) <= width
    words = {
        word for name, about in TASKS.items() for word in f"{name} {about.summary} {about.target} {about.needs}".split()
    }
    assert words <= set(re.split(r"\s+", shown))
