"""The documentation holds: every code block runs, every trap has its tests, and the site builds and stands by itself.

On a page, the blocks run in order, in one namespace and one temporary folder. What a reader has already, such as a model, is
made by Python in a comment that begins with ``<!-- setup``. A comment ``<!-- quick: OPTIONS -->`` before a block gives its
commands these options as well. DIR stands for the folder of the data. ``text`` marks what is not to be run. Training stacks
that are not installed have stand-ins (``stacks``).
"""

from __future__ import annotations

import ast
import doctest
import importlib.util
import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import stacks
from browser import browser

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

import adamas
from adamas.lab.train.options import Options

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
PAGES = [READMES[0], ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

# What a reader of these has already: they do not say so themselves. The other README has the same code, which a test holds.
SETUPS = {
    "README.md": """
import numpy as np
import torch
model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
model(torch.ones(2, 4)).pow(2).mean().backward()
before = torch.optim.AdamW(model.parameters(), lr=1e-3)
before.step()
checkpoint = {"optimizer": before.state_dict()}
w, b = np.zeros((784, 10), np.float32), np.zeros(10, np.float32)
gradient_of_w, gradient_of_b = np.ones_like(w), np.ones_like(b)
""",
    "docs/compare.md": """
from pathlib import Path
from report_material import make_study
make_study(Path("studies/digits-20260301-120000.sqlite"))
""",
    "docs/report.md": """
from pathlib import Path
from report_material import make_run, make_study
make_run(Path("runs/digits-20260401-101500"))
make_run(Path("runs/one"))
make_study(Path("studies/digits-20260401-103000.sqlite"))
""",
}

# What torchrun tells a process, here the only one; and what accelerate needs to be told.
ENVIRONMENTS = {
    "docs/distributed.md": {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "29500",
        "ACCELERATE_USE_CPU": "true",
    },
}

# What makes a command quick where its page does not say, and the folders of tasks that are named otherwise.
QUICK = {
    "train": ["--epochs", "1", "--threads", "1"],
    "find-lr": ["--sweeps", "1"],
    "compare": ["--epochs", "1", "--threads", "1", "--budget", "1", "--seeds", "3", "--jobs", "1"],
}
FOLDERS = {"mnist-cnn": "mnist", "chars-gpt": "tinyshakespeare", "chars-lstm": "tinyshakespeare"}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, title, text, the line that it begins at, and the options that make it quick."""

    language: str
    title: str | None
    text: str
    line: int
    quick: list[str]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name


def blocks_of(text: str) -> Iterator[Block]:
    lines = text.split("\n")
    at, quick = 0, []
    while at < len(lines):
        if found := re.match(r"\s*<!-- quick: (.*) -->", lines[at]):
            quick = shlex.split(found[1])
        opening = re.match(r"(\s*)(`{3,}|~{3,})\s*(.*)$", lines[at])
        at += 1
        if opening is None:
            continue
        indent, fence, info = opening.groups()
        begin = at
        while not re.match(rf"\s*{fence}\s*$", lines[at]):
            at += 1
        title = re.search(r'title="([^"]*)"', info)
        content = "\n".join(line.removeprefix(indent) for line in lines[begin:at])
        yield Block(info.split(" ")[0], title[1] if title else None, content, begin + 1, quick)
        at, quick = at + 1, []


def setup_of(text: str) -> tuple[str, int]:
    """The hidden Python of a page, and the line that it begins at."""
    found = re.search(r"^<!-- setup\n(.*?)^-->", text, re.DOTALL | re.MULTILINE)
    return (found[1], text[: found.start(1)].count("\n") + 1) if found else ("", 1)


def execute(code: str, line: int, page: Path, namespace: dict[str, Any]) -> None:
    """Run Python with the lines of its page in the traceback."""
    exec(compile("\n" * (line - 1) + code, str(page), "exec"), namespace)


def examples(block: Block, page: Path, namespace: dict[str, Any]) -> None:
    test = doctest.DocTestParser().get_doctest(block.text, namespace, name_of(page), str(page), block.line - 1)
    test.globs = namespace
    shown: list[str] = []
    failed = doctest.DocTestRunner(verbose=False).run(test, out=shown.append, clear_globs=False).failed
    assert not failed, "".join(shown)


def commands(text: str) -> Iterator[list[str]]:
    """The words of each line that is a command; prompts and comments are left out."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if words:
            yield words


def run_adamas(words: list[str], data: Path | None, quick: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command line for real, with as little training as it allows."""
    from adamas.lab.commands.main import main

    words = [match for word in words for match in sorted(glob(word)) or [word]]
    if any(re.search(r"\bDIR\b", word) for word in words):
        if data is None:
            return
        folder = data / FOLDERS.get(words[2], words[2])
        words = [re.sub(r"\bDIR\b", str(folder), word) for word in words]
    settled = {"--help", "--resume"} & set(words) or (words[-1].endswith(".sqlite") and len(words) == 3)
    if words[1:] and not settled:  # a study or a run that is gone on with has its options
        quick = quick or QUICK.get(words[1], [])
    monkeypatch.setattr(sys, "argv", [*words, *quick])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code, f"{shlex.join(words)} ended with status {end.value.code}"


def check_command(words: list[str]) -> None:
    """That what a line refers to exists, where running it would take too long or change the machine."""
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets), f"no such target: {shlex.join(words)}"
    elif words[:2] == ["pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for word in words[2:]:
            for asked in re.findall(r"\[(.*)\]", word):
                assert set(asked.split(",")) <= set(extras), f"no such extra: {word}"
    elif words[0] == "sqlite3":
        file, query = words[-2:]
        assert Path(file).is_file(), f"no such file: {file}"
        with closing(sqlite3.connect(file)) as connection:
            connection.execute(query)
    elif words[0] == "python" and words[1] == "-m":
        assert importlib.util.find_spec(words[2]), f"no such module: {words[2]}"
    elif words[0] == "python" and (ROOT / words[1]).is_file():
        source = (ROOT / words[1]).read_text()
        for word in words[2:]:
            assert word.split("=")[0] in source or not word.startswith("-"), f"{words[1]} has no {word}"
    elif words[0] == "torchrun" and "adamas" in words:
        options = {f"--{name.replace('_', '-')}" for name in (*Options.__dataclass_fields__, "resume", "config")}
        unknown = [word for word in words[words.index("adamas") :] if word.startswith("-") and word not in options]
        assert not unknown, f"adamas train has no {unknown[0]}"
    else:
        assert words[0] in ("git", "cd", "tensorboard"), f"a command that is not checked: {shlex.join(words)}"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks gain nothing by more, and tests that run beside this one lose."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_process_group_is_left() -> Iterator[None]:
    """Ends the process group that the blocks of a page have begun."""
    yield
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def run_page(text: str, page: Path, data: Path | None, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run every block of a page in the current folder, and return their namespace."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for code, line in ((SETUPS.get(name_of(page), ""), 1), setup_of(text)):
        execute(code, line, page, namespace)
    for block in blocks_of(text):
        if block.title:
            Path(block.title).parent.mkdir(parents=True, exist_ok=True)
            Path(block.title).write_text(block.text + "\n")
        if block.text.lstrip().startswith(">>>"):
            examples(block, page, namespace)
        elif block.language == "python":
            execute(block.text, block.line, page, namespace)
        elif block.language in ("bash", "console"):
            for words in commands(block.text):
                if words[0] == "adamas":
                    run_adamas(words, data, block.quick, monkeypatch)
                else:
                    check_command(words)
        elif block.language == "toml":
            tomllib.loads(block.text)
        else:
            assert block.language == "text", f"line {block.line}: mark a block that is not to be run as text"
    return namespace


@pytest.mark.filterwarnings("ignore:.torch.jit.:DeprecationWarning")  # ZeroRedundancyOptimizer's
@pytest.mark.usefixtures("trials_in_this_process")
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Path(os.environ.get("ADAMAS_DATA", ROOT.parent / "shared" / "data"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))  # where Keras writes its settings
    stacks.stand_in(monkeypatch)
    for name, value in ENVIRONMENTS.get(name_of(page), {}).items():
        monkeypatch.setenv(name, value)
    run_page(page.read_text(encoding="utf-8"), page, data if data.is_dir() else None, monkeypatch)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```\nplain\n```", AssertionError),
        ("```ruby\nputs\n```", AssertionError),
        ("```python\nassert False\n```", AssertionError),
        ("    ```python\n    missing\n    ```", NameError),
        ("```python\nx = 1\n```\n```\n>>> x + 1\n3\n```", AssertionError),
        ("<!-- setup\nx = 1\n-->\n```python\nassert x == 2\n```", AssertionError),
        ("```toml\nx =\n```", tomllib.TOMLDecodeError),
        ("```bash\nmake coffee\n```", AssertionError),
        ("```bash\npip install '.[everything]'\n```", AssertionError),
        ("```bash\npython benchmarks/bench_step.py --fast\n```", AssertionError),
        ("```bash\npython benchmarks/bench_nothing.py\n```", AssertionError),
        ("```bash\nadamas train digits --optimiser adam\n```", AssertionError),
        ("```bash\ntorchrun --nproc-per-node 2 -m adamas train --paralel ddp\n```", AssertionError),
    ],
)
def test_what_does_not_hold_on_a_page_fails(
    text: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error):
        run_page(text, tmp_path / "page.md", None, monkeypatch)


def test_both_readmes_have_the_same_code() -> None:
    def code(page: Path) -> list[str]:
        blocks = [block for block in blocks_of(page.read_text(encoding="utf-8")) if block.language]
        return [
            "\n".join(map(shlex.join, commands(block.text)))
            if block.language == "bash"
            else ast.dump(ast.parse(block.text))
            for block in blocks
        ]

    assert code(READMES[0]) == code(READMES[1])


def test_a_package_index_shows_the_readme_without_links_to_files_that_it_has_not(tmp_path: Path) -> None:
    for package in ("scikit_build_core", "hatch_fancy_pypi_readme"):
        pytest.importorskip(package)
    build = f"from scikit_build_core.build import *; prepare_metadata_for_build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, capture_output=True, text=True)
    (metadata,) = tmp_path.glob("*/METADATA")
    shown = metadata.read_text(encoding="utf-8").partition("\n\n")[2]
    files = [target for target in links(READMES[0].read_text(encoding="utf-8")) if not re.match(r"\w+:|#", target)]
    assert "README.zh-CN.md" in files
    assert all((ROOT / file.partition("#")[0]).is_file() for file in files)
    assert not set(files) & set(links(shown))
    assert all(f"(`{file}`)" in shown for file in files)
    assert "docs/images" not in shown


def test_the_page_on_versions_names_the_current_one() -> None:
    assert f"The current version is **{adamas.__version__}**;" in (ROOT / "docs" / "versions.md").read_text()


def test_the_pictures_of_the_readmes_are_drawn_from_the_figures_beside_them() -> None:
    import draw_formats

    pictures = draw_formats.pictures(json.loads(draw_formats.FIGURES.read_text(encoding="utf-8")))
    for name, picture in pictures.items():
        assert (draw_formats.IMAGES / name).read_text(encoding="utf-8") == picture, name
    shown = {Path(path).name for page in READMES for path in re.findall(r'docs/images/[^"]+', page.read_text("utf-8"))}
    assert shown == pictures.keys()


def links(text: str) -> list[str]:
    return re.findall(r"\[[^\]]+\]\(([^)]+)\)", text)


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """docs/hooks.py, which builds the page of the traps."""
    pytest.importorskip("latex2mathml")
    specification = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["hooks"] = module  # where dataclasses look for it
    specification.loader.exec_module(module)
    return module


def test_each_trap_links_to_its_tests(hooks: ModuleType) -> None:
    rows = re.findall(r"^\| (T\d\d) \|(.*)$", (ROOT / "docs" / "traps.md").read_text(), re.MULTILINE)
    tests = hooks.trap_tests()
    assert [trap for trap, _ in rows] == [f"T{number:02}" for number in range(1, 65)] == sorted(tests)
    assert all(f"(#test-{trap.lower()})" in row for trap, row in rows)
    assert [test.path.stem for test in tests["T41"]] == ["ranks_traps", "test_distributed"]


def test_a_trap_without_a_test_fails_the_build(hooks: ModuleType) -> None:
    page = (ROOT / "docs" / "traps.md").read_text()
    assert "def test_trap_T07_" in hooks.shown_tests(page)
    with pytest.raises(ValueError, match="T99"):
        hooks.shown_tests(page + "[tests](#test-t99)")


def test_formulas_become_mathml(hooks: ModuleType) -> None:
    markdown = pytest.importorskip("markdown")
    convert = markdown.Markdown(extensions=[hooks.Formulas()]).convert
    for text in ("so $a_1$ is", "so :math:`a_1` is"):
        assert "<msub><mi>a</mi><mn>1</mn></msub>" in convert(text)
    for text in ("$$\na &= b \\\\\nc &= d\n$$", ".. math::\n    a &= b \\\\\n    c &= d\n\nafter"):
        assert convert(text).count("<mtr>") == 2
    assert "<math" not in convert("`$HOME` and `$PATH`, or $5")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built."""
    pytest.importorskip("mkdocs")
    site = tmp_path_factory.mktemp("documentation") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return site


def test_the_site_builds_and_loads_nothing_from_the_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        assert not re.findall(
            r'(?:src="|url\()https?:[^"]*|<link[^>]*rel="(?:stylesheet|preconnect)"[^>]*https?:', html
        )
        assert "<!-- setup" not in html
    for sheet in site.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


# What is wider than the space that it has, so that a part of it is not seen without scrolling.
CUT_OFF = """
[...document.querySelectorAll('pre > code, .md-typeset table, .formula')]
  .filter(shown => shown.offsetParent && shown.scrollWidth > shown.clientWidth + 1)
  .map(shown => shown.textContent.trim().slice(0, 60))
"""
# Words of code and numbers in a table within which a line ends; it may end after a hyphen or a slash.
BROKEN = """
[...document.querySelectorAll('.md-typeset td code, .md-typeset td .number')].flatMap(code => {
  if (!code.offsetParent || code.children.length) return [];
  const text = code.firstChild, range = document.createRange();
  return [...text.data.matchAll(/[^\\s\\/-]+/g)].filter(word => {
    range.setStart(text, word.index);
    range.setEnd(text, word.index + word[0].length);
    return new Set([...range.getClientRects()].map(line => line.top)).size > 1;
  }).map(word => word[0]);
})
"""


def test_nothing_is_cut_off_on_a_laptop_and_no_word_is_broken_on_a_phone(site: Path) -> None:
    with browser() as launched:
        view = launched.new_page(java_script_enabled=False)
        for page in sorted(site.rglob("*.html")):
            view.set_viewport_size({"width": 1280, "height": 900})
            view.goto(page.as_uri())
            assert view.evaluate(CUT_OFF) == [], page.name
            view.set_viewport_size({"width": 390, "height": 900})
            assert view.evaluate("document.documentElement.scrollWidth") <= 390, page.name
            assert view.evaluate(BROKEN) == [], page.name
