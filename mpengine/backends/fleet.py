"""The worker processes of one engine: started, linked, heard, stopped.  Knows nothing of runs, batches or items.

Everything the coordinator waits for is in one epoll: the bell (somebody called ``wake``), the registry (births and
deaths), every outbox, and each inbox that has something left to be written.
"""

from __future__ import annotations

import contextlib
import os
import select
import time

from mpengine.backends.headstart import open_registry
from mpengine.backends.links import Link
from mpengine.cancelevent import CancelEvent
from mpengine.errors import InternalError
from mpengine.ipc.controlblock import CANCEL_OFFSET, ControlBlock, SlotRecord
from mpengine.ipc.holdings import Arena
from mpengine.ipc.lastwords import Stack, read_words
from mpengine.ipc.messages import Message, ProtocolError
from mpengine.processes.registry import Exited, ProcessRegistry, StartFailed
from mpengine.processes.spawning import close_in_forked_children, forget
from mpengine.processes.stopping import Rung, StopLadder
from mpengine.records import dataclass, replace
from mpengine.worker.threadpools import threads_for, variables_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mpengine.backends.base import BackendOptions
    from mpengine.processes.identity import ProcessIdentity


@dataclass(frozen=True, slots=True)
class Heard:
    """A worker has sent something."""

    link: Link
    message: Message


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker's process is gone; what it had sent before comes first."""

    worker_id: int
    generation: int
    exitcode: int
    record: SlotRecord | None
    stack: Stack
    peak_rss: int = 0
    is_ours: bool = False  # whether it was this fleet that has killed it
    output: str = ""


@dataclass(frozen=True, slots=True)
class NotStarted:
    """A worker did not come to be."""

    reason: str


BURIAL_S = 1.0
"""How long the news of a death may take."""

Happening = Heard | Lost | NotStarted


