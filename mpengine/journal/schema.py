"""The tables of a journal, and whether a file is one.

``items``     one row for each item that is done or has failed, in the order in which that became known.  Nothing
              indexes their keys: rows are appended, and a transaction touches a page or two, whatever keys are like.
``parts``     items that are not settled, and of which results are in the output already
``failures``  what failed, of items that have failed and of those that ended their run
``kept``      values, where they are kept
``runs``      one row for each run
``notes``     the pipeline's fingerprint, whether values are kept, the output's name and where it stood
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Final

from mpengine.errors import JournalError

if TYPE_CHECKING:
    from pathlib import Path

APPLICATION_ID: Final = 0x6D70656E  # "mpen"
VERSION: Final = 1
PATIENCE_S: Final = 10.0

_TABLES: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE items (item INTEGER PRIMARY KEY, key BLOB NOT NULL, nth INTEGER NOT NULL, state INTEGER NOT NULL,
    given INTEGER NOT NULL, run INTEGER NOT NULL);
CREATE TABLE parts (item INTEGER PRIMARY KEY, key BLOB NOT NULL, nth INTEGER NOT NULL, given INTEGER NOT NULL);
CREATE TABLE failures (failure INTEGER PRIMARY KEY, item INTEGER NOT NULL, state INTEGER NOT NULL, run INTEGER NOT NULL,
    source_index INTEGER NOT NULL, stage TEXT NOT NULL, summary TEXT NOT NULL, repr TEXT NOT NULL,
    traceback TEXT NOT NULL, attempts INTEGER NOT NULL, worker INTEGER);
CREATE INDEX failures_of_item ON failures (item);
CREATE TABLE kept (value INTEGER PRIMARY KEY, item INTEGER NOT NULL, content BLOB NOT NULL);
CREATE INDEX kept_of_item ON kept (item);
CREATE TABLE runs (run INTEGER PRIMARY KEY, pid INTEGER NOT NULL, host TEXT NOT NULL, version TEXT NOT NULL,
    began_at REAL NOT NULL, ended_at REAL, ending TEXT, total INTEGER, seen INTEGER, known INTEGER, is_whole INTEGER);
CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
"""


def connect(path: Path, *, writes: bool) -> sqlite3.Connection:
    """Return a connection to a journal, which any one thread at a time may use; nothing is a transaction by itself.

    Raises:
        JournalError: the file cannot be opened, or is no journal of this version.
    """
    try:
        uri = f"{path.absolute().as_uri()}?mode={'rwc' if writes else 'ro'}"
        connection = sqlite3.connect(
            uri, uri=True, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False
        )  # fmt: skip
    except sqlite3.Error as error:
        raise JournalError(f"cannot open the journal {path}: {error}") from error
    try:
        check(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Look whether a file is a journal of this version; one that is empty may become one.

    Raises:
        JournalError: it is not.
    """
    try:
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        is_new = connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    except sqlite3.DatabaseError as error:
        raise JournalError(f"cannot read the journal {path}: {error}") from error
    if is_new and not application_id:
        return
    if application_id != APPLICATION_ID:
        raise JournalError(f"{path} is no journal, but some other SQLite database")
    if version != VERSION:
        raise JournalError(f"the journal {path} is of format {version}, and this version of mpengine reads {VERSION}")


def is_empty(connection: sqlite3.Connection) -> bool:
    """Whether the file has no tables yet."""
    return bool(connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,))


def create(connection: sqlite3.Connection, notes: dict[str, str]) -> None:
    """Make the tables and write the notes, all of it or nothing.

    Raises:
        sqlite3.Error: there is no room, or the like.
    """
    try:
        connection.executescript(_TABLES)
        connection.executemany("INSERT INTO notes VALUES (?, ?)", notes.items())
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def notes_of(connection: sqlite3.Connection) -> dict[str, str]:
    """Return the notes."""
    return dict(connection.execute("SELECT name, value FROM notes"))
