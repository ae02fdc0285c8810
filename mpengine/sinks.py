"""Where values go: one JSON value a line, into a file or to standard output."""

from __future__ import annotations

import contextlib
import json
import os
import select
import stat
from typing import IO, Any, Self, cast

from mpengine.bounded import bounded_text
from mpengine.errors import EngineError
from mpengine.results import ItemError


class SinkError(EngineError):
    """A value that could not be written."""


class SinkClosedError(SinkError):
    """The reader of the output has gone away."""


class JsonLinesSink:
    """Writes each value as one line of JSON.

    Into a regular file lines go in blocks.  Into a pipe or a terminal each goes at once, since somebody may wait for
    it; nothing is kept back then, so that closing never waits for a reader who has stopped reading.

    As a context manager it closes the file in the end; an error under way already comes before any that closing adds.

    Args:
        fd: the file, which the sink owns from then on.
        replaces: whether the lines take the place of what the file holds.
    """

    def __init__(self, fd: int, *, replaces: bool = False) -> None:
        is_regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._file = cast("IO[bytes]", os.fdopen(fd, "wb", -1 if is_regular else 0))
        self._empties = replaces and is_regular
        self._written = 0

    def fileno(self) -> int:
        """Return the number of the file's descriptor."""
        return self._file.fileno()

    def begin(self) -> None:
        """Empty the file, if the lines are to take the place of what it holds; until now nothing of it is lost."""
        if self._empties:
            self._file.truncate(0)

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
            raise _refusal(error) from error

    def close(self) -> None:
        """Write what is left and close the file.

        Raises:
            SinkError: as ``write``.
        """
        try:
            self._file.close()
        except OSError as error:
            raise _refusal(error) from error

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


def _refusal(error: OSError) -> SinkError:
    """Return what ``error``, met while writing, means to the writer."""
    if isinstance(error, BrokenPipeError):
        return SinkClosedError("nobody reads the output any more")
    return SinkError(f"cannot write the output: {error.strerror or error}")


def _plain(value: object) -> dict[str, Any]:
    """Return what stands for ``value`` in JSON: only an ``ItemError`` has, which EMIT puts among the values."""
    if not isinstance(value, ItemError):
        raise TypeError(f"JSON has no {_name(value)}")
    return {
        "item_error": {
            "stage": value.stage,
            "index": value.index,
            "item": value.item,
            "error": type(value.error).__name__,
            "message": bounded_text(value.error),
            "attempts": value.attempts,
            "worker_id": value.worker_id,
        }
    }


def _name(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
