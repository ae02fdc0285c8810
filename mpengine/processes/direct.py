"""Workers that are the coordinator's own children: the start method ``fork``.

A death is noticed by the child's pidfd; the exit status is collected here and nowhere else, and what is left of the
process group is killed before that (rule N4 of `mpengine.worker.nursery`).  What user code has started elsewhere is
left to a guardian.
"""

import contextlib
import importlib
import os
import select
import time
from collections.abc import Mapping

from mpengine.processes import spawning
from mpengine.processes.guardianlink import GuardianLink
from mpengine.processes.identity import ProcessIdentity
from mpengine.processes.notices import Exited, Notice, Started, StartFailed
from mpengine.records import dataclass
from mpengine.worker.boot import ALWAYS_PRELOADED, BOOT_FAILED, WorkerBoot, read_failure
from mpengine.worker.burial import bury_nowait, kill_and_bury, kill_group
from mpengine.worker.descent import COOKIE_NAME, tagged


@dataclass(frozen=True, slots=True)
class _Child:
    worker_id: int
    generation: int
    identity: ProcessIdentity
    pidfd: int
    birth_fd: int


class DirectWorkers:
    """Starts workers as children of this process, and buries them.

    Args:
        epoll: Where the pidfds are to be watched.
        environ: What the workers' environment has on top of this process's; the cookie is in it.
    """

    def __init__(self, epoll: select.epoll, environ: Mapping[str, str]) -> None:
        self._epoll = epoll
        self._environ = environ
        self._cookie = environ[COOKIE_NAME]
        self._guardian = GuardianLink(environ)
        self._children: dict[int, _Child] = {}

    def get_ready(self) -> None:
        """Import what each child would have to import itself, and might not find: the program may change who it is."""
        for name in ALWAYS_PRELOADED:
            importlib.import_module(name)

    def start(self, boot: WorkerBoot) -> list[Notice]:
        """Start a worker; never waits for it."""
        try:
            child = self._start(boot)
        except OSError as error:
            return [StartFailed(boot.worker_id, f"{type(error).__name__}: {error}")]
        return [Started(child.worker_id, child.generation, child.identity)]

    def _start(self, boot: WorkerBoot) -> _Child:
        self.get_ready()
        self._guardian.start()
        cookie = tagged(self._cookie, boot.worker_id, boot.generation)
        preparation = spawning.make_preparation({**self._environ, COOKIE_NAME: cookie}, fresh=False)
        birth_fd = spawning.memory_file(b"")
        spawning.close_in_forked_children(birth_fd)
        try:
            pid = spawning.fork_worker(boot, preparation, birth_fd)
        except BaseException:
            spawning.close_parent_only(birth_fd)
            raise
        with contextlib.ExitStack() as on_error:  # descriptors may run out: looking a process up takes some
            on_error.callback(spawning.close_parent_only, birth_fd)
            on_error.callback(kill_and_bury, pid)
            pidfd = os.pidfd_open(pid)
            on_error.callback(os.close, pidfd)
            identity = ProcessIdentity.of(pid)
            on_error.pop_all()
        spawning.close_in_forked_children(pidfd)
        child = _Child(boot.worker_id, boot.generation, identity, pidfd, birth_fd)
        self._children[pidfd] = child
        self._epoll.register(pidfd, select.EPOLLIN)
        return child

    def collect(self, ready: frozenset[int]) -> list[Notice]:
        """Bury those whose pidfd is among the `ready` fds."""
        notices: list[Notice] = []
        for pidfd in ready & self._children.keys():
            child = self._children[pidfd]
            burial = bury_nowait(child.identity.pid)
            if burial is not None:
                failure = read_failure(child.birth_fd) if burial.exitcode == BOOT_FAILED else None
                self._let_go(child)
                self._guardian.tell_gone(tagged(self._cookie, child.worker_id, child.generation))
                if failure is not None:
                    notices.append(StartFailed(child.worker_id, failure))
                notices.append(
                    Exited(child.worker_id, child.generation, child.identity, burial.exitcode, burial.peak_rss)
                )
        return notices

    def _let_go(self, child: _Child) -> None:
        del self._children[child.pidfd]
        with contextlib.suppress(FileNotFoundError):
            self._epoll.unregister(child.pidfd)
        spawning.close_parent_only(child.pidfd)
        spawning.close_parent_only(child.birth_fd)

    def doom_unborn(self) -> list[Notice]:
        """Nothing is ever unborn here: a start has happened when `start` returns."""
        return []

    def others(self) -> tuple[ProcessIdentity, ...]:
        """Processes that are no workers: every guardian so far."""
        return self._guardian.processes()

    def close(self, deadline_at: float) -> None:
        """Kill what is alive and bury it, as far as that is done by the deadline."""
        for child in self._children.values():
            kill_group(child.identity.pid)
        for child in list(self._children.values()):
            poll = select.poll()
            poll.register(child.pidfd, select.POLLIN)
            poll.poll(max(0.0, deadline_at - time.monotonic()) * 1000)
            bury_nowait(child.identity.pid)
            self._let_go(child)
        self._guardian.close(deadline_at)

    def abandon(self) -> None:
        """In a forked child: these are not its children, and their fds have been closed already."""
        self._children.clear()
        self._guardian.abandon()
