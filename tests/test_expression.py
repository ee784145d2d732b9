"""Schedules as text: what is printed is read back, and what cannot be read is shown with the mistake marked."""

from __future__ import annotations

import doctest
import math
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from adamas.schedules import Plateau, Schedule, ScheduleError, constant, cosine, linear, multistep, parse, warmup
from adamas.schedules import expression as language

# --- what is printed is read back -----------------------------------------------------------------------------------

NUMBER = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(10**20), 10**20))
POSITIVE = st.one_of(st.floats(1e-300, 1e300), st.integers(1, 10**12))
SHARE = st.one_of(st.floats(1e-9, 0.5), st.just(0.5))
RISING = st.lists(st.integers(0, 10**6), unique=True, max_size=5).map(sorted)
PERIODS = {"every": POSITIVE, "staircase": st.booleans()}

# What is needed, and what can be left out. A schedule that is missing here fails the test of the table.
ARGUMENTS: dict[str, tuple[dict[str, st.SearchStrategy[Any]], dict[str, st.SearchStrategy[Any]]]] = {
    "constant": ({}, {"value": NUMBER, "steps": POSITIVE}),
    "linear": ({"steps": POSITIVE}, {"start": NUMBER, "end": NUMBER}),
    "polynomial": ({"steps": POSITIVE}, {"power": POSITIVE, "start": NUMBER, "end": NUMBER}),
    "exponential": ({"rate": POSITIVE}, PERIODS),
    "inverse_time": ({"rate": POSITIVE}, PERIODS),
    "power": ({"decay": POSITIVE}, {}),
    "step": ({"factor": POSITIVE, "every": POSITIVE}, {}),
    "multistep": ({"milestones": RISING}, {"factor": POSITIVE}),
    "piecewise": ({"boundaries": st.just([3, 4.5]), "values": st.lists(NUMBER, min_size=3, max_size=3)}, {}),
    "cosine": ({"steps": POSITIVE}, {"end": NUMBER, "exponent": POSITIVE}),
    "cosine_restarts": (
        {"period": POSITIVE},
        {"multiplier": st.floats(1, 9), "height": POSITIVE, "end": NUMBER},
    ),
    "one_cycle": (
        {"steps": POSITIVE},
        {
            "peak_at": SHARE,
            "start": NUMBER,
            "end": NUMBER,
            "shape": st.sampled_from(["cosine", "linear"]),
            "three_phase": st.booleans(),
        },
    ),
    "triangular": (
        {"up": POSITIVE},
        {
            "down": POSITIVE,
            "low": NUMBER,
            "mode": st.sampled_from(["triangular", "triangular2", "exp_range"]),
            "gamma": POSITIVE,
        },
    ),
    "inverse_sqrt": ({"steps": POSITIVE}, {}),
    "trapezoid": (
        {"steps": st.integers(100, 10**6)},
        {
            "warmup": st.integers(0, 50),
            "decay": st.floats(0, 50),
            "end": NUMBER,
            "shape": st.sampled_from(["linear", "cosine", "sqrt"]),
        },
    ),
    "warmup": (
        {"steps": POSITIVE},
        {"start": st.floats(1e-3, 1), "shape": st.sampled_from(["linear", "cosine", "exponential"])},
    ),
    "Plateau": (
        {},
        {
            "factor": SHARE,
            "patience": st.integers(0, 99),
            "threshold": SHARE,
            "cooldown": st.integers(0, 99),
            "min_factor": SHARE,
            "mode": st.sampled_from(["min", "max"]),
        },
    ),
}


@st.composite
def simple(draw: st.DrawFn) -> Schedule:
    name = draw(st.sampled_from(sorted(ARGUMENTS)))
    needed, optional = ARGUMENTS[name]
    try:
        return language.names()[name](**draw(st.fixed_dictionaries(needed, optional=optional)))
    except ValueError:  # two arguments that do not go together
        reject()


@st.composite
def joined(draw: st.DrawFn, inner: st.SearchStrategy[Schedule]) -> Schedule:
    one = draw(inner)
    how = draw(st.sampled_from(["number", "product", "then", "then at", "clip", "shift", "per_epoch", "repeat"]))
    try:
        if how == "number":
            return draw(NUMBER) * one
        if how == "product":
            return one * draw(inner)
        if how == "then":
            return one.then(draw(inner))
        if how == "then at":
            return one.then(draw(inner), at=draw(POSITIVE))
        if how == "clip":
            low, high = sorted([draw(NUMBER), draw(NUMBER)])
            return one.clip(*draw(st.sampled_from([(low, high), (None, high), (low, None), (None, None)])))
        if how == "shift":
            return one.shift(draw(NUMBER))
        if how == "per_epoch":
            return one.per_epoch(draw(POSITIVE), smooth=draw(st.booleans()))
        return one.repeat(draw(st.one_of(st.none(), POSITIVE)))
    except ValueError:  # an endless one that something should follow
        reject()


