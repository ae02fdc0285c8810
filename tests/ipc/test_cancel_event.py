"""The cancel event: a multiprocessing.Event to whoever looks, with nothing in it that a killed process could hold."""

import multiprocessing
import multiprocessing.synchronize
import os
import pickle
import select
import signal
import threading

import pytest

from mpengine.cancelevent import CancelEvent
from mpengine.cancellation import bind_flag, cancelled


@pytest.fixture
def event():
    made = CancelEvent(bytearray(8), 3)
    yield made
    made.close()


def test_it_is_a_multiprocessing_event(event):
    assert isinstance(event, multiprocessing.synchronize.Event)
    assert not event.is_set()
    event.set()
    event.set()
    assert event.is_set()
    assert event.wait(0)
    assert "set" in repr(event)
    event.clear()
    assert not event.is_set()
    assert not event.wait(0)
    assert "unset" in repr(event)


def test_it_can_be_set_again_after_a_clear(event):
    for _ in range(3):
        event.set()
        assert select.select([event.fileno()], [], [], 0)[0]
        event.clear()
        assert not select.select([event.fileno()], [], [], 0)[0]


def test_waiters_are_woken_all_of_them(event):
    woken = []
    threads = [threading.Thread(target=lambda: woken.append(event.wait(20))) for _ in range(4)]
    for thread in threads:
        thread.start()
    event.set()
    for thread in threads:
        thread.join()
    assert woken == [True] * 4


@pytest.mark.parametrize("waiters", [1, 3])
def test_set_never_waits_for_a_killed_waiter(waiters):
    """multiprocessing's own event blocks here for ever (cpython#75158)."""
    import mmap

    memory = mmap.mmap(-1, 4096)
    event = CancelEvent(memory, 0)
    up_r, up_w = os.pipe()
    pids = []
    for _ in range(waiters):
        pid = os.fork()
        if pid == 0:
            os.write(up_w, b"u")
            event.wait()
            os._exit(0)
        pids.append(pid)
    for _ in pids:
        assert os.read(up_r, 1)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    done = threading.Thread(target=event.set, daemon=True)
    done.start()
    done.join(10)
    assert not done.is_alive()
    assert event.is_set()
    event.close()
    memory.close()
    os.close(up_r)
    os.close(up_w)


def test_another_process_is_woken_and_sees_the_flag():
    import mmap

    memory = mmap.mmap(-1, 4096)
    event = CancelEvent(memory, 0)
    pid = os.fork()
    if pid == 0:
        looking = CancelEvent(memory, 0, read_fd=event.fileno())
        os._exit(7 if looking.wait(20) and looking.is_set() else 1)
    event.set()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    event.close()
    memory.close()


def test_who_only_looks_cannot_set_or_clear(event):
    looking = CancelEvent(event._buffer, 3, read_fd=os.dup(event.fileno()))
    for attempt in (looking.set, looking.clear):
        with pytest.raises(RuntimeError):
            attempt()
    event.set()
    assert looking.is_set()
    looking.close()


def test_a_signal_handler_may_set_what_is_being_looked_at(event):
    """cpython#126434: with multiprocessing's own event, a handler's set() may wait for the is_set() it interrupted."""
    before = signal.signal(signal.SIGUSR1, lambda *_: event.set())
    try:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        assert event.wait(20)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_it_does_not_pickle(event):
    with pytest.raises(TypeError, match="cancelled"):
        pickle.dumps(event)


def test_closed_it_says_set_and_closes_twice():
    event = CancelEvent(bytearray(1), 0)
    event.close()
    event.close()
    assert event.is_set()


def test_cancelled_looks_at_the_bound_flag(event):
    assert cancelled() is False
    bind_flag(event)
    try:
        assert cancelled() is False
        event.set()
        assert cancelled() is True
    finally:
        bind_flag(None)
    assert cancelled() is False
