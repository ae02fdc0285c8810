"""Rows of CSV, as dicts by the names at the head.

The parent reads them, since only who has read all that stands before knows where a row begins: a field in quotes may
hold line ends.  A row that is none is an item that fails, and the next line begins a new one.
"""

from __future__ import annotations

import csv as standard
from pathlib import Path
from typing import TYPE_CHECKING

from mpengine.errors import SourceError
from mpengine.reading import Malformed, Source, malformed
from mpengine.sources.cutting import MAX_LINE_BYTES
from mpengine.sources.text import STANDARD, LineBased

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence


class CsvReader(LineBased):
    """The rows of an open file; blank lines are left out.

    Args:
        path: the file; None reads standard input.
        columns: the names; None: they stand in the first row.
        delimiter: what stands between fields.
        max_line_bytes: a longer line is malformed.

    Raises:
        OSError: the file cannot be opened, or is a folder.
    """

    def __init__(
        self, path: Path | None, columns: Sequence[str] | None, delimiter: str, max_line_bytes: int = MAX_LINE_BYTES
    ) -> None:
        super().__init__(path, max_line_bytes)
        self._columns = None if columns is None else list(columns)
        self._text = ""  # the last line
        self._problem: str | None = None  # what is wrong with a line of the row that is being read
        self._rows = standard.reader(self._texts(), delimiter=delimiter, strict=True)

    def _texts(self) -> Iterator[str]:
        """Yield the lines as text; what is wrong with one is noted."""
        while (line := self._lines.next_line()) != b"":
            if line is None:
                self._problem = self._lines.too_long()
                yield "\n"
                continue
            if b"\0" in line:
                self._problem = "holds a zero byte"
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                self._problem = f"is not UTF-8: byte {error.start + 1} is 0x{line[error.start]:02x}"
                text = line.decode("utf-8", "replace")
            self._text = text
            yield text

    def __next__(self) -> dict[str, str] | Malformed:
        if self._columns is None:
            self._columns = self._head()
        columns = self._columns
        while True:
            row, problem = self._next_row()
            if problem is None and len(row) == len(columns):
                return dict(zip(columns, row, strict=True))
            if row or problem:
                plural = "" if len(row) == 1 else "s"
                what = problem or f"has {len(row)} field{plural}, not {len(columns)}"
                return Malformed(malformed(self._where, what, row or self._text.rstrip()))

    def _next_row(self) -> tuple[list[str], str | None]:
        """Return the next row, and what is wrong with it."""
        self._first = self._lines.number + 1
        self._problem = None
        try:
            row = next(self._rows)
        except standard.Error as error:
            return [], self._problem or f"is not CSV: {error}"
        return row, self._problem

    @property
    def _where(self) -> str:
        """The row, by the number of its first line."""
        return f"line {self._first} of {self._lines.name}"

    def _head(self) -> list[str]:
        """Return the names of the columns.

        Raises:
            SourceError: the first row has none.
            StopIteration: there is no row at all.
        """
        row, problem = self._next_row()
        while not row and problem is None:
            row, problem = self._next_row()
        if problem is not None:
            raise SourceError(f"{self._where}, which has the names of the columns, {problem}")
        twice = sorted({name for name in row if row.count(name) > 1})
        if twice:
            raise SourceError(f"{self._where} has the names of the columns, and {', '.join(map(repr, twice))} twice")
        return row


class Csv(Source):
    """See ``csv``."""

    def __init__(
        self, path: str | os.PathLike[str], columns: Sequence[str] | None, delimiter: str, max_line_bytes: int
    ) -> None:
        self._path = None if str(path) == STANDARD else Path(path)
        self._columns = columns
        self._delimiter = delimiter
        self._max_line_bytes = max_line_bytes

    def open(self) -> CsvReader:
        """Open the file."""
        return CsvReader(self._path, self._columns, self._delimiter, self._max_line_bytes)

    def __repr__(self) -> str:
        return f"csv({str(self._path or STANDARD)!r})"


def csv(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    delimiter: str = ",",
    max_line_bytes: int = MAX_LINE_BYTES,
) -> Source:
    """Return the rows of a CSV file as a source: dicts of text, by the names of the columns.

    The text is UTF-8, with or without a mark at its beginning; lines end with LF or CRLF; a field in double quotes may
    hold both, and delimiters.  A row with more or fewer fields than columns, one that is not UTF-8, holds a zero byte
    or breaks the rules of quoting is an item that fails, with a ``MalformedError`` that names its first line.

    Args:
        path: the file; ``"-"`` is standard input; by ``.gz``, ``.xz`` or ``.zst`` at its end it is compressed.
        columns: the names of the columns, for a file that has none in its first row.
        delimiter: what stands between fields.
        max_line_bytes: a longer line is an item that fails.
    """
    return Csv(path, columns, delimiter, max_line_bytes)
