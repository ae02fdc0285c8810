"""One run at a time: who holds a journal.

H1. The lock is a ``flock``: it is gone with its process, however that ends.
H2. Its descriptor is opened before SQLite opens the file and closed after SQLite has closed it.  Whatever closes any
    descriptor of a file takes with it the locks that SQLite has on it in the same process.
H3. For the same reason a second run in this process is refused before it opens anything.
H4. Every child that is forked closes the descriptor at once, or the lock would outlive this process in it; whoever
    forks sees to that (``on_open`` and ``on_close``).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
from typing import TYPE_CHECKING

from mpengine.errors import JournalError
from mpengine.journal.schema import connect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_lock = threading.Lock()
_held: dict[tuple[int, int], int] = {}


class Hold:
    """A journal's file, held by this process.

    Args:
        path: the file, which is made if there is none.
        on_open: is told the descriptor, which no child may keep.
        on_close: is told it before it is closed.

    Raises:
        JournalError: another run has it, or it cannot be made.
    """

    def __init__(self, path: Path, on_open: Callable[[int], None], on_close: Callable[[int], None]) -> None:
        """Take it."""
        self._on_close = on_close
        with _lock:
            self._name = _free(path)
            try:
                self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise JournalError(f"cannot open the journal {path}: {error.strerror}") from error
            on_open(self._fd)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self._close()
                if isinstance(error, BlockingIOError):
                    raise JournalError(_refusal(path, _holder(path))) from None
                raise JournalError(f"cannot lock the journal {path}: {error.strerror}") from error
            found = os.fstat(self._fd)
            self._name = (found.st_dev, found.st_ino)
            _held[self._name] = os.getpid()

    def release(self) -> None:
        """Let go of it; idempotent."""
        with _lock:
            if self._name is not None:
                _held.pop(self._name, None)
                self._name = None
                with contextlib.suppress(OSError):  # a child that was forked just now has yet to close its copy (H4)
                    fcntl.flock(self._fd, fcntl.LOCK_UN)
                self._close()

    def _close(self) -> None:
        self._on_close(self._fd)
        os.close(self._fd)


def _free(path: Path) -> tuple[int, int] | None:
    """Return what names the file, None if there is none; raises if this process holds it."""
    try:
        found = path.stat()
    except OSError:
        return None
    name = (found.st_dev, found.st_ino)
    if _held.get(name) == os.getpid():
        raise JournalError(_refusal(path, os.getpid()))
    return name


def _holder(path: Path) -> int | None:
    """Return the process that holds a journal, as far as the journal tells."""
    with contextlib.suppress(JournalError, sqlite3.Error):
        connection = connect(path, writes=False)
        try:
            row = connection.execute("SELECT pid FROM runs WHERE ended_at IS NULL ORDER BY run DESC").fetchone()
        finally:
            connection.close()
        return None if row is None else int(row[0])
    return None


def _refusal(path: Path, pid: int | None) -> str:
    who = "another process" if pid is None else "this process" if pid == os.getpid() else f"process {pid}"
    return f"the journal {path} is in use: a run of {who} writes it"
