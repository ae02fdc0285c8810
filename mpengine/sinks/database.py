"""Rows into a table of an SQLite database, a transaction from one position to the next.

The database and whoever keeps the tokens cannot change in one step.  So the database has a table of its own,
``mpengine_sink``, with lines for each transaction: whose it is, its number, and which rows came with it.  Whoever goes
on from a token takes back the transactions of the same output behind it, in one step with their lines.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpengine.errors import JournalError
from mpengine.sinks.base import Sink, SinkError, type_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpengine.sinks.base import Token

BUSY_S = 60.0
TRANSACTION_INTERVAL_S = 0.5

_BOOKS = """CREATE TABLE IF NOT EXISTS mpengine_sink (
    output TEXT NOT NULL, position INTEGER NOT NULL, first_row INTEGER NOT NULL, last_row INTEGER NOT NULL)"""


class SqliteSink(Sink):
    """See ``sqlite``."""

    interval_s = TRANSACTION_INTERVAL_S

    def __init__(self, path: str | os.PathLike[str], table: str, columns: Sequence[str] | None) -> None:
        super().__init__(f"table {table} of {path}")
        self._path = Path(path)
        self._table = table
        self._columns = None if columns is None else list(columns)
        self._connection: sqlite3.Connection | None = None
        self._insert = ""
        self._output = os.urandom(8).hex()
        self._position = 0
        self._spans: list[list[int]] = []

    def open(self) -> None:
        """See ``Sink``."""
        if self._connection is not None:
            return
        with self._path.open("ab"):  # SQLite says of all that goes wrong here that it cannot open the file
            pass
        try:
            self._connection = sqlite3.connect(
                self._path, isolation_level=None, timeout=BUSY_S, check_same_thread=False
            )
            self._connection.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.Error as error:
            self._let_go()
            raise self._trouble(error) from error

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise SinkError(f"{self.label} is not open: begin() comes first")
        return self._connection

    def _trouble(self, error: sqlite3.Error) -> SinkError:
        after = f", after {self.written:,} values" if self.written else ""
        return SinkError(f"cannot write {self.label}: {error}{after}")

    @property
    def name(self) -> str:
        """The database's absolute path, and the table."""
        return f"{self._path.absolute()}:{self._table}"

    def begin(self) -> None:
        """See ``Sink``; rows are added to what the table holds."""
        self.open()
        try:
            self._db.execute(_BOOKS)
        except sqlite3.Error as error:
            raise self._trouble(error) from error

    def rewind(self, position: Any) -> None:
        """See ``Sink``."""
        self.open()
        if position is None:
            return
        output, number = position["output"], position["position"]
        try:
            self._begin_transaction()
            self._db.execute(_BOOKS)
            (reached,) = self._db.execute(
                "SELECT coalesce(max(position), 0) FROM mpengine_sink WHERE output = ?", (output,)
            ).fetchone()
            if reached < number:
                where = f"it has {reached} transactions of that run, which had made {number}"
                raise JournalError(f"{self.label} cannot be gone on with: {where}")
            self._take_back(output, number)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._trouble(error) from error
        self._output, self._position, self.written = output, number, position["values"]
        self._columns = position["columns"] or self._columns

    def _take_back(self, output: str, position: int) -> None:
        """Remove what came behind a position, and the lines that tell of it."""
        behind = (output, position)
        spans = self._db.execute(
            "SELECT first_row, last_row FROM mpengine_sink WHERE output = ? AND position > ?", behind
        ).fetchall()
        for span in spans:
            self._db.execute(f"DELETE FROM {_quoted(self._table)} WHERE rowid BETWEEN ? AND ?", span)  # noqa: S608 - quoted
        self._db.execute("DELETE FROM mpengine_sink WHERE output = ? AND position > ?", behind)

    def write(self, value: Any) -> None:
        """Write a row.

        Args:
            value: a dict by the names of the columns.
        """
        if not isinstance(value, dict):
            raise self._misfit(f"a row is a dict, not {type_name(value)}")
        if not self._insert:
            self._prepare(value)
        assert self._columns is not None  # noqa: S101 - that is what _prepare() is for
        if len(value) != len(self._columns) or any(column not in value for column in self._columns):
            odd = sorted(map(str, set(value).symmetric_difference(self._columns)))
            raise self._misfit(f"its columns are not those of the table; they differ in {', '.join(odd)}")
        try:
            self._begin_transaction()
            row = self._db.execute(self._insert, [value[column] for column in self._columns]).lastrowid
        except (sqlite3.Error, OverflowError) as error:  # a type that SQLite has not, a constraint, a full disk
            raise self._misfit(str(error)) from error
        self._note(row or 0)
        self.written += 1

    def _prepare(self, value: dict[Any, Any]) -> None:
        """Make the table where there is none, and the statement that adds to it."""
        if self._columns is None:
            if not value or not all(isinstance(column, str) for column in value):
                raise self._misfit("a row has names for its columns, which are text")
            self._columns = list(value)
        names = ", ".join(map(_quoted, self._columns))
        table = _quoted(self._table)
        try:
            self._begin_transaction()
            self._db.execute(f"CREATE TABLE IF NOT EXISTS {table} ({names})")
            self._db.execute(f"SELECT rowid, {names} FROM {table} LIMIT 0")  # noqa: S608 - quoted
        except sqlite3.Error as error:
            raise self._misfit(str(error)) from error
        marks = ", ".join("?" * len(self._columns))
        self._insert = f"INSERT INTO {table} ({names}) VALUES ({marks})"  # noqa: S608 - quoted

    def _begin_transaction(self) -> None:
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")

    def _note(self, row: int) -> None:
        """Note that a row came with this transaction."""
        if self._spans and self._spans[-1][1] + 1 == row:
            self._spans[-1][1] = row
        else:
            self._spans.append([row, row])

    def _commit(self) -> None:
        """End the transaction; the next value begins another, so that others may write meanwhile."""
        try:
            number = self._position + 1
            self._db.executemany(
                "INSERT INTO mpengine_sink VALUES (?, ?, ?, ?)",
                [(self._output, number, first, last) for first, last in self._spans],
            )
            self._db.execute("COMMIT")
            self._position = number
            self._spans = []
        except sqlite3.Error as error:
            raise self._trouble(error) from error

    def position(self, *, is_last: bool = False) -> Token:
        """See ``Sink``; what is committed is on the disk as far as the database's own settings go."""
        if self.written and not self._is_due(is_last=is_last):
            return None
        if self._spans:
            self._commit()
        return {"output": self._output, "position": self._position, "values": self.written, "columns": self._columns}

    def close(self) -> None:
        """See ``Sink``."""
        if self._connection is None:
            return
        try:
            if self._spans:
                self._commit()
        finally:
            self._let_go()

    def abort(self) -> None:
        """See ``Sink``: what was written since the last position is taken back."""
        self._let_go()

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        self._insert = ""
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            connection.close()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def sqlite(path: str | os.PathLike[str], table: str, *, columns: Sequence[str] | None = None) -> Sink:
    """Return a sink that adds each value, a dict by the names of the columns, as a row to a table of an SQLite file.

    Args:
        path: the database's file; it is made where there is none.
        table: its name; the table is made where there is none.
        columns: the names of the columns; None: those of the first value.
    """
    return SqliteSink(path, table, columns)
