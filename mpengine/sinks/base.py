"""What every sink has, so that whoever writes need not know what is written.

    open()     rewind(position), if it is to be gone on with     begin()     write(value), position() ...     close()

S1. Nothing that an output holds is lost before ``begin()``.
S2. What ``position()`` has returned a token for is written: it outlives this process however that ends, and a loss of
    power too once ``sync()`` has returned.
S3. ``rewind(position)`` takes back whatever was written behind that, also by a process that was killed half-way
    through a value, and goes on there.  So whoever keeps the tokens, and what was done until each, writes every value
    once, however often it begins again.
S4. A token is plain JSON.  None says that this is no place to be gone on from: what was written since the last token
    counts when the next one comes.  At the end there always is one.
S5. What cannot be taken back (a pipe, a terminal) is taken for written; to go on with it changes nothing.

A journal keeps the tokens (``Output`` in ``mpengine.journal`` is what it asks of a sink).
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any, Self

from mpengine.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterable

Token = dict[str, Any] | None


class SinkError(EngineError):
    """A value that could not be written."""


class SinkClosedError(SinkError):
    """The reader of the output has gone away."""


def write_all(fd: int, content: bytes | bytearray | memoryview) -> None:
    """Write all of ``content``, which one call may not.

    Raises:
        OSError: the system refuses.
    """
    left = memoryview(content)
    while left:
        left = left[os.write(fd, left) :]


class Sink:
    """An output.  As a context manager it is closed in the end, or given up where an error is under way.

    Attributes:
        label: what is written, for people.
        written: how many values were written, those of earlier runs that it goes on from included.
        interval_s: seconds between two places that it can be gone on from; each costs something that stays (the
            beginning of a compressed member, a file of its own, a transaction).
    """

    interval_s: float = 0.0

    def __init__(self, label: str) -> None:
        self.label = label
        self.written = 0
        self._is_rewound = False
        self._placed_at: float | None = None

    @property
    def name(self) -> str:
        """What it is called wherever that is asked, which is an absolute path where it has one."""
        return self.label

    def open(self) -> None:
        """Open what is written, and change nothing yet (S1).  The others do so where nobody has.

        Raises:
            OSError: it cannot be opened.
            SinkError: it is not what it has to be.
        """

    def fileno(self) -> int | None:
        """Return the number of the open file's descriptor; None where there is none, or several."""
        return None

    def begin(self) -> None:
        """Begin: what is written takes the place of what was there, but for what was gone on from.

        Raises:
            OSError: it cannot be opened.
            SinkError: it cannot be written.
        """
        self.open()

    def rewind(self, position: Any) -> None:
        """Go on behind what ``position()`` has told of, in this process or in another one that is gone (S3).

        Args:
            position: what it returned.

        Raises:
            OSError: the output cannot be opened.
            JournalError: it is not the one that the position tells of, or holds less.
            SinkError: the system refuses to change it.
        """
        raise NotImplementedError

    def write(self, value: Any) -> None:
        """Write a value.

        Raises:
            SinkClosedError: nobody reads the output any more.
            SinkError: the value does not fit, or the system refuses to write it; names the output and the value.
        """
        raise NotImplementedError

    def flush(self) -> None:
        """Hand over to the system what was kept back, for whoever reads the output while it is written.

        Raises:
            SinkError: as ``write``.
        """

    def position(self, *, is_last: bool = False) -> Token:
        """Hand over to the system all that was written, and return what tells how far that is (S2, S4).

        Args:
            is_last: whether nothing more will come.

        Raises:
            SinkError: as ``write``.
        """
        raise NotImplementedError

    def sync(self) -> None:
        """Have on the disk what was handed over to the system; from any thread.

        Raises:
            OSError: it cannot be.
        """

    def _is_due(self, *, is_last: bool) -> bool:
        """Whether there is to be a place to be gone on from, which costs something that stays."""
        now = time.monotonic()
        if self._placed_at is None:
            self._placed_at = now
        if not is_last and now - self._placed_at < self.interval_s:
            return False
        self._placed_at = now
        return True

    def close(self) -> None:
        """Write what is left, and end; idempotent.

        Raises:
            SinkError: as ``write``.
        """
        raise NotImplementedError

    def abort(self) -> None:
        """End, and leave what can be gone on from; never raises what ``close`` may.  Idempotent."""
        with contextlib.suppress(SinkError):
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _misfit(self, what: str) -> SinkError:
        """Return the error of the value that is to be written now."""
        return SinkError(f"cannot write value {self.written} to {self.label}: {what}")

    def _refusal(self, error: OSError) -> SinkError:
        """Return what ``error``, met while writing, means to the writer."""
        if isinstance(error, BrokenPipeError):
            return SinkClosedError("nobody reads the output any more")
        after = f", after {self.written:,} values" if self.written else ""
        return SinkError(f"cannot write {self.label}: {error.strerror or error}{after}")


def write(values: Iterable[Any], sink: Sink) -> int:
    """Write all values, and close the sink; where anything goes wrong it is given up.

    Args:
        values: what is to be written: the results of ``Engine.iter``, for one.
        sink: where to.

    Returns:
        How many values were written.

    Raises:
        SinkError: a value could not be written.
        Exception: whatever the values raise.
    """
    with sink:
        sink.begin()
        for value in values:
            sink.write(value)
    return sink.written


def type_name(value: object) -> str:
    """Return the name of a value's type, for people."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
