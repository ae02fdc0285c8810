"""The journal's writer: a thread of its own, and the only one that writes.

    the consumer --- Taken ----+
    the loop --- Settled ------+--> queue --> this thread: one transaction for what has come, after the output's fsync
    the end --- Ended ---------+

J1. Nobody but the source ever waits for the disk: it waits while more than ``MOST_WAITING`` records do.
J2. What a list of results says comes before what settles their items: the consumer puts its record before it tells the
    loop that it has taken them.
J3. Before a transaction that says where the output stands, the output is synced.  So the journal is never ahead of it,
    not even when the machine loses its power; what the journal has lost then is done again.
J4. An item that gives one result at most is done when that is in the output; any other when nothing of it is under way.
    Until then ``parts`` says how many results of it are in the output.
J5. Where the output cannot be cut back at every place, records wait for the next one where it can be.
J6. After the first error nothing more is written.  What was committed stands, the run is told and ends.
"""

from __future__ import annotations

import contextlib
import json
import queue
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Final

from mpengine.errors import JournalError
from mpengine.journal.records import Ended, ItemState, Settled, Taken

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpengine.journal.book import Book
    from mpengine.journal.description import Output
    from mpengine.journal.records import FailureRecord, OpenItem

MOST_WAITING: Final = 1000
MOST_AT_ONCE: Final = 1000
MOST_FAILURES: Final = 20
"""Failures that are kept of one item that became many."""

Record = Taken | Settled | Ended


