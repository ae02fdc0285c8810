"""The registry's end of its guardian, which ends what workers of the start method ``fork`` have started elsewhere.

Q1. It is started with the first worker, and again with the next one should it have died.
Q2. Telling it never waits: what its socket does not take is left to the last look, which is at everything.
Q3. At the end the registry looks itself: what the guardian has missed, or what it would have done had it been there.
    Where it could not be started, what user code has started in sessions of its own outlives a killed coordinator.
"""

from __future__ import annotations

import contextlib
import errno
import sys
import time

from mpengine.processes import spawning
from mpengine.processes.identity import ProcessIdentity
from mpengine.processes.orphans import kill_orphans
from mpengine.worker import passing
from mpengine.worker.burial import kill_and_bury
from mpengine.worker.descent import COOKIE_NAME
from mpengine.worker.guardian import GuardianBoot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

_VERIFY_S: Final = 1.0


class GuardianLink:
    """One guardian, and those before it.

    Args:
        environ: Variables of the workers; the cookie is in them.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._cookie = environ[COOKIE_NAME]
        self._identity: ProcessIdentity | None = None
        self._link: passing.Socket | None = None
        self._past: list[ProcessIdentity] = []
        self._is_missed = False

    def start(self) -> None:
        """Start it, unless it runs already; where no program can be started, go on without it (Q3)."""
        if self._identity is not None:
            if self._identity.is_alive():
                return
            self._bury()
        try:
            self._launch()
        except OSError:
            self._is_missed = True

    def _launch(self) -> None:
        if getattr(sys, "frozen", False) or not sys.executable:
            raise FileNotFoundError(errno.ENOENT, "no interpreter, but a program that would start itself again")
        ours, theirs = passing.make_pair()
        with contextlib.ExitStack() as on_error:  # descriptors may run out
            on_error.callback(ours.close)
            with contextlib.closing(theirs):
                orders = GuardianBoot(theirs.fileno(), self._cookie)
                environ = {COOKIE_NAME: ""}  # it does not bear the cookie that it looks for, nor one of an outer engine
                target = "mpengine.worker.guardian:run_guardian"
                pid = spawning.launch(target, orders, (theirs.fileno(),), environ)
            on_error.callback(kill_and_bury, pid)
            identity = ProcessIdentity.of(pid)
            on_error.pop_all()
        ours.settimeout(0)
        spawning.close_in_forked_children(ours.fileno())
        self._identity, self._link = identity, ours

    def tell_gone(self, cookie: str) -> None:
        """A worker is gone: whatever bears its cookie is to go as well."""
        if self._link is not None:
            with contextlib.suppress(OSError):  # Q2, Q3
                self._link.send(cookie.encode())

    def processes(self) -> tuple[ProcessIdentity, ...]:
        """Every guardian so far."""
        return tuple(self._past) if self._identity is None else (*self._past, self._identity)

    def close(self, deadline_at: float) -> None:
        """Have a last look in its place, which costs less than to wait for it, and bury it.

        Args:
            deadline_at: How long that may take, on the monotonic clock.
        """
        was_wanted = self._identity is not None or self._is_missed
        if self._identity is not None:
            self._bury()
        if was_wanted:
            kill_orphans((), self._cookie, min(_VERIFY_S, max(0.0, deadline_at - time.monotonic())))

    def _bury(self) -> None:
        assert self._identity is not None  # noqa: S101 - both callers have looked
        assert self._link is not None  # noqa: S101 - made with it
        pid = self._identity.pid
        self._past.append(self._identity)
        spawning.forget(self._link.fileno())
        self._link.close()
        self._identity = self._link = None
        kill_and_bury(pid)

    def abandon(self) -> None:
        """In a forked child: the guardian is not its own.  Its socket has been closed already."""
        if self._link is not None:
            self._link.detach()
        self._identity = self._link = None
        self._past.clear()
