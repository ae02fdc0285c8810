"""A run in another process: listed, shown, asked where it hangs, and ended; and viewers that are killed or stopped."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mpengine.cli import main
from mpengine.monitor.entries import RunEntry, RunFigures
from mpengine.monitor.listing import Listing
from mpengine.processes.identity import ProcessIdentity, machine_mark
from mpengine.runs import GoneError, attach, find_run, known_runs

PATIENCE_S = 30.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

RUN = """
import sys
from mpengine import Engine, stage

def parse(number):
    return number

@stage(workers=1, timeout=600)  # so that each item is named, however quick those before it were
def hold(number):
    if number == 3:
        open(sys.argv[1]).close()
    return number

result = Engine(2, metrics_interval_s=0.02, grace_s=0.2).run([range(6), parse, hold])
print(result.is_ok, getattr(result, "reason", None), result.report.values)
"""


class Job:
    """A run in another process, which hangs at its item 3 until it is let go on."""

    def __init__(self, folder):
        self.pipe = folder / "pipe"
        os.mkfifo(self.pipe)
        program = folder / "job.py"
        program.write_text(RUN)
        self.process = subprocess.Popen(
            [sys.executable, program.name, self.pipe.name], stdout=subprocess.PIPE, text=True, cwd=folder,
            env={**ENVIRONMENT, "MPENGINE_RUNTIME_DIR": os.environ["MPENGINE_RUNTIME_DIR"]},
        )  # fmt: skip

    def wait_listed(self):
        deadline_at = time.monotonic() + PATIENCE_S
        while not known_runs():
            assert time.monotonic() < deadline_at
            assert self.process.poll() is None
            time.sleep(0.005)
        return known_runs()[0].run_id

    def wait_held(self):
        """Wait until it hangs where it should; return the name of the run, and the worker."""
        name = self.wait_listed()
        with attach(find_run(name)) as watch:
            seen, deadline_at = 0, time.monotonic() + PATIENCE_S
            while time.monotonic() < deadline_at:
                view = watch.look(seen, 0.5)
                seen = view.number
                held = [sight for sight in view.sights.workers if sight.item == 3] if view.sights else []
                if held:
                    return name, view.snapshot.workers[held[0].worker_id].pid
        raise AssertionError(view)

    def go_on(self):
        fd = os.open(self.pipe, os.O_WRONLY)
        os.close(fd)

    def outcome(self):
        out, _ = self.process.communicate(timeout=PATIENCE_S)
        return out.strip()


@pytest.fixture
def listed(tmp_path, monkeypatch):
    monkeypatch.setenv("MPENGINE_RUNTIME_DIR", str(tmp_path / "listed"))
    return tmp_path / "listed"


@pytest.fixture
def job(tmp_path, listed):
    job = Job(tmp_path)
    yield job
    job.process.kill()
    job.process.communicate()


@pytest.fixture
def command(capfd, monkeypatch):
    """Call the command line here; returns the exit status, and what is on standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "160")

    def call(*args):
        status = main(args)
        return status, *capfd.readouterr()

    return call


WHOLE = "True None [0, 1, 2, 3, 4, 5]"


# ---------------------------------------------------------------------- one run, seen from all sides


@pytest.mark.slow
def test_a_run_is_listed_shown_and_asked_where_it_is_and_does_not_notice(job, command, listed):
    name, pid = job.wait_held()

    status, out, _ = command("ps")
    assert status == 0
    assert all(text in out for text in (name, str(job.process.pid), "running", "parse > hold", "job.py"))
    (plain,) = json.loads(command("ps", "--json")[1])
    assert (plain["run"], plain["pid"], plain["total"], plain["stages"]) == (
        name,
        job.process.pid,
        6,
        ["parse", "hold"],
    )
    assert "authkey" not in plain

    status, out, _ = command("top")
    assert status == 0
    assert all(text in out for text in (f"run {name}", " of 6", "hold: item 3", str(pid), "MB", "bottleneck"))
    seen = json.loads(command("top", name, "--json")[1])
    assert seen["snapshot"]["delivered"] <= 3
    assert seen["uses"][str(pid)]["rss_bytes"] > 1_000_000

    status, out, _ = command("stack", name)
    assert status == 0
    assert re.search(rf"pid {pid}, busy in hold, item 3, for \d+:\d\d\n", out)
    assert '/job.py", line 11, in hold\n' in out
    assert "mpqueue.py" in out  # where the other one waits for work
    status, out, _ = command("stack", "--all", "--full", "--threads")
    assert status == 0
    assert all(text in out for text in ("thread MainThread", "mpengine-coordinator", "in run_worker", "Current thread"))

    os.kill(pid, signal.SIGSTOP)
    status, out, _ = command("stack", name)
    os.kill(pid, signal.SIGCONT)
    assert status == 1
    assert re.search(rf"pid {pid}, busy in hold, item 3, for \d+:\d\d: is stopped\n", out)

    told = (1, "", "mpengine: the text has 1001 characters, and may have 1000\n")
    assert command("cancel", name, "--reason", "x" * 1001) == told

    job.go_on()
    assert job.outcome() == WHOLE
    assert not listed.exists()


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--at-once",), ("--wait",)])
def test_a_run_is_cancelled_from_another_terminal_and_says_why(options, job, command):
    name, _ = job.wait_held()
    status, out, err = command("cancel", name[:3], "--reason", "enough", *options)
    assert (status, out) == (0, "")
    assert err.startswith(f"mpengine: run {name} is ending: enough\n") or f"run {name} has ended: enough" in err
    assert (f"run {name} has ended: enough" in err) or "--wait" not in options
    assert job.outcome().startswith("False enough [")


