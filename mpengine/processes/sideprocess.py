"""A process beside the workers, as the coordinator sees it: the metrics board's, the dashboard's.

M1. It is no worker: no registry knows it, it has a process group and a lifeline of its own.
M2. Whoever buries it kills it first, so that burying waits for nothing but the kernel: nothing in it is worth asking.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from typing import TYPE_CHECKING, Final

from mpengine.processes import spawning
from mpengine.processes.identity import ProcessIdentity
from mpengine.worker.burial import kill_group

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BURIAL_S: Final = 1.0


class SideProcess:
    """One process.

    Args:
        identity: Which.
        fds: What belongs to it here, to be closed when it is buried; named by `spawning.close_in_forked_children`.
    """

    def __init__(self, identity: ProcessIdentity, fds: Sequence[int]) -> None:
        self.identity = identity
        self._fds = tuple(fds)
        self._lock = threading.Lock()
        self._is_buried = False

    def bury(self) -> bool:
        """Kill it, collect its exit status, close what belongs to it; returns whether it is gone.  Idempotent."""
        with self._lock:
            if self._is_buried:
                return True
            self._is_buried = True
            if self.identity.is_alive():
                kill_group(self.identity.pid)
            _collect_exit_status(self.identity.pid)
            for fd in self._fds:
                spawning.close_parent_only(fd)
            return not self.identity.is_alive()


def launched(target: str, orders: Callable[[int], object], pass_fds: Sequence[int]) -> tuple[ProcessIdentity, int]:
    """Start a fresh interpreter with a lifeline of its own.

    Args:
        target: ``"module:function"``.
        orders: Makes what the function gets, pickled, from the number of the lifeline's read end.
        pass_fds: What it inherits besides.

    Returns:
        Which process it is, and the write end of its lifeline.

    Raises:
        OSError: The program could not be started.
    """
    lifeline_r, lifeline_w = pipe()
    try:
        pid = spawning.launch(target, orders(lifeline_r), (lifeline_r, *pass_fds), {})
    except BaseException:
        spawning.close_parent_only(lifeline_w)
        raise
    finally:
        spawning.close_parent_only(lifeline_r)
    return ProcessIdentity.of(pid), lifeline_w


def pipe() -> tuple[int, int]:
    """A pipe that no child of this process keeps open."""
    fds = os.pipe2(os.O_CLOEXEC)
    for fd in fds:
        spawning.close_in_forked_children(fd)
    return fds


def _collect_exit_status(pid: int) -> None:
    """Wait for the end of a child that was killed, and collect its exit status."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:  # somebody else has collected it
        return
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)  # readable once all its threads have gone; a zombie it may be before that
        poll.poll(BURIAL_S * 1000)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    finally:
        os.close(pidfd)
