"""Where a worker is, asked from any process of the same user; see `mpengine.ipc.stackfile`.

Q1. A worker is known by a pidfd from the first look at it on: what has its number later gets no signal.
Q2. It is asked only if it is found to catch the signal, and to write to the file that is its own.
Q3. Its answer is whole when it has begun and the signal is no longer blocked in any thread that did not block it
    before: the handler, during which it is blocked, has returned.  One that is stopped, or does not come back from the
    kernel, answers when it goes on, and nobody waits for that.
Q4. Who asks holds a lock on the file, so that two do not mix what they read.  The worker does not look at it.
"""

import fcntl
import os
import re
import select
import signal
import time
from collections.abc import Callable
from typing import Final

from mpengine.ipc.stackfile import FRAMES, THREADS, name_for
from mpengine.processes.identity import STOPPED, state_of
from mpengine.records import dataclass

LOOK_EVERY_S: Final = 0.002
MAX_BYTES: Final = 1 << 20

_FRAME: Final = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\S+) in (?P<name>.*)$')
_HEAD: Final = re.compile(r"^(?P<which>.*) \(most recent call first\):$")


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a thread.

    Args:
        file: Where its code is.
        line: Which line; as text, for it may not be known.
        name: Of the function.
    """

    file: str
    line: str
    name: str


@dataclass(frozen=True, slots=True)
class ThreadStack:
    """The frames of one thread.

    Args:
        which: ``Stack`` or ``Current thread 0x...`` for the one that answered, ``Thread 0x...`` for others.
        frames: The innermost first, as the interpreter tells them; 100 at most.
    """

    which: str
    frames: tuple[Frame, ...]


class SilentError(Exception):
    """A worker does not tell where it is; the message says why, in a few words."""


def ask_stack(pid: int, *, threads: bool = False, timeout_s: float = 5.0) -> tuple[ThreadStack, ...]:
    """Where the worker with this number is.

    Args:
        pid: Its number.
        threads: Whether all its threads are wanted, and not the main one alone.
        timeout_s: How long it may take.

    Raises:
        SilentError: It has gone, is stopped, is not far enough yet, or does not answer.
    """
    deadline_at = time.monotonic() + timeout_s
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        raise SilentError("has gone") from None
    try:
        fd = _open_file(pid)
        try:
            text = _ask(pid, pidfd, fd, THREADS if threads else FRAMES, deadline_at)
        finally:
            os.close(fd)
    except OSError as error:
        raise SilentError("has gone" if isinstance(error, ProcessLookupError) else str(error)) from None
    finally:
        os.close(pidfd)
    found = parse(text)
    return found if threads else found[-1:]  # an answer that came late, to whoever asked before, may stand before it


def is_worker(pid: int) -> bool:
    """Whether the process with this number is a worker that could tell where it is."""
    try:
        os.close(_open_file(pid))
    except (OSError, SilentError):
        return False
    return True


def _open_file(pid: int) -> int:
    """A descriptor of the worker's file (Q2)."""
    folder = f"/proc/{pid}/fd"
    for number in os.listdir(folder):  # noqa: PTH208 - of a process, which may go meanwhile
        path = f"{folder}/{number}"
        try:
            if os.readlink(path).removesuffix(" (deleted)") == f"/memfd:{name_for(pid, int(number))}":  # noqa: PTH115 - the same
                return os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # closed meanwhile
    raise SilentError("is not up yet, or no worker")


def _ask(pid: int, pidfd: int, fd: int, signum: int, deadline_at: float) -> str:
    _wait(lambda: _has_locked(fd), pidfd, deadline_at, "is being looked at by another")
    if not _has(pid, "SigCgt", signum):
        raise SilentError("is not up yet")
    if state_of(pid) == STOPPED:
        raise SilentError("is stopped")
    before = _blocking(pid, signum)
    os.ftruncate(fd, 0)
    signal.pidfd_send_signal(pidfd, signum)
    _wait(lambda: os.fstat(fd).st_size > 0 and _blocking(pid, signum) <= before, pidfd, deadline_at, "does not answer")
    try:
        return os.pread(fd, MAX_BYTES, 0).decode("utf-8", "replace")
    finally:
        os.ftruncate(fd, 0)


def _has_locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(condition: Callable[[], bool], pidfd: int, deadline_at: float, failing: str) -> None:
    """Wait until something is so; a signal handler in another process tells nobody when it is done.

    Raises:
        SilentError: It is not so in time, or the process has gone.
    """
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    while not condition():
        if poll.poll(LOOK_EVERY_S * 1000):
            raise SilentError("has gone")
        if time.monotonic() > deadline_at:
            raise SilentError(failing)


def _blocking(pid: int, signum: int) -> set[str]:
    """The threads in which the signal is blocked, if only by its handler (Q3)."""
    threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - as above
    return {thread for thread in threads if _has(f"{pid}/task/{thread}", "SigBlk", signum)}


def _has(which: int | str, field: str, signum: int) -> bool:
    """Whether a set of signals that the kernel tells of a process or thread has one."""
    try:
        with open(f"/proc/{which}/status", encoding="ascii", errors="replace") as file:  # noqa: PTH123 - as above
            for line in file:
                if line.startswith(field):
                    return bool(int(line.split()[1], 16) >> (signum - 1) & 1)
    except (FileNotFoundError, ProcessLookupError):
        pass  # a thread that has ended; that the process has, its pidfd tells
    return False


def parse(text: str) -> tuple[ThreadStack, ...]:
    """The stacks that ``faulthandler`` has written; what cannot be made out is left away."""
    found: list[ThreadStack] = []
    which, frames = "", list[Frame]()
    for line in [*text.splitlines(), "(most recent call first):"]:
        head = _HEAD.match(line)
        frame = _FRAME.match(line)
        if frame and which:
            frames.append(Frame(frame["file"], frame["line"], frame["name"]))
        elif head or line.startswith("("):
            if which:
                found.append(ThreadStack(which, tuple(frames)))
            which, frames = head["which"] if head else "", []
    return tuple(found)
