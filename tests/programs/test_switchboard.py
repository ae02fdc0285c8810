"""Who may start, what is to end, and files that are handed over: wires of this very process."""

from __future__ import annotations

import os
import queue
import select
import socket
import threading

import pytest

from mpengine.programs import switchboard as module
from mpengine.programs.switchboard import Rules, Switchboard
from mpengine.programs.wires import Address, Wire

NEVER = -1


class Memory:
    """How much is free, as a test says; tells when somebody has looked."""

    def __init__(self, free):
        self.free = free
        self.looks = threading.Semaphore(0)

    def __call__(self):
        self.looks.release()
        return self.free


@pytest.fixture
def serve():
    """Start switchboards; they and their wires are closed in the end."""
    opened = []

    def start(**rules):
        told = queue.Queue()
        board = Switchboard(Rules(**rules), told.put)
        board.__enter__()
        opened.append(lambda: board.__exit__(None, None, None))
        board.told = told
        return board

    def wire(board):
        made = Wire(board.address)
        opened.append(made.close)
        return made

    start.wire = wire
    yield start
    for close in reversed(opened):
        close()


def wait_for_word(wire):
    """Wait until something was said on a wire, and hear it."""
    assert select.select([wire], [], [], 20)[0]
    wire.hear()


class Asking(threading.Thread):
    """Asks whether it may start."""

    def __init__(self, wire, cancel_fd=NEVER):
        super().__init__()
        self._wire = wire
        self._cancel_fd = cancel_fd
        self.answer = None
        self.start()

    def run(self):
        self.answer = self._wire.may_start(self._cancel_fd)

    def result(self):
        self.join(20)
        return self.answer


def test_with_nothing_to_wait_for_a_job_may_start_at_once(serve):
    assert serve.wire(serve()).may_start(NEVER)


def test_starts_are_apart_whoever_asks(serve):
    board = serve(delay_s=50.0)
    first, second = serve.wire(board), serve.wire(board)

    assert first.may_start(NEVER)
    asking = Asking(second)
    board.stop()  # it would wait for 50 seconds

    assert asking.result() is False
    assert second.is_stopped


def test_the_next_start_comes_when_the_delay_is_over(serve):
    board = serve(delay_s=0.05)
    first, second = serve.wire(board), serve.wire(board)
    began = module.time.monotonic()

    assert first.may_start(NEVER)
    assert second.may_start(NEVER)
    assert module.time.monotonic() - began >= 0.05


def test_a_worker_that_dies_takes_its_question_along(serve):
    memory = Memory(0)
    board = serve(memfree=100, free_bytes=memory)
    dead, other = serve.wire(board), serve.wire(board)
    dead._say(b"?")
    memory.looks.acquire(timeout=20)
    dead.close()
    memory.free = 1000

    assert other.may_start(NEVER)


def test_nothing_starts_while_too_little_memory_is_free(serve):
    memory = Memory(99)
    board = serve(memfree=100, free_bytes=memory)
    asking = Asking(serve.wire(board))
    for _ in range(2):
        assert memory.looks.acquire(timeout=20)
    assert asking.is_alive()
    assert "no job starts until others have given some back" in board.told.get(timeout=20)
    assert board.told.empty()

    memory.free = 100

    assert asking.result() is True


def test_the_youngest_job_is_ended_when_less_than_half_is_free_and_the_last_one_never(serve, monkeypatch):
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    memory = Memory(100)
    board = serve(memfree=100, free_bytes=memory)
    oldest, youngest = serve.wire(board), serve.wire(board)
    assert oldest.may_start(NEVER)
    assert youngest.may_start(NEVER)

    memory.free = 49
    wait_for_word(youngest)

    assert youngest.is_to_end
    assert "less than half of --memfree" in board.told.get(timeout=20)
    while memory.looks.acquire(blocking=False):
        pass
    for _ in range(3):
        assert memory.looks.acquire(timeout=20)
    oldest.hear()
    assert not oldest.is_to_end


def test_what_the_others_took_is_a_limit_for_all_that_run_and_for_those_that_come_late(serve):
    board = serve(share=3.0)
    wire = serve.wire(board)
    for runtime_s in (1.0, 5.0):
        board.learn(runtime_s)
    wire.hear()
    assert wire.limit_s == 0

    board.learn(2.0)
    wait_for_word(wire)
    late = serve.wire(board)
    wait_for_word(late)

    assert (wire.limit_s, late.limit_s) == (6.0, 6.0)


def test_who_does_not_listen_keeps_nobody_waiting_and_is_told_in_the_end(serve):
    board = serve(share=1.0)
    deaf, other = serve.wire(board), serve.wire(board)
    assert deaf.may_start(NEVER)
    for number in range(2000):  # far more than a socket keeps
        board.learn(float(1 + number % 3))
        board._leave_word(limit_s=float(number + 1))
        assert other.may_start(NEVER)
    board.stop()

    while not deaf.is_stopped:
        wait_for_word(deaf)

    assert deaf.limit_s == 2000


def test_the_median_is_that_of_the_last_jobs(serve, monkeypatch):
    monkeypatch.setattr(module, "KEPT", 3)
    board = serve(share=1.0)
    for runtime_s in (9.0, 9.0, 9.0, 1.0, 2.0, 3.0):
        board.learn(runtime_s)
    wire = serve.wire(board)

    wait_for_word(wire)

    assert wire.limit_s == 2.0


def test_a_cancelled_run_ends_the_wait_for_a_start(serve):
    reading, writing = os.pipe()
    asking = Asking(serve.wire(serve(memfree=1)), reading)

    os.write(writing, b"!")

    assert asking.result() is False
    os.close(reading)
    os.close(writing)


def test_a_file_is_there_before_anybody_can_be_told_of_it_and_the_later_one_counts(serve, tmp_path):
    board = serve()
    wire = serve.wire(board)
    for text in ("first", "second"):
        (tmp_path / text).write_text(text)
        with (tmp_path / text).open("rb") as file:
            wire.hand_over(7, [(1, file.fileno())])
    assert wire.may_start(NEVER)  # by then both have arrived

    fd = board.take_file(7, 1)

    assert os.pread(fd, 100, 0) == b"second"
    os.close(fd)
    with (tmp_path / "first").open("rb") as file:
        wire.hand_over(8, [(2, file.fileno())])  # nobody takes it: the fixtures see whether it is closed
    assert wire.may_start(NEVER)
    assert board.held_files == 1


def test_who_does_not_know_the_token_is_hung_up_on(serve):
    board = serve()

    stranger = Wire(Address(board.address.name, b"x" * 16))
    stranger._say(b"?")
    wait_for_word(stranger)

    assert stranger.is_stopped
    stranger.close()


def test_a_switchboard_that_has_gone_stops_its_workers():
    with Switchboard(Rules()) as board:
        wire = Wire(board.address)
        assert wire.may_start(NEVER)

    assert wire.may_start(NEVER) is False
    wire.close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as late, pytest.raises(OSError, match="refused"):
        late.connect(board.address.name)
