"""Rows of Parquet files, as dicts by the names of the columns; pyarrow reads them, some thousand at a time."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpengine.compression import need
from mpengine.errors import SourceError
from mpengine.reading import Reader, Source

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

ROWS_AT_ONCE = 4096


class ParquetReader(Reader):
    """The rows of open files.

    Args:
        path: a file, or a folder whose ``.parquet`` files are read in the order of their names.
        columns: the names of those that are wanted; None: all.

    Raises:
        OSError: the file cannot be opened.
        SourceError: it is not what it has to be.
    """

    def __init__(self, path: Path, columns: Sequence[str] | None) -> None:
        self._name = str(path)
        self._columns = None if columns is None else list(columns)
        self._paths = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not self._paths:
            raise SourceError(f"there is no .parquet file in {path}")
        self._files: list[Any] = []
        self._given = self._total = 0
        self._is_closed = False
        try:
            for file in self._paths:
                self._total += self._open(file).metadata.num_rows
                self._close_files()
            self._open(self._paths[0])
        except BaseException:
            self._close_files()
            raise
        self._rows = itertools.chain.from_iterable(self._batches())

    def _open(self, path: Path) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with path.open("rb"):  # says in the system's words what is wrong with a file that cannot be opened
            pass
        try:
            file = pq.ParquetFile(path, memory_map=False, pre_buffer=False)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damage(path, error) from error
        self._files.append(file)
        lacking = sorted(set(self._columns or ()) - set(file.schema_arrow.names))
        if lacking:
            raise SourceError(f"{path} has no column {', '.join(map(repr, lacking))}")
        return file

    @staticmethod
    def _damage(path: Path, error: Exception) -> SourceError:
        return SourceError(f"cannot read {path} as Parquet: {' '.join(str(error).split())}")

    def _batches(self) -> Iterator[list[dict[str, Any]]]:
        import pyarrow as pa

        for path in self._paths:
            file = self._files[0] if self._files else self._open(path)
            try:
                for batch in file.iter_batches(ROWS_AT_ONCE, columns=self._columns, use_threads=False):
                    yield batch.to_pylist()
            except (pa.ArrowException, OSError, ValueError) as error:
                raise self._damage(path, error) from error
            self._close_files()

    def _close_files(self) -> None:
        while self._files:
            self._files.pop().close()

    @property
    def given_share(self) -> float | None:
        """How much has been given, 0 to 1."""
        return self._given / self._total if self._total else None

    def __next__(self) -> dict[str, Any]:
        if self._is_closed:
            raise StopIteration
        row = next(self._rows)
        self._given += 1
        return row

    def interrupt(self) -> None:
        """End it with the next item: none is waited for long."""
        self._is_closed = True

    def close(self) -> None:
        """Close the files; by the thread that reads them."""
        self._is_closed = True
        self._close_files()


class Parquet(Source):
    """See ``parquet``."""

    def __init__(self, path: str | os.PathLike[str], columns: Sequence[str] | None) -> None:
        need("pyarrow", "parquet", f"{path} is a Parquet file")
        self._path = Path(path)
        self._columns = columns

    def open(self) -> ParquetReader:
        """Open the file."""
        return ParquetReader(self._path, self._columns)

    def __repr__(self) -> str:
        return f"parquet({str(self._path)!r})"


def parquet(path: str | os.PathLike[str], *, columns: Sequence[str] | None = None) -> Source:
    """Return the rows of Parquet files as a source: dicts by the names of the columns.

    This takes pyarrow, which ``mpengine[parquet]`` brings.

    Args:
        path: a file, or a folder whose ``.parquet`` files are read in the order of their names.
        columns: the names of those that are wanted; None: all.

    Raises:
        PipelineError: pyarrow is not installed.
    """
    return Parquet(path, columns)
