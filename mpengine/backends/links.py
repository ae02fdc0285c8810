"""The coordinator's end of one worker: its two queues, its lifeline, its slot."""

from __future__ import annotations

import contextlib
import os

from mpengine.ipc.mpqueue import MPQueue
from mpengine.processes.spawning import close_in_forked_children, close_parent_only, memory_file
from mpengine.scheduler.crew import CREDIT
from mpengine.worker.boot import WorkerBoot
from mpengine.worker.capture import joined, tail_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mpengine.ipc.controlblock import Slot


class Link:
    """One process that holds a slot.

    The write end of the lifeline is nowhere but here: when this process dies, however it dies, the worker does too.

    Args:
        worker_id: the slot's number.
        generation: how many processes held the slot before.
        slot: its place in the control block.
        keep_output: bytes of what an item prints that are kept for its error.

    Attributes:
        greeted: whether it has said hello.
        is_closed: whether its outbox has come to its end.
        is_killed: whether it was killed from here.
        items: how many it has done, in this run and before.
        served: the number of the last run that it has torn down.
    """

    def __init__(self, worker_id: int, generation: int, slot: Slot, keep_output: int = 0) -> None:
        """Make the queues and the lifeline, and files for what is printed, if that is kept."""
        self.worker_id = worker_id
        self.generation = generation
        self.slot = slot
        with contextlib.ExitStack() as on_error:  # descriptors may run out at each of these
            on_error.callback(slot.release)  # or the control block could not be closed
            self.inbox = MPQueue.pipe(maxsize=CREDIT)
            on_error.callback(self.inbox.close)
            self.outbox = MPQueue.pipe()
            on_error.callback(self.outbox.close)
            self._lifeline_r, self._lifeline_w = os.pipe2(os.O_CLOEXEC)
            on_error.callback(os.close, self._lifeline_r)
            on_error.callback(os.close, self._lifeline_w)
            self._keep_output = keep_output
            self._prints: list[int] = []
            for _ in range(2 if keep_output else 0):
                self._prints.append(memory_file(b""))
                on_error.callback(os.close, self._prints[-1])
            on_error.pop_all()
        self.greeted = False
        self.is_closed = False
        self.is_killed = False
        self.served = 0
        self.items = 0
        for fd in self._own_fds():
            close_in_forked_children(fd)
        os.set_blocking(self.inbox.writer_fd, False)
        os.set_blocking(self.outbox.reader_fd, False)

    def boot(self, *, slots: int, cancel_fd: int, control_fd: int) -> WorkerBoot:
        """Return what the worker is to know."""
        return WorkerBoot(
            worker_id=self.worker_id,
            generation=self.generation,
            slots=slots,
            inbox_fd=self.inbox.reader_fd,
            outbox_fd=self.outbox.writer_fd,
            lifeline_fd=self._lifeline_r,
            cancel_fd=cancel_fd,
            control_fd=control_fd,
            options={"keep_output": (os.getpid(), tuple(self._prints), self._keep_output)} if self._prints else {},
        )

    def printed(self) -> str:
        """Return the end of what the worker's process has printed and not passed on; for when it is gone."""
        told = ""
        for fd in self._prints:
            told = joined(told, tail_of(fd, os.fstat(fd).st_size, self._keep_output))
        return told

    def close_worker_ends(self) -> None:
        """Close this process's copies of what is the worker's, once it has been started."""
        self.inbox.close_reader()
        self.outbox.close_writer()
        os.close(self._lifeline_r)
        self._lifeline_r = -1

    def close(self) -> None:
        """Close everything; the slot is cleared for the next process (C3)."""
        if self._lifeline_r != -1:
            self.close_worker_ends()
        for fd in self._own_fds():
            close_parent_only(fd)
        for fd in self._prints:
            os.close(fd)
        self.inbox.writer_fd = self.outbox.reader_fd = -1
        self.slot.clear()
        self.slot.release()

    def _own_fds(self) -> tuple[int, int, int]:
        return self.inbox.writer_fd, self.outbox.reader_fd, self._lifeline_w
