"""The display of a run that goes on: what it shows where, and that it never changes the run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import sys
import threading

import pytest

from mpengine.cli import progress, running
from mpengine.cli.gauge import Gauge
from mpengine.cli.progress import ERASE, Log, Pace, Progress, Terminal, choose_screen, put_now
from mpengine.metrics import Snapshot, StageMetrics

READING = Gauge(total=4).read(Snapshot((StageMetrics("parse", processed=1),), elapsed_s=1.0, delivered=1))
PATIENCE_S = 30


class Screen:
    """Keeps what it is shown; ``after`` is called each time."""

    pace = Pace(0.0, 0.0)

    def __init__(self, after=lambda: None):
        self.shown = []
        self.is_cleared = False
        self._after = after

    def show(self, reading):
        self.shown.append(reading)
        self._after()

    def clear(self):
        self.is_cleared = True


def open_the_gate():
    """Let the items of the jobs that wait go on."""
    sys.modules["jobs"].gate.set()


@contextlib.contextmanager
def terminal_as_standard_error():
    """Put a terminal in the place of standard error, as long as a test's body lasts."""
    kept = os.dup(2)
    seen, programs = os.openpty()
    os.dup2(programs, 2)
    try:
        yield programs
    finally:
        os.dup2(kept, 2)
        for fd in (kept, seen, programs):
            os.close(fd)


def read_until(fd, wanted):
    """Read from a terminal until ``wanted`` has come; return all that has."""
    found = b""
    while wanted not in found:
        ready, _, _ = select.select([fd], [], [], PATIENCE_S)
        assert ready, f"{wanted} did not come, only {found}"
        found += os.read(fd, 65536)
    return found


# -- it never changes the run


def test_a_run_is_shown_while_it_goes_on(command, monkeypatch):
    screen = Screen(after=open_the_gate)
    monkeypatch.setattr(running, "choose_screen", lambda _: screen)

    outcome = command("run", "jobs:gated")

    assert (outcome.status, outcome.values) == (0, [0, 1, 2])
    assert {reading.total for reading in screen.shown} == {3}
    assert screen.is_cleared


def test_the_share_of_the_input_that_was_read_is_shown(command, monkeypatch):
    def open_when_told():
        if screen.shown[-1].share is not None:  # it is not before the first line
            open_the_gate()

    screen = Screen(after=open_when_told)
    monkeypatch.setattr(running, "choose_screen", lambda _: screen)

    assert command("map", "jobs:wait", "--input", "lines.txt").status == 0
    assert {reading.total for reading in screen.shown} == {None}
    assert 0.0 in {reading.share for reading in screen.shown}


def test_quiet_asks_for_no_screen(command, monkeypatch):
    monkeypatch.setattr(running, "choose_screen", None)

    assert command("run", "jobs:small", "--quiet").status == 0


@pytest.mark.parametrize("error", [OSError("broken"), ValueError("odd"), RuntimeError("console")])
def test_a_screen_that_fails_is_given_up_in_silence_g2(command, monkeypatch, error):
    def fail():
        open_the_gate()
        raise error

    monkeypatch.setattr(running, "choose_screen", lambda _: Screen(after=fail))

    outcome = command("run", "jobs:gated", "--workers", "1")

    assert (outcome.status, outcome.values) == (0, [0, 1, 2])
    assert outcome.told == []


def test_a_screen_that_cannot_be_cleared_is_given_up_in_silence_g2():
    screen = Screen()
    screen.clear = lambda: 1 / 0

    with Progress(screen, lambda: None):
        pass


def test_figures_that_cannot_be_read_end_the_display_alone_g2():
    screen, has_read = Screen(), threading.Event()

    def fail():
        has_read.set()
        raise RuntimeError

    with Progress(screen, fail):
        assert has_read.wait(PATIENCE_S)

    assert screen.shown == []


def test_a_screen_that_blocks_is_left_behind_g3(command, monkeypatch):
    release, returned = threading.Event(), []

    def block():
        open_the_gate()
        returned.append(release.wait(PATIENCE_S))

    screen = Screen(after=block)
    monkeypatch.setattr(running, "choose_screen", lambda _: screen)
    monkeypatch.setattr(progress, "PATIENCE_S", 0.01)

    outcome = command("run", "jobs:gated")

    assert returned == []  # it still blocks
    assert (outcome.status, outcome.values, len(screen.shown)) == (0, [0, 1, 2], 1)
    release.set()


