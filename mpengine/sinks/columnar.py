"""Rows into Parquet files, a group of rows at a time; pyarrow writes them.

A Parquet file has its contents at its end, so it cannot be cut off: either it is complete or it is none.

    one file    is written under its name with ``.part`` behind it, and gets its name in the end; it cannot be resumed
    a folder    gets ``part-00000.parquet`` and so on; each position ends one, and whoever goes on removes those behind
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpengine.bounded import bounded_text
from mpengine.compression import need
from mpengine.errors import JournalError
from mpengine.sinks.base import Sink, SinkError, type_name
from mpengine.sinks.inorder import sync_folder

if TYPE_CHECKING:
    from mpengine.sinks.base import Token

ROWS_IN_A_GROUP = 16_384
PART_INTERVAL_S = 60.0
_PART = re.compile(r"part-\d{5,}\.parquet(\.part)?")


class ParquetSink(Sink):
    """See ``parquet``."""

    interval_s = PART_INTERVAL_S

    def __init__(self, path: str | os.PathLike[str], schema: Any, rows_in_a_group: int) -> None:
        need("pyarrow", "parquet", f"{path} is a Parquet file")
        super().__init__(str(path))
        self._path = Path(path)
        self._is_one = self._path.suffix.lower() == ".parquet" and not self._path.is_dir()
        self._schema = schema
        self._rows_in_a_group = rows_in_a_group
        self._rows: list[dict[str, Any]] = []
        self._columns: set[str] = set()
        self._parts = 0
        self._writer: Any = None

    @property
    def _target(self) -> Path:
        """The file that is written now, by the name that it gets."""
        return self._path if self._is_one else self._path / f"part-{self._parts:05}.parquet"

    @property
    def _unfinished(self) -> Path:
        return self._target.with_name(f"{self._target.name}.part")

    def open(self) -> None:
        """See ``Sink``; the folder is made where there is none."""
        if self._is_one:
            with self._unfinished.open("ab"):  # says in the system's words what is wrong
                pass
        else:
            self._path.mkdir(parents=True, exist_ok=True)

    @property
    def name(self) -> str:
        """The absolute path."""
        return str(self._path.absolute())

    def begin(self) -> None:
        """See ``Sink``; the parts that a folder holds are removed."""
        self.open()
        if not self._is_rewound:
            self._remove_parts(0)

    def rewind(self, position: Any) -> None:
        """See ``Sink``; one file is written anew, unless it is complete."""
        self.open()
        if position is None:
            return
        if self._is_one and position["parts"]:
            raise JournalError(f"{self.label} cannot be gone on with: one Parquet file cannot, a folder of them can")
        missing = [
            number for number in range(position["parts"]) if not (self._path / f"part-{number:05}.parquet").exists()
        ]
        if missing:
            raise JournalError(f"{self.label} cannot be gone on with: part {missing[0]} is gone")
        self._remove_parts(position["parts"])
        self._parts, self.written = position["parts"], position["values"]
        self._is_rewound = True

    def _remove_parts(self, first: int) -> None:
        if self._is_one:
            return
        kept = {f"part-{number:05}.parquet" for number in range(first)}
        for path in self._path.iterdir():
            if _PART.fullmatch(path.name) and path.name not in kept:
                path.unlink()

    def write(self, value: Any) -> None:
        """Write a row.

        Args:
            value: a dict by the names of the columns.
        """
        if not isinstance(value, dict) or not value or not all(isinstance(column, str) for column in value):
            raise self._misfit(f"a row is a dict by the names of the columns, not {type_name(value)}")
        if not self._columns:
            self._columns = set(value) if self._schema is None else set(self._schema.names)
        if value.keys() != self._columns:
            odd = sorted(self._columns.symmetric_difference(value))
            raise self._misfit(f"its columns are not those of the file; they differ in {', '.join(odd)}")
        self._rows.append(value)
        self.written += 1
        if len(self._rows) >= self._rows_in_a_group:
            self._end_group()

    def _end_group(self) -> None:
        """Write the rows that were kept back."""
        rows, self._rows = self._rows, []
        if not rows:
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pa.Table.from_pylist(rows, schema=self._schema)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise self._unfit(rows, error) from error
        try:
            if self._writer is None:
                self._schema = table.schema  # that of the first rows is the file's
                self._writer = pq.ParquetWriter(self._unfinished, table.schema)
            self._writer.write_table(table)
        except OSError as error:
            raise self._refusal(error) from error
        except pa.ArrowException as error:
            raise SinkError(f"cannot write {self.label}: {bounded_text(error)}") from error

    def _unfit(self, rows: list[dict[str, Any]], error: Exception) -> SinkError:
        """Return the error of rows that make no table, with the number of the first that does not fit."""
        import pyarrow as pa

        before = self.written - len(rows)
        fitting, wrong = 0, len(rows)
        while fitting + 1 < wrong:
            half = (fitting + wrong) // 2
            try:
                pa.Table.from_pylist(rows[:half], schema=self._schema)
                fitting = half
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as raised:
                wrong, error = half, raised
        text = " ".join(bounded_text(error).split())
        return SinkError(f"cannot write value {before + wrong - 1} to {self.label}: {text}")

    def _end_part(self) -> bool:
        """End the file that is written, and give it its name; return whether there was one."""
        self._end_group()
        writer, self._writer = self._writer, None
        if writer is None:
            return False
        try:
            writer.close()
            fd = os.open(self._unfinished, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            self._unfinished.replace(self._target)
            sync_folder(self._target.parent)
        except OSError as error:
            raise self._refusal(error) from error
        self._parts += 1
        return True

    def position(self, *, is_last: bool = False) -> Token:
        """See ``Sink``; ends a part, or the one file, which is on the disk then."""
        is_due = is_last if self._is_one else self._is_due(is_last=is_last)
        if self.written and not is_due:
            return None
        self._end_part()
        return {"parts": self._parts, "values": self.written}

    def close(self) -> None:
        """See ``Sink``; a file without rows has no columns either, unless a schema names them."""
        try:
            if not self._end_part() and self._is_one and self._parts == 0:
                self._write_empty()
        finally:
            self.abort()

    def _write_empty(self) -> None:
        if not self._unfinished.exists():
            return  # closed without having begun, or twice
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            empty = (self._schema or pa.schema([])).empty_table()
            pq.write_table(empty, self._unfinished)
            self._unfinished.replace(self._target)
        except OSError as error:
            raise self._refusal(error) from error

    def abort(self) -> None:
        """See ``Sink``: complete files stay, the one that is being written is removed."""
        self._rows = []
        writer, self._writer = self._writer, None
        with contextlib.suppress(Exception):  # whatever pyarrow makes of a full disk: the file is removed
            if writer is not None:
                writer.close()
        with contextlib.suppress(OSError):
            self._unfinished.unlink()


def parquet(path: str | os.PathLike[str], *, schema: Any = None, rows_in_a_group: int = ROWS_IN_A_GROUP) -> Sink:
    """Return a sink that writes each value, a dict by the names of the columns, as a row of Parquet.

    This takes pyarrow, which ``mpengine[parquet]`` brings.

    Args:
        path: one file, by ``.parquet`` at its end, which gets its name when it is complete; else a folder, which gets
            one file after the other and can be gone on with.
        schema: a ``pyarrow.Schema``; None: what the first group of rows shows.
        rows_in_a_group: so many rows are kept back and written together.

    Raises:
        PipelineError: pyarrow is not installed.
    """
    return ParquetSink(path, schema, rows_in_a_group)