SCHEDULES = st.recursive(simple(), joined, max_leaves=8)


def test_every_schedule_is_in_the_table() -> None:
    assert set(ARGUMENTS) == set(language.names())
    kinds = {"scaled", "product", "then", "clip", "shift", "per_epoch", "repeat"}
    ours = {name for name, kind in Schedule._registry.items() if kind.__module__.startswith("adamas.")}
    assert {name for name in ours if not name.startswith("_")} - kinds - set(ARGUMENTS) <= {
        *language._CODE,
        "observed",
    }


@settings(deadline=None, max_examples=300)
@given(SCHEDULES)
def test_what_is_printed_is_read_back(schedule: Schedule) -> None:
    again = parse(repr(schedule))
    assert again == schedule
    assert repr(again) == repr(schedule)
    assert type(again) is type(schedule)


# --- any step is answered, whatever the numbers are -------------------------------------------------------------------

ANY_STEP = [0, 1, 2.5, 1000, 10**6 + 1, 2**53 + 1, 1e18, 1e300, 10**400, math.inf]


@settings(deadline=None, max_examples=300)
@given(SCHEDULES)
def test_any_step_is_answered_with_a_float_that_is_a_number(schedule: Schedule) -> None:
    """Over numbers of any size, finite or infinite; integers would grow with what they come to."""
    for step in ANY_STEP:
        value = schedule(step)
        assert type(value) is float
        assert not math.isnan(value)
    at_once = schedule(np.array([min(step, 1e308) for step in ANY_STEP]))
    assert at_once.dtype == np.float64
    assert not np.isnan(at_once).any()


@pytest.mark.parametrize(
    ("text", "step", "value"),
    [
        ("step(3, 1e-6)", 100, math.inf),  # 3 to the power of 100 million: hours, as integers
        ("step(0.5, 1e-6)", 100, 0.0),
        ("step(10, 1e-320)", 1, math.inf),
        ("step(10, 1e-320)", 0, 1.0),
        ("cosine_restarts(period=1e-4, height=3)", 1000, math.inf),
        ("cosine_restarts(period=1e-4, height=0.5)", 1000, 0.0),
        ("cosine_restarts(1e-320, end=1)", 3, 1.0),
        ("cosine_restarts(10, 1e20)", 10, 1.0),
        ("multistep([1, 2, 3], 1e300)", 9, math.inf),
        ("exponential(3, 1e-6, staircase=True)", 100, math.inf),
        ("step(2, 1).per_epoch(1e-320)", 1, math.inf),
        ("cosine(1e308).per_epoch(10).repeat()", 3, 1.0),
        ("0 * step(3, 0.001)", 1000, 0.0),
        ("constant(1e300) * constant(1e300)", 1, math.inf),
        (f"constant({10**300}) * constant({10**300})", 1, math.inf),
        ("constant(2).clip(high=1)", 1, 1.0),
        ("cosine(10)", 10**400, 0.0),
        ("cosine(10)", -(10**400), 1.0),
    ],
)
def test_what_overflows_is_infinite_at_once(text: str, step: float, value: float) -> None:
    found = parse(text)(step)
    assert type(found) is float
    assert found == pytest.approx(value, abs=1e-12)


def test_a_step_between_turns_that_no_float_can_tell_apart_is_within_them() -> None:
    for step in (1e9, 1e12 + 1, 1e15 + 3):
        for text in ("triangular(1e-6)", "triangular(1e-9, 2e-9)", "cosine_restarts(1e-7)", "linear(1e-8).repeat()"):
            for value in (parse(text)(step), parse(text)(np.array([step]))[0]):
                assert -1e-12 <= value <= 1 + 1e-12


