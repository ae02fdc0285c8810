"""Which process is meant: a number alone may be another's tomorrow."""

import contextlib
import os
import select
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Self

import psutil


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process by its number and the time it was created.

    Args:
        pid: Its number.
        create_time: Seconds since the epoch, as psutil gives it; 0 for a process that had gone before it was looked at.
    """

    pid: int
    create_time: float
    # Compares creation times by the clock that nobody can set: setting the other one changes nobody's identity.
    _found: psutil.Process | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, pid: int) -> Self:
        """The identity of the process that has this number now; one that is not alive if there is none."""
        try:
            found = psutil.Process(pid)
            return cls(pid, found.create_time(), found)
        except psutil.Error:
            return cls(pid, 0.0)

    def is_alive(self) -> bool:
        """Whether this very process still runs: a zombie is gone, and so is one whose number is another's now."""
        try:
            return self._found is not None and self._found.is_running() and self._found.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def send_signal(self, signum: int) -> None:
        """Send it a signal, unless it has gone."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    def parent_pid(self) -> int | None:
        """The number of its parent now; None when the process has gone."""
        try:
            return self._found.ppid() if self._found is not None else None
        except psutil.Error:
            return None

    def environment(self) -> dict[str, str]:
        """What its environment was when its program started; empty when it may not be read."""
        try:
            return self._found.environ() if self._found is not None else {}
        except (psutil.Error, OSError):
            return {}


def wait_gone(identities: Collection[ProcessIdentity], timeout_s: float) -> tuple[ProcessIdentity, ...]:
    """Wait until these processes, whosever children they are, run no more; returns those that still do."""
    deadline_at = time.monotonic() + timeout_s
    for identity in identities:
        _wait_end(identity, deadline_at)
    return tuple(identity for identity in identities if identity.is_alive())


def _wait_end(identity: ProcessIdentity, deadline_at: float) -> None:
    timeout_s = max(0.0, deadline_at - time.monotonic())
    if not hasattr(os, "pidfd_open"):
        with contextlib.suppress(psutil.Error):  # a time-out among them
            psutil.Process(identity.pid).wait(timeout_s)
        return
    try:
        pidfd = os.pidfd_open(identity.pid)
    except OSError:
        return
    try:
        if identity.is_alive():  # asked after the opening: the pidfd is this very process's
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.poll(timeout_s * 1000)
    finally:
        os.close(pidfd)
