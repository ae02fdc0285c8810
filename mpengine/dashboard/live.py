"""The dashboard as the program that runs a pipeline has it: a thread that looks, sends, and hears requests.

L1. The thread never blocks but in its one wait, and holds no lock that anybody else waits for.
L2. While nobody looks, a look a second keeps the history; a look at the listening socket is what starts the web server.
L3. What goes wrong in the web server's process costs that process: it is started anew, ``STARTS`` times at most, and
    knows all of the past again, which is kept here.  After that the dashboard is closed and one line says so.
L4. When it is left, the last state is sent, and the web server waited for ``END_S`` at most, then killed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import secrets
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Self

from mpengine.dashboard.address import Place, is_loopback, listen, url_of
from mpengine.dashboard.history import History
from mpengine.dashboard.told import Told
from mpengine.dashboard.wire import Frame, WireError, framed
from mpengine.errors import EngineError
from mpengine.monitor.observing import RunBegan
from mpengine.processes import spawning

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpengine.dashboard.hostprocess import HostProcess
    from mpengine.metrics import Snapshot
    from mpengine.monitor.observing import Record

WATCHED_S: Final = 0.25
ALONE_S: Final = 1.0
SHARE: Final = 50
"""A look is followed by so many times its own time without one (W4)."""
STARTS: Final = 4
END_S: Final = 1.0
TOKEN_BYTES: Final = 24
NEEDED: Final = ("starlette", "uvicorn")


class Dashboard:
    """An observer of an engine's runs that shows them in a browser while it is entered, and cancels one when told so.

    ``with Dashboard() as dashboard, Engine(observers=[dashboard]) as engine: ...``

    Args:
        address: ``HOST:PORT``, ``HOST`` or ``PORT``; this machine alone and any free port by default.
        ahead: returns what is known of what is still to come, for a snapshot: a dict with any of ``total`` (source
            items), ``share`` (of the run that is done, 0 to 1) and ``left_s`` (seconds).

    Attributes:
        url: what to open; whoever has it may watch the runs and cancel them.

    Raises:
        ValueError: ``address`` is not one.
        EngineError: starlette or uvicorn is missing; ``mpengine[dashboard]`` brings them.
        OSError: nobody can listen there; the message says where, and why.
    """

    def __init__(self, address: str = "", *, ahead: Callable[[Snapshot], dict[str, Any]] | None = None) -> None:
        place = Place.parse(address)
        check_installed()
        self._ahead = ahead
        self._token = secrets.token_urlsafe(TOKEN_BYTES)
        listener = listen(place)
        self._names = (place.host, socket.gethostname())
        self.url = url_of(listener, place, self._token)
        self.is_loopback = is_loopback(listener)
        self._listener_fd: int | None = (
            listener.detach()
        )  # numbers: no copy of this object closes one in a forked child
        self._told = Told()
        self._shown: Told = self._told
        self._history = History()
        self._host: HostProcess | None = None
        self._starts = 0
        self._viewers = 0
        self._due_at = self._rested_at = 0.0
        self._wants_full = False
        self._is_over = False
        self._wake_r, self._wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for fd in (self._listener_fd, self._wake_r, self._wake_w):
            spawning.close_in_forked_children(fd)
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._body, name="mpengine-dashboard", daemon=True)

    def observe(self, records: Sequence[Record]) -> None:
        """Keep what the thread is to show; see ``Observer``."""
        for record in records:
            if isinstance(record, RunBegan):
                self._told = Told(record)
            else:
                self._told.add(record)

    def __enter__(self) -> Self:
        with contextlib.suppress(RuntimeError):  # the interpreter is on its way out: nothing is shown
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Show the last state, and leave; idempotent."""
        if self._is_over or os.getpid() != self._pid:
            return
        self._is_over = True
        os.write(self._wake_w, b"!")
        if self._thread.ident is not None:
            self._thread.join()
        else:
            self._close_listener()
        for fd in (self._wake_r, self._wake_w):
            spawning.close_parent_only(fd)

    # ------------------------------------------------------------------ the thread

    def _body(self) -> None:
        try:
            while not self._is_over:
                self._wait()
                if time.monotonic() >= self._due_at and not self._is_over:
                    self._look()
            self._look(is_last=True)
        except Exception as error:  # noqa: BLE001 - a line in the log; the run needs no dashboard (W1)
            _warn(f"the run goes on without a dashboard: {type(error).__name__}: {error}")
        finally:
            self._close_listener()
            self._drop_host()

    def _wait(self) -> None:
        """Wait until it is time for a look, and do what is asked for meanwhile."""
        poll = select.poll()
        poll.register(self._wake_r, select.POLLIN)
        host = self._host
        if host is not None:
            poll.register(host.link.fd, select.POLLIN | (0 if host.link.is_clear else select.POLLOUT))
        elif self._listener_fd is not None:
            poll.register(self._listener_fd, select.POLLIN)
        happened = dict(poll.poll(max(0.0, self._due_at - time.monotonic()) * 1000))
        if host is not None and host.link.fd in happened:
            self._attend(host)
        elif host is None and self._listener_fd in happened:
            self._start_host(self._listener_fd)

    def _start_host(self, listener_fd: int) -> None:
        from mpengine.dashboard.hostprocess import HostProcess

        self._starts += 1
        if self._starts > STARTS:
            _warn("the dashboard is closed: its web server has died too often")
            self._close_listener()
            return
        self._host = HostProcess.start(listener_fd, self._token, self._names)
        self._wants_full = True
        self._hasten()

    def _attend(self, host: HostProcess) -> None:
        """Hear what the web server asks for, and send what it had no room for."""
        try:
            for request in host.link.requests():
                if request.cancel is not None:
                    self._told.cancel(request.cancel)
                if request.viewers is not None:
                    self._viewers = request.viewers
                self._wants_full |= request.wants_full
                self._hasten()
            host.link.flush()
        except (OSError, EOFError, WireError):
            self._drop_host()

    def _drop_host(self) -> None:
        host, self._host = self._host, None
        self._viewers = 0
        if host is not None and not host.bury():
            _warn(f"the dashboard's process is left behind: {host.identity}")

    def _close_listener(self) -> None:
        fd, self._listener_fd = self._listener_fd, None
        if fd is not None:
            spawning.close_parent_only(fd)

    def _look(self, *, is_last: bool = False) -> None:
        began_at = time.monotonic()
        told = self._told
        if told.began is not None:
            if told is not self._shown:
                before, self._shown = self._shown, told
                if before.is_to_be_cancelled is not None:
                    told.cancel(before.is_to_be_cancelled)
                self._history.begin(told.began.run_id, told.outline())
            snapshot = told.snapshot()
            self._history.add_troubles(told.take_troubles())
            self._history.see(snapshot, self._ahead(snapshot) if self._ahead else told.ahead(snapshot), told.at_work_on)
            if told.result is not None:
                self._history.end(told.ending())
        if self._host is not None:
            self._tell(self._host, is_last=is_last)
        now = time.monotonic()
        self._rested_at = now + SHARE * (now - began_at)
        self._due_at = max(self._rested_at, began_at + (WATCHED_S if self._viewers else ALONE_S))

    def _hasten(self) -> None:
        """Look as soon as may be (W4)."""
        self._due_at = min(self._due_at, self._rested_at)

    def _tell(self, host: HostProcess, *, is_last: bool) -> None:
        """Tell the web server what is new, unless it has not taken what was new before."""
        try:
            if is_last and not host.wait_clear(END_S):
                return
            if host.link.is_clear:
                host.link.send(framed(Frame.STEP, _encoded(self._history.step())))
                if self._wants_full or is_last:
                    self._wants_full = False
                    host.link.send(framed(Frame.FULL, _encoded(self._history.full())))
            if is_last:
                host.link.send(framed(Frame.BYE))
                host.wait_gone(END_S)
        except OSError:
            self._drop_host()


def check_installed() -> None:
    """See that there is a web server.

    Raises:
        EngineError: there is none; the message names the extra.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise EngineError(f"the dashboard needs {' and '.join(missing)}: pip install 'mpengine[dashboard]'")


def _encoded(told: dict[str, Any]) -> bytes:
    return json.dumps(told, separators=(",", ":")).encode()


def _warn(line: str) -> None:
    logging.getLogger("mpengine").warning("%s", line)
