"""The pages keep their word: their examples run and print what they say, and what they name is there."""

from __future__ import annotations

import ast
import functools
import itertools
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

import mpengine

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.rst", *sorted((ROOT / "docs").rglob("*.rst"))]
PATIENCE_S = 30

BLOCK = re.compile(
    r"^\.\. code-block:: (?P<kind>\w+)\n(?P<options>(?: +:.*\n)*)\n(?P<body>(?:(?: {4}.*)?\n)+)", re.MULTILINE
)
PROMISED = re.compile(r"``(tests/[\w/]+\.py)::(\w+)``")
NAMED_FILE = re.compile(r"``((?:mpengine|tests|scripts|docs|requirements)/[\w./+-]*\w)(?=``|::)")
LINK = re.compile(r"`[^`<]+<([^<>\s]+)>`_")
DOCUMENTED = re.compile(r"^\.\. auto\w+:: mpengine\.([\w.]+)\.(\w+)$", re.MULTILINE)
HEADING = re.compile(r"^(?P<title>\S.*)\n(?P<line>=+|-+)$", re.MULTILINE)

# Put together, so that this file is not one of those that it looks for.
UNWANTED = re.compile(
    "|".join(
        [
            r"\bis" + r"sues?\b", r"\bmile" + r"stones?\b", r"\bhel" + r"pers?\b",
            "/" + "root/", "/" + "home/", "/" + "work/", "/" + "opt/", "pypi" + r"\.org", "python" + "hosted",
        ]
    ),
    re.IGNORECASE,
)  # fmt: skip


@dataclass(frozen=True)
class Example:
    """A program on a page, and what the page says it prints; None where it does not say."""

    place: str
    program: str
    output: str | None

    @property
    def is_inline(self):
        return 'backend="inline"' in self.program and not self.is_suite

    @property
    def is_suite(self):
        return "\ndef test_" in self.program


def examples():
    """Yield the Python programs of all pages as parameters; those that start worker processes are slow."""
    for page in PAGES:
        if page.parent.name == "moving":  # tests/test_moving.py runs those, which belong together
            continue
        text = page.read_text(encoding="utf-8")
        blocks = list(BLOCK.finditer(text))
        for block, following in itertools.pairwise([*blocks, None]):
            if block["kind"] != "python":
                continue
            place = f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, block.start()) + 1}"
            output = following if following and ":class: output" in following["options"] else None
            example = Example(place, body(block), output and body(output))
            yield pytest.param(example, id=place, marks=() if example.is_inline else pytest.mark.slow)


def body(block):
    return textwrap.dedent(block["body"]).strip() + "\n"


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """Be in an empty folder, with breakpoints that do not stop."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONBREAKPOINT", "0")
    return tmp_path


@pytest.mark.parametrize("example", list(examples()))
def test_an_example_runs_and_prints_what_the_page_says(example, outside, capsys):
    if example.is_inline:
        exec(compile(example.program, example.place, "exec"), {"__name__": "__main__"})
        printed = capsys.readouterr().out
    else:
        command = [sys.executable, "-"]
        if example.is_suite:
            suite = outside / "test_of_a_page.py"
            suite.write_text(example.program, encoding="utf-8")
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(suite)]
        program = subprocess.run(
            command, input=example.program, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert program.returncode == 0, program.stdout + program.stderr
        printed = program.stdout

    if example.output is not None:
        assert printed == example.output


def test_output_on_a_page_always_follows_a_program():
    for page in PAGES:
        kinds = [
            "output" if ":class: output" in block["options"] else block["kind"]
            for block in BLOCK.finditer(page.read_text(encoding="utf-8"))
        ]
        orphans = [
            kind
            for before, kind in zip(["", *kinds], kinds, strict=False)
            if kind == "output" and before not in ("python", "sh")
        ]

        assert orphans == [], page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_program_on_a_page_escapes_the_tests(page):
    text = page.read_text(encoding="utf-8")

    assert len(re.findall(r"code-block:: *python", text)) == sum(
        block["kind"] == "python" for block in BLOCK.finditer(text)
    )


def test_the_pages_that_promise_examples_have_them():
    with_examples = {example.values[0].place.partition(":")[0] for example in examples()}

    promised = ("tutorial", "errors", "cancellation", "tuning", "debugging", "mistakes", "watching", "testing")
    assert with_examples >= {"README.rst", *(f"docs/{name}.rst" for name in promised)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_test_that_a_page_names_is_there(page):
    named = PROMISED.findall(page.read_text(encoding="utf-8"))

    assert [f"{path}::{name}" for path, name in named if name not in _names_of_tests(path)] == []


@functools.cache
def _names_of_tests(path):
    """Return the names of the tests in a file; none when there is no such file."""
    if not (ROOT / path).is_file():
        return set()
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    # hypothesis makes a test class of a state machine, and assigns it
    assigned = {
        name.id for node in tree.body if isinstance(node, ast.Assign) for name in node.targets if hasattr(name, "id")
    }
    return {name for name in functions | assigned if name.lower().startswith("test")}


def test_the_readme_names_tests_for_every_guarantee():
    text = (ROOT / "README.rst").read_text(encoding="utf-8")
    _, _, rest = text.partition("\nGuarantees\n")
    guarantees = re.split(r"\n\n(?=\S)", rest.partition("\nNot yet\n")[0])[2:]

    assert len(guarantees) >= 5
    assert [guarantee.splitlines()[0] for guarantee in guarantees if not PROMISED.search(guarantee)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    missing = [name for name in NAMED_FILE.findall(text) if "<" not in name and not (ROOT / name).exists()]
    dead = [
        link for link in LINK.findall(text) if "://" not in link and not (page.parent / link.partition("#")[0]).exists()
    ]

    assert (missing, dead) == ([], [])


def test_the_contents_lead_to_every_page():
    linked = set(LINK.findall((ROOT / "docs" / "index.rst").read_text(encoding="utf-8")))

    # readme.rst is ../README.rst, for Sphinx
    assert {page.name for page in (ROOT / "docs").glob("*.rst")} - linked == {"index.rst", "readme.rst"}


def test_the_reference_has_every_public_name_under_the_module_it_lives_in():
    text = (ROOT / "docs" / "reference.rst").read_text(encoding="utf-8")

    assert {(home, name) for name, home in mpengine._HOME.items()} <= set(DOCUMENTED.findall(text))
    assert set(mpengine.__all__) == set(mpengine._HOME)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_headings_are_underlined_to_their_full_length(page):
    headings = HEADING.findall(page.read_text(encoding="utf-8"))

    assert [title for title, line in headings if title[0] not in "=-" and len(line) < len(title)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_speaks_of_the_project_alone(page):
    assert UNWANTED.findall(page.read_text(encoding="utf-8")) == []


def test_the_drawings_of_the_states_are_those_of_the_tables():
    check = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "states"), "--check"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert check.returncode == 0, check.stdout + check.stderr


def test_each_rule_of_kill_safety_is_law_and_says_where_it_lives():
    text = (ROOT / "docs" / "design.rst").read_text(encoding="utf-8")
    laws = re.findall(r"^(K\d+)\n((?:(?: {4}.*)?\n)+)", text, re.MULTILINE)

    assert [name for name, _ in laws] == [f"K{number}" for number in range(1, 11)]
    assert [name for name, law in laws if "Lives in ``" not in law] == []
