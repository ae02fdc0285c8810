"""The parent's side of the wires: who may start now, what is to end, and files that are handed over.

S1. One thread, the switchboard's own, reads and writes the wires.  Others leave word under its lock, and wake it.
S2. Starts are at least ``delay_s`` apart.  While less than ``memfree`` bytes are free nothing starts, and while less
    than half of that are, the job that began last is ended, to be run again later; the last one that runs never is.
S3. Where the time that a job may take is a share of the others', it is that of the median of the last ``KEPT`` that did
    well, once there are ``FEW`` of them; jobs that run already are told.
S4. A worker that dies takes its wire along, and with it its question, or its place among those that run.
S5. A file that is handed over has no name.  It is there before the outcome that tells of it: the same worker sends the
    file first.  What nobody takes is closed in the end.
S6. A worker that does not listen, since it is stopped or has nothing to do, keeps nobody waiting: what it could not be
    told is told once it listens again, as it is then.
"""

from __future__ import annotations

import array
import bisect
import contextlib
import os
import selectors
import socket
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Self

from mpengine.programs.wires import (
    ASK,
    DONE,
    END,
    FILE,
    FILE_FIELDS,
    GO,
    LIMIT,
    LIMIT_FIELDS,
    MESSAGE_BYTES,
    STOP,
    Address,
)
from mpengine.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LOOK_S = 0.25
KEPT = 1000
FEW = 3
WORTH_TELLING = 0.02
"""A limit that has changed by less than this share stays: each word wakes every worker."""
_TOKEN_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """When jobs may start, and how long they may take.

    Attributes:
        delay_s: seconds from one start to the next.
        memfree: bytes that have to be free for a start; 0: any.
        share: how long a job may take, as a share of the median; 0: any time.
        free_bytes: tells how many bytes are free.
    """

    delay_s: float = 0.0
    memfree: int = 0
    share: float = 0.0
    free_bytes: Callable[[], int] = lambda: 0

    @property
    def ask_first(self) -> bool:
        """Whether a worker has to ask before it starts anything."""
        return bool(self.delay_s or self.memfree)


@dataclass(slots=True, eq=False)
class _Line:
    socket: socket.socket
    is_known: bool = False
    asks: bool = False
    began: float | None = None


def _descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> array.array[int]:
    """Return the descriptors that came with a message."""
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content)
    return fds


