"""Rows of a query to an SQLite database, as dicts by the names of the columns."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpengine.errors import SourceError
from mpengine.reading import Reader, Source

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

ROWS_AT_ONCE = 256
BUSY_S = 60.0

Parameters = Mapping[str, Any] | tuple[Any, ...]


class SqliteReader(Reader):
    """The rows of a query.

    Args:
        path: the database.
        query: what is asked.
        parameters: of the query.

    Raises:
        OSError: there is no such file, or it may not be read.
        SourceError: it is no database, or the query is refused.
    """

    def __init__(self, path: Path, query: str, parameters: Parameters) -> None:
        with path.open("rb"):  # SQLite says of all that goes wrong here that it cannot open the file
            pass
        self._name = str(path)
        self._rows: list[tuple[Any, ...]] = []
        self._is_interrupted = False
        # Opened by whoever asks, read by the thread that feeds the run, interrupted by any: one at a time but for that.
        self._connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False, timeout=BUSY_S
        )
        self._connection.text_factory = _text
        try:
            self._cursor = self._connection.execute(query, parameters)
            self._columns = self._columns_of(query)
        except sqlite3.Error as error:
            self._connection.close()
            raise self._refusal(error) from error
        except BaseException:
            self._connection.close()
            raise

    def _columns_of(self, query: str) -> list[str]:
        """Return the names of the columns.

        Raises:
            SourceError: there are none, or one is there twice.
        """
        if self._cursor.description is None:
            raise SourceError(f"the query to {self._name} gives no rows: {query}")
        names = [column[0] for column in self._cursor.description]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SourceError(
                f"the query to {self._name} gives {', '.join(map(repr, twice))} twice; name columns by AS"
            )
        return names

    def _refusal(self, error: sqlite3.Error) -> SourceError:
        return SourceError(f"cannot read {self._name}: {error}")

    def __next__(self) -> dict[str, Any]:
        if not self._rows:
            self._rows = self._fetch()
            self._rows.reverse()
        if not self._rows:
            raise StopIteration
        return dict(zip(self._columns, self._rows.pop(), strict=True))

    def _fetch(self) -> list[tuple[Any, ...]]:
        if self._is_interrupted:
            return []
        try:
            return self._cursor.fetchmany(ROWS_AT_ONCE)
        except sqlite3.Error as error:
            if self._is_interrupted:
                return []
            raise self._refusal(error) from error

    def interrupt(self) -> None:
        """End the query."""
        self._is_interrupted = True
        self._rows = []
        with contextlib.suppress(sqlite3.ProgrammingError):  # it has been closed meanwhile
            self._connection.interrupt()

    def close(self) -> None:
        """Close the database; by the thread that reads it."""
        self._is_interrupted = True
        self._connection.close()


def _text(content: bytes) -> str:
    """Return text as it stands there; bytes that are not UTF-8 as surrogates, as they come out of a file of lines."""
    return content.decode("utf-8", "surrogateescape")


class Sqlite(Source):
    """See ``sqlite``."""

    def __init__(self, path: str | os.PathLike[str], query: str, parameters: Sequence[Any] | Mapping[str, Any]) -> None:
        self._path = Path(path)
        self._query = query
        self._parameters: Parameters = parameters if isinstance(parameters, Mapping) else tuple(parameters)

    def open(self) -> SqliteReader:
        """Ask the query."""
        return SqliteReader(self._path, self._query, self._parameters)

    def __repr__(self) -> str:
        return f"sqlite({str(self._path)!r}, {self._query!r})"


def sqlite(
    path: str | os.PathLike[str], query: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
) -> Source:  # fmt: skip
    """Return the rows that a query to an SQLite database gives as a source: dicts by the names of the columns.

    The database is opened for reading alone, and the query asked when the run begins.  For a run that may be resumed,
    end it with ``ORDER BY``: without, the order of the rows is SQLite's to choose.

    Args:
        path: the database's file.
        query: one ``SELECT``.
        parameters: of the query.
    """
    return Sqlite(path, query, parameters)
