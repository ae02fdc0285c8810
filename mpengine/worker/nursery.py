"""The nursery: a fork server that belongs to one registry, and the guardian of all that comes of what it forked.

The standard library's fork server and resource tracker are one per program and outlive every run; this one is started
by a `ProcessRegistry`, answers to it alone over a socket pair, and leaves with it::

    registry --- Request + 6 fds --->  nursery --- fork --->  worker
             <-- Ready, Born, Died, ... ---

N1. It has one thread and takes no lock: what it forks starts from a clean state.
N2. It holds nothing a worker waits for, and closes its copies of a worker's fds as soon as the worker is forked: no
    later worker inherits them.
N3. A worker runs only when its birth has been told (the gate).  A request without an answer therefore never ran, and
    may be sent to the next nursery.
N4. What is left of a worker's process group is killed while the worker is a zombie, for until then nobody else can get
    its number.
N5. A broken socket means that the registry has gone: every group is killed, every worker buried, and the nursery
    leaves.
N6. While modules are preloaded, which is the user's code and may hang, the lifeline ends the nursery instead.
N7. What user code has started elsewhere than in its worker's group is found by `mpengine.worker.descent`, and killed
    when the worker is buried.  When the nursery leaves, so does everything below it.
N8. For the start method ``spawn`` a fork goes on as a fresh interpreter, and nothing is preloaded.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import sys
import warnings

from mpengine import pickling
from mpengine.records import dataclass
from mpengine.worker import boot, lifeline, passing
from mpengine.worker.burial import Burial, bury_nowait, kill_group
from mpengine.worker.descent import Strays, end_all_children, tagged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final, NoReturn, TypeAlias

MESSAGE_LIMIT_BYTES: Final = 65_536
FDS_PER_REQUEST: Final = 6
_REASON_LIMIT_CHARS: Final = 8_000
_PRELOADED_FOR_LOGS: Final = "mpengine.worker.courier"


@dataclass(frozen=True, slots=True)
class Request:
    """Fork a worker; comes with its birth file and its five fds.

    Args:
        worker_id: Number of its slot.
        generation: How many processes held this slot before.
        needs: A module that it will need, to be imported once for all workers; empty: none is known.
    """

    worker_id: int
    generation: int
    needs: str = ""


@dataclass(frozen=True, slots=True)
class Ready:
    """The preload is done."""


@dataclass(frozen=True, slots=True)
class PreloadFailed:
    """A module did not import; the nursery leaves."""

    reason: str


@dataclass(frozen=True, slots=True)
class Born:
    """The worker exists, and runs from now on."""

    worker_id: int
    generation: int
    pid: int


@dataclass(frozen=True, slots=True)
class BirthFailed:
    """No worker came of the request."""

    worker_id: int
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Died:
    """The worker's exit status has been collected; `failure` says why it never reached its entry, if so."""

    worker_id: int
    generation: int
    pid: int
    exitcode: int
    peak_rss: int
    failure: str | None


Answer: TypeAlias = Ready | PreloadFailed | Born | BirthFailed | Died


@dataclass(frozen=True, slots=True)
class NurseryBoot:
    """All the nursery knows when it starts; the rest comes with its orders.

    Args:
        socket_fd: Its end of the socket pair.
        lifeline_fd: Read end of a pipe of its own.
        cookie: The registry's.
        is_fresh: Whether each worker is a fresh interpreter (N8).
    """

    socket_fd: int
    lifeline_fd: int
    cookie: str
    is_fresh: bool = False


@dataclass(frozen=True, slots=True)
class Orders:
    """What the nursery need not know while its interpreter comes up; the first thing on its socket, in a memory file.

    Args:
        preload: Modules to import before it forks.
        preparation: The parent's surroundings.
    """

    preload: Sequence[str]
    preparation: boot.Preparation


@dataclass(frozen=True, slots=True)
class _Child:
    worker_id: int
    generation: int
    birth_fd: int


