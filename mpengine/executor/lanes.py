"""The coordinator's ends of the pipes of one worker's turn.

L1. It never waits for a worker: what a pipe does not take now, its lane keeps and sends when the pipe takes more.
L2. The end where calls come out stays open here, so writing to a worker that has died raises nothing and signals
    nothing; what was written is lost with the lane.
L3. All ends are this process's alone: who is forked from it, a worker too, closes them at once (K1).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import termios

from mpengine.ipc.mpqueue import PIPE_BYTES
from mpengine.processes.spawning import close_in_forked_children, close_parent_only
from mpengine.worker import calls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mpengine.executor.packing import Errand
    from mpengine.ipc.messages import Buffer


class Lane:
    """One turn, as the coordinator sees it.

    Args:
        number: of the turn.

    Attributes:
        number: the same.
        errand: the call that its worker is at; None while it waits for one.
        is_ready: whether its worker has said that it is there.
        is_over: whether it takes no more calls.
        unsent: what its pipe has not taken yet.
        reader: what its worker has said.

    Raises:
        OSError: this process has no descriptors left.
    """

    def __init__(self, number: int) -> None:
        """Make the pipes."""
        self.number = number
        self.errand: Errand | None = None
        self.is_ready = self.is_over = False
        self.unsent: list[Buffer] = []
        self._calls_r, self._calls_w = os.pipe2(os.O_CLOEXEC)
        try:
            results_r, self._results_w = os.pipe2(os.O_CLOEXEC)
        except OSError:
            os.close(self._calls_r)
            os.close(self._calls_w)
            raise
        for fd in (self._calls_w, results_r):
            os.set_blocking(fd, False)
            with contextlib.suppress(OSError):  # a user's pipes share a limit; an ordinary pipe does, with more trips
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.reader = calls.FrameReader(results_r)
        for fd in self._fds():
            close_in_forked_children(fd)

    @property
    def calls_end(self) -> tuple[int, int]:
        """Number and inode of the end that is the worker's."""
        return self._calls_r, os.fstat(self._calls_r).st_ino

    @property
    def results_end(self) -> tuple[int, int]:
        """Number and inode of the end that is the worker's."""
        return self._results_w, os.fstat(self._results_w).st_ino

    @property
    def calls_fd(self) -> int:
        """Where calls are written."""
        return self._calls_w

    @property
    def results_fd(self) -> int:
        """Where results are read."""
        return self.reader.fd

    def send(self, pieces: list[Buffer]) -> bool:
        """Send a frame; return whether the pipe has taken all of it (L1)."""
        self.unsent += pieces
        return self.flush()

    def flush(self) -> bool:
        """Send what the pipe takes by now; return whether that was all."""
        try:
            while self.unsent:
                self.unsent = calls.write_some(self._calls_w, self.unsent)
        except BlockingIOError:
            return False
        return True

    @property
    def has_begun(self) -> bool:
        """Whether its worker has read all of the call that it was sent, so that it may have begun with it."""
        if self.unsent:
            return False
        unread = fcntl.ioctl(self._calls_r, termios.FIONREAD, bytes(4))
        return not any(unread)

    def note_ready(self) -> None:
        """Its worker has opened its ends: the end of what it says is its own end from now on."""
        self.is_ready = True
        close_parent_only(self._results_w)
        self._results_w = -1

    def close(self) -> None:
        """Close all ends; idempotent."""
        fds = self._fds()
        self._calls_r = self._calls_w = self.reader.fd = self._results_w = -1
        self.unsent = []
        for fd in fds:
            close_parent_only(fd)

    def _fds(self) -> list[int]:
        return [fd for fd in (self._calls_r, self._calls_w, self.reader.fd, self._results_w) if fd != -1]
