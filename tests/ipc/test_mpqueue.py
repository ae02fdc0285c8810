"""The queue over a pipe: whole messages in order, whatever the pipe takes at a time, and pills that get through."""

import mmap
import os
import queue
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpengine.ipc import mpqueue
from mpengine.ipc.messages import BeginRun, EndRun, Hello, Pill, ProtocolError, ResumeBatch, RunBatch, encode
from mpengine.ipc.mpqueue import MPQueue


@pytest.fixture
def pipe():
    made = MPQueue.pipe(maxsize=2)
    os.set_blocking(made.writer_fd, False)
    os.set_blocking(made.reader_fd, False)
    yield made
    made.close()


def batch(number, payload=b""):
    return RunBatch(number, 0, 0, 1, 0, False, 1, 1, (0, 0), (), [payload])


def drained(pipe):
    """Read and flush until nothing moves any more."""
    messages = []
    while True:
        try:
            messages += pipe.receive()
        except BlockingIOError:
            if pipe.is_flushed:
                return messages
            pipe.flush()


def described(messages):
    return [(type(m).__name__, *(bytes(p) for p in getattr(m, "payloads", ()))) for m in messages]


def test_messages_arrive_in_order(pipe):
    for number in range(1000):
        pipe.put_nowait(Hello(number))
    assert [message.pid for message in drained(pipe)] == list(range(1000))


def test_a_message_larger_than_the_pipe_arrives_whole(pipe):
    payload = os.urandom(3 * mpqueue.PIPE_BYTES + 17)
    pipe.put_nowait(batch(1, payload), asks=True)
    pipe.put_nowait(EndRun(1))
    assert not pipe.is_flushed
    assert described(drained(pipe)) == [("RunBatch", payload), ("EndRun",)]


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=8), st.integers(1, 700), st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_messages_survive_writes_and_reads_of_any_size(sizes, written, read):
    pipe = MPQueue.pipe()
    os.set_blocking(pipe.reader_fd, False)
    sent = [batch(number, bytes([number]) * size) for number, size in enumerate(sizes)]
    content = b"".join(bytes(buffer) for message in sent for buffer in encode(message))
    arrived = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(mpqueue, "READ_BYTES", read)
        for start in range(0, len(content), written):
            os.write(pipe.writer_fd, content[start : start + written])
            while True:
                try:
                    arrived += pipe.receive()
                except BlockingIOError:
                    break
    pipe.close()
    assert described(arrived) == described(sent)
    assert [message.batch_id for message in arrived] == list(range(len(sent)))


def test_short_writes_lose_nothing(pipe, monkeypatch):
    writev = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, buffers: writev(fd, [memoryview(buffers[0])[:7]]))
    pipe.put_nowait(batch(1, b"a" * 50))
    pipe.put_nowait(Pill())
    assert described(drained(pipe)) == [("RunBatch", b"a" * 50), ("Pill",)]


def test_more_unanswered_requests_than_fit_are_refused(pipe):
    pipe.put_nowait(batch(1), asks=True)
    pipe.put_nowait(ResumeBatch(1, 1, 1), asks=True)
    with pytest.raises(queue.Full):
        pipe.put_nowait(batch(3), asks=True)
    pipe.put_nowait(EndRun(1))
    pipe.answered()
    pipe.put_nowait(batch(4), asks=True)
    assert [type(message).__name__ for message in drained(pipe)] == ["RunBatch", "ResumeBatch", "EndRun", "RunBatch"]


def test_a_pill_passes_a_full_queue_and_what_was_begun_is_finished(pipe):
    begun, waiting = os.urandom(2 * mpqueue.PIPE_BYTES), os.urandom(3 * mpqueue.PIPE_BYTES)
    pipe.put_nowait(batch(1, begun), asks=True)
    pipe.put_nowait(batch(2, waiting), asks=True)
    pipe.put_pill(at_once=True)
    assert described(drained(pipe)) == [("RunBatch", begun), ("Pill",)]


def test_a_pill_at_once_waits_for_nothing_when_nothing_is_begun(pipe, monkeypatch):
    with monkeypatch.context() as stuck:
        stuck.setattr(os, "writev", _refuse)
        pipe.put_nowait(batch(1, b"never sent"))
        pipe.put_pill(at_once=True)
    assert described(drained(pipe)) == [("Pill",)]


def _refuse(fd, buffers):
    raise BlockingIOError


def test_a_patient_pill_comes_last(pipe):
    payload = os.urandom(2 * mpqueue.PIPE_BYTES)
    pipe.put_nowait(batch(1, payload))
    pipe.put_nowait(batch(2, b"b"))
    pipe.put_pill()
    assert described(drained(pipe)) == [("RunBatch", payload), ("RunBatch", b"b"), ("Pill",)]


def test_the_end_of_the_writer_is_the_end_of_the_file(pipe):
    pipe.put_nowait(Hello(1))
    pipe.close_writer()
    assert pipe.get() == Hello(1)
    with pytest.raises(EOFError):
        pipe.get()


def test_a_writer_that_dies_in_the_middle_of_a_large_message_is_an_end(pipe):
    head, payload = encode(batch(1, bytes(mpqueue.READ_BYTES * 2)))
    os.write(pipe.writer_fd, bytes(head) + payload[:1000])
    pipe.close_writer()
    assert pipe.receive() == []
    with pytest.raises(EOFError):
        pipe.receive()


def test_a_reader_that_is_gone_stops_nobody(pipe):
    pipe.close_reader()
    pipe.put_nowait(batch(1, bytes(mpqueue.PIPE_BYTES * 2)))
    pipe.put_pill(at_once=True)
    assert pipe.is_flushed


def test_garbage_is_told(pipe):
    os.write(pipe.writer_fd, b"what is this, then?")
    with pytest.raises(ProtocolError):
        pipe.receive()


def test_blocking_ends_wait_for_each_other():
    pipe = MPQueue.pipe()
    payloads = [os.urandom(500_000) for _ in range(6)]
    writer = threading.Thread(target=lambda: [pipe.put(batch(n, p)) for n, p in enumerate(payloads)])
    writer.start()
    assert [bytes(pipe.get().payloads[0]) for _ in payloads] == payloads
    writer.join()
    pipe.close()
    pipe.close()


def test_a_payload_of_more_than_two_gigabytes_passes_whole(monkeypatch):
    """The kernel moves 2 GiB less a page in one call at most; here nothing is moved, which takes no memory and time."""
    size, most = 2**31 + 2**20, 0x7FFFF000
    sent, received, head = [], [], bytearray()

    def writev(fd, buffers):
        if not sent:
            head.extend(buffers[0])  # with the sizes; what follows it are zeros
        sent.append(min(sum(buffer.nbytes for buffer in buffers), most))
        return sent[-1]

    def read(fd, count):
        received.append(count)
        return bytes(head) + bytes(count - len(head))

    def readv(fd, buffers):
        received.append(min(buffers[0].nbytes, most))
        return received[-1]

    monkeypatch.setattr(os, "writev", writev)
    monkeypatch.setattr(os, "read", read)
    monkeypatch.setattr(os, "readv", readv)
    monkeypatch.setattr(mpqueue, "bytearray", lambda count: mmap.mmap(-1, count), raising=False)  # else all is zeroed
    with mmap.mmap(-1, size) as content, memoryview(content) as payload:
        MPQueue(writer_fd=1).put(BeginRun(1, False, (), [payload]))
    message = MPQueue(reader_fd=1).get()
    assert [len(payload) for payload in message.payloads] == [size]
    assert sum(sent) == sum(received) == size + len(head)
    assert len(sent) == 2
    assert len(received) == 3
