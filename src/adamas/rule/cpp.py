"""Generates C++ from the rules: what the engine's loops compute for one element, and the numbers that they take.

``write`` makes two headers. ``rules.h`` describes each rule in the given order, and computes the constants of its loops in
float64. ``steps.h`` has the step of each rule, as a template over numbers and vector registers, and the terms of its sums; and
what adds up the statistics of ``watch=``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf, isnan
from pathlib import Path

from .declaration import HOUSE_NUMBERS, WEIGHT_DRAW, Rule, maskable
from .lowering import counts, estimates, fused_sums
from .members import RULES
from .recorder import (
    Recording,
    Value,
    digest,
    record_cautious_decay,
    record_mask,
    record_penalties,
    record_statistics,
    recorded,
)
from .statistics import LARGEST, NUMBERS, ROW, SUMS, Watched, first_of, second_of, watched
from .writing import COMPARISONS, FIRST, OPERATORS, PENALTIES, WrittenRule, lines

_FUNCTIONS = {
    "sqrt": "root",
    "abs": "magnitude",
    "sign": "sign",
    "maximum": "maximum",
    "larger": "larger",
    "where": "choose",
    "fused": "fused",
    "fused_less": "fused_less",
    "fused_from": "fused_from",
    "decayed": "decayed",
    "estimated_root": "estimated_root",
    "estimated_quotient": "estimated_quotient",
}
_FORMULAS = {"sqrt": "std::sqrt", "log": "std::log", "exp": "std::exp", "minimum": "std::min", "maximum": "std::max"}
_TOTALS = (*SUMS, LARGEST)  # of statistics, in the order of their places
_HEAD = "// Written by adamas/rule/cpp.py from the declarations in adamas/rule/members.\n#pragma once\n"


def write(folder: Path, rules: Sequence[Rule] = RULES) -> None:
    """Writes the headers for these rules, each masked or not, to a folder."""
    steps = [WrittenRule(maskable(rule)) for rule in rules]
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("rules.h", _rules(steps)), ("steps.h", _steps(steps))):
        (folder / name).write_text(text, encoding="utf-8")


def _fold(written: WrittenRule) -> Iterator[str]:
    """The lines that compute the constants in float64."""
    places = {name: i for i, name in enumerate(written.given)}
    numbers, constants = written.numbers
    for name, (value, names) in numbers.items():
        right = f"x[{places[value.name]}]" if value.operation == "input" else _numeric(value, names)
        if value.name == "s":
            right = f"penalized ? 1 : {right}"
        yield f"const double {name} = {right};"
    for i, name in enumerate(FIRST):
        yield f"to[{i}] = x[{places[name]}];"
    for i, name in enumerate(constants, len(FIRST)):
        yield f"to[{i}] = {name};"


def _tensors(written: WrittenRule, index: int) -> Iterator[str]:
    """The tensors that the term of a sum depends on."""
    slots = {"p": "WEIGHT", "g": "GRADIENT"} | {x.role: f"STATES + {i}" for i, x in enumerate(written.rule.states)}
    return (slots[x.name] for x in written.terms[index].operations if x.operation == "input" and not x.is_number)


def _numeric(value: Value, names: Mapping[Value, str]) -> str:
    """An operation on numbers, in double."""
    a, *b = (names[x] if isinstance(x, Value) else _literal(x) for x in value.operands)
    if sign := (OPERATORS | COMPARISONS).get(value.operation):
        return f"{a} {sign} {b[0]}"
    if value.operation == "neg":
        return f"-{a}"
    if value.operation == "where":
        return f"{a} ? {b[0]} : {b[1]}"
    if function := _FORMULAS.get(value.operation):
        return f"{function}({', '.join([a, *b])})"
    raise ValueError(f"{value.operation} of numbers has no C++ here: add it to {__name__}")


class _Cpp:
    """See ``adamas.rule.writing.Language``."""

    @staticmethod
    def literal(x: float) -> str:
        return f"of<X>({_literal(x)})"

    @staticmethod
    def variable(name: str) -> str:
        return name if name in ("p", "g", "q", "term") else f"{name}_state"

    @staticmethod
    def operation(value: Value, operands: list[str]) -> str:
        if sign := (OPERATORS | COMPARISONS).get(value.operation):
            return f"{operands[0]} {sign} {operands[1]}"
        if value.operation == "neg":
            return f"of<X>(-1) * {operands[0]}"
        if function := _FUNCTIONS.get(value.operation):
            return f"{function}({', '.join(operands)})"
        raise ValueError(f"{value.operation} has no C++: add it to {__name__}, and to engine/lanes.h")

    @staticmethod
    def line(value: Value, name: str, right: str) -> str:
        return f"const {'auto' if value.operation in COMPARISONS else 'X'} {name} = {right};"

    @staticmethod
    def assignment(target: str, name: str) -> str:
        return f"{target} = {name};"


class _CppOfStatistics(_Cpp):
    """Statistics lie in one array."""

    @staticmethod
    def variable(name: str) -> str:
        return f"totals[{_TOTALS.index(name)}]" if name in _TOTALS else name


def _body(recording: Recording, name_of: Callable[[Value], str]) -> Iterator[str]:
    """The lines that compute the arrays of a recording, whose numbers have these names."""
    return lines(recording, name_of, _Cpp())


def _in_loops(written: WrittenRule, recording: Recording) -> Iterator[str]:
    """The lines of a recording of the rule in the engine's loops."""
    return _body(recording, lambda number: f"k.{written.name_of(number)}")


