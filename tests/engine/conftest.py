"""Engines of every kind, and programs run in an interpreter of their own."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from mpengine import Engine

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30.0

KINDS = {
    "inline": {"backend": "inline"},
    "forkserver": {"start_method": "forkserver"},
    "spawn": {"start_method": "spawn"},
    "fork": {"start_method": "fork"},
}

MARKS = {
    "forkserver": pytest.mark.slow,
    "spawn": [pytest.mark.slow, pytest.mark.long],
    "fork": [pytest.mark.slow, pytest.mark.long],
}


@pytest.fixture(params=["inline", pytest.param("forkserver", marks=pytest.mark.slow)])
def kind(request):
    """The inline backend, and worker processes as they start by default."""
    return request.param


@pytest.fixture(params=["inline", *(pytest.param(name, marks=MARKS[name]) for name in KINDS if name != "inline")])
def every_kind(request):
    """The inline backend, and every start method."""
    return request.param


@pytest.fixture
def make_engine():
    """Make engines that are closed when the test is over."""
    with contextlib.ExitStack() as stack:

        def make(kind="forkserver", workers=2, **options):
            options.setdefault("grace_s", 5.0)
            engine = Engine(workers, **KINDS[kind], **options)
            stack.callback(engine.close)
            return engine

        yield make


@pytest.fixture
def engine(kind, make_engine):
    """An engine of this kind, with two workers."""
    return make_engine(kind)


@pytest.fixture
def run_program(tmp_path):
    """Run a program in a new interpreter, as a file or otherwise; returns what it wrote and how it ended."""

    def run(text, how="file"):
        text = textwrap.dedent(text)
        path = tmp_path / "program.py"
        path.write_text(text)
        argument, stdin = {"file": (str(path), None), "stdin": ("-", text), "-c": ("-c", None)}[how]
        command = [sys.executable, argument, *([text] if how == "-c" else [])]
        return subprocess.run(
            command, input=stdin, env=environment(), cwd=tmp_path,
            capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip

    return run


class Program:
    """A program that runs beside the test, which reads its lines and sends it signals."""

    def __init__(self, text, folder):
        path = folder / "program.py"
        path.write_text(textwrap.dedent(text))
        self.process = subprocess.Popen(
            [sys.executable, "-u", str(path)], env=environment(), cwd=folder, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._guard = threading.Timer(PATIENCE_S, self.process.kill)
        self._guard.start()

    def read_line(self):
        return self.process.stdout.readline().strip()

    def read_pids(self):
        return [int(word) for word in self.read_line().split()]

    def send(self, signum):
        self.process.send_signal(signum)

    def end(self):
        """Wait for its end; returns (what it had still to write, its errors, its exit code)."""
        written, errors = self.process.communicate()
        return written.strip(), errors, self.process.returncode

    def close(self):
        self._guard.cancel()
        self._guard.join()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def start_program(tmp_path):
    """Start a program beside the test."""
    with contextlib.ExitStack() as stack:

        def start(text):
            program = Program(text, tmp_path)
            stack.callback(program.close)
            return program

        yield start


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}