class Switchboard:
    """Serves while entered.

    Args:
        rules: see ``Rules``.
        say: told in words of jobs that it has ended.
    """

    def __init__(self, rules: Rules, say: Callable[[str], object] = lambda _: None) -> None:
        """Listen, but serve nobody yet."""
        self._rules = rules
        self._tell = say
        self._lock = threading.Condition()
        self._files: dict[tuple[int, int], int] = {}  # under the lock, like the three below
        self._is_stopped = False
        self._is_over = False
        self._limit_s = 0.0
        self._kept: deque[float] = deque()
        self._sorted: list[float] = []
        self._lines: dict[int, _Line] = {}
        self._asking: deque[_Line] = deque()
        self._start_at = 0.0
        self._look_at = 0.0
        self._told_stop = False
        self._told_waiting = False
        self._told_limit_s = 0.0
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        name = b"\0mpengine-" + os.urandom(_TOKEN_BYTES).hex().encode()  # "secrets" is a slow import
        self.address = Address(name, os.urandom(_TOKEN_BYTES))
        try:
            self._listener.bind(name)
            self._listener.listen(512)
            self._wake_fd, self._waking_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            self._listener.close()
            raise
        self._selector = selectors.PollSelector()
        self._thread = threading.Thread(target=self._serve, name="mpengine-switchboard", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave_word(is_over=True)
        self._thread.join()
        self._selector.close()
        self._listener.close()
        for line in self._lines.values():
            line.socket.close()
        for fd in (self._wake_fd, self._waking_fd, *self._files.values()):
            os.close(fd)
        self._files.clear()

    # ------------------------------------------------------------------ from any thread

    @property
    def held_files(self) -> int:
        """How many files nobody has taken yet."""
        return len(self._files)

    def stop(self) -> None:
        """Have no further job start."""
        self._leave_word(is_stopped=True)

    def learn(self, runtime_s: float) -> None:
        """Take in how long a job took that did well (S3)."""
        if not self._rules.share:
            return
        self._kept.append(runtime_s)
        bisect.insort(self._sorted, runtime_s)
        if len(self._kept) > KEPT:
            del self._sorted[bisect.bisect_left(self._sorted, self._kept.popleft())]
        if len(self._sorted) >= FEW:
            limit_s = self._rules.share * self._sorted[len(self._sorted) // 2]
            if abs(limit_s - self._limit_s) > WORTH_TELLING * self._limit_s:
                self._leave_word(limit_s=limit_s)

    def take_file(self, seq: int, which: int) -> int:
        """Return the descriptor of a file that a job has handed over; whoever takes it closes it.

        Raises:
            KeyError: there is none.
        """
        with self._lock:
            self._lock.wait_for(lambda: (seq, which) in self._files or self._is_over, timeout=10.0)
            return self._files.pop((seq, which))

    def _leave_word(self, *, is_stopped: bool = False, is_over: bool = False, limit_s: float | None = None) -> None:
        with self._lock:
            self._is_stopped |= is_stopped
            self._is_over |= is_over
            if limit_s is not None:
                self._limit_s = limit_s
            self._lock.notify_all()
        with contextlib.suppress(BlockingIOError):  # it is full, so the thread will wake
            os.write(self._waking_fd, b"!")

    # ------------------------------------------------------------------ the thread

    def _serve(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_fd, selectors.EVENT_READ)
        while not self._is_over:
            for key, mask in self._selector.select(self._wait_s()):
                if key.data is not None and mask & selectors.EVENT_WRITE:
                    self._selector.modify(key.data.socket, selectors.EVENT_READ, key.data)
                    self._tell_all(key.data)
                if key.data is not None and not mask & selectors.EVENT_READ:
                    continue
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj == self._wake_fd:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_fd, 512)
                else:
                    self._hear(key.data)
            self._pass_on()
            self._look_at_memory()
            self._let_start()

    def _wait_s(self) -> float | None:
        now = time.monotonic()
        waits = []
        if self._asking and self._start_at > now:
            waits.append(self._start_at - now)
        elif self._asking and self._rules.memfree:
            waits.append(LOOK_S)
        if self._rules.memfree and any(line.began is not None for line in self._lines.values()):
            waits.append(max(0.0, self._look_at - now))
        return min(waits, default=None)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            accepted, _ = self._listener.accept()
            line = self._lines[accepted.fileno()] = _Line(accepted)
            self._selector.register(accepted, selectors.EVENT_READ, line)

    def _hear(self, line: _Line) -> None:
        try:
            message, ancillary, _, _ = line.socket.recvmsg(
                MESSAGE_BYTES, socket.CMSG_SPACE(array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            message, ancillary = b"", []
        fds = _descriptors(ancillary)
        if not line.is_known:
            line.is_known = message == self.address.token  # one guess for each connection
            if not line.is_known:
                message = b""
            else:
                self._tell_all(line)
        if message[:1] == FILE and len(fds) == 1:
            self._keep(FILE_FIELDS.unpack(message[1:]), fds.pop())
        for fd in fds:
            os.close(fd)
        if message == ASK:
            line.began = None
            self._asking.append(line)
        elif message == DONE:
            line.began = None
        elif not message:
            self._hang_up(line)

    def _tell_all(self, line: _Line) -> None:
        """Tell a worker all that the others know; where it hears nothing at present, once it does (S6)."""
        if self._told_limit_s:
            self._say(line, LIMIT + LIMIT_FIELDS.pack(self._told_limit_s))
        if self._told_stop:
            self._say(line, STOP)

    def _keep(self, name: tuple[int, int], fd: int) -> None:
        with self._lock:
            before = self._files.pop(name, None)  # of a worker that died after it had handed that over
            self._files[name] = fd
            self._lock.notify_all()
        if before is not None:
            os.close(before)

    def _hang_up(self, line: _Line) -> None:
        self._selector.unregister(line.socket)
        del self._lines[line.socket.fileno()]
        with contextlib.suppress(ValueError):
            self._asking.remove(line)
        line.socket.close()

    def _say(self, line: _Line, message: bytes) -> bool:
        """Say something to a worker; returns whether it was said."""
        try:
            line.socket.send(message, socket.MSG_DONTWAIT)
        except BlockingIOError:  # it has not listened for hundreds of words (S6)
            self._selector.modify(line.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, line)
            return False
        except OSError:
            return False
        return True

    def _pass_on(self) -> None:
        """Tell everybody what others have left word of."""
        with self._lock:
            is_stopped, limit_s = self._is_stopped, self._limit_s
        if limit_s == self._told_limit_s and is_stopped == self._told_stop:
            return
        self._told_limit_s, self._told_stop = limit_s, is_stopped
        if is_stopped:
            self._asking.clear()
        for line in self._lines.values():
            self._tell_all(line)

    def _let_start(self) -> None:
        for line in list(self._asking):
            now = time.monotonic()
            if now < self._start_at:
                return
            if self._rules.memfree and self._rules.free_bytes() < self._rules.memfree:
                self._say_it_waits()
                return
            if self._say(line, GO):  # else it keeps its place, and those behind it are not kept waiting (S6)
                self._asking.remove(line)
                self._start_at = now + self._rules.delay_s
                line.began = now

    def _say_it_waits(self) -> None:
        """Say, once, that a run stands still for want of memory that none of its own jobs will give back."""
        if not self._told_waiting and all(line.began is None for line in self._lines.values()):
            self._told_waiting = True
            self._tell("less memory than --memfree is free: no job starts until others have given some back")

    def _look_at_memory(self) -> None:
        now = time.monotonic()
        if not self._rules.memfree or now < self._look_at:
            return
        self._look_at = now + LOOK_S
        running = [line for line in self._lines.values() if line.began is not None]
        if self._rules.free_bytes() < self._rules.memfree / 2 and len(running) > 1:
            youngest = max(running, key=lambda line: line.began or 0.0)
            youngest.began = None
            self._look_at = now + 4 * LOOK_S  # it takes a while to end, and to give its memory back
            if self._say(youngest, END):
                self._tell(
                    "less than half of --memfree is free: the job that began last is ended, to be run again later"
                )
