"""The metrics board: the last snapshot of a run, in the dict of a ``multiprocessing`` Manager.

    coordinator --- update() --->  Manager process: the dict  <--- copy() --- any process that knows address and key

B1. The dict is a ``DictProxy`` of a ``SyncManager``.  An update is one call, and so is ``copy()``: who reads with that
    never sees two snapshots mixed.
B2. Each call has a connection of its own, and each step of it a time limit: a Manager that is stopped costs its caller
    ``PATIENCE_S`` and an ``OSError``, one that is dead an ``OSError`` at once.  Between calls nothing is open.
B3. Nobody counts references, so nothing is sent, and nothing waits, when a proxy is dropped or a program exits.
B4. The address is in the kernel's abstract namespace: no file is left behind, whoever dies when.
B5. The dict has more to it than what it holds: those who watch may ask, and are answered (see ``desk``).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import struct
from multiprocessing import connection
from multiprocessing.managers import BaseProxy, DictProxy, SyncManager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from mpengine.monitor import desk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Proxy = DictProxy[str, Any]
else:
    Proxy = DictProxy

PATIENCE_S: Final = 1.0
KEY_BYTES: Final = 32

_NAME: Final = "board"
_board = desk.Desk()


class BoardAddress(NamedTuple):
    """Where a board is, and what opens it.

    Attributes:
        address: of the Manager's socket.
        authkey: whoever has it may read and write the board, and run code in the Manager's process.
    """

    address: str
    authkey: bytes


def new_address() -> BoardAddress:
    """Return an address that nobody uses and a key that nobody knows."""
    return BoardAddress(f"\0mpengine-{os.getpid()}-{secrets.token_hex(8)}", secrets.token_bytes(KEY_BYTES))


def connect(address: str, authkey: bytes) -> connection.Connection[Any, Any]:
    """Return a connection whose every step has a time limit (B2).

    Raises:
        OSError: there is nobody, or nobody who answers in time.
        EOFError: whoever was there has left.
        multiprocessing.AuthenticationError: the key is wrong.
    """
    with socket.socket(socket.AF_UNIX) as plug:
        plug.settimeout(PATIENCE_S)
        plug.connect(address)
        plug.settimeout(None)  # from here on the kernel keeps the time, since Connection reads from the descriptor
        limit = struct.pack("ll", int(PATIENCE_S), int(PATIENCE_S % 1 * 1e6))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            plug.setsockopt(socket.SOL_SOCKET, option, limit)
        link: connection.Connection[Any, Any] = connection.Connection(plug.detach())
    try:
        connection.answer_challenge(link, authkey)
        connection.deliver_challenge(link, authkey)
    except BaseException:
        link.close()
        raise
    return link


class BoardProxy(Proxy):
    """A ``DictProxy`` that keeps to B2 and B3."""

    _exposed_ = (*DictProxy._exposed_, *desk.METHODS)  # type: ignore[attr-defined]
    _method_to_typeid_: dict[Any, Any] = {}  # noqa: RUF012 - the base class's name and type

    def __init__(self, *args: Any, **options: Any) -> None:
        """Refer to the board; see ``BaseProxy``."""
        super().__init__(*args, **{**options, "incref": False})
        self._Client = connect

    def _incref(self) -> None:
        """Count nothing (B3); called after a fork, too."""

    def _callmethod(self, methodname: str, args: Any = (), kwds: Any = None) -> Any:
        """Call a method of the dict over a connection of its own (B2)."""
        try:
            return super()._callmethod(methodname, args, kwds or {})
        finally:
            link = self._tls.__dict__.pop("connection", None)  # type: ignore[attr-defined]
            if link is not None:
                link.close()

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys that are there now."""
        return iter(self.keys())

    # ------------------------------------------------------------------ over the counter (B5); see ``Desk``

    def publish(
        self, run_id: str, figures: dict[str, Any] | None = None, sights: dict[str, Any] | None = None
    ) -> tuple[bool, list[desk.Ask]]:
        """Put a snapshot on the board, and take what was asked."""
        is_watched, asks = self._callmethod("publish", (run_id, figures, sights))
        return is_watched, asks

    def answer(self, number: int, text: str) -> None:
        """Answer what was asked."""
        self._callmethod("answer", (number, text))

    def look(self, seen: int = 0, wait_s: float = 0.0) -> dict[str, Any]:
        """Return what was published last, and be known to watch."""
        found: dict[str, Any] = self._callmethod("look", (seen, wait_s))
        return found

    def ask(self, run_id: str, kind: str, text: str = "") -> int:
        """Ask something of a run; returns the number of the answer."""
        return int(self._callmethod("ask", (run_id, kind, text)))

    def withdraw(self, number: int) -> bool:
        """Take back what was asked; returns whether nobody had taken it yet."""
        return bool(self._callmethod("withdraw", (number,)))

    def fetch(self, number: int, wait_s: float = 0.0) -> str | None:
        """Return an answer, once it is there."""
        found: str | None = self._callmethod("fetch", (number, wait_s))
        return found


class BoardManager(SyncManager):
    """A ``SyncManager`` with one more thing in it, the board, which is the same for all who ask for it."""

    def __init__(self, address: str, authkey: bytes) -> None:
        """Bind the manager to its address; nothing is started, nobody is called."""
        super().__init__(address=address, authkey=authkey)
        self._Client = connect

    if TYPE_CHECKING:

        def board(self) -> BoardProxy:
            """Return the board."""

    def connect(self) -> None:
        """Check that the manager's process is there; raises as ``connect`` does."""
        from multiprocessing import managers

        with contextlib.closing(self._Client(self._address, authkey=self._authkey)) as link:  # type: ignore[attr-defined]
            managers.dispatch(link, None, "dummy")  # type: ignore[attr-defined]
        self._state.value = managers.State.STARTED  # type: ignore[attr-defined]


BoardManager.register(_NAME, callable=lambda: _board, proxytype=BoardProxy)


def attach(address: str, authkey: bytes) -> BoardProxy:
    """Return the board of a run of another process.

    Args:
        address: the first half of that engine's ``metrics_address``.
        authkey: the second half.

    Returns:
        The dict.  ``copy()`` reads all of it in one moment; once the engine is closed, each call raises an ``OSError``.

    Raises:
        OSError: there is no such board (any more), or it does not answer.
        EOFError: it has gone in this very moment.
        multiprocessing.AuthenticationError: the key is wrong.
    """
    manager = BoardManager(address, authkey)
    manager.connect()
    return manager.board()


def forget(address: str) -> None:
    """Let go of what the proxies of a board that is no more have left behind in this process: a little memory."""
    BaseProxy._address_to_local.pop(address, None)  # noqa: SLF001 - nobody else ever takes anything out of it


def serve(where: BoardAddress, announce: Callable[[], object]) -> NoReturn:
    """Be the manager's process.

    Args:
        where: where to listen.
        announce: called once somebody who calls is heard.
    """
    server = BoardManager(*where).get_server()
    server.create(None, _NAME)  # type: ignore[arg-type]  # held for good: nobody counts references (B3)
    announce()
    server.serve_forever()
    raise SystemExit