class Fleet:
    """The processes, from the first start to the last burial.

    Args:
        options: how many slots, and how processes are started.
        bell_fd: readable when somebody wants the loop's attention.
        registry: of a head start; None: one of its own.
    """

    def __init__(self, options: BackendOptions, bell_fd: int, registry: ProcessRegistry | None = None) -> None:
        """Make the control block and the cancel event; nothing is started yet."""
        self._options = options
        self._bell_fd = bell_fd
        self._threads = threads_for(options.cores, options.workers)
        self._variables = variables_for(self._threads, os.environ)
        with contextlib.ExitStack() as on_error:  # descriptors may run out at each of these
            self._registry = registry or open_registry(
                options.start_method, tuple(options.preload), options.workers, options.cores, options.environ
            )
            on_error.callback(self._registry.close, 0.0)
            self._block = ControlBlock.create(options.workers, options.max_bytes)
            on_error.callback(self._block.close)
            self.arena = Arena(self._block.fd, self._block.geometry)
            self.event = CancelEvent(self._block.buffer, CANCEL_OFFSET)
            on_error.callback(self.event.close)
            self._epoll = select.epoll()
            on_error.pop_all()
        self._watched: dict[int, Link | None] = {}
        self.links: dict[int, Link] = {}
        self._generations = [0] * options.workers
        self._watch(bell_fd, select.EPOLLIN)
        self._watch(self._registry.fileno(), select.EPOLLIN)
        self._own = [self._block.fd, self.event.fileno(), self.event.write_fd]
        for fd in self._own:
            close_in_forked_children(fd)

    # ------------------------------------------------------------------ starting and sending

    def start(self, worker_id: int) -> Link:
        """Start a process for a slot; ``wait`` tells what comes of it."""
        link = Link(worker_id, self._generations[worker_id], self._block.slot(worker_id), self._options.keep_output)
        self._generations[worker_id] += 1
        self.links[worker_id] = link
        boot = link.boot(slots=self._options.workers, cancel_fd=self.event.fileno(), control_fd=self._block.fd)
        if self._options.start_method == "fork":  # the others read the variables when they load such a library
            options = {**boot.options, "threads": self._threads, "variables": tuple(self._variables)}
            boot = replace(boot, options=options)
        try:
            self._registry.start(boot)
        finally:
            link.close_worker_ends()
        self._watch(link.outbox.reader_fd, select.EPOLLIN, link)
        return link

    def send(self, link: Link, message: Message, *, asks: bool = False) -> None:
        """Send a message; what the pipe does not take now goes out while the loop waits."""
        link.inbox.put_nowait(message, asks=asks)
        self._watch_inbox(link)

    def send_pill(self, link: Link, *, at_once: bool) -> None:
        """Ask a worker to leave; ``at_once``: before anything else that is not under way to it already."""
        link.inbox.put_pill(at_once=at_once)
        self._watch_inbox(link)

    def kill(self, link: Link) -> None:
        """Kill a worker, group and all; its end is told like any other."""
        link.is_killed = True
        self._registry.kill(link.worker_id)

    def send_signal(self, link: Link, signum: int) -> None:
        """Send a signal to a worker's process alone."""
        self._registry.send_signal(link.worker_id, signum)

    def payload_bytes(self, link: Link) -> int:
        """Return what a worker has mapped of the arena at most."""
        return self.arena.bytes_at(link.worker_id)

    def helpers(self) -> tuple[ProcessIdentity, ...]:
        """Return the processes of this fleet that are no workers."""
        return self._registry.helpers()

    def _watch_inbox(self, link: Link) -> None:
        fd = link.inbox.writer_fd
        if link.inbox.is_flushed:
            self._unwatch(fd)
        elif fd not in self._watched:
            self._watch(fd, select.EPOLLOUT, link)

    # ------------------------------------------------------------------ hearing

    def _watch(self, fd: int, mask: int, link: Link | None = None) -> None:
        self._epoll.register(fd, mask)
        self._watched[fd] = link

    def _unwatch(self, fd: int) -> None:
        """Watch ``fd`` no more, if it is watched."""
        if fd in self._watched:
            del self._watched[fd]
            self._epoll.unregister(fd)

    def wait(self, timeout_s: float | None) -> list[Happening]:
        """Return what has happened, after ``timeout_s`` seconds at most; nothing when only the bell rang."""
        happened: list[Happening] = []
        deaths = False
        for fd, _ in self._epoll.poll(timeout_s):
            link = self._watched.get(fd)
            if fd == self._bell_fd:
                drain_bell(self._bell_fd)
            elif link is None:
                deaths = True
            elif fd == link.outbox.reader_fd:
                self._hear(link, happened)
            else:
                link.inbox.flush()
                self._watch_inbox(link)
        if deaths:
            self._collect(happened)
        return happened

    def _hear(self, link: Link, happened: list[Happening]) -> bool:
        """Read once from a worker; return whether there may be more."""
        if link.is_closed:
            return False
        try:
            happened.extend([Heard(link, message) for message in link.outbox.receive()])
        except BlockingIOError:
            return False
        except (EOFError, ProtocolError):
            # It has closed its end, or sends what is no message: nothing it says is of use any more (K9).
            link.is_closed = True
            self._unwatch(link.outbox.reader_fd)
            self.kill(link)
            return False
        return True

    def _collect(self, happened: list[Happening]) -> None:
        for notice in self._registry.collect():
            if isinstance(notice, StartFailed):
                happened.append(NotStarted(notice.reason))
                self._forget_unborn(notice.worker_id)
            elif isinstance(notice, Exited):
                link = self.links.get(notice.worker_id)
                if link is None or link.generation != notice.generation:
                    continue
                while self._hear(link, happened):
                    pass  # all that it had sent before it died counts
                stack = read_words(self._block.fd, self._block.words_start(notice.worker_id))
                record, exitcode = link.slot.read(), notice.exitcode
                lost = Lost(
                    link.worker_id, link.generation, exitcode, record, stack, notice.peak_rss, is_ours=link.is_killed,
                    output=link.printed(),
                )  # fmt: skip
                happened.append(lost)
                self._drop(link)

    def _drop(self, link: Link) -> None:
        for fd in (link.inbox.writer_fd, link.outbox.reader_fd):
            self._unwatch(fd)
        del self.links[link.worker_id]
        link.close()

    # ------------------------------------------------------------------ stopping

    def cancel(self) -> None:
        """Set the flag, then send every worker a pill that gets through (K2)."""
        self.event.set()
        for link in self.links.values():
            self.send_pill(link, at_once=True)

    def climb(self, grace_s: float, is_hurried: Callable[[], bool], hear: Callable[[Happening], None]) -> list[int]:
        """Wait for the workers that were asked to leave; then terminate, then kill those that stay.

        Whoever is to tell of a death may be stopped itself (somebody sent the fork server a SIGSTOP); so the wait for
        the killed has an end as well, and ``close`` does the rest.

        Args:
            grace_s: seconds before the first rung.
            is_hurried: whether somebody has lost patience.
            hear: gets everything that happens meanwhile.

        Returns:
            Those workers that did not leave by themselves.
        """
        late: list[int] = []
        ladder = StopLadder(time.monotonic(), grace_s)
        give_up_at = ladder.began_at + grace_s + ladder.term_s + BURIAL_S
        while self.links and time.monotonic() < give_up_at:
            for link in self.links.values():
                if not link.greeted:
                    self.kill(link)  # still on its way up: it holds nothing, and nobody has to wait for it
            at = time.monotonic()
            if is_hurried():
                ladder.hurry(at)
                give_up_at = min(give_up_at, at + BURIAL_S)
            for rung in ladder.rungs_due(at):
                if rung is Rung.TERMINATE:
                    late = list(self.links)
                    self._registry.terminate_all()
                else:
                    self._registry.kill_all()
            deadline = ladder.deadline_at(at)
            deadline = give_up_at if deadline is None else min(deadline, give_up_at)
            for happening in self.wait(max(0.0, deadline - time.monotonic())):
                hear(happening)
        return late

    def _forget_unborn(self, worker_id: int | None) -> None:
        """Let go of the links of what never came to be; None: of every start that had no answer."""
        for link in list(self.links.values()):
            if worker_id in (None, link.worker_id) and self._registry.identity_of(link.worker_id) is None:
                self._drop(link)

    def close(self) -> None:
        """Bury everything, let everything go, and look for survivors; idempotent.

        Raises:
            InternalError: a process of this fleet is still alive; names it.
        """
        if self._block.fd == -1:
            return
        for fd in self._own:
            forget(fd)
        self._registry.close(BURIAL_S)
        for link in list(self.links.values()):
            self._drop(link)
        survivors = self._registry.verify_gone()
        self._epoll.close()
        self.event.close()
        self.arena.close()
        self._block.close()
        if survivors:
            msg = f"processes are left behind: {', '.join(map(str, survivors))}"
            raise InternalError(msg)

    def pids(self) -> list[int]:
        """Return the process numbers of the live workers."""
        return self._registry.pids()

    def pid_of(self, worker_id: int) -> int | None:
        """Return the process number of the worker in a slot."""
        identity = self._registry.identity_of(worker_id)
        return None if identity is None else identity.pid

    def record_of(self, worker_id: int) -> SlotRecord | None:
        """Return what the worker in a slot says it is at; None where there is none, or it is not whole."""
        link = self.links.get(worker_id)
        return None if link is None else link.slot.read()


def drain_bell(fd: int) -> None:
    """Take everything out of the bell's pipe."""
    try:
        while len(os.read(fd, 4096)) == 4096:  # noqa: PLR2004 - a full read: there may be more
            pass
    except BlockingIOError:
        pass