def calls(schedule: Schedule, step: float) -> int:
    """How many functions are called when it is asked for a step: the work, whatever the machine."""
    count = 0

    def counted(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        schedule(step)
    finally:
        sys.setprofile(None)
    return count


def test_the_work_of_a_step_is_no_more_than_the_size_of_the_schedule() -> None:
    chain, pairs = cosine(10), cosine(10)
    for _ in range(149):
        chain = chain.then(cosine(10))
    for _ in range(8):
        pairs = pairs * pairs
    many = multistep(list(range(100_000)), 0.5)
    for schedule, most in ((chain, 150 * 8), (pairs, 511 * 8), (many, 10), (parse(repr(chain)), 150 * 8)):
        schedule(1)  # its lengths are known from here on
        assert max(calls(schedule, step) for step in (0, 5, 1499, 10**9)) <= most
    assert chain(1495) == 0.5
    assert pairs(5) == 0.5**256


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("3e-4 * warmup(1_000).then(cosine(9_000, end=0.1))", 3e-4 * warmup(1000).then(cosine(9000, end=0.1))),
        (" ( cosine ( steps = 10 ) ) ", cosine(10)),
        ("cosine(10) * 2", 2 * cosine(10)),
        ("cosine(10) / 4", 0.25 * cosine(10)),
        ("2 * 3 / 4 * cosine(10)", 1.5 * cosine(10)),
        ("+0.5*(-2*linear(3, 1, -.5))", 0.5 * (-2 * linear(3, 1, -0.5))),
        ("multistep((10, 20))", multistep([10, 20])),
        ("multistep([10, 20,],\n\tfactor=0.5)", multistep([10, 20], factor=0.5)),
        ("cosine(10).clip(None, 0.5)", cosine(10).clip(high=0.5)),
        ("cosine(1.5).per_epoch(30, True)", cosine(1.5).per_epoch(30, smooth=True)),
        ("warmup.untuned(0.999)", warmup.untuned(0.999)),
        ("Plateau(patience=2)", Plateau(patience=2)),
        (
            "linear(5).then(constant(0.0, 4), at=3).shift(2).repeat(2)",
            linear(5).then(constant(0.0, 4), 3).shift(2).repeat(2),
        ),
    ],
)
def test_what_can_be_written(text: str, schedule: Schedule) -> None:
    assert parse(text) == schedule


def test_a_long_chain_is_read() -> None:
    schedule: Schedule = cosine(10)
    for _ in range(100):
        schedule = schedule.then(cosine(10))
    assert parse(repr(schedule)) == schedule


# --- what cannot be read --------------------------------------------------------------------------------------------

