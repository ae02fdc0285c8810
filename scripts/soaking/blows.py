"""Deals out the blows of a run, on a thread of the process whose run it is.

Whoever is hit is known by a pidfd, opened before anything else is asked about it; so nobody is hit who only has got the
number of somebody else.  What is stopped is set going again when its time is over, whatever has become of the run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

from soaking.belongings import all_processes
from soaking.recipes import NEVER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpengine import Engine
    from soaking.recipes import Blow

_BURN = "import sys, time\nend = time.monotonic() + float(sys.argv[1])\nwhile time.monotonic() < end: pass"
_FREEZE = (
    "import os, signal, sys, time\n"
    "os.kill(int(sys.argv[1]), signal.SIGSTOP)\n"
    "time.sleep(float(sys.argv[2]))\n"
    "os.kill(int(sys.argv[1]), signal.SIGCONT)"
)
_SHORTER = 0.5  # for what holds everybody up
_POLL_S = 0.01
_UNBORN = ("absent", "starting")
_HELPERS = {"nursery": "run_nursery", "board": "run_board"}


class Blows:
    """A thread that hits what an engine has started; as a context manager, for one run.

    Args:
        engine: whose run it is.
        blows: what is to happen.
        awaits_workers: whether their time begins when there is a worker, not with the run.

    Attributes:
        dealt: how often each was, by name.
    """

    def __init__(self, engine: Engine, blows: Sequence[Blow], *, awaits_workers: bool) -> None:
        self._engine = engine
        self._awaits_workers = awaits_workers
        self._blows = blows
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._deal_all, name="soak-blows")
        self._stopped: list[tuple[float, int]] = []
        self._beside: list[subprocess.Popen[bytes]] = []
        self.dealt: Counter[str] = Counter()
        self.error: BaseException | None = None

    def __enter__(self) -> Blows:  # noqa: PYI034 - as in the other scripts
        """Begin."""
        if self._blows:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, and leave nobody stopped and nothing running."""
        self._is_over.set()
        if self._blows:
            self._thread.join()
        for program in self._beside:
            program.wait()
        if self.error is not None:
            raise self.error

    def _deal_all(self) -> None:
        try:
            while self._awaits_workers and not self._workers() and not self._is_over.wait(_POLL_S):
                pass
            began_at = time.monotonic()
            for blow in self._blows:
                if not self._wait_until(began_at + blow.at_s):
                    break
                self._deal(blow)
            while self._stopped:
                self._wait_until(min(at for at, _ in self._stopped))
                if self._is_over.is_set():
                    break
        except BaseException as error:  # noqa: BLE001 - raised again by who waits for the thread
            self.error = error
        finally:
            self._release(NEVER)

    def _wait_until(self, at: float) -> bool:
        """Wait, and let go whose time is over meanwhile; returns whether the run still goes on."""
        while True:
            due_at = min([at, *(until for until, _ in self._stopped)])
            if self._is_over.wait(max(0.0, min(due_at - time.monotonic(), threading.TIMEOUT_MAX))):
                return False
            self._release(time.monotonic())
            if time.monotonic() >= at:
                return True

    def _release(self, at: float) -> None:
        kept = []
        for until, pidfd in self._stopped:
            if until <= at:
                _send(pidfd, signal.SIGCONT)
                os.close(pidfd)
            else:
                kept.append((until, pidfd))
        self._stopped = kept

    # ------------------------------------------------------------------ the blows

    def _deal(self, blow: Blow) -> None:
        how = blow.what.partition(" ")[0]
        if how == "hogs":
            self._start_beside(_BURN, f"{min(blow.hold_s, 1.0) * _SHORTER}", count=4)
        elif how == "freeze":
            self._start_beside(_FREEZE, str(os.getpid()), f"{min(blow.hold_s, 1.0) * _SHORTER}")
        elif how == "stop":
            for pidfd in self._find(blow.what, blow.whom):
                self._hit(pidfd, signal.SIGSTOP, blow.what)
                self._stopped.append((time.monotonic() + blow.hold_s, pidfd))
            return
        else:
            signum = {"kill": signal.SIGKILL, "segv": signal.SIGSEGV, "term": signal.SIGTERM}[how]
            for pidfd in self._find(blow.what, blow.whom):
                self._hit(pidfd, signum, blow.what)
                os.close(pidfd)
            return
        self.dealt[blow.what] += 1

    def _hit(self, pidfd: int, signum: int, what: str) -> None:
        if _send(pidfd, signum):
            self.dealt[what] += 1

    def _find(self, what: str, chosen: float) -> list[int]:
        """Open those that are meant."""
        whom = what.partition(" ")[2]
        if what == "kill nursery" and not self._workers():
            return []  # one that dies again and again before it is ready ends a run, and is to
        if whom in _HELPERS:
            return _open(lambda: _children(_HELPERS[whom]))
        pidfds = _open(self._workers)
        if whom == "one" and pidfds:
            hit = pidfds.pop(int(chosen * len(pidfds)))
            for pidfd in pidfds:
                os.close(pidfd)
            return [hit]
        return pidfds

    def _workers(self) -> list[int]:
        # Three in a row that die before they have said hello end a run, and are to: those are let grow up.
        workers = self._engine.snapshot().workers
        return [worker.pid for worker in workers if worker.pid and worker.state not in _UNBORN]

    def _start_beside(self, program: str, *arguments: str, count: int = 1) -> None:
        # close_fds=False is what lets Popen spawn.  Otherwise it reads from a pipe until nobody has its other end any
        # more, and a worker that is forked at this moment has a copy of that as long as it lives.
        command = [sys.executable, "-S", "-c", program, *arguments]
        for _ in range(count):
            self._beside.append(subprocess.Popen(command, close_fds=False))


def _children(target: str) -> list[int]:
    return [process.pid for process in all_processes() if process.parent == os.getpid() and target in process.command]


def _open(find: Callable[[], list[int]]) -> list[int]:
    """Open whom ``find`` finds, and finds again once they are open: those are they."""
    pidfds = {}
    for pid in find():
        with contextlib.suppress(ProcessLookupError):
            pidfds[pid] = os.pidfd_open(pid)
    still = find()
    for pid in pidfds.keys() - set(still):
        os.close(pidfds.pop(pid))
    return [pidfds[pid] for pid in sorted(pidfds)]


def _send(pidfd: int, signum: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        return False
    return True