def _literal(x: float) -> str:
    if isnan(x):
        return "std::numeric_limits<double>::quiet_NaN()"
    return {inf: "std::numeric_limits<double>::infinity()", -inf: "-std::numeric_limits<double>::infinity()"}.get(
        x, repr(float(x))
    )


def _lines(lines: Iterable[str], indent: str = "    ") -> str:
    return "".join(f"{indent}{line}\n" for line in lines)


def _kinds(steps: list[WrittenRule]) -> list[Watched]:
    """What the rules keep that statistics depend on, each once."""
    return list(dict.fromkeys(watched(step.rule) for step in steps))


def _index(x: int | None) -> int:
    return -1 if x is None else x


def _rules(steps: list[WrittenRule]) -> str:
    tables, rows, kinds = [], [], _kinds(steps)
    known = [sum((name in record_statistics(kind).outputs) << i for i, name in enumerate(SUMS)) for kind in kinds]
    for i, step in enumerate(steps):
        rule = step.rule
        states = ", ".join(
            f"{{{_bool(state.signed)}, {_bool(state.code_draw is not None)}, "
            f"{_index(state.draw)}, {step.index_of(state.decay)}, "
            f"{_index(rule.second_of(state))}, {_bool(rule.counts(state))}}}"
            for state in rule.states
        )
        reads = [_bits(_tensors(step, j)) for j in range(len(step.terms))]
        tables.append(
            f"// {rule.name}\n"
            f"constexpr State states_{i}[] = {{{states or '{}'}}};\n"
            + (f"constexpr unsigned terms_{i}[] = {{{', '.join(reads)}}};\n" if reads else "")
            + f"static void fold_{i}(const double *x, bool penalized, double *to) {{\n{_lines(_fold(step))}}}\n"
        )
        counts = f"{len(rule.states)}, {len(HOUSE_NUMBERS) + len(rule.numbers)}, {len(rule.sums)}"
        of_watch = f"{kinds.index(watched(rule))}, {_index(first_of(rule))}, {_index(second_of(rule))}"
        rows.append(
            f'{{"{rule.name}", states_{i}, {f"terms_{i}" if reads else "nullptr"}, {counts}, {of_watch}, fold_{i}}},'
        )
    most_states = max(len(step.rule.states) for step in steps)
    most_constants = len(FIRST) + max(len(step.constants) for step in steps)
    most_sums = max(len(step.terms) for step in steps)
    return (
        f"{_HEAD}\n#include <algorithm>\n#include <cmath>\n#include <limits>\n\n"
        '#include "rule.h"\n#include "tensor.h"\n\nnamespace adamas {\n\n'
        f'constexpr char rules_digest[] = "{digest(step.rule for step in steps)}";\n'
        f"constexpr int rule_count = {len(steps)}, most_states = {most_states}, most_constants = {most_constants}, "
        f"most_sums = {most_sums};\n"
        f"constexpr int house_k = {HOUSE_NUMBERS.index('k')}, "
        f"house_eta = {HOUSE_NUMBERS.index('eta')}, first_cautious = {FIRST.index('cautious')}, first_k = {FIRST.index('k')}, "
        f"weight_draw = {WEIGHT_DRAW};\n"
        "// The sums of statistics, the places of some, and the sums that rules of each kind have, a bit for each.\n"
        f"constexpr int statistics_sums = {len(SUMS)}, statistics_weight = {SUMS.index('weight')}, "
        f"statistics_update = {SUMS.index('update')}, statistics_lost = {SUMS.index('lost')}, "
        f"statistics_numbers = {len(NUMBERS)}, statistics_row = {len(ROW)};\n"
        f"constexpr unsigned statistics_known[] = {{{', '.join(map(bin, known))}}};\n\n"
        + "\n".join(tables)
        + f"\nconstexpr Rule rules[rule_count] = {{\n{_lines(rows)}}};\n\n}} // namespace adamas\n"
    )


