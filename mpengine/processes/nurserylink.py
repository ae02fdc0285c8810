"""The registry's end of its nursery, which starts the workers of the methods ``forkserver`` and ``spawn``.

U1. A start is kept, with its own copies of the fds, until it is answered; what a dead nursery has not answered goes to
    the next one (rule N3 of `mpengine.worker.nursery` makes sure that it never ran).
U2. At most `WINDOW` starts are under way: the socket never fills, and sending never waits.
U3. A nursery that dies takes nobody's place: its workers are killed by verified identity, and told as killed.
U4. A nursery that dies `UNREADY_LIMIT` times in a row before it is ready is not started again for the same starts.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections import deque

from mpengine import pickling
from mpengine.processes import spawning
from mpengine.processes.identity import ProcessIdentity
from mpengine.processes.notices import Exited, Notice, Started, StartFailed
from mpengine.processes.orphans import kill_orphans
from mpengine.records import dataclass, replace
from mpengine.worker import burial, nursery, passing
from mpengine.worker.descent import COOKIE_NAME, belongs, tagged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Final, TypeAlias

    from mpengine.worker.boot import WorkerBoot

WINDOW: Final = 16
UNREADY_LIMIT: Final = 3
_VERIFY_S: Final = 1.0

_Key: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Start:
    """A start without an answer, and the fds that go with it: the birth file first, then the worker's five."""

    worker_id: int
    generation: int
    fds: tuple[int, ...]
    doomed: bool = False

    @property
    def key(self) -> _Key:
        return (self.worker_id, self.generation)


@dataclass(slots=True)
class _Running:
    """A nursery that was started and has not been buried."""

    pid: int
    identity: ProcessIdentity
    link: passing.Socket
    link_fd: int
    lifeline_fd: int
    ready: bool = False


