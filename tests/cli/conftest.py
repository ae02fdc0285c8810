"""A folder of jobs, and the command line called in this process and started as a program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from mpengine.cli import main

JOBS = """
import itertools
import os
import signal
import sys
import threading
from mpengine import Pipeline, stage

class Odd:
    pass

def upper(line): return line.upper()
def number(line): return int(line)
def fraction(line): return 1 / int(line)
def odd(line): return Odd()
def holds_a_set(line): return {"found": {line}}
def not_a_number(line): return float("nan")
def leave(line): sys.exit(5)

@stage(name="double")
def double(number): return 2 * number

@stage(on_error="drop")
def even(number):
    if number % 2:
        raise ValueError(f"{number} is\\nodd")
    return number

gate = threading.Event()

def wait(item):
    assert gate.wait(30)
    return item

gated = Pipeline(range(3)) >> wait
small = Pipeline([1, 2, 3]) >> double
evens = Pipeline(range(4)) >> even
many_odd = Pipeline(range(1, 60, 2)) >> even
endless = Pipeline(itertools.count()) >> double
lines = Pipeline(["never used"]) >> upper
constant = 3

empty = Pipeline([1])
long = Pipeline(range(20_000)) >> stage(lambda number: number)
bulky = Pipeline(range(20)) >> stage(lambda number: "x" * 100_000)

class Calling(dict):  # a signal comes while it is written as JSON
    def items(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return super().items()

calling = Pipeline([1, 2]) >> stage(lambda number: Calling(number=number))
chatty = Pipeline([1, 2, 3]) >> stage(lambda number: os.write(1, b"said") and os.write(2, b"said") and number)

def total(values): return [("[total]", sum(values)), ("count", len(values))]
def broken(values): return 1 / 0
"""


class Outcome:
    """What a call of the command line left behind."""

    def __init__(self, status, out, err):
        self.status = status
        self.values = [json.loads(line) for line in out.splitlines()]
        self.told = [line for line in err.splitlines() if line.startswith("mpengine: ")]
        self.err = err


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """A folder with a module of jobs, which is the current one."""
    (tmp_path / "jobs.py").write_text(JOBS)
    (tmp_path / "wrong.py").write_text("1 / 0")
    (tmp_path / "leaves.py").write_text("raise SystemExit('bye')")
    (tmp_path / "raises.py").write_text("class NotAnException(BaseException): pass\nraise NotAnException('odd')")
    (tmp_path / "interrupts.py").write_text("raise KeyboardInterrupt")
    (tmp_path / "broken.py").write_text("def f(:")
    (tmp_path / "lazy.py").write_text("def __getattr__(name): raise ValueError('no\\nway')")
    (tmp_path / "lines.txt").write_text("one\r\ntwo\nthree")
    (tmp_path / "numbers.txt").write_text("4\n2\n0\n1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("jobs", None)


@pytest.fixture
def command(jobs, capfd):
    """Call the command line in this process, with stages that run here too."""

    def call(*args):
        status = main([*args, "--backend", "inline"] if args[0] in {"run", "map"} else [*args])
        return Outcome(status, *capfd.readouterr())

    return call


@pytest.fixture
def program(jobs):
    """Start the command line as a program; whatever a test leaves running is ended.

    ``shell`` is what a shell does first, or does to its files: ``">&-"`` closes standard output.
    """
    started = []

    def start(*args, shell="", **streams):
        before, _, after = shell.rpartition(";")
        command = [sys.executable, "-m", "mpengine", *args]
        if shell:
            command = ["sh", "-c", f'{before + ";" if before else ""} exec "$0" "$@" {after}', *command]
        # What is ignored here would be ignored there: a test run in the background may have been given SIGINT so.
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            process = subprocess.Popen(
                command,
                env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
                stdin=streams.get("stdin", subprocess.DEVNULL),
                stdout=streams.get("stdout", subprocess.PIPE),
                stderr=streams.get("stderr", subprocess.PIPE),
                text=True,
                start_new_session=True,
            )
        finally:
            signal.signal(signal.SIGINT, handler)
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()
