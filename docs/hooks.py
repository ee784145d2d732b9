"""What the site needs besides Markdown: formulas without JavaScript, and pieces of the repository.

MkDocs calls the functions ``on_…``. Formulas are written in TeX, as ``$…$`` and ``$$…$$`` on pages and as ``:math:`` and
``.. math::`` in docstrings, and become MathML. ``<!-- measured -->`` becomes the table that README.md has between its markers
of that name, and ``<!-- trap tests -->`` the source of the tests of the traps. Other comments are left out of the site.

May import the packages that build the site.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor

ROOT = Path(__file__).resolve().parents[1]

# Tests of a trap that have another name, because they test more than the trap.
NAMED_OTHERWISE = {
    "test_everything_comes_back_bit_for_bit": "T31",
    "test_no_finding_leaves_everything_too": "T31",
    "test_noise_alone_is_never_a_finding": "T31",
    "test_errors_of_the_curve_say_what_to_change": "T31",
    "test_decay_by_name": "T24",
    "test_a_step_with_the_weights_for_evaluation_is_refused": "T54",
}


def mathml(tex: str, display: str) -> str:
    """The formula as MathML; lines are separated by ``\\\\`` and aligned at ``&``."""
    tex = tex.strip()
    if r"\\" in tex or "&" in tex:
        tex = rf"\begin{{align*}}{tex}\end{{align*}}"
    return convert(tex, display=display)


class DisplayedFormulas(Preprocessor):
    """Displayed formulas. Runs after fenced code has been extracted."""

    MARKS = (
        re.compile(r"^(?P<indent> *)\$\$(?P<tex>.+?)\$\$ *$", re.MULTILINE | re.DOTALL),
        re.compile(r"^(?P<indent> *)\.\. math::(?P<tex>.*(?:\n(?P=indent) +.*)*)", re.MULTILINE),
    )

    def run(self, lines: list[str]) -> list[str]:
        """Replace each by its MathML."""
        text = "\n".join(lines)
        for mark in self.MARKS:
            text = mark.sub(self._formula, text)
        return text.split("\n")

    def _formula(self, found: re.Match[str]) -> str:
        html = f'<div class="formula">{mathml(found["tex"], "block")}</div>'
        return f"\n{found['indent']}{self.md.htmlStash.store(html)}\n"


class InlineFormulas(InlineProcessor):
    """Formulas within a sentence."""

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[Element | str, int, int]:  # noqa: N802 - Markdown's name
        """Replace one by its MathML."""
        return self.md.htmlStash.store(mathml(m[1], "inline")), m.start(0), m.end(0)


class Numbers(InlineProcessor):
    """Numbers such as 6.6e-5, in which a line must not break at the hyphen."""

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[Element | str, int, int]:  # noqa: N802 - Markdown's name
        """Put it into an element that the stylesheet keeps on one line."""
        number = Element("span", {"class": "number"})
        number.text = m[0]
        return number, m.start(0), m.end(0)


class Formulas(Extension):
    """Converts TeX to MathML, and keeps numbers unbroken."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 - Markdown's name
        """Register the processors: after fenced code and, except for the role in backticks, after inline code."""
        md.preprocessors.register(DisplayedFormulas(md), "displayed-formulas", 24)
        md.inlinePatterns.register(InlineFormulas(r":math:`([^`]+)`", md), "formula-roles", 195)
        md.inlinePatterns.register(Numbers(r"\b\d[\d.]*e-\d+\b", md), "numbers", 5)
        md.inlinePatterns.register(InlineFormulas(r"\$(?!\s)([^$\n]+?)(?<!\s)\$", md), "formulas", 185)


@dataclass(frozen=True)
class TrapTest:
    """A test of a trap: one that is named after it, ``test_trap_T07_…``, what its ranks run, ``trap_T41_…``, or one of
    NAMED_OTHERWISE."""

    name: str
    path: Path
    line: int
    source: str


def trap_tests(folder: Path = ROOT / "tests") -> dict[str, list[TrapTest]]:
    """The tests of each trap, by its id.

    Raises:
        ValueError: one of NAMED_OTHERWISE does not exist.
    """
    found: dict[str, list[TrapTest]] = {}
    missing = set(NAMED_OTHERWISE)
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.parse(text).body:
            if not isinstance(node, ast.FunctionDef):
                continue
            named = re.match(r"(?:test_)?trap_(T\d\d)_", node.name)
            trap = named[1] if named else NAMED_OTHERWISE.get(node.name)
            if trap is None:
                continue
            missing.discard(node.name)
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            source = "\n".join(text.splitlines()[first - 1 : node.end_lineno])
            found.setdefault(trap, []).append(TrapTest(node.name, path, node.lineno, source))
    if missing:
        raise ValueError(f"docs/hooks.py names tests that do not exist: {', '.join(sorted(missing))}")
    return found


def linked_traps(markdown: str) -> list[str]:
    """The ids of the traps for which the page has a link to tests."""
    return [trap.upper() for trap in re.findall(r"\(#test-(t\d\d)\)", markdown)]


def shown_tests(markdown: str) -> str:
    """The sources of the tests that the page links to, as Markdown.

    Raises:
        ValueError: a trap has no test, or the page does not link to its tests.
    """
    tests, linked = trap_tests(), linked_traps(markdown)
    if sorted(tests) != sorted(linked):
        raise ValueError(
            f"docs/traps.md links to the tests of {sorted(linked)}, but there are tests of {sorted(tests)}"
        )
    parts = []
    for trap in linked:
        parts.append(f"### {trap} {{ #test-{trap.lower()} }}")
        for test in tests[trap]:
            title = f"{test.name} ({test.path.relative_to(ROOT)}, line {test.line})"
            code = "\n".join(f"    {line}".rstrip() for line in ["```python", *test.source.splitlines(), "```"])
            parts.append(f'??? example "{title}"\n\n{code}')
    return "\n\n".join(parts)


def measured() -> str:
    """The measured table of the README."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return readme.split("<!-- measured: begin -->")[1].split("<!-- measured: end -->")[0].strip()


def on_config(config: Any) -> Any:
    """Add the formulas to the Markdown of pages and docstrings."""
    config.markdown_extensions.append(Formulas())
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Insert the pieces of the repository, and leave comments out."""
    if "<!-- trap tests -->" in markdown:
        markdown = markdown.replace("<!-- trap tests -->", shown_tests(markdown))
    if "<!-- measured -->" in markdown:
        markdown = markdown.replace("<!-- measured -->", measured())
    return re.sub(r"^<!--.*?-->\n?", "", markdown, flags=re.DOTALL | re.MULTILINE)
