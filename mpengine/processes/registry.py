"""Every process a run has ever started, by identity, until its exit status has been collected.

One thread at a time uses a registry; `ProcessRegistry.pids` and `ProcessRegistry.alive` may be called from any thread
at any time.  Nothing here waits for a worker, but `ProcessRegistry.close`, which has a deadline.

G1. For each worker that started there is one `Started` and, after it, exactly one `Exited`, whatever dies and in
    whatever order: the nursery too.
G2. Until it is told as `Exited` a worker is in `ProcessRegistry.alive`; from then on it is not.
G3. A signal goes to an identity, never to a number: a process that has gone takes no stranger with it.
G4. In a child that is forked from this process the registry is empty and closed; its fds are closed there at once.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
import weakref
from collections import deque

from mpengine.processes import spawning
from mpengine.processes.notices import Exited, Notice, Started, StartFailed
from mpengine.processes.nurserylink import NurseryLink
from mpengine.worker.burial import kill_group
from mpengine.worker.descent import COOKIE_NAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Final

    from mpengine.processes.direct import DirectWorkers
    from mpengine.processes.identity import ProcessIdentity
    from mpengine.worker.boot import WorkerBoot

__all__ = ["START_METHODS", "Exited", "Notice", "ProcessRegistry", "StartFailed", "Started"]

START_METHODS: Final = ("forkserver", "spawn", "fork")

_REMEMBERED: Final = 1024
_RESERVE: Final = 4
_open_registries: weakref.WeakSet[ProcessRegistry] = weakref.WeakSet()


class ProcessRegistry:
    """Starts worker processes, tells what becomes of them, and ends them.

    Args:
        start_method: ``"forkserver"``, ``"spawn"`` or ``"fork"``.  Nothing is started before the first worker.
        preload: Modules that the fork server imports before it forks; the other methods ignore them.
        environ: Variables for the workers, on top of this process's environment and of the cookie.

    Raises:
        ValueError: There is no such start method.
        OSError: The kernel cannot watch children (no pidfd) and the start method needs it.
    """

    def __init__(
        self, start_method: str, *, preload: Sequence[str] = (), environ: Mapping[str, str] | None = None
    ) -> None:
        if start_method not in START_METHODS:
            raise ValueError(f"start_method must be one of {', '.join(START_METHODS)}, not {start_method!r}")
        if start_method == "fork" and not hasattr(os, "pidfd_open"):
            raise OSError("start_method='fork' needs pidfd_open, which this system lacks: use 'forkserver'")
        # In a worker of another engine it is a part of that worker's cookie: what is left here is found from there too.
        outer = os.environ.get(COOKIE_NAME)
        self.cookie: str = f"{outer}.{os.urandom(8).hex()}" if outer else os.urandom(8).hex()
        variables = {**(environ or {}), COOKIE_NAME: self.cookie}
        with contextlib.ExitStack() as on_error:  # descriptors may run out at each of these
            self._epoll = select.epoll()
            on_error.callback(self._epoll.close)
            self._bell_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            on_error.callback(os.close, self._bell_fd)
            # To look a process up takes descriptors.  The program may have used up all that there are; these make sure
            # that nobody is left behind for want of them.
            self._reserve: list[int] = []
            for _ in range(_RESERVE):
                self._reserve.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
                on_error.callback(os.close, self._reserve[-1])
            self._epoll.register(self._bell_fd, select.EPOLLIN)
            on_error.pop_all()
        for fd in (self._bell_fd, *self._reserve):
            spawning.close_in_forked_children(fd)
        self._workers = (
            _direct_workers(self._epoll, variables)
            if start_method == "fork"
            else NurseryLink(self._epoll, variables, preload, is_fresh=start_method == "spawn")
        )
        self._notices: list[Notice] = []
        self._alive: dict[tuple[int, int], ProcessIdentity] = {}
        self._buried: deque[ProcessIdentity] = deque(maxlen=_REMEMBERED)
        self._closed = False
        _open_registries.add(self)

    def get_ready(self) -> None:
        """Start what the first worker needs, where there is such a thing; should that fail, its start tries again."""
        if not self._closed:
            self._workers.get_ready()

    def start(self, boot: WorkerBoot) -> None:
        """Start a worker; what comes of it is told by `collect`.

        The caller keeps its own copies of the worker's fds, and closes them when this returns.

        Raises:
            ValueError: The registry is closed.
        """
        if self._closed:
            raise ValueError("the registry is closed")
        self._note(self._workers.start(boot))

    def fileno(self) -> int:
        """An fd that is readable when `collect` has something to tell; for a selector."""
        return self._epoll.fileno()

    def collect(self) -> list[Notice]:
        """What has happened since the last call, in order; never waits."""
        if self._closed:
            return []
        ready = frozenset(fd for fd, _ in self._epoll.poll(0))
        if ready:
            self._note(self._workers.collect(ready))
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell_fd)
        notices, self._notices = self._notices, []
        return notices

    def _note(self, notices: Sequence[Notice]) -> None:
        for notice in notices:
            match notice:
                case Started(worker_id, generation, identity):
                    self._alive[worker_id, generation] = identity
                case Exited(worker_id, generation, identity):
                    del self._alive[worker_id, generation]
                    self._buried.append(identity)
                case StartFailed():
                    pass
        self._notices += notices
        if self._notices:
            os.eventfd_write(self._bell_fd, 1)

    def alive(self) -> tuple[ProcessIdentity, ...]:
        """The workers that have started and have not been told as exited."""
        return tuple(self._alive.copy().values())

    def pids(self) -> list[int]:
        """The numbers of the live workers."""
        return [identity.pid for identity in self.alive()]

    def identity_of(self, worker_id: int) -> ProcessIdentity | None:
        """The live process in this slot; the youngest, should there be more than one."""
        alive = self._alive.copy()  # another thread may ask, while this one's owner changes it
        generations = [generation for slot, generation in alive if slot == worker_id]
        return alive[worker_id, max(generations)] if generations else None

    def send_signal(self, worker_id: int, signum: int) -> None:
        """Send a signal to the worker in this slot; to nobody when there is none."""
        identity = self.identity_of(worker_id)
        if identity is not None:
            identity.send_signal(signum)

    def terminate_all(self) -> None:
        """Send SIGTERM to the process group of every worker: what user code has started may leave in order as well."""
        for identity in self.alive():
            if identity.is_alive():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(identity.pid, signal.SIGTERM)

    def kill(self, worker_id: int) -> None:
        """Kill the worker in this slot with its process group."""
        identity = self.identity_of(worker_id)
        if identity is not None and identity.is_there():
            kill_group(identity.pid)

    def kill_all(self) -> None:
        """Kill every worker with its process group, those still being started too."""
        for identity in self.alive():
            if identity.is_alive():
                kill_group(identity.pid)
        self._note(self._workers.doom_unborn())

    def helpers(self) -> tuple[ProcessIdentity, ...]:
        """Processes of this registry that are no workers and are alive: the fork server, or the guardian."""
        return tuple(identity for identity in self._workers.others() if identity.is_there())

    def verify_gone(self) -> tuple[ProcessIdentity, ...]:
        """Those of all processes ever started that psutil still finds alive, the fork server among them.

        Of workers that were buried long ago, only the last thousand or so are looked at again.
        """
        return tuple(
            identity for identity in (*self._buried, *self.alive(), *self._workers.others()) if identity.is_alive()
        )

    def close(self, timeout_s: float = 5.0) -> None:
        """Kill what is still alive, bury it, end the fork server, and close every fd; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        _open_registries.discard(self)
        for fd in self._reserve:
            spawning.close_parent_only(fd)
        self.kill_all()
        self._workers.close(time.monotonic() + timeout_s)
        self._buried.extend(self._alive.values())
        self._alive.clear()
        self._notices.clear()
        spawning.close_parent_only(self._bell_fd)
        self._epoll.close()

    def _abandon(self) -> None:
        self._closed = True
        self._epoll.close()
        self._workers.abandon()
        self._alive.clear()
        self._buried.clear()
        self._notices.clear()


def _direct_workers(epoll: select.epoll, environ: Mapping[str, str]) -> DirectWorkers:
    from mpengine.processes.direct import DirectWorkers  # with the guardian, which the other methods need not know

    return DirectWorkers(epoll, environ)


def _abandon_in_forked_child() -> None:
    for registry in tuple(_open_registries):
        registry._abandon()  # noqa: SLF001 - G4, of this module alone
    _open_registries.clear()


os.register_at_fork(after_in_child=_abandon_in_forked_child)
