"""A worker's outbox: whatever comes in between, the reader gets whole messages (O1 to O4)."""

import os
import threading

import pytest

from mpengine.ipc import messages
from mpengine.ipc.mpqueue import MPQueue
from mpengine.worker import outbox as module
from mpengine.worker.outbox import Outbox

PATIENCE_S = 10.0


def record(text):
    return messages.Logged("x", 20, "INFO", text, None, None, "", 0, None, 0.0, 0, "", 0, "", None, ())


def told(message):
    return message.message if isinstance(message, messages.Logged) else message.batches


class Pipe:
    def __init__(self):
        self.queue = MPQueue.pipe()
        self.outbox = Outbox(self.queue)

    def read(self):
        """What has arrived, to the end."""
        self.queue.close_writer()
        found = []
        while True:
            try:
                found.append(told(self.queue.get()))
            except EOFError:
                return found


@pytest.fixture
def pipe():
    made = Pipe()
    yield made
    made.queue.close()


@pytest.fixture
def in_thread():
    def call(function):
        thread = threading.Thread(target=function)
        thread.start()
        thread.join(PATIENCE_S)

    return call


def test_the_main_threads_records_are_sent_at_once(pipe):
    pipe.outbox.put_record(record("a"))

    assert not pipe.outbox._waiting
    assert pipe.read() == ["a"]


def test_another_threads_record_waits_for_the_main_thread(pipe, in_thread):
    in_thread(lambda: pipe.outbox.put_record(record("a")))
    assert len(pipe.outbox._waiting) == 1

    pipe.outbox.put(messages.Goodbye(1))

    assert pipe.read() == ["a", 1]


def test_records_that_wait_are_sent_in_order_before_the_main_threads_own(pipe, in_thread):
    in_thread(lambda: [pipe.outbox.put_record(record(text)) for text in "ab"])
    pipe.outbox.put_record(record("c"))

    assert pipe.read() == ["a", "b", "c"]


def test_what_waits_is_bounded_and_the_oldest_go(pipe, in_thread, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    in_thread(lambda: [pipe.outbox.put_record(record(text)) for text in "abcd"])
    pipe.outbox.send_records()

    assert pipe.outbox.dropped == 2
    assert pipe.read() == ["c", "d"]


def test_a_record_logged_while_a_message_is_half_written_goes_out_behind_it(pipe, monkeypatch):
    """As by a signal handler of the main thread: it comes in between two calls that write."""
    writev = os.writev

    def write_a_part(fd, buffers):
        monkeypatch.setattr(os, "writev", writev)
        written = os.write(fd, bytes(buffers[0])[:5])
        pipe.outbox.put_record(record("from a handler"))
        return written

    monkeypatch.setattr(os, "writev", write_a_part)
    pipe.outbox.put(messages.Goodbye(1))

    assert pipe.read() == [1, "from a handler"]


def test_a_record_logged_while_a_record_is_half_written_goes_out_behind_it(pipe, monkeypatch):
    write = os.write

    def write_a_part(fd, content):
        monkeypatch.setattr(os, "write", write)
        written = write(fd, content[:5])
        pipe.outbox.put_record(record("from a handler"))
        return written

    monkeypatch.setattr(os, "write", write_a_part)
    pipe.outbox.put_record(record("a"))

    assert pipe.read() == ["a", "from a handler"]


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_record_that_an_exception_interrupts_is_finished_by_whoever_comes_next(pipe, monkeypatch, parts):
    """A signal handler that raises (a time limit of the user's) must not leave half a record in the pipe."""
    write = os.write
    calls = []

    def write_a_part(fd, content):
        calls.append(fd)
        if len(calls) == parts + 1:
            raise TimeoutError
        return write(fd, content[:5])

    monkeypatch.setattr(os, "write", write_a_part)
    with pytest.raises(TimeoutError):
        pipe.outbox.put_record(record("a"))
    monkeypatch.setattr(os, "write", write)
    pipe.outbox.put(messages.Goodbye(1))

    assert pipe.read() == ["a", 1]


class InterruptingList(list):
    """Raises right behind the call that has written and noted: the last moment at which a handler may come in."""

    def extend(self, more):
        super().extend(more)
        raise TimeoutError


def test_what_was_written_is_noted_by_the_call_that_writes(pipe):
    frame = memoryview(b"".join(map(bytes, messages.encode(record("a")))))
    pipe.outbox._half = (frame, InterruptingList())
    with pytest.raises(TimeoutError):
        pipe.outbox.send_records()
    pipe.outbox.put(messages.Goodbye(1))

    assert pipe.read() == ["a", 1]


def test_nothing_is_written_behind_half_a_message_of_a_main_loop_that_has_ended(pipe, monkeypatch):
    """Else the reader could take a record's bytes for the rest of somebody's result."""

    def fail(*_):
        raise TimeoutError

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", fail)
        with pytest.raises(TimeoutError):
            pipe.outbox.put(messages.Goodbye(1))
    pipe.outbox.put_record(record("a"))

    assert pipe.read() == []


def test_an_outbox_that_an_exception_has_left_busy_works_on(pipe):
    pipe.outbox._busy = True
    pipe.outbox.put_record(record("a"))
    pipe.outbox.put(messages.Goodbye(1))

    assert pipe.read() == ["a", 1]
