"""Where values go: one JSON value a line, into a file or to standard output."""

from __future__ import annotations

import contextlib
import json
import os
import select
import stat
from pathlib import Path
from typing import IO, Any, Final, Self, cast

from mpengine.bounded import bounded_text
from mpengine.errors import EngineError, JournalError
from mpengine.results import ItemError

STREAM: Final = "a stream"
"""What a pipe or a terminal is called, and where it always stands."""


class SinkError(EngineError):
    """A value that could not be written."""


class SinkClosedError(SinkError):
    """The reader of the output has gone away."""


class JsonLinesSink:
    """Writes each value as one line of JSON.

    Into a regular file lines go in blocks.  Into a pipe or a terminal each goes at once, since somebody may wait for
    it; nothing is kept back then, so that closing never waits for a reader who has stopped reading.

    A journal can have a regular file cut back to where it has seen it (see ``Output`` in ``mpengine.journal``); of any
    other it only knows that it cannot.

    As a context manager it closes the file in the end; an error under way already comes before any that closing adds.

    Args:
        fd: the file, which the sink owns from then on.
        replaces: whether the lines take the place of what the file holds.
    """

    def __init__(self, fd: int, *, replaces: bool = False) -> None:
        is_regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._file = cast("IO[bytes]", os.fdopen(fd, "wb", -1 if is_regular else 0))
        self._is_regular = is_regular
        self._empties = replaces and is_regular
        self._written = 0
        self.name = _path_of(fd) if is_regular else STREAM

    def fileno(self) -> int:
        """Return the number of the file's descriptor."""
        return self._file.fileno()

    def begin(self) -> None:
        """Empty the file, if the lines are to take the place of what it holds; until now nothing of it is lost."""
        if self._empties:
            self._empties = False
            self._file.truncate(0)

    def position(self, *, is_last: bool) -> int | str:  # noqa: ARG002 - every line is a place to be cut back to
        """Hand all lines to the system, and return how long the file is then.

        Raises:
            SinkError: as ``write``.
        """
        try:
            self._file.flush()
        except OSError as error:
            raise self._refusal(error) from error
        if not self._is_regular:
            return STREAM
        return 0 if self._empties else os.fstat(self._file.fileno()).st_size

    def sync(self) -> None:
        """Have what the system was handed reach the disk; from any thread.

        Raises:
            OSError: it cannot be.
        """
        if self._is_regular:
            os.fdatasync(self._file.fileno())

    def rewind(self, position: object) -> None:
        """Cut the file back to ``position``, and go on from there.

        Raises:
            JournalError: it is shorter than that.
            SinkError: the system refuses to.
        """
        if not (self._is_regular and isinstance(position, int)):
            return
        size = os.fstat(self._file.fileno()).st_size
        if size < position:
            raise JournalError(f"{self.name} has {size:,} bytes, and {position:,} are known to have been written to it")
        self._empties = False
        try:
            self._file.truncate(position)
            self._file.seek(position)
        except OSError as error:
            raise self._refusal(error) from error

    def write(self, value: object) -> None:
        """Write ``value`` as a line.

        Raises:
            SinkClosedError: nobody reads the output any more.
            SinkError: the value is not JSON, or the system refuses to write it.
        """
        try:
            line = json.dumps(value, allow_nan=False, default=_plain)
        except Exception as error:
            msg = f"value {self._written} of type {_name(value)} is not JSON: {bounded_text(error)}"
            raise SinkError(msg) from error
        self.write_bytes(line.encode("ascii") + b"\n")
        self._written += 1

    def write_bytes(self, content: bytes) -> None:
        """Write ``content`` as it is.

        Raises:
            SinkClosedError: nobody reads the output any more.
            SinkError: the system refuses to write it.
        """
        try:
            self._put(content)
        except OSError as error:
            raise self._refusal(error) from error

    def close(self) -> None:
        """Write what is left and close the file.

        Raises:
            SinkError: as ``write``.
        """
        try:
            self._file.close()
        except OSError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> SinkError:
        """Return what ``error``, met while writing, means to the writer."""
        if isinstance(error, BrokenPipeError):
            return SinkClosedError("nobody reads the output any more")
        name = self.name if self._is_regular else "the output"
        return SinkError(f"cannot write {name}: {error.strerror or error}")

    def _put(self, content: bytes) -> None:
        left = memoryview(content)
        while left:
            written = cast("int | None", self._file.write(left))
            if written is None:  # somebody made this pipe non-blocking, and it is full
                select.select((), (self._file,), ())
            else:
                left = left[written:]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with contextlib.suppress(*(() if kind is None else (SinkError,))):
            self.close()


def _path_of(fd: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:  # there is no such folder
        return "a file"


def _plain(value: object) -> dict[str, Any]:
    """Return what stands for ``value`` in JSON: only an ``ItemError`` has, which EMIT puts among the values."""
    if not isinstance(value, ItemError):
        raise TypeError(f"JSON has no {_name(value)}")
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


def _name(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