class NurseryLink:
    """Starts workers through a nursery of its own, which it starts when it is first needed and again when it has died.

    Args:
        epoll: Where the nursery's socket is to be watched.
        environ: What the environment of nursery and workers has on top of this process's; the cookie is in it.
        preload: Modules the nursery imports before it forks.
        is_fresh: Whether each worker is a fresh interpreter.
    """

    def __init__(
        self, epoll: select.epoll, environ: Mapping[str, str], preload: Sequence[str], *, is_fresh: bool = False
    ) -> None:
        self._epoll = epoll
        self._environ = environ
        self._preload = () if is_fresh else tuple(preload)
        self._is_fresh = is_fresh
        self._cookie = environ[COOKIE_NAME]
        self._running: _Running | None = None
        self._past: deque[ProcessIdentity] = deque(maxlen=64)
        self._waiting: deque[_Start] = deque()
        self._unanswered: dict[_Key, _Start] = {}
        self._workers: dict[_Key, ProcessIdentity] = {}
        self._unready_deaths = 0

    def get_ready(self) -> None:
        """Start the nursery, unless it runs already; a failure is told by the first start, which tries again."""
        if self._running is None:
            with contextlib.suppress(OSError):
                self._launch()

    def start(self, boot: WorkerBoot) -> list[Notice]:
        """Ask for a worker; never waits for it, nor for the nursery."""
        try:
            self._waiting.append(self._copy(boot))
        except OSError as error:
            return [_failed(boot.worker_id, error)]
        return self._send_waiting()

    def _copy(self, boot: WorkerBoot) -> _Start:
        preparation = spawning.make_preparation(
            {**self._environ, COOKIE_NAME: tagged(self._cookie, boot.worker_id, boot.generation)}
        )
        with contextlib.ExitStack() as on_error:
            fds = [spawning.birth_file(boot, preparation)]
            on_error.callback(os.close, fds[0])
            for fd in boot.fds:
                fds.append(os.dup(fd))
                on_error.callback(os.close, fds[-1])
            on_error.pop_all()
        for fd in fds:
            spawning.close_in_forked_children(fd)
        return _Start(boot.worker_id, boot.generation, tuple(fds))

    def _send_waiting(self) -> list[Notice]:
        notices: list[Notice] = []
        while self._waiting and len(self._unanswered) < WINDOW:
            start = self._waiting.popleft()
            try:
                running = self._running or self._launch()
                request = pickling.dumps(nursery.Request(start.worker_id, start.generation, _needed()))
                passing.send_fds(running.link, request, start.fds)
            except (BrokenPipeError, ConnectionResetError):
                self._waiting.appendleft(start)  # the nursery has died: the epoll reports it, and U1 does the rest
                break
            except OSError as error:
                _close(start)
                notices.append(_failed(start.worker_id, error))
            else:
                self._unanswered[start.key] = start
        return notices

    def _launch(self) -> _Running:
        with contextlib.ExitStack() as on_error, contextlib.ExitStack() as always:  # descriptors may run out
            ours, theirs = passing.make_pair()
            on_error.callback(ours.close)
            always.callback(theirs.close)
            lifeline_r, lifeline_w = os.pipe()
            on_error.callback(os.close, lifeline_w)
            always.callback(os.close, lifeline_r)
            known = nursery.NurseryBoot(theirs.fileno(), lifeline_r, self._cookie, self._is_fresh)
            fds = (theirs.fileno(), lifeline_r)
            pid = spawning.launch("mpengine.worker.nursery:run_nursery", known, fds, self._environ)
            on_error.callback(burial.kill_and_bury, pid)
            self._send_orders(ours)
            identity = ProcessIdentity.of(pid)
            on_error.pop_all()
        ours.settimeout(0)
        spawning.close_in_forked_children(lifeline_w)
        running = _Running(pid, identity, ours, ours.fileno(), lifeline_w)
        self._epoll.register(running.link_fd, select.EPOLLIN)
        self._running = running
        return running

    def _send_orders(self, link: passing.Socket) -> None:
        orders = nursery.Orders(self._preload, spawning.make_preparation(self._environ))
        orders_fd = spawning.memory_file(pickling.dumps(orders, pickling.PROTOCOL))
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its death is told like any other
                passing.send_fds(link, b"o", [orders_fd])
        finally:
            os.close(orders_fd)

    def collect(self, ready: frozenset[int]) -> list[Notice]:
        """Read what the nursery has to say, if its socket is among the `ready` fds."""
        running = self._running
        if running is None or running.link_fd not in ready:
            return []
        notices: list[Notice] = []
        while (content := _receive(running.link)) is not None:
            if not content:
                notices += self._bury_nursery(running)
                break
            answer: nursery.Answer = pickling.loads(content)  # only the nursery has the other end
            notices += self._take(answer, running)
        return notices + self._send_waiting()

    def _take(self, answer: nursery.Answer, running: _Running) -> list[Notice]:
        match answer:
            case nursery.Ready():
                running.ready = True
                self._unready_deaths = 0
                return []
            case nursery.PreloadFailed(reason):
                running.ready = True  # its end is no surprise any more
                return self._void_starts(reason)
            case nursery.Born(worker_id, generation, pid):
                return self._take_birth((worker_id, generation), self._verified(pid, running))
            case nursery.BirthFailed(worker_id, generation, reason):
                _close(self._unanswered.pop((worker_id, generation)))
                return [StartFailed(worker_id, reason)]
            case nursery.Died(worker_id, generation, _, exitcode, peak_rss, failure):
                identity = self._workers.pop((worker_id, generation))
                failed: list[Notice] = [] if failure is None else [StartFailed(worker_id, failure)]
                return [*failed, Exited(worker_id, generation, identity, exitcode, peak_rss)]

    def _take_birth(self, key: _Key, identity: ProcessIdentity) -> list[Notice]:
        start = self._unanswered.pop(key)
        _close(start)
        self._workers[key] = identity
        if start.doomed and identity.is_alive():
            burial.kill_group(identity.pid)
        return [Started(*key, identity)]

    def _verified(self, pid: int, running: _Running) -> ProcessIdentity:
        """The worker's identity, unless it has been buried meanwhile and its number is a stranger's now."""
        identity = ProcessIdentity.of(pid)
        if identity.parent_pid() == running.pid or self._bears_cookie(identity):
            return identity
        return ProcessIdentity(pid, 0.0)

    def _bears_cookie(self, identity: ProcessIdentity) -> bool:
        return belongs(identity.environment().get(COOKIE_NAME, ""), self._cookie)

    def _void_starts(self, reason: str) -> list[Notice]:
        for start in (*self._unanswered.values(), *self._waiting):
            _close(start)
        self._unanswered.clear()
        self._waiting.clear()
        return [StartFailed(None, reason)]

    def _bury_nursery(self, running: _Running) -> list[Notice]:
        exitcode = self._end(running)
        kill_orphans(self._workers.values(), self._cookie, _VERIFY_S)
        notices: list[Notice] = [Exited(*key, identity, -signal.SIGKILL) for key, identity in self._workers.items()]
        self._workers.clear()
        self._waiting.extendleft(reversed(self._unanswered.values()))  # U1
        self._unanswered.clear()
        notices += self._drop_doomed()
        self._unready_deaths += not running.ready
        if self._unready_deaths >= UNREADY_LIMIT and self._waiting:  # U4
            self._unready_deaths = 0
            notices += self._void_starts(f"the fork server ended before it was ready (exit code {exitcode})")
        return notices

    def _end(self, running: _Running, deadline_at: float | None = None) -> int:
        """Bury the nursery: after it has left by itself if there is a deadline for that, else at once."""
        self._running = None
        self._past.append(running.identity)
        self._epoll.unregister(running.link_fd)
        spawning.close_parent_only(running.lifeline_fd)
        if deadline_at is not None:
            with contextlib.suppress(OSError):
                running.link.shutdown(passing.SHUT_WR)
            _wait_end_of_file(running.link, deadline_at)
        running.link.close()
        return burial.kill_and_bury(running.pid)  # with what preloaded modules have started

    def doom_unborn(self) -> list[Notice]:
        """See to it that no start without an answer becomes a worker that stays."""
        self._unanswered = {key: replace(start, doomed=True) for key, start in self._unanswered.items()}
        self._waiting = deque(replace(start, doomed=True) for start in self._waiting)
        return self._drop_doomed()

    def _drop_doomed(self) -> list[Notice]:
        doomed = [start for start in self._waiting if start.doomed]
        self._waiting = deque(start for start in self._waiting if not start.doomed)
        for start in doomed:
            _close(start)
        return [StartFailed(start.worker_id, "killed before it was started") for start in doomed]

    def others(self) -> tuple[ProcessIdentity, ...]:
        """Every nursery so far."""
        running = self._running
        return (*self._past, running.identity) if running is not None else tuple(self._past)

    def close(self, deadline_at: float) -> None:
        """End the nursery, which kills and buries its workers; by force when it is not done by the deadline."""
        self._void_starts("closed")
        exitcode = 0 if self._running is None else self._end(self._running, deadline_at)
        if self._workers or exitcode:  # it was not done, and what it has left is nobody's
            kill_orphans(self._workers.values(), self._cookie, _VERIFY_S)
        self._workers.clear()

    def abandon(self) -> None:
        """In a forked child: the nursery is not its own.  Plain fds have been closed already, the socket has not."""
        if self._running is not None:
            self._running.link.close()
            self._running = None
        self._waiting.clear()
        self._unanswered.clear()
        self._workers.clear()


def _failed(worker_id: int, error: OSError) -> StartFailed:
    return StartFailed(worker_id, f"{type(error).__name__}: {error}")


def _needed() -> str:
    """Name cloudpickle if this process has imported it: what it has pickled, workers cannot unpickle without.

    It is a slow import, and who runs functions of modules on plain items does not need it at all.
    """
    return "cloudpickle" if "cloudpickle" in sys.modules else ""


def _close(start: _Start) -> None:
    for fd in start.fds:
        spawning.close_parent_only(fd)


def _receive(link: passing.Socket) -> bytes | None:
    """The next message, ``b""`` at the end of the connection, None when there is nothing to read yet."""
    while True:
        try:
            return link.recv(nursery.MESSAGE_LIMIT_BYTES)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            # The nursery left with requests unread.  This is told before what it sent, once, and must not hide it:
            # test_a_preload_that_fails_is_told_once_with_its_traceback.
            continue


def _wait_end_of_file(link: passing.Socket, deadline_at: float) -> None:
    poll = select.poll()
    poll.register(link, select.POLLIN)
    while poll.poll(max(0.0, deadline_at - time.monotonic()) * 1000):
        if _receive(link) == b"":
            return
