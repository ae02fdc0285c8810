import fcntl
import os
import signal
import threading
import traceback

import pytest

from mpengine.worker import lifeline


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            continue


def in_child(action, write_fd):
    """Fork; run `action` in the child, which has no write end, then wait there for ever."""
    ready_r, ready_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(write_fd)
            os.write(ready_w, str(action()).encode())
            while True:
                signal.pause()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(99)
    os.close(ready_w)
    word = os.read(ready_r, 100).decode()
    os.close(ready_r)
    return pid, word


def exit_code(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_the_kernel_kills_the_owner_when_the_write_end_closes(pipe):
    pid, word = in_child(lambda: lifeline.arm(pipe[0]), pipe[1])
    assert word == "sigio"
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    os.close(pipe[1])
    assert exit_code(pid) == -signal.SIGKILL


def test_a_writer_that_is_gone_already_kills_at_once_l3(pipe):
    os.close(pipe[1])
    pid = os.fork()
    if pid == 0:
        lifeline.arm(pipe[0])
        os._exit(99)
    assert exit_code(pid) == -signal.SIGKILL


def test_a_disarmed_lifeline_kills_nobody(pipe):
    def disarm():
        lifeline.arm(pipe[0])
        lifeline.disarm(pipe[0])

    pid, _ = in_child(disarm, pipe[1])
    os.close(pipe[1])
    assert lifeline.is_broken(pipe[0])
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    os.kill(pid, signal.SIGTERM)
    assert exit_code(pid) == -signal.SIGTERM


def refuse(*_):
    raise OSError(22, "Invalid argument")


@pytest.mark.parametrize(
    "lacking",
    [
        lambda patch: patch.delattr(fcntl, "F_SETSIG"),
        lambda patch: patch.setattr(fcntl, "fcntl", refuse),
    ],
    ids=["missing", "refused"],
)
def test_where_the_kernel_does_not_do_it_a_thread_does_l4(pipe, monkeypatch, lacking):
    lacking(monkeypatch)
    pid, word = in_child(lambda: lifeline.arm(pipe[0]), pipe[1])
    assert word == "thread"
    os.close(pipe[1])
    assert exit_code(pid) == -signal.SIGKILL


def test_arming_by_signal_starts_no_thread(pipe):
    pid, word = in_child(lambda: (lifeline.arm(pipe[0]), threading.active_count())[1], pipe[1])
    assert word == str(threading.active_count())
    os.kill(pid, signal.SIGTERM)
    exit_code(pid)