@pytest.mark.slow
def test_a_run_whose_process_is_stopped_is_told_to_be_and_is_not_cancelled_later(job, command, monkeypatch):
    name, pid = job.wait_held()
    os.kill(job.process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, job.process.pid, os.WSTOPPED | os.WNOWAIT)
    monkeypatch.setattr("mpengine.runs.ANSWER_S", 0.0)
    monkeypatch.setattr("mpengine.runs.Watch.cancel.__kwdefaults__", {"at_once": False, "patience_s": 0.05})

    assert command("cancel", name) == (1, "", f"mpengine: run {name} does not answer (stopped); it was not cancelled\n")
    assert "stopped" in command("ps")[1]
    assert f"pid {pid}, busy in hold" in command("stack")[1]  # the workers answer for themselves

    os.kill(job.process.pid, signal.SIGCONT)
    job.go_on()
    assert job.outcome() == WHOLE


@pytest.mark.slow
def test_the_workers_of_a_run_whose_board_is_stopped_are_found_all_the_same(job, command, monkeypatch):
    _, pid = job.wait_held()
    monkeypatch.setattr("mpengine.monitor.board.PATIENCE_S", 0.1)
    with attach(find_run()) as watch:
        board = int(watch.run.entry.address.split("-")[1])
    assert board == job.process.pid
    boards = [one for one in psutil.Process(board).children() if "boardhost" in " ".join(one.cmdline())]
    boards[0].suspend()
    try:
        status, out, err = command("stack")
    finally:
        boards[0].resume()
    assert status == 0
    assert "are looked for among what it has started" in err
    assert f"a worker, pid {pid}\n" in out
    assert "in hold\n" in out
    job.go_on()
    assert job.outcome() == WHOLE


@pytest.mark.slow
def test_a_killed_run_is_listed_as_dead_with_what_it_noted_last_until_that_is_cleared_away(job, command, listed):
    name, _ = job.wait_held()
    with attach(find_run()) as watch:
        job.process.kill()
        job.process.wait(PATIENCE_S)
        assert not watch.is_alive()
    assert [row["state"] for row in json.loads(command("ps", "--json")[1])] == ["dead"]
    assert command("top", name)[0] == 1
    assert command("stack", name)[::2] == (1, f"mpengine: run {name} is dead: its process {job.process.pid} is gone\n")
    assert command("cancel", name)[::2] == (1, f"mpengine: run {name} is dead: its process {job.process.pid} is gone\n")
    assert command("ps", "--clear")[2].startswith("mpengine: forgotten: 1\n")
    assert not listed.exists()


# ---------------------------------------------------------------------- viewers that come to grief

HALF_A_CALL = """
import os, signal, sys
from mpengine.monitor.board import connect
from mpengine.runs import find_run
entry = find_run(sys.argv[1]).entry
link = connect(entry.address, entry.authkey)
os.write(link.fileno(), b"\\0\\0\\0\\xff and no more")
print("ready", flush=True)
signal.pause()
"""


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
def test_viewers_that_are_killed_or_stopped_in_the_middle_of_a_call_disturb_nothing(signum, job, command):
    name, _ = job.wait_held()
    viewers = [
        subprocess.Popen([sys.executable, "-c", HALF_A_CALL, name], stdout=subprocess.PIPE, env=dict(os.environ))
        for _ in range(3)
    ]
    try:
        for viewer in viewers:
            assert viewer.stdout.readline() == b"ready\n"
            viewer.send_signal(signum)
        with attach(find_run()) as watch:
            numbers = [watch.look().number]
            while len(numbers) < 5:  # it goes on publishing
                numbers.append(watch.look(numbers[-1], 0.5).number)
            assert numbers[-1] > numbers[0]
        assert command("top", "--once")[0] == 0
        job.go_on()
        assert job.outcome() == WHOLE
    finally:
        for viewer in viewers:
            viewer.kill()
            viewer.communicate()