def _steps(steps: list[WrittenRule]) -> str:
    parts = []
    for i, step in enumerate(steps):
        states = step.rule.states
        reads = ", ".join(_bool(state.role in step.read) for state in states)
        decays = "".join(
            f"        if constexpr (i == {j}) return {'of<X>(1)' if state.decay is None else f'k.{state.decay}'};\n"
            for j, state in enumerate(states)
        )
        arguments = "".join(f", X &{state.role}_state" for state in states)
        members = ", ".join(step.constants)
        values = ", ".join(f"to(x[{j}])" for j, _ in enumerate(step.constants, len(FIRST)))
        parts.append(
            f"// {step.rule.name}: {', '.join(state.role for state in states) or 'no state'}\n"
            f"template <> struct Step<{i}> {{\n"
            f"    static constexpr bool decays_in_read[] = {{{reads or 'false'}}};\n"
            f"    template <class X> struct Numbers {{\n        X {members};\n    }};\n"
            "    template <class X, class Y, class Convert> static Numbers<X> numbers(const Y *x, Convert &&to) {\n"
            f"        return {{{values}}};\n    }}\n"
            + (
                f"    template <int i, class X> static X decay([[maybe_unused]] const Numbers<X> &k) {{\n{decays}    }}\n"
                if states
                else ""
            )
            + f"    template <class X> static void step(const Numbers<X> &k, X &p, X g{arguments}) {{\n"
            f"{_lines(_in_loops(step, step.recording), '        ')}    }}\n{_terms(step)}}};\n"
        )
    penalties = fused_sums(record_penalties())
    return (
        f'{_HEAD}\n#include <limits>\n\n#include "lanes.h"\n\nnamespace adamas::ADAMAS_ISA {{\n\n'
        "// The first constants of every rule.\n"
        f"template <class X> struct Penalties {{\n    X {', '.join(PENALTIES)};\n}};\n\n"
        "// The gradient with the penalties.\n"
        "template <class X> X penalized(const Penalties<X> &k, X p, X g) {\n"
        f"{_lines(_body(penalties, lambda number: f'k.{number.name}'))}"
        "    return g;\n}\n\n"
        "// The weight q that a step has made of p, where it agrees with the gradient; elsewhere p, decayed.\n"
        "template <class X> X masked(X k, X p, X g, X q) {\n"
        f"{_lines(_body(record_mask(), lambda number: number.name))}"
        "    return q;\n}\n\n"
        "// The weight q that a step has made of p, with cautious decay.\n"
        "template <class X> X cautiously_decayed(X cautious, X p, X q) {\n"
        f"{_lines(_body(record_cautious_decay(), lambda number: number.name))}"
        "    return q;\n}\n\n"
        "// The step of one element, or of a register of them.\ntemplate <int rule> struct Step;\n\n"
        + "\n".join(parts)
        + _statistics(_kinds(steps))
        + "\n} // namespace adamas::ADAMAS_ISA\n"
    )


def _added_up(kind: Watched) -> Recording:
    """Adds the terms of statistics to totals of the same names. ``larger``, unlike ``maximum``, can forget a NaN."""
    terms = record_statistics(kind)
    outputs = {
        name: recorded("larger" if name == LARGEST else "add", Value("input", (), False, name), term)
        for name, term in terms.outputs.items()
    }
    return fused_sums(estimates(counts(Recording((), terms.gradient, outputs))))


def _statistics(kinds: list[Watched]) -> str:
    """The functions that add up statistics."""
    parts = []
    for i, kind in enumerate(kinds):
        recording = _added_up(kind)
        read = {value.name for value in recording.operations if value.operation == "input"}
        arrays = ", ".join(f"{'' if name in read else '[[maybe_unused]] '}X {name}" for name in "pgqrmv")
        body = _lines(lines(recording, lambda number: f"k.{number.name}", _CppOfStatistics()), "        ")
        parts.append(
            f"// {'m' if kind.has_first else 'no m'}, {f'v of a {kind.of}' if kind.of else 'no v'}\n"
            f"template <> struct Watched<{i}> {{\n    template <class X>\n"
            f"    static void add([[maybe_unused]] const WatchedNumbers<X> &k, {arrays}, X *totals) {{\n{body}    }}\n}};\n"
        )
    return (
        "\n// The numbers that statistics depend on.\n"
        f"template <class X> struct WatchedNumbers {{\n    X {', '.join(NUMBERS)};\n}};\n\n"
        "// Adds the statistics of one element, or of a register of them, to the totals, for rules of one kind: the sums\n"
        "// that they have, and last the largest |u|, where NaN is forgotten. See adamas.rule.statistics.\n"
        "template <int kind> struct Watched;\n\n" + "\n".join(parts)
    )


def _terms(step: WrittenRule) -> str:
    """The function that computes the terms of the rule's sums."""
    if not step.terms:
        return ""
    arguments = "".join(f", [[maybe_unused]] X {state.role}_state" for state in step.rule.states)
    cases = "".join(
        f"        if constexpr (sum == {j}) {{\n{_lines(_in_loops(step, step.terms[j]), '            ')}        }}\n"
        for j in range(len(step.terms))
    )
    return (
        "    template <int sum, class X>\n    static X term([[maybe_unused]] const Numbers<X> &k, [[maybe_unused]] X p, "
        f"[[maybe_unused]] X g{arguments}) {{\n        X term;\n{cases}        return term;\n    }}\n"
    )


def _bits(slots: Iterable[str]) -> str:
    return " | ".join(f"1u << ({slot})" for slot in slots) or "0"


def _bool(x: bool) -> str:
    return "true" if x else "false"