def test_no_thread_to_be_had_shows_nothing_g2(monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)

    with Progress(Screen(), lambda: READING):
        pass


def test_a_run_that_has_nothing_to_read_yet_shows_nothing():
    screen, asked = Screen(), threading.Event()

    with Progress(screen, asked.set):
        assert asked.wait(PATIENCE_S)

    assert screen.shown == []


def test_nothing_waits_for_a_pipe_that_is_full_g3():
    reading, writing = os.pipe()
    os.write(writing, bytes(fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)))

    put_now(writing, b"never")
    Log(writing).show(READING)

    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert set(pipe.read()) == {0}


# -- where it shows what


def test_elsewhere_than_on_a_terminal_it_is_a_line():
    reading, writing = os.pipe()

    Log(writing).show(READING)

    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == "mpengine: 1 of 4, 25%, 0:03 left, 1.0/s, after 0:01; parse 1\n"


def test_a_line_is_never_longer_than_what_a_pipe_takes_at_once():
    many = Snapshot(tuple(StageMetrics(f"stage {number}") for number in range(1000)), elapsed_s=1.0)
    reading, writing = os.pipe()

    Log(writing).show(Gauge().read(many))

    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        content = pipe.read()
    assert (len(content), content[-1:]) == (select.PIPE_BUF, b"\n")


def test_the_screen_suits_what_standard_error_is(monkeypatch, tmp_path):
    monkeypatch.setenv("TERM", "xterm")
    with terminal_as_standard_error(), (tmp_path / "out").open("wb") as output:
        assert isinstance(choose_screen(output.fileno()), Terminal)

        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(choose_screen(output.fileno()), Log)

        monkeypatch.setenv("TERM", "xterm")
        with (tmp_path / "err").open("wb") as error:
            os.dup2(error.fileno(), 2)
            assert isinstance(choose_screen(output.fileno()), Log)


def test_nothing_is_shown_where_the_values_go_g5(monkeypatch, tmp_path):
    monkeypatch.setenv("TERM", "xterm")
    with terminal_as_standard_error() as terminal, (tmp_path / "out").open("wb") as output:
        assert choose_screen(terminal) is None

        os.dup2(output.fileno(), 2)
        assert choose_screen(output.fileno()) is None


def test_nothing_is_shown_where_there_is_no_standard_error(monkeypatch):
    monkeypatch.setattr(sys, "__stderr__", None)

    assert choose_screen(1) is None


def test_the_cursor_rests_at_the_beginning_of_a_frame_g4(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "24")
    reading, writing = os.pipe()
    screen = Terminal(writing)

    screen.clear()
    screen.show(READING)
    screen.clear()

    os.close(writing)
    with os.fdopen(reading, newline="") as pipe:
        before, frame, after = pipe.read().split(ERASE)
    assert (before, after) == ("", "")
    assert frame.startswith("\n1 of 4")
    assert frame.endswith(f"\r\x1b[{frame.count(chr(10))}A")


@pytest.mark.slow
def test_a_terminal_shows_a_run_that_takes_its_time_and_then_the_table(jobs, program, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    seen, programs = os.openpty()
    reading, writing = os.pipe()
    process = program("map", "jobs:upper", "-w", "1", "--output", "out.jsonl", stdin=reading, stderr=programs)
    os.close(reading)
    os.close(programs)
    try:
        os.write(writing, b"one\ntwo\n")
        shown = read_until(seen, b"2 in, 2 out")  # the run goes on as long as the input does
        os.close(writing)
        left = read_until(seen, b"2 items in, 2 values out").decode()
    finally:
        os.close(seen)

    assert process.wait(PATIENCE_S) == 0
    assert (jobs / "out.jsonl").read_text() == '"ONE"\n"TWO"\n'
    assert shown.decode().count(ERASE) >= 1
    *_, ending = left.split(ERASE)
    assert re.search(r"upper +2 +2 +0 +0", ending)  # the table, and no frame behind it
    assert "in flight" not in ending