def run_nursery(parcel: bytes) -> NoReturn:
    """Run as the nursery; `parcel` is a pickled `NurseryBoot` from the parent's own memory file."""
    known: NurseryBoot = pickling.loads(parcel)  # written by the parent, in a file without a name
    boot.hide_from_programs(known.socket_fd, known.lifeline_fd)
    lifeline.arm_signal(known.lifeline_fd)  # a thread instead would break N1
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    # A parent that ignores or blocks this one would keep every death from being seen.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    code = 1
    orders = None
    try:
        with contextlib.closing(passing.adopt(known.socket_fd)) as link:
            _import_own(known)
            orders = _read_orders(link)
            if orders is not None and _preload(link, known, orders):
                code = _Nursery(link, known).serve()
    except OSError:
        code = 0 if lifeline.is_broken(known.lifeline_fd) else _complain()
    except BaseException:  # noqa: BLE001 - told on stderr; what was forked has been ended on the way here
        code = _complain()
    finally:
        if orders is not None and orders.preload:
            # What a preloaded module started is in this group; so is this process.
            os.killpg(0, signal.SIGKILL)
        os._exit(code)


def _complain() -> int:
    boot.print_traceback()
    return 1


def _import_own(known: NurseryBoot) -> None:
    """Import what every worker needs, while the parent still finds out what its orders are."""
    gc.disable()  # until the fork: pages that the collector has not touched stay shared
    for name in () if known.is_fresh else boot.ALWAYS_PRELOADED:
        _import_ahead(name)


def _read_orders(link: passing.Socket) -> Orders | None:
    """Wait for the orders; None when the registry has gone, or has no use for this nursery any more."""
    content, fds = passing.recv_fds(link, 1, 1)
    if not content:
        return None
    orders: Orders = pickling.loads(os.pread(fds[0], os.fstat(fds[0]).st_size, 0))  # as above
    os.close(fds[0])
    return orders


def _preload(link: passing.Socket, known: NurseryBoot, orders: Orders) -> bool:
    try:
        boot.prepare(orders.preparation)
        for name in orders.preload:
            importlib.import_module(name)
    except BaseException:  # noqa: BLE001 - becomes the registry's StartFailed
        _send(link, PreloadFailed(boot.traceback_text()[-_REASON_LIMIT_CHARS:]))
        return False
    if "logging" in sys.modules and not known.is_fresh:  # a worker will need the courier as well
        _import_ahead(_PRELOADED_FOR_LOGS)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.flush()  # or every worker would write it again
    gc.freeze()
    lifeline.disarm(known.lifeline_fd)  # from now on the broken socket is enough, and leaves time to clean up
    return True


def _import_ahead(name: str) -> None:
    with contextlib.suppress(ImportError):  # only speed is lost here; a worker that needs it reports it
        importlib.import_module(name)


def _send(link: passing.Socket, answer: Answer) -> None:
    link.sendall(pickling.dumps(answer))