class Writer:
    """Writes the journal of one run.

    Args:
        book: the open journal.
        output: whose data is synced first.
        done_at_once: whether no item gives more than one result.
        on_problem: is told that nothing more can be written; from the writer's thread.

    Attributes:
        open: the items under way, by source index; added by the source's thread, taken out by this one.
        problem: what went wrong; None if nothing did.
        thread: the thread.
    """

    def __init__(
        self, book: Book, output: Output | None, on_problem: Callable[[JournalError], None], *, done_at_once: bool
    ) -> None:
        """Start nothing yet."""
        self._book = book
        self._output = output
        self._done_at_once = done_at_once
        self._on_problem = on_problem
        self._queue: queue.SimpleQueue[Record] = queue.SimpleQueue()
        self._room = threading.Event()
        self._room.set()
        self._position: str | None = None
        self._held: list[Record] = []  # J5
        self.open: dict[int, OpenItem] = {}
        self.problem: JournalError | None = None
        self.thread = threading.Thread(target=self._write, name="mpengine-journal", daemon=True)

    def put(self, record: Record) -> None:
        """Have a record written; never waits."""
        self._queue.put(record)
        if self._queue.qsize() > MOST_WAITING:
            self._room.clear()
            if self._queue.qsize() <= MOST_WAITING:  # it has been worked off in between, and nobody would say so
                self._room.set()

    def await_room(self) -> None:
        """Wait until what is to be written is not too much (J1)."""
        self._room.wait()

    def let_go(self) -> None:
        """Have nobody wait for room any more."""
        self._room.set()

    def note_failure(self, record: FailureRecord) -> None:
        """Keep what failed of an item until it is settled; from the loop."""
        item = self.open.get(record.index)
        if item is not None and len(item.failures) < MOST_FAILURES:
            item.failures.append(record)

    def finish(self, ended: Ended) -> JournalError | None:
        """Write what is left and close the journal; return what went wrong, if anything did."""
        self.put(ended)
        self.thread.join()
        return self.problem

    # ------------------------------------------------------------------ on the thread

    def _write(self) -> None:
        try:
            ended = False
            while not ended:
                records = [self._queue.get()]
                while len(records) < MOST_AT_ONCE and not self._queue.empty():
                    records.append(self._queue.get())
                ended = isinstance(records[-1], Ended)
                if self.problem is None:
                    self._commit(self._ripe(records))
                if self._queue.qsize() <= MOST_WAITING:
                    self._room.set()
        finally:
            self._room.set()
            self._book.close()

    def _ripe(self, records: list[Record]) -> list[Record]:
        """Return what may be written now (J5)."""
        if self._output is None:
            return records
        ripe: list[Record] = []
        for record in records:
            if isinstance(record, Ended):
                ripe.append(record)  # what is held still is not in the output as far as anybody knows
                continue
            self._held.append(record)
            is_waiting = isinstance(self._held[0], Taken) and self._held[0].position is None
            if not is_waiting or (isinstance(record, Taken) and record.position is not None):
                ripe += self._held
                self._held.clear()
        return ripe

    def _commit(self, records: list[Record]) -> None:
        connection = self._book.connection
        try:
            if not self._says_anything(records):
                return
            connection.execute("BEGIN IMMEDIATE")
            for record in records:
                self._take_in(record)
            if self._position is not None:
                if self._output is not None:
                    self._output.sync()
                connection.execute("UPDATE notes SET value = ? WHERE name = 'position'", (self._position,))
                self._position = None
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._fail(f"cannot write the journal {self._book.path}: {error}", error)
        except OSError as error:
            name = "the output" if self._output is None else self._output.name
            self._fail(f"cannot write {name}: {error.strerror or error}", error)
        except Exception as error:  # noqa: BLE001 - becomes the run's error: it would wait for this thread for ever
            self._fail(f"cannot write the journal {self._book.path}: {type(error).__name__}: {error}", error)

    def _says_anything(self, records: list[Record]) -> bool:
        """Whether there is anything to write: most items are done before their batch is settled."""
        open_items = self.open
        return any(
            not isinstance(record, Settled) or any(index in open_items for index in record.indices)
            for record in records
        )

    def _fail(self, text: str, error: Exception) -> None:
        self.problem = JournalError(text)
        self.problem.__cause__ = error
        if self._book.connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # closing does it as well
                self._book.connection.execute("ROLLBACK")
        self._on_problem(self.problem)

    def _take_in(self, record: Record) -> None:
        match record:
            case Taken():
                self._take_results(record)
            case Settled():
                self._settle(record)
            case Ended(ending, seen, known, is_whole):
                self._book.connection.execute(
                    "UPDATE runs SET ended_at = ?, ending = ?, seen = ?, known = ?, is_whole = ? WHERE run = ?",
                    (time.time(), ending, seen, known, is_whole, self._book.run),
                )

    def _take_results(self, taken: Taken) -> None:
        done: list[tuple[OpenItem, ItemState]] = []
        grown: dict[int, OpenItem] = {}
        kept: list[tuple[int, bytes]] = []
        forgotten: list[tuple[int]] = []
        for place, index in enumerate(taken.indices):
            item = self.open.get(index)
            if item is None:
                continue  # delivered from the journal
            if item.is_known and not item.given:
                forgotten.append((item.row,))
            item.given += 1
            if taken.kept is not None:
                kept.append((self._row_of(item), taken.kept[place]))
            if self._done_at_once and index not in taken.unsure:
                del self.open[index]
                done.append((item, ItemState.FAILED if item.failures else ItemState.DONE))
            else:
                grown[index] = item
        self._save(done)
        parts = [(self._row_of(item), item.key, item.nth, item.given) for item in grown.values()]
        connection = self._book.connection
        connection.executemany("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?)", parts)
        connection.executemany("DELETE FROM kept WHERE item = ?", forgotten)
        connection.executemany("INSERT INTO kept (item, content) VALUES (?, ?)", kept)
        if taken.position is not None:
            self._position = json.dumps(taken.position)

    def _settle(self, settled: Settled) -> None:
        over: list[tuple[OpenItem, ItemState]] = []
        for index in settled.indices:
            item = self.open.pop(index, None)
            if item is None:
                continue
            if index in settled.left:
                if item.failures:  # it has ended the run; the next one is to know of it
                    row = (self._row_of(item), item.key, item.nth, item.given)
                    self._book.connection.execute("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?)", row)
                    self._save_failures([(item, ItemState.LEFT)])
                continue
            has_failed = item.failures or index in settled.failed
            over.append((item, ItemState.FAILED if has_failed else ItemState.DONE))
        self._save(over)

    def _save(self, items: list[tuple[OpenItem, ItemState]]) -> None:
        run = self._book.run
        rows = [(self._row_of(item), item.key, item.nth, int(state), item.given, run) for item, state in items]
        connection = self._book.connection
        connection.executemany("INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?, ?, ?)", rows)
        self._save_failures([(item, state) for item, state in items if item.failures or item.is_known])
        parted = [(item.row,) for item, _ in items if item.is_known or not self._done_at_once]
        connection.executemany("DELETE FROM parts WHERE item = ?", parted)
        empty = [(item.row,) for item, _ in items if item.is_known and not item.given]
        connection.executemany("DELETE FROM kept WHERE item = ?", empty)

    def _save_failures(self, items: list[tuple[OpenItem, ItemState]]) -> None:
        """Write what failed of items, in the place of what the journal has of them."""
        if not items:
            return
        connection = self._book.connection
        connection.executemany("DELETE FROM failures WHERE item = ?", [(self._row_of(item),) for item, _ in items])
        connection.executemany(
            "INSERT INTO failures (item, state, run, source_index, stage, summary, repr, traceback, attempts, worker)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    item.row, int(state), self._book.run, failure.index, failure.stage, _plain(failure.summary),
                    _plain(failure.item), _plain(failure.traceback), failure.attempts, failure.worker_id,
                )
                for item, state in items
                for failure in item.failures
            ],
        )  # fmt: skip

    def _row_of(self, item: OpenItem) -> int:
        """Return the item's number, which it gets now if it has none."""
        if not item.row:
            item.row = self._book.next_row
            self._book.next_row += 1
        return item.row


def _plain(text: str) -> str:
    """Return text that SQLite takes: there may be half a surrogate pair in it."""
    return text.encode("utf-8", "backslashreplace").decode()