# The text with the mistake between ‹ and ›, and what is said about it.
WRONG = [
    ("‹›", "there is no schedule here"),
    ("  ‹›", "there is no schedule here"),
    ("cosine‹(›", "'(' was never closed"),
    ("cosine(10)‹)›", "unmatched ')'"),
    ("cosine(10) ‹cosine›(10)", "invalid syntax"),
    ("3e-4 * ‹cosin›(100)", "unknown schedule 'cosin': did you mean cosine?"),
    ("‹Cosine›(100)", "did you mean cosine?"),
    ("‹plateau›()", "did you mean Plateau?"),
    ("warmup(10).then(‹gauss›(10))", "unknown schedule 'gauss': there are "),
    ("‹cosine›", "cosine is called with its arguments: cosine(steps, end=0.0, exponent=1.0)"),
    ("‹cosine›.then(linear(3))", "cosine is called with its arguments"),
    ("‹then›(cosine(3))", "then is a method of a schedule"),
    ("‹from_function›(3)", "from_function takes Python code"),
    ("‹Feedback›(3)", "Feedback takes Python code"),
    ("cosine(10, ‹ende=0.1›)", "cosine has no argument 'ende': did you mean end?"),
    ("‹cosine›(end=0.1)", "cosine needs steps: cosine(steps, end=0.0, exponent=1.0)"),
    ("2*‹step›()", "step needs factor and every"),
    ("cosine(10).‹then›()", "then needs other: then(other, at=None)"),
    ("cosine(10, 0.1, 2, ‹3›)", "too many arguments: cosine(steps, end=0.0, exponent=1.0)"),
    ("cosine(10, ‹steps=9›)", "steps is given twice"),
    ("cosine(10, end=1, ‹end=2›)", "end is given twice"),
    ("cosine(‹*[10]›)", "a star has no place"),
    ("cosine(‹**{}›)", "a star has no place"),
    ("2 * cosine(‹-10›)", "cosine: steps must be above 0, got -10"),
    ("cosine(10, exponent=‹0›)", "cosine: exponent must be above 0, got 0"),
    ("cosine(‹True›)", "cosine: steps must be a number, got True"),
    ("cosine(‹linear(3)›)", "cosine: steps must be a number, got a schedule"),
    ("cosine(10, end=‹'0.1'›)", "cosine: end must be a number, got the string '0.1'"),
    ("exponential(0.5, staircase=‹2›)", "exponential: staircase must be True or False, got the number 2"),
    ("one_cycle(100, shape=‹'cosin'›)", "one_cycle: shape must be one of 'cosine', 'linear', got 'cosin'"),
    ("multistep(‹[20, 10]›)", "multistep: milestones must be a list of rising numbers"),
    ("piecewise([10], ‹[1]›)", "piecewise: values must be 2 numbers, one more than the boundaries"),
    ("Plateau(patience=‹2.5›)", "Plateau: patience must be a whole number"),
    ("warmup.untuned(‹1›)", "beta2 must be from 0 up to but not including 1, got 1"),
    ("warmup.‹untund›(0.9)", "did you mean warmup.untuned?"),
    ("cosine(10).clip(‹1›, 0)", "clip: low must be at most high=0"),
    ("cosine(10).then(linear(3), at=‹-1›)", "then: at must be 0 or above, got -1"),
    ("cosine(10).then(‹5›)", "then: other must be a schedule, got the number 5: write constant(5)"),
    ("cosine_restarts(3).‹then›(cosine(3))", "then: cosine_restarts(3) has no length: give the step at which"),
    ("warmup(9).then(constant()).‹then›(linear(3))", "then: constant() has no length: give the step at which"),
    ("exponential(0.5).‹repeat›()", "repeat: exponential(0.5) has no end"),
    ("warmup(9).then(constant()).‹repeat›()", "repeat: constant() has no end"),
    ("cosine(10).‹thn›(linear(3))", "unknown method 'thn': did you mean then?"),
    ("cosine(10).‹length›", "unknown method 'length': there are then, clip, shift, per_epoch, repeat"),
    ("cosine(10).‹__class__›.mro()", "unknown method '__class__'"),
    ("cosine(10).‹clip›", "clip is called with its arguments"),
    ("(‹5›).then(cosine(3))", "the number 5 has no methods: constant(5) has"),
    ("‹cosine(10)›(3)", "only schedules and their methods are called"),
    ("‹0.5›", "a number is not a schedule: constant(0.5) is, and so is 0.5 * cosine(100)"),
    ("‹-0.5›", "a number is not a schedule"),
    ("‹'cosine'›", "the string 'cosine' is not a schedule"),
    ("‹None›", "None is not a schedule"),
    ("‹[cosine(3)]›", "a list is not a schedule"),
    ("‹True› * cosine(3)", "only numbers and schedules can be multiplied, not True"),
    ("‹-cosine(3)›", "a sign can only precede a number"),
    ("cosine(3) / ‹cosine(3)›", "divide by a number other than 0, not by a schedule"),
    ("cosine(3) / ‹0›", "divide by a number other than 0"),
    ("cosine(3) ‹+› cosine(3)", "'+' has no place in a schedule"),
    ("2‹**›3 * cosine(3)", "'**' has no place in a schedule"),
    ("‹lambda: 3›", "a lambda has no place in a schedule"),
    ("‹cosine(3) < 3›", "a comparison has no place in a schedule"),
    ("‹cosine(3) if 1 else 2›", "an 'if' has no place in a schedule"),
    ("‹__import__›('os').system('true')", "unknown schedule '__import__'"),
    ("‹cosine(3)[0]›", "an index has no place"),
    ("‹{}›", "a dict has no place"),
    ("‹[x for x in y]›", "a comprehension has no place"),
    ("‹f'x'›", "an f-string has no place"),
    ("‹1j› * cosine(3)", "has no place"),
    ("‹b''›", "has no place"),
    ("‹...›", "has no place"),
    ("‹1e999› * cosine(3)", "a number must be finite"),
    ("‹1e200 * 1e200› * cosine(3)", "a number must be finite"),
    (f"‹{'9' * 400}› * cosine(3)", "a number must be finite"),
    ("cosine(10) ‹#› and so on", "a comment has no place"),
    ("cosine‹（›10）", "did you mean '('?"),
    ("3e-4 ‹×› cosine(10)", "did you mean '*'?"),
    ("cosine(10).then(‹余›弦(10))", "the character '余' has no place in a schedule"),
    ("cosine(10, shape='‹é›')", "the character 'é' has no place"),
    ("cosine(10)‹\0›", "has no place"),
    ("cosine(10)‹\udc80›", "has no place"),
    ("‹\ufeff›cosine(10)", "has no place"),
    ("  cosine(10,\n  end=‹zwei›)", "unknown schedule 'zwei'"),
]


def mistake(text: str) -> ScheduleError | None:
    try:
        assert isinstance(parse(text), Schedule)
    except ScheduleError as error:
        return error
    return None