class _Nursery:
    def __init__(self, link: passing.Socket, known: NurseryBoot) -> None:
        self._link = link
        self._lifeline_fd = known.lifeline_fd
        self._cookie = known.cookie
        self._is_fresh = known.is_fresh
        self._children: dict[int, _Child] = {}
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def serve(self) -> int:
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a Python handler, whatever it does, feeds the wake-up pipe
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        strays = Strays(self._cookie)
        poll = select.poll()
        poll.register(self._link, select.POLLIN)
        poll.register(self._wake_r, select.POLLIN)
        try:
            _send(self._link, Ready())
            while True:
                events = dict(poll.poll())
                if self._wake_r in events:
                    self._bury(strays)
                happened = events.get(self._link.fileno(), 0)
                if happened & (select.POLLHUP | select.POLLERR):
                    return 0
                if happened and not self._answer_request():
                    return 0
        finally:
            self._end_all()

    def _answer_request(self) -> bool:
        content, fds = passing.recv_fds(self._link, MESSAGE_LIMIT_BYTES, FDS_PER_REQUEST)
        if not content:
            return False
        request: Request = pickling.loads(content)  # only the registry has the other end
        if request.needs and request.needs not in sys.modules and not self._is_fresh:
            _import_ahead(request.needs)
            gc.freeze()
        try:
            self._fork(request, fds)
        except OSError as error:
            _send(self._link, BirthFailed(request.worker_id, request.generation, f"{type(error).__name__}: {error}"))
            for fd in fds:
                os.close(fd)
        return True

    def _fork(self, request: Request, fds: list[int]) -> None:
        if len(fds) != FDS_PER_REQUEST:
            raise OSError("too many open files: not all of the worker's arrived")
        gate_r, gate_w = os.pipe()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            with warnings.catch_warnings():  # a preloaded module's threads are its user's choice
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                os.close(gate_w)
                self._become_worker(fds, gate_r)
        except OSError:
            os.close(gate_w)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(gate_r)
        birth_fd, *rest = fds
        for fd in rest:
            os.close(fd)  # N2
        self._children[pid] = _Child(request.worker_id, request.generation, birth_fd)
        with contextlib.suppress(OSError):  # both sides try; the second finds it done, or the worker dead
            os.setpgid(pid, pid)
        try:
            _send(self._link, Born(request.worker_id, request.generation, pid))
            os.write(gate_w, b"g")  # N3
        except BrokenPipeError:
            pass  # either the worker has died already, or the registry has; the next poll tells
        finally:
            os.close(gate_w)

    def _become_worker(self, fds: list[int], gate_r: int) -> NoReturn:
        code = boot.BOOT_FAILED
        try:
            boot.lead_own_group()
            signal.set_wakeup_fd(-1)
            self._link.close()
            for fd in (self._wake_r, self._wake_w, self._lifeline_fd):
                os.close(fd)
            for child in self._children.values():
                os.close(child.birth_fd)
            self._children.clear()
            gone = not os.read(gate_r, 1)
            os.close(gate_r)
            if gone:
                os._exit(code)
            birth_fd, *rest = fds
            worker, preparation = boot.read_orders(birth_fd)
            if self._is_fresh:
                self._become_program(birth_fd, rest, preparation)
            gc.enable()
            boot.run_in_child(worker.with_fds(rest), preparation, birth_fd)
        except BaseException:  # noqa: BLE001 - a forked child never runs up its parent's stack
            boot.print_traceback()
        finally:
            os._exit(code)

    def _become_program(self, birth_fd: int, fds: list[int], preparation: boot.Preparation) -> NoReturn:
        environ = preparation["environ"]
        assert isinstance(environ, dict)  # noqa: S101 - built by mpengine.processes.spawning
        try:
            boot.become_program(birth_fd, fds, environ)
        except OSError:
            boot.write_failure(birth_fd, boot.traceback_text())
            raise

    def _bury(self, strays: Strays) -> None:
        with contextlib.suppress(BlockingIOError):
            while len(os.read(self._wake_r, 4096)) == 4096:  # noqa: PLR2004 - a full read: there may be more
                pass
        alive = len(self._children)
        for pid in list(self._children):
            burial = bury_nowait(pid)
            if burial is not None:
                self._tell_death(pid, burial)
        has_died = len(self._children) < alive
        if strays.bury(self._children.keys()) or has_died:  # N7
            cookies = {tagged(self._cookie, child.worker_id, child.generation) for child in self._children.values()}
            strays.kill_left(self._children.keys(), cookies, has_died=has_died)

    def _tell_death(self, pid: int, burial: Burial) -> None:
        child = self._children.pop(pid)
        failure = boot.read_failure(child.birth_fd) if burial.exitcode == boot.BOOT_FAILED else None
        os.close(child.birth_fd)
        if failure is not None:
            failure = failure[-_REASON_LIMIT_CHARS:]
        _send(self._link, Died(child.worker_id, child.generation, pid, burial.exitcode, burial.peak_rss, failure))

    def _end_all(self) -> None:
        for pid in self._children:
            kill_group(pid)
        for pid in self._children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        end_all_children()
