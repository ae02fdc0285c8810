"""Which process is meant: a number alone may be another's tomorrow."""

from __future__ import annotations

import contextlib
import os
import select
import time

from mpengine.records import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Final, Self

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


STOPPED: Final = "T"
_ZOMBIE: Final = "Z"


@dataclass(frozen=True, slots=True)
class _Look:
    """What the kernel says of the process that has a number now; the start counts from when the machine came up."""

    state: str
    parent: int
    start: float


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process by its number and the time it was created.

    Number and time are read off ``/proc``.  Where somebody did not leave by himself, psutil has to confirm that it is
    there; it is a slow import, and where all goes well nobody has to ask.

    Args:
        pid: Its number.
        create_time: Seconds since the epoch, as psutil gives it; 0 for a process that had gone before it was looked at.
    """

    pid: int
    create_time: float
    # By the clock that nobody can set: setting the other one changes nobody's identity.
    _start: float | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, pid: int) -> Self:
        """The identity of the process that has this number now; one that is not alive if there is none."""
        look = _look_at(pid)
        if look is None:
            return cls(pid, 0.0)
        return cls(pid, _boot_time() + look.start / _TICKS_PER_S, look.start)

    @classmethod
    def known(cls, pid: int, start: float) -> Self:
        """The process that had this number and this `start`; whether or not it is there still."""
        return cls(pid, 0.0, start)

    @property
    def start(self) -> float:
        """When it was created, by the kernel's own clock, in its own unit; -1 where nobody knows."""
        return -1.0 if self._start is None else self._start

    def is_alive(self) -> bool:
        """Whether this very process still runs, as psutil confirms."""
        if not self.is_there():
            return False
        import psutil

        try:
            is_zombie = psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
        return not is_zombie and self.is_there()  # asked once more: psutil may have found the number's next owner

    def is_there(self) -> bool:
        """Whether this very process still runs: a zombie is gone, and so is one whose number is another's now."""
        look = self._look()
        return look is not None and look.state != _ZOMBIE

    def _look(self) -> _Look | None:
        """What there is to see of this very process; None when it has been buried."""
        look = None if self._start is None else _look_at(self.pid)
        return None if look is None or look.start != self._start else look

    def send_signal(self, signum: int) -> None:
        """Send it a signal, unless it has gone."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    def parent_pid(self) -> int | None:
        """The number of its parent now; None when the process has gone."""
        look = self._look()
        return None if look is None else look.parent

    def environment(self) -> dict[str, str]:
        """What its environment was when its program started; empty when it may not be read."""
        if self._look() is None:
            return {}
        import psutil

        try:
            return psutil.Process(self.pid).environ()
        except (psutil.Error, OSError):
            return {}


def machine_mark() -> str:
    """Which start of which machine this is, and which numbering of processes: a container has one of its own."""
    parts = []
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123 - as below
            parts.append(file.read().strip())
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))  # noqa: PTH116 - as below
    except OSError:
        pass
    return " ".join(parts)


def state_of(pid: int) -> str:
    """The state of the process that has this number now, as the kernel abbreviates it; empty if there is none."""
    look = _look_at(pid)
    return "" if look is None else look.state


def _look_at(pid: int) -> _Look | None:
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123 - pathlib is a slow import
            fields = file.read().rpartition(b")")[2].split()  # a program's name may hold anything, ")" too
    except ProcessLookupError:
        return None
    except FileNotFoundError:
        return None if _HAS_PROC else _asked_of_psutil(pid)
    return _Look(fields[0].decode(), int(fields[1]), int(fields[19]))


def _asked_of_psutil(pid: int) -> _Look | None:
    """Look at a process of another kind of system, which has no files that tell."""
    import psutil

    try:
        found = psutil.Process(pid)
        state = {psutil.STATUS_ZOMBIE: _ZOMBIE, psutil.STATUS_STOPPED: STOPPED}.get(found.status(), "")
        return _Look(state, found.ppid(), (found.create_time() - _boot_time()) * _TICKS_PER_S)
    except psutil.Error:
        return None


def _boot_time() -> float:
    if _HAS_PROC:
        with open("/proc/stat", "rb", buffering=0) as file:  # noqa: PTH123 - as above
            for line in file.read().splitlines():
                if line.startswith(b"btime "):
                    return float(line[6:])
    return 0.0


_HAS_PROC: Final = os.path.exists("/proc/self/stat")  # noqa: PTH110 - as above


def wait_gone(identities: Collection[ProcessIdentity], timeout_s: float) -> tuple[ProcessIdentity, ...]:
    """Wait until these processes, whosever children they are, run no more; returns those that still do."""
    deadline_at = time.monotonic() + timeout_s
    for identity in identities:
        _wait_end(identity, deadline_at)
    return tuple(identity for identity in identities if identity.is_alive())


def _wait_end(identity: ProcessIdentity, deadline_at: float) -> None:
    timeout_s = max(0.0, deadline_at - time.monotonic())
    if not hasattr(os, "pidfd_open"):
        import psutil

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