@pytest.mark.parametrize(("marked", "says"), WRONG)
def test_a_mistake_is_named_and_marked(marked: str, says: str) -> None:
    before, wrong, _ = marked.replace("›", "‹").split("‹")
    text = marked.replace("‹", "").replace("›", "")
    with pytest.raises(ScheduleError) as raised:
        parse(text)
    error = raised.value
    assert says in error.problem
    assert len(error.problem) < 250
    assert error.text == text
    assert error.position == len(before) if wrong else error.position <= len(text)
    problem, shown, mark = str(error).splitlines()
    assert problem == error.problem
    assert shown.isprintable()
    assert max(len(shown), len(mark)) < 90
    if len(text) <= language.WIDEST:
        assert len(mark) == 2 + error.position + max(len(wrong), 1)
        assert mark.strip() == "^" * max(len(wrong), 1)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 150 + "cosine(3)" + ")" * 150 + "(",
        "(" * 4000 + ")" * 4000,
        "[" * 4000,
        "-" * 9000 + "1",
        "cosine(1)" + ".clip()" * 1400,
        "cosine(1)" + ".clip()" * 200,
        "1*" * 4900 + "cosine(1)",
        "not " * 2000 + "1",
        "cosine(1).then(" * 600 + ")" * 600,
        "cosine(" * 99 + "1" + ")" * 99,
        "lambda:" * 1000 + "1",
        "9" * 9000,
        "0x" + "f" * 9000 + "*cosine(1)",
        "x" * 100_000,
        "cosine(" + " " * 11_000 + "3)",
    ],
)
def test_too_much_is_refused_like_any_mistake(text: str) -> None:
    with pytest.raises(ScheduleError) as raised:
        parse(text)
    assert 0 <= raised.value.position <= len(text)
    assert len(str(raised.value)) < 500


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(
        st.text(max_size=40),
        st.lists(
            st.sampled_from(
                [
                    "cosine",
                    "warmup",
                    "Plateau",
                    "then",
                    "clip",
                    "Feedback",
                    *"()[]{},.*/-+:#!=~余\n\\",
                    "**",
                    "1",
                    "0.5",
                    "1e9",
                    "'x'",
                    "end",
                    "steps",
                    "None",
                    "lambda",
                    "if",
                    " ",
                ]
            ),
            max_size=15,
        ).map("".join),
    )
)
def test_any_text_is_a_schedule_or_a_mistake(text: str) -> None:
    error = mistake(text)
    if error:
        assert 0 <= error.position <= len(text)
        problem, shown, mark = str(error).splitlines()
        assert problem.isprintable() or "character" in problem
        assert shown.isprintable()
        assert set(mark.strip()) == {"^"}


@settings(deadline=None, max_examples=200)
@given(SCHEDULES, st.data())
def test_a_text_with_a_letter_changed_is_a_schedule_or_a_mistake(schedule: Schedule, data: st.DataObject) -> None:
    text = repr(schedule)
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.text(max_size=2)) + text[at + 1 :]
    error = mistake(changed)
    assert error is None or 0 <= error.position <= len(changed)


def test_a_mistake_in_a_long_text_is_shown_with_what_is_around_it() -> None:
    text = "cosine(10)" + ".then(cosine(10))" * 40 + ".thn(cosine(10))" + ".then(cosine(10))" * 20
    with pytest.raises(ScheduleError) as raised:
        parse(text)
    shown, mark = raised.value.marked.splitlines()
    assert shown[mark.index("^") : mark.rindex("^") + 1] == "thn"
    assert shown.strip().startswith("…")
    assert shown.endswith("…")
    assert raised.value.position == text.index("thn")


def test_a_mistake_passes_between_processes() -> None:
    with pytest.raises(ScheduleError) as raised:
        parse("cosin(3)")
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


def test_only_text_is_parsed() -> None:
    with pytest.raises(TypeError, match="parse takes a text, not float"):
        parse(0.5)  # type: ignore[arg-type]


def test_a_plateau_begins_anew() -> None:
    plateau = Plateau(factor=0.5, patience=0)
    schedule = 0.1 * constant() * plateau
    plateau.observe(1.0)
    plateau.observe(math.pi)
    assert schedule(0) == 0.05
    assert parse(repr(schedule))(0) == 0.1


def test_the_example_in_the_docstring() -> None:
    result = doctest.testmod(language)
    assert result.attempted
    assert not result.failed


def test_nothing_is_run() -> None:
    program = (
        "import builtins, os, adamas.schedules as s\n"
        "def refuse(*a, **k): raise SystemExit('run')\n"
        "builtins.eval = builtins.exec = os.system = refuse\n"
        "print(s.parse('2 * cosine(3)'))\n"
        "try: s.parse(\"__import__('os').system('true')\")\n"
        "except s.ScheduleError: print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["2 * cosine(3)", "refused"]