# ---------------------------------------------------------------------- on a terminal


class Terminal:
    """``top`` on a terminal of its own."""

    def __init__(self):
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm", COLUMNS="120", LINES="30")
            os.execv(sys.executable, [sys.executable, "-m", "mpengine", "top"])
        self.shown = b""

    def type(self, keys):
        os.write(self._fd, keys)

    def wait_shown(self, text):
        deadline_at = time.monotonic() + PATIENCE_S
        while text not in self.shown:
            assert time.monotonic() < deadline_at, self.shown
            if select.select([self._fd], [], [], 1.0)[0]:
                self.shown += os.read(self._fd, 65536)

    def status(self):
        while True:
            try:
                found = os.read(self._fd, 65536)
            except OSError:
                break
            if not found:
                break
            self.shown += found
        os.close(self._fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.mark.slow
def test_on_a_terminal_a_run_is_shown_until_one_leaves_or_it_ends(job):
    name, _ = job.wait_held()
    left, interrupted, ended, last = terminals = [Terminal() for _ in range(4)]
    for terminal in terminals:
        terminal.wait_shown(b"hold: item 3")
    left.type(b"xq")
    interrupted.type(b"\x03")
    for terminal in (left, interrupted):
        assert terminal.status() == 0
        assert terminal.shown.rstrip().endswith(b"\x1b[?1049lmpengine: run " + name.encode() + b" goes on")
    os.kill(ended.pid, signal.SIGTERM)
    assert ended.status() == 143
    assert b"\x1b[?1049l" in ended.shown
    job.go_on()
    assert last.status() == 0
    assert last.shown.rstrip().endswith(f"run {name} has ended: finished".encode())
    assert job.outcome() == WHOLE


# ---------------------------------------------------------------------- nothing to look at


def put(**changes):
    own = ProcessIdentity.of(os.getpid())
    values = {
        "run_id": "", "pid": own.pid, "start": own.start, "machine": machine_mark(), "command": "/bin/python job.py",
        "folder": "here", "stages": ("parse",), "workers": 2, "total": None, "fans_out": False, "interval_s": 0.5,
        "began_at": 1000.0, "address": "\0nowhere", "authkey": b"key", "version": "0",
    }  # fmt: skip
    listing = Listing(RunEntry(**{**values, **changes}))
    listing.note(RunFigures(state="running", noted_at=time.time()))
    return listing


def test_a_run_is_told_of_in_few_lines_whose_command_begins_with_what_runs(command, listed):
    started = "/a/bin/python -m mpengine run jobs:pipeline --output out.jsonl --journal job.db " + "x" * 99
    listing = put(command=started, stages=("load", "check", "digest"))
    _, out, _ = command("ps")
    listing.end()
    _, _, first, *more = (line for line in out.splitlines() if line.strip())
    assert listing.run_id in first
    assert "mpengine run" in first
    assert "jobs:pipeline" in out
    assert "python" not in out
    assert len(more) <= 4


@pytest.mark.parametrize("args", [("top",), ("stack",), ("top", "kd4q"), ("stack", "kd4q"), ("cancel", "kd4q")])
def test_where_there_is_no_such_run_one_line_says_so(args, command, listed):
    status, out, err = command(*args)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "no run" in err
    assert command("ps")[::2] == (0, "mpengine: no run goes on that has lasted long enough to be listed\n")


def test_where_several_runs_could_be_meant_they_are_shown(command, listed):
    listings = [put(stages=("one",)), put(stages=("[two]",))]
    status, out, err = command("top")
    for listing in listings:
        listing.end()
    assert (status, out) == (2, "")
    assert all(text in err for text in (listings[0].run_id, "[two]", "there is more than one run; name one of these"))


def test_a_run_without_a_board_is_told_to_be_silent(command, listed):
    listing = put()
    told = f"mpengine: run {listing.run_id} does not answer: ConnectionRefusedError\n"
    assert command("top") == (1, "", told)
    assert command("cancel", listing.run_id) == (1, "", told)
    listing.note(RunFigures(state="running", noted_at=time.time() - 100))
    assert "silent" in command("ps")[1]
    with attach(find_run()) as watch:
        listing.end(RunFigures(state="finished", reason="enough", has_ended=True))
        with pytest.raises(GoneError):
            watch.look()
        assert watch.noted().reason == "enough"
