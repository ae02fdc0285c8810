"""Cancellation: an event by interface, with nothing in it that a killed process could leave locked.

``multiprocessing.Event`` is a condition over semaphores: ``set()`` waits for every sleeper to wake, so it blocks for
ever when one of them was SIGKILLed (cpython#75158), and it can deadlock with an ``is_set()`` that a signal handler
interrupted in the same thread (cpython#126434).  Here the flag is one byte of shared memory and the wake-up is a pipe:

E1. Setting is a store and a write of one byte to a pipe that nobody reads from: no lock, no wait.
E2. Any number of processes may wait; the pipe stays readable for all of them because no waiter takes the byte out.
E3. Only the process that made the event sets or clears it.  Others hold the read end alone.

(A close of the write end would wake the waiters too, but not while some child that user code forked still holds a copy
of it; a byte wakes them in any case.)
"""

from __future__ import annotations

import os
import select
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, Protocol
else:
    Protocol = object


class CancelFlag:
    """What ``CancelEvent`` is but for its type: its state is a byte of shared memory and a pipe.

    Workers have this alone: ``multiprocessing.synchronize``, where the type is, is a slow import.

    Args:
        buffer: writable shared memory that holds the flag.
        offset: where in it the flag's byte is.
        read_fd: read end of the pipe, or -1 to make a pipe.
        write_fd: write end of the pipe; -1 in processes that only look and wait.
    """

    def __init__(self, buffer: Any, offset: int, *, read_fd: int = -1, write_fd: int = -1) -> None:
        """Bind the event to its byte and its pipe."""
        self._buffer = buffer
        self._offset = offset
        if read_fd == -1:
            read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._read_fd = read_fd
        self._write_fd = write_fd

    def fileno(self) -> int:
        """Return a descriptor that is readable once the event is set."""
        return self._read_fd

    @property
    def write_fd(self) -> int:
        """The end that sets the event; -1 where the event may only be looked at."""
        return self._write_fd

    def is_set(self) -> bool:
        """Whether the event is set: one load, no lock."""
        return bool(self._buffer[self._offset])

    def set(self) -> None:
        """Set the event.  Safe in a signal handler, at any instruction, any number of times.

        Raises:
            RuntimeError: this process only holds the reading side.
        """
        if self._write_fd == -1:
            msg = "only the process that made a CancelEvent sets it"
            raise RuntimeError(msg)
        already = self._buffer[self._offset]
        self._buffer[self._offset] = 1
        if not already:
            os.write(self._write_fd, b"!")

    def clear(self) -> None:
        """Unset the event.

        Raises:
            RuntimeError: this process only holds the reading side.
        """
        if self._write_fd == -1:
            msg = "only the process that made a CancelEvent clears it"
            raise RuntimeError(msg)
        self._buffer[self._offset] = 0
        while self._is_readable(0):
            os.read(self._read_fd, 512)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the event is set, ``timeout`` seconds at most.

        Returns:
            Whether the event is set.
        """
        if not self.is_set():
            self._is_readable(timeout)
        return self.is_set()

    def _is_readable(self, timeout: float | None) -> bool:
        poll = select.poll()  # select.select() refuses descriptors over 1023
        poll.register(self._read_fd, select.POLLIN)
        return bool(poll.poll(None if timeout is None else max(0.0, timeout) * 1000))

    def close(self) -> None:
        """Close this process's ends of the pipe; idempotent."""
        fds = self._read_fd, self._write_fd
        self._read_fd = self._write_fd = -1  # first, so that another thread does not write to a number that is reused
        self._buffer = b"\1"
        self._offset = 0
        for fd in fds:
            if fd != -1:
                os.close(fd)

    def __repr__(self) -> str:
        """Return the state in words."""
        return f"<{type(self).__name__} {'set' if self.is_set() else 'unset'}>"

    def __reduce__(self) -> NoReturn:
        """Refuse: workers get the byte and the pipe when they start, not by pickling."""
        msg = "a CancelEvent reaches workers when they start and does not pickle; call mpengine.cancelled() there"
        raise TypeError(msg)


class Flag(Protocol):
    """Whatever tells that a run was cancelled."""

    def is_set(self) -> bool:
        """Whether it was."""

    def fileno(self) -> int:
        """A descriptor that becomes readable once it is."""


_flag: Flag | None = None  # what cancelled() looks at; bound once in each worker
_here = threading.local()  # what it looks at in a worker thread beside the coordinator


def bind_flag(flag: Flag | None) -> None:
    """Make ``cancelled()`` of this process look at ``flag``."""
    global _flag  # noqa: PLW0603 - one process runs one run at a time; cancelled() takes no argument by contract
    _flag = flag


def bound_flag() -> Flag | None:
    """What ``cancelled()`` of this process looks at, for whoever has to wait for it; None outside a worker."""
    return _flag


def bind_flag_here(flag: Callable[[], bool]) -> None:
    """Make ``cancelled()`` ask ``flag``, in this thread alone."""
    _here.flag = flag


def cancelled() -> bool:
    """Whether the run that this stage function belongs to has been cancelled.

    For long stage functions that can stop early; costs well under a microsecond.  False outside a worker.
    """
    here: Callable[[], bool] | None = getattr(_here, "flag", None)
    if here is not None:
        return here()
    return _flag is not None and _flag.is_set()
