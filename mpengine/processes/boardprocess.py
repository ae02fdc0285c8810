"""The metrics board's process, as the coordinator sees it: started, awaited, buried (M1, M2)."""

import contextlib
import select
from typing import Self

from mpengine.monitor.board import BoardAddress, new_address
from mpengine.processes import spawning
from mpengine.processes.identity import ProcessIdentity
from mpengine.processes.sideprocess import SideProcess, launched, pipe
from mpengine.worker.boardhost import BoardBoot


class BoardProcess(SideProcess):
    """One process.

    Args:
        identity: Which.
        where: What it listens at.
        lifeline_fd: Write end of its lifeline.
        ready_fd: Read end of the pipe on which it says that it listens.
    """

    def __init__(self, identity: ProcessIdentity, where: BoardAddress, lifeline_fd: int, ready_fd: int) -> None:
        super().__init__(identity, (lifeline_fd, ready_fd))
        self.where = where
        self._ready_fd = ready_fd

    @classmethod
    def start(cls) -> Self:
        """Start one.

        Raises:
            OSError: The program could not be started.
        """
        where = new_address()
        with contextlib.ExitStack() as on_error, contextlib.ExitStack() as always:
            ready_r, ready_w = pipe()
            always.callback(spawning.close_parent_only, ready_w)
            on_error.callback(spawning.close_parent_only, ready_r)
            identity, lifeline_w = launched(
                "mpengine.worker.boardhost:run_board",
                lambda lifeline_r: BoardBoot(*where, lifeline_r, ready_w),
                (ready_w,),
            )
            on_error.pop_all()
        return cls(identity, where, lifeline_w, ready_r)

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until it listens; returns whether it does.  `bury` in another thread ends the wait."""
        poll = select.poll()
        poll.register(self._ready_fd, select.POLLIN)
        # Nothing is read: the number may be closed meanwhile, and somebody else's.
        return any(happened & select.POLLIN for _, happened in poll.poll(timeout_s * 1000))
