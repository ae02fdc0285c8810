"""The metrics board's process, as the coordinator sees it: started, awaited, buried.

M1. It is no worker: no registry knows it, it has a process group and a lifeline of its own.
M2. Whoever buries it kills it first, so that burying waits for nothing but the kernel: nothing in it is worth asking.
"""

import contextlib
import os
import select
import threading
from typing import Final, Self

from mpengine.monitor.board import BoardAddress, new_address
from mpengine.processes import spawning
from mpengine.processes.identity import ProcessIdentity
from mpengine.worker.boardhost import BoardBoot
from mpengine.worker.burial import kill_group

BURIAL_S: Final = 1.0


class BoardProcess:
    """One process.

    Args:
        identity: Which.
        where: What it listens at.
        lifeline_fd: Write end of its lifeline.
        ready_fd: Read end of the pipe on which it says that it listens.
    """

    def __init__(self, identity: ProcessIdentity, where: BoardAddress, lifeline_fd: int, ready_fd: int) -> None:
        self.identity = identity
        self.where = where
        self._lifeline_fd = lifeline_fd
        self._ready_fd = ready_fd
        self._lock = threading.Lock()
        self._is_buried = False

    @classmethod
    def start(cls) -> Self:
        """Start one.

        Raises:
            OSError: The program could not be started.
        """
        where = new_address()
        with contextlib.ExitStack() as on_error, contextlib.ExitStack() as always:
            lifeline_r, lifeline_w = _pipe()
            always.callback(spawning.close_parent_only, lifeline_r)
            on_error.callback(spawning.close_parent_only, lifeline_w)
            ready_r, ready_w = _pipe()
            always.callback(spawning.close_parent_only, ready_w)
            on_error.callback(spawning.close_parent_only, ready_r)
            orders = BoardBoot(*where, lifeline_r, ready_w)
            pid = spawning.launch("mpengine.worker.boardhost:run_board", orders, (lifeline_r, ready_w), {})
            on_error.pop_all()
        return cls(ProcessIdentity.of(pid), where, lifeline_w, ready_r)

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until it listens; returns whether it does.  `bury` in another thread ends the wait."""
        poll = select.poll()
        poll.register(self._ready_fd, select.POLLIN)
        # Nothing is read: the number may be closed meanwhile, and somebody else's.
        return any(happened & select.POLLIN for _, happened in poll.poll(timeout_s * 1000))

    def bury(self) -> bool:
        """Kill it, collect its exit status, close what belongs to it; returns whether it is gone.  Idempotent."""
        with self._lock:
            if self._is_buried:
                return True
            self._is_buried = True
            if self.identity.is_alive():
                kill_group(self.identity.pid)
            _collect_exit_status(self.identity.pid)
            for fd in (self._lifeline_fd, self._ready_fd):
                spawning.close_parent_only(fd)
            return not self.identity.is_alive()


def _pipe() -> tuple[int, int]:
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
