"""A journal that is open for a run: begun or gone on with, and what it says of earlier runs."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import time
from typing import TYPE_CHECKING

import mpengine
from mpengine.errors import JournalError
from mpengine.journal import schema
from mpengine.journal.holding import Hold
from mpengine.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpengine.journal.description import Journal


@dataclass(frozen=True, slots=True)
class Opening:
    """What a run brings along.

    Attributes:
        fingerprint: its stages, in words.
        total: how many items its source has; None where that is not known.
        on_open: see ``Hold``.
        on_close: the same.
    """

    fingerprint: str
    total: int | None
    on_open: Callable[[int], None]
    on_close: Callable[[int], None]


class Book:
    """An open journal.

    Args:
        journal: see ``Journal``.
        opening: see ``Opening``.

    Attributes:
        connection: to the file; belongs to the writer's thread once that runs.
        run: number of this run.
        is_resumed: whether there were runs before.
        keeps_values: whether values are kept.
        delivers: whether those of items that are done are delivered again.
        next_row: number of the first item that gets one.

    Raises:
        JournalError: it is in use, is no journal, is of another pipeline, exists though nobody wants to go on with it,
            or cannot be written; nothing was changed.
    """

    def __init__(self, journal: Journal, opening: Opening) -> None:
        """Take, check and begin it."""
        self.path = journal.file
        self._hold = Hold(self.path, opening.on_open, opening.on_close)
        try:
            self.connection = schema.connect(self.path, writes=True)
        except BaseException:
            self._hold.release()
            raise
        try:
            self._begin(journal, opening)
        except BaseException as error:
            self.close()
            if isinstance(error, sqlite3.Error):
                raise JournalError(f"cannot write the journal {self.path}: {error}") from error
            raise

    def _begin(self, journal: Journal, opening: Opening) -> None:
        connection = self.connection
        self.is_resumed = not schema.is_empty(connection)
        if self.is_resumed:
            notes = schema.notes_of(connection)
            self._check(journal, opening, notes)
        else:
            output = journal.output
            notes = {
                "fingerprint": opening.fingerprint,
                "keeps_values": json.dumps(bool(journal.keep_values or journal.deliver)),
                "output": "" if output is None else output.name,
                "position": json.dumps(None if output is None else output.position(is_last=False)),
            }
        self.keeps_values = bool(json.loads(notes["keeps_values"]))
        if self.is_resumed and journal.deliver and not self.keeps_values:
            msg = f"the journal {self.path} keeps no values to deliver: it was begun without keep_values=True"
            raise JournalError(msg)
        self.delivers = self.is_resumed and (
            self.keeps_values and journal.output is None if journal.deliver is None else journal.deliver
        )
        position = json.loads(notes["position"])
        if self.is_resumed and journal.output is not None:
            journal.output.rewind(position)
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            msg = f"the journal {self.path} cannot be kept there: its file system has no shared memory (SQLite's WAL)"
            raise JournalError(msg)
        connection.execute("PRAGMA synchronous = NORMAL")
        if not self.is_resumed:
            schema.create(connection, notes)
        (last,) = connection.execute(
            "SELECT max(coalesce((SELECT max(item) FROM items), 0), coalesce((SELECT max(item) FROM parts), 0))"
        ).fetchone()
        self.next_row = last + 1
        row = (os.getpid(), socket.gethostname(), mpengine.__version__, time.time(), opening.total)
        cursor = connection.execute(
            "INSERT INTO runs (pid, host, version, began_at, total) VALUES (?, ?, ?, ?, ?)", row
        )
        self.run = int(cursor.lastrowid or 0)
        if self.is_resumed and journal.force:
            changed = [(opening.fingerprint, "fingerprint")]
            if journal.output is not None:
                changed.append((journal.output.name, "output"))
            connection.executemany("UPDATE notes SET value = ? WHERE name = ?", changed)

    def _check(self, journal: Journal, opening: Opening, notes: dict[str, str]) -> None:
        if not journal.goes_on:
            (done,) = self.connection.execute("SELECT count(*) FROM items").fetchone()
            msg = (
                f"the journal {self.path} exists, with {done:,} items in it: "
                "go on with it by resume=True (--resume), or take another file"
            )
            raise JournalError(msg)
        if journal.force:
            return
        if notes["fingerprint"] != opening.fingerprint:
            msg = (
                f"the journal {self.path} is of another pipeline: {notes['fingerprint']}; this one is "
                f"{opening.fingerprint}; force=True (--force) goes on all the same"
            )
            raise JournalError(msg)
        name = "" if journal.output is None else journal.output.name
        if notes["output"] != name:
            msg = (
                f"the output of the journal {self.path} is {notes['output'] or 'none'}, not {name or 'none'}; "
                "force=True (--force) goes on all the same"
            )
            raise JournalError(msg)

    def close(self) -> None:
        """Close the file, and let others have it; idempotent."""
        with contextlib.suppress(
            sqlite3.Error
        ):  # a reader is at it, or the disk is full: what is in the WAL stays there
            self.connection.execute("PRAGMA journal_mode = DELETE")
        with contextlib.suppress(sqlite3.Error):
            self.connection.close()
        self._hold.release()
