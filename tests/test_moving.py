"""The pages on moving over keep their word: what is before and what is after runs, and gives the same."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MOVING = ROOT / "docs" / "moving"
PATIENCE_S = 150

FILE = re.compile(
    r"^\.\. code-block:: (?:python|sh)\n    :caption: (?P<name>\S+)\n\n(?P<body>(?:(?: {4}.*)?\n)+)", re.MULTILINE
)
OUTPUT = re.compile(r"^\.\. code-block:: text\n    :class: output\n\n(?P<body>(?:(?: {4}.*)?\n)+)", re.MULTILINE)
PEERS = {
    "pool": "from multiprocessing import Pool",
    "executor": "import ProcessPoolExecutor",
    "joblib": "from joblib import",
    "mpire": "from mpire import",
    "pypeln": "import pypeln",
    "pipevine": "from pipevine import",
    "raydata": "ray.data",
    "parallel": "parallel -",
}
NEEDED = {"parallel": "parallel"}  # programs that pip does not bring


@dataclass(frozen=True)
class Part:
    """The files of a page up to the next output, in order, and that output."""

    files: dict[str, str]
    output: str


def parts(page):
    """Yield the parts of a page."""
    text, begin = page.read_text(encoding="utf-8"), 0
    for output in OUTPUT.finditer(text):
        files = {found["name"]: body(found) for found in FILE.finditer(text, begin, output.start())}
        yield Part(files, body(output))
        begin = output.end()


def body(block):
    return re.sub(r"^    ", "", block["body"], flags=re.MULTILINE).strip() + "\n"


def pages():
    for name in PEERS:
        if shutil.which(NEEDED.get(name, "sh")) is not None:
            patience = pytest.mark.timeout(3 * PATIENCE_S) if name == "raydata" else ()
            yield pytest.param(MOVING / f"{name}.rst", id=name, marks=patience)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a file in the folder of the page, and return what it prints."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    # Where sockets are has to be a short path, what Ray writes there does not go by itself, and it calls nobody.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as short:
        monkeypatch.setenv("RAY_TMPDIR", short)
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")

        def run(name):
            command = ["bash", "-e", name] if name.endswith(".sh") else [sys.executable, name]
            program = subprocess.run(
                command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=False
            )
            assert program.returncode == 0, program.stdout + program.stderr
            return program.stdout

        yield run


@pytest.mark.slow
@pytest.mark.parametrize("page", list(pages()))
def test_before_and_after_print_what_the_page_says(page, run, tmp_path):
    for part in parts(page):
        for name, program in part.files.items():
            (tmp_path / name).write_text(program, encoding="utf-8")
            printed = run(name)
            assert printed == (part.output if is_told(name) else ""), name


def is_told(name):
    """Whether the page says what a file prints: the others make, or are, what these read."""
    return name.startswith(("before", "after", "instead")) or name.endswith(".sh")


@pytest.mark.parametrize("peer", PEERS)
def test_a_page_shows_the_same_job_by_the_peer_and_by_mpengine(peer):
    files = {name: program for part in parts(MOVING / f"{peer}.rst") for name, program in part.files.items()}
    before, after = (next(files[name] for name in files if name.startswith(word)) for word in ("before.", "after."))

    assert PEERS[peer] in before
    assert "mpengine" in after
    assert PEERS[peer] not in after


@pytest.mark.parametrize("page", sorted(MOVING.glob("*.rst")), ids=lambda page: page.stem)
def test_no_program_of_these_pages_escapes_the_tests(page):
    text = page.read_text(encoding="utf-8")

    assert len(re.findall("code-block:: *(?:python|sh)", text)) == sum(len(part.files) for part in parts(page))
    assert len(re.findall("code-block:: *text", text)) == len(list(parts(page)))


def test_there_is_a_page_for_each_and_the_contents_lead_to_it():
    linked = re.findall(r"<moving/(\w+)\.rst>`_", (ROOT / "docs" / "moving.rst").read_text(encoding="utf-8"))

    assert linked == list(PEERS)
    assert {page.stem for page in MOVING.glob("*.rst")} == set(PEERS)
