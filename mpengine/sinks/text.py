"""Values as text: lines of JSON, rows of CSV, lines as they are."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

from mpengine.bounded import bounded_text
from mpengine.results import ItemError
from mpengine.sinks.base import SinkError, type_name
from mpengine.sinks.inorder import FileSink

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from mpengine.sinks.base import Sink


class JsonSink(FileSink):
    """See ``jsonl``."""

    def write(self, value: object) -> None:
        """Write ``value`` as a line.

        Raises:
            SinkClosedError: nobody reads the output any more.
            SinkError: the value is not JSON, or the system refuses to write it.
        """
        try:
            line = json.dumps(value, allow_nan=False, default=plain)
        except Exception as error:
            what = f"value {self.written} of type {type_name(value)} is not JSON"
            raise SinkError(f"cannot write {self.label}: {what}: {bounded_text(error)}") from error
        self.write_bytes(line.encode("ascii") + b"\n")
        self.written += 1


class JsonLinesSink(JsonSink):
    """Writes each value as one line of JSON into a file that is open.

    Args:
        fd: the file, which the sink owns from then on.
        replaces: whether the lines take the place of what the file holds.
    """

    def __init__(self, fd: int, *, replaces: bool = False) -> None:
        super().__init__(None)
        self.adopt(fd, replaces=replaces)


class LinesSink(FileSink):
    """See ``lines``."""

    def write(self, value: object) -> None:
        """Write ``value`` and a line end."""
        if not isinstance(value, str):
            raise self._misfit(f"a line is text, not {type_name(value)}")
        if "\n" in value or "\r" in value:
            raise self._misfit("there is a line end in it")
        try:
            content = value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise self._misfit(f"it cannot be written in UTF-8: {error.reason}") from error
        self.write_bytes(content + b"\n")
        self.written += 1


class CsvSink(FileSink):
    """See ``csv``."""

    def __init__(
        self, path: str | os.PathLike[str], columns: Sequence[str] | None, delimiter: str, *, atomic: bool
    ) -> None:  # fmt: skip
        super().__init__(path, atomic=atomic)
        self._columns = None if columns is None else list(columns)
        self._width: int | None = None if columns is None else len(self._columns or ())
        self._has_head = False
        self._delimiter = delimiter
        self._make_writer()

    def _make_writer(self) -> None:
        import csv as standard

        self._row = io.StringIO()
        self._writer = standard.writer(self._row, delimiter=self._delimiter, lineterminator="\n")

    def _tell(self) -> dict[str, Any]:
        return {"columns": self._columns, "width": self._width, "has_head": self._has_head}

    def _take_up(self, token: dict[str, Any]) -> None:
        self._columns, self._width, self._has_head = token["columns"], token["width"], token["has_head"]

    def write(self, value: Any) -> None:
        """Write ``value`` as a row; the first mapping, or the columns that were asked for, give the head."""
        if isinstance(value, dict):
            cells = self._cells(value)
        elif isinstance(value, list | tuple):
            cells = list(value)
            if self._width is not None and len(cells) != self._width:
                raise self._misfit(f"it has {len(cells)} fields, not {self._width}")
        else:
            raise self._misfit(f"a row is a dict, a list or a tuple, not {type_name(value)}")
        for cell in cells:
            if isinstance(cell, dict | list | tuple | set | frozenset | bytes | bytearray | ItemError):
                raise self._misfit(f"a field is text or a number, not {type_name(cell)}")
        self._width = len(cells)
        head = b""
        if self._columns is not None and not self._has_head:
            head = self._encoded(self._columns)
            self._has_head = True
        self.write_bytes(head + self._encoded(cells))
        self.written += 1

    def _cells(self, value: Mapping[str, Any]) -> list[Any]:
        if self._columns is None:
            if self._width is not None:
                raise self._misfit("it is a dict, and those before it were rows without names")
            self._columns = list(value)
        if len(value) != len(self._columns) or any(column not in value for column in self._columns):
            odd = sorted(map(str, set(value).symmetric_difference(self._columns)))
            raise self._misfit(f"its columns are not those of the file; they differ in {', '.join(odd)}")
        return [value[column] for column in self._columns]

    def _encoded(self, cells: Sequence[Any]) -> bytes:
        self._row.seek(0)
        self._row.truncate()
        try:
            self._writer.writerow(cells)
            return self._row.getvalue().encode("utf-8", "surrogateescape")
        except Exception as error:  # str() of a cell is user code
            raise self._misfit(bounded_text(error)) from error


def jsonl(path: str | os.PathLike[str], *, atomic: bool = False) -> Sink:
    """Return a sink that writes each value as one line of JSON.

    Args:
        path: the file; ``"-"`` is standard output; by ``.gz``, ``.xz`` or ``.zst`` at its end it is compressed.
        atomic: whether the file gets its name only when it is complete; until then it has ``.part`` behind it.
    """
    return JsonSink(path, atomic=atomic)


def lines(path: str | os.PathLike[str], *, atomic: bool = False) -> Sink:
    """Return a sink that writes each value, which is text, as a line.

    Args:
        path: the file; ``"-"`` is standard output; by ``.gz``, ``.xz`` or ``.zst`` at its end it is compressed.
        atomic: whether the file gets its name only when it is complete; until then it has ``.part`` behind it.
    """
    return LinesSink(path, atomic=atomic)


def csv(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    delimiter: str = ",",
    atomic: bool = False,
) -> Sink:
    """Return a sink that writes each value as a row: a dict by the names of its columns, a list or tuple as it is.

    Args:
        path: the file; ``"-"`` is standard output; by ``.gz``, ``.xz`` or ``.zst`` at its end it is compressed.
        columns: the names at the head, and their order; None: those of the first dict, or none for lists.
        delimiter: what stands between fields.
        atomic: whether the file gets its name only when it is complete; until then it has ``.part`` behind it.
    """
    return CsvSink(path, columns, delimiter, atomic=atomic)


def plain(value: object) -> dict[str, Any]:
    """Return what stands for ``value`` in JSON: only an ``ItemError`` has that, which EMIT puts among the values.

    Raises:
        TypeError: nothing does.
    """
    if not isinstance(value, ItemError):
        raise TypeError(f"JSON has no {type_name(value)}")
    told = {
        "stage": value.stage,
        "index": value.index,
        "item": value.item,
        "error": type(value.error).__name__,
        "message": bounded_text(value.error),
        "attempts": value.attempts,
        "worker_id": value.worker_id,
    }
    if value.output:
        told["output"] = value.output
    return {"item_error": told}
