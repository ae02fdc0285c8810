"""Where a worker is, asked from outside: asleep, in C code, stopped, not up yet, not a worker at all."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mpengine.ipc.stackfile import FRAMES, THREADS, name_for
from mpengine.processes import stacks
from mpengine.processes.stacks import Frame, SilentError, ask_stack, is_worker, parse

PATIENCE_S = 20.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

PROGRAM = """
import ctypes, fcntl, os, signal, sys, threading
from mpengine.ipc import stackfile

def tell(text):
    os.write(1, text.encode() + b"\\n")

def sleeps():
    tell("ready")
    return os.read(0, 1)

def in_c_code():
    libc, byte = ctypes.PyDLL(None), ctypes.create_string_buffer(1)  # PyDLL: the interpreter's lock is held meanwhile
    tell("ready")
    libc.read(0, byte, 1)
    return byte.raw

def with_threads():
    gate = threading.Event()

    def other():
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # as the threads of many libraries do
        gate.set()
        threading.Event().wait()

    threading.Thread(target=other, daemon=True).start()
    gate.wait()
    return sleeps()

def forked():
    pid = os.fork()
    if pid == 0:
        os.close(1)
        os.read(0, 1)
        os._exit(0)
    tell(str(pid))
    return sleeps()

def not_up():
    return sleeps()

def closed():
    for number in range(3, 50):
        try:
            os.close(number)
        except OSError:
            pass
    return sleeps()

def not_caught():
    signal.signal(stackfile.FRAMES, signal.SIG_DFL)
    return sleeps()

if sys.argv[1] != "not_up":
    stackfile.open_stack_file()
tell(f"got {globals()[sys.argv[1]]()}")
"""


class Program:
    """A process that is where it was told to be, until it is let go on."""

    def __init__(self, where, path):
        self.process = subprocess.Popen(
            [sys.executable, str(path), where], env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.lines = []
        while not self.lines or self.lines[-1] != "ready":
            self.lines.append(self.process.stdout.readline().decode().strip())
            assert self.lines[-1], self.lines
        self.pid = self.process.pid

    def go_on(self):
        out, _ = self.process.communicate(b"x", PATIENCE_S)
        return self.process.returncode, out


@pytest.fixture
def start(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    started = []

    def start_one(where):
        started.append(Program(where, path))
        return started[-1]

    yield start_one
    for program in started:
        program.process.kill()
        program.process.communicate()


def functions(stack):
    return [frame.name for frame in stack.frames]


def wait_for(program, where):
    """Wait until a program that has just said that it is ready is where it was going."""
    while True:
        (stack,) = ask_stack(program.pid, timeout_s=PATIENCE_S)
        if where in functions(stack):
            return stack


@pytest.mark.slow
@pytest.mark.parametrize("where", ["sleeps", "in_c_code"])
def test_a_worker_tells_where_it_is_and_goes_on_as_if_nothing_had_been(where, start):
    program = start(where)
    for _ in range(20):
        assert functions(wait_for(program, where))[-1] == "<module>"
    assert program.go_on() == (0, b"got b'x'\n")


@pytest.mark.slow
def test_q3_a_thread_that_lets_no_signal_through_is_no_reason_to_wait(start):
    program = start("with_threads")
    assert functions(wait_for(program, "sleeps"))[-2:] == ["with_threads", "<module>"]
    found = ask_stack(program.pid, threads=True, timeout_s=PATIENCE_S)
    assert {name for stack in found for name in functions(stack)} >= {"other", "with_threads"}
    assert [stack.which.startswith("Current thread") for stack in found].count(True) == 1
    assert program.go_on()[0] == 0


@pytest.mark.slow
def test_q2_a_worker_that_is_not_up_yet_is_not_ended_by_being_asked(start):
    program = start("not_up")
    with pytest.raises(SilentError, match="is not up yet, or no worker"):
        ask_stack(program.pid)
    assert not is_worker(program.pid)
    assert program.go_on() == (0, b"got b'x'\n")


@pytest.mark.slow
@pytest.mark.parametrize(("where", "why"), [("not_caught", "is not up yet"), ("closed", "is not up yet, or no worker")])
def test_q2_a_worker_whose_user_code_has_taken_the_means_away_is_not_asked(where, why, start):
    program = start(where)
    with pytest.raises(SilentError, match=why):
        ask_stack(program.pid)
    assert program.go_on() == (0, b"got b'x'\n")


@pytest.mark.slow
def test_q2_a_child_that_a_worker_has_forked_is_none(start):
    program = start("forked")
    child = int(program.lines[0])
    assert is_worker(program.pid)
    assert not is_worker(child)
    with pytest.raises(SilentError, match="no worker"):
        ask_stack(child)
    os.kill(child, signal.SIGKILL)


@pytest.mark.slow
def test_a_worker_that_is_stopped_is_not_waited_for_and_answers_the_next_one_when_it_goes_on(start, monkeypatch):
    program = start("sleeps")
    os.kill(program.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, program.pid, os.WSTOPPED | os.WNOWAIT)
    with pytest.raises(SilentError, match="is stopped"):
        ask_stack(program.pid)
    with monkeypatch.context() as patch:
        patch.setattr(stacks, "state_of", lambda pid: "S")  # as if it were stopped a moment later
        with pytest.raises(SilentError, match="does not answer"):
            ask_stack(program.pid, timeout_s=0.01)
    os.kill(program.pid, signal.SIGCONT)
    assert wait_for(program, "sleeps")
    assert program.go_on() == (0, b"got b'x'\n")


@pytest.mark.slow
def test_q4_two_who_ask_at_once_take_turns(start):
    program = start("sleeps")
    fd = stacks._open_file(program.pid)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(SilentError, match="is being looked at by another"):
            ask_stack(program.pid, timeout_s=0.01)
    finally:
        os.close(fd)  # whoever is killed lets go of it like this
    assert wait_for(program, "sleeps")


def test_a_process_that_has_gone_has_gone():
    process = subprocess.Popen(["true"])
    process.wait(PATIENCE_S)
    with pytest.raises(SilentError, match="has gone"):
        ask_stack(process.pid)
    assert not is_worker(process.pid)


def test_the_signals_are_apart_and_the_file_is_named_for_its_process():
    assert signal.SIGRTMIN < THREADS < FRAMES < signal.SIGRTMAX - 2
    assert name_for(12, 7) == "mpengine-stack-12-7"


def test_what_faulthandler_writes_is_read_and_what_it_does_not_write_is_left_away():
    text = (
        'Thread 0x0001 (most recent call first):\n  File "/a b.py", line 3 in inner\n  ...\n\n'
        'Current thread 0x0002 (most recent call first):\n  Garbage-collecting\n  File "/c.py", line ??? in <module>\n'
    )
    first, second = parse(text)
    assert (first.which, first.frames) == ("Thread 0x0001", (Frame("/a b.py", "3", "inner"),))
    assert (second.which, second.frames) == ("Current thread 0x0002", (Frame("/c.py", "???", "<module>"),))
    assert parse('nonsense\n  File "/a.py", line 1 in f\n') == ()
    assert parse("") == ()
