"""What earlier runs have settled, and how often each key has come; looked up by the source's thread, item by item.

Both may be larger than memory, so they are tables of a temporary database of SQLite's own, which has no name and is
gone with the process.  The journal itself has no index of keys: it is copied, sorted, when a run goes on with it.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

from mpengine.errors import JournalError
from mpengine.journal.records import ItemState, OpenItem
from mpengine.records import dataclass

if TYPE_CHECKING:
    from pathlib import Path

CACHE_KIB: Final = 32 * 1024


@dataclass(frozen=True, slots=True)
class Recall:
    """What is not run again.

    Attributes:
        contents: its values, pickled, if they are to be delivered again.
    """

    contents: tuple[bytes, ...] = ()


class Memory:
    """Knows what is settled.

    Args:
        path: the journal, which is written to meanwhile.
        is_resumed: whether there is anything in it.
        delivers: whether values are delivered again.
        retries: whether what has failed is run again.
        fans_out: whether one item may give several results.

    Raises:
        JournalError: the journal cannot be read, or there is no room for temporary files.
    """

    def __init__(self, path: Path, *, is_resumed: bool, delivers: bool, retries: bool, fans_out: bool) -> None:
        """Copy what the journal says of items."""
        self._path = path
        self._delivers = delivers
        self._retries = retries
        self._fans_out = fans_out
        self._is_resumed = is_resumed
        self._journal: sqlite3.Connection | None = None
        self._known = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        try:
            self._fill()
        except sqlite3.Error as error:
            self.close()
            raise self._problem(error) from error

    def _fill(self) -> None:
        known = self._known
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{CACHE_KIB}"):
            known.execute(f"PRAGMA {pragma}")
        known.execute("CREATE TABLE seen (key BLOB PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID")
        if self._is_resumed:
            known.execute(
                "CREATE TABLE known (key BLOB, nth INTEGER, item INTEGER, state INTEGER, given INTEGER,"
                " PRIMARY KEY (key, nth)) WITHOUT ROWID"
            )
            known.execute("ATTACH ? AS journal", (str(self._path),))
            known.execute(
                "INSERT OR REPLACE INTO known SELECT key, nth, item, ?, given FROM journal.parts",
                (int(ItemState.LEFT),),
            )
            known.execute(
                "INSERT OR REPLACE INTO known SELECT key, nth, item, state, given FROM journal.items ORDER BY key, nth"
            )
            known.execute("DETACH journal")
            if self._delivers:
                self._journal = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        known.execute("BEGIN")

    def look_up(self, key: bytes) -> OpenItem | Recall:
        """Return what the next item of ``key`` is: one to be run, or one that is settled.

        Raises:
            JournalError: there is no room for temporary files, or the journal cannot be read.
        """
        try:
            return self._look_up(key)
        except sqlite3.Error as error:
            raise self._problem(error) from error

    def _look_up(self, key: bytes) -> OpenItem | Recall:
        known = self._known
        nth = 0
        if known.execute("INSERT OR IGNORE INTO seen VALUES (?, 1)", (key,)).rowcount == 0:
            (nth,) = known.execute("SELECT count FROM seen WHERE key = ?", (key,)).fetchone()
            known.execute("UPDATE seen SET count = count + 1 WHERE key = ?", (key,))
        if not self._is_resumed:
            return OpenItem(key, nth)
        row = known.execute("SELECT item, state, given FROM known WHERE key = ? AND nth = ?", (key, nth)).fetchone()
        if row is None:
            return OpenItem(key, nth)
        item, state, given = row
        if state == ItemState.LEFT:
            return OpenItem(key, nth, item, 0 if self._delivers else given, is_known=True)
        # Which of an item's results are there is not known, only how many: it could not be run again for the others.
        if state == ItemState.FAILED and self._retries and not (self._fans_out and given):
            return OpenItem(key, nth, item, is_known=True)
        return Recall(self._contents(item) if self._delivers and given else ())

    def _contents(self, item: int) -> tuple[bytes, ...]:
        assert self._journal is not None  # noqa: S101 - there is one where values are delivered
        found = self._journal.execute("SELECT content FROM kept WHERE item = ? ORDER BY value", (item,))
        return tuple(content for (content,) in found)

    def close(self) -> None:
        """Let go of it."""
        self._known.close()
        if self._journal is not None:
            self._journal.close()

    def _problem(self, error: sqlite3.Error) -> JournalError:
        return JournalError(f"cannot look up in the journal {self._path}, or in SQLite's temporary file: {error}")
