"""The jobs of a run: their arguments, read as they are needed, and numbered.

    records of a file or lists of the command line --> arguments --> numbered --> what is not wanted again left out
      --> held back while too much waits to be written

I1. ``close()`` may be called from any thread and ends every wait at once: that for a writer who never writes, and that
    for room.
I2. Descriptors are closed by ``release()`` alone, once no thread reads.
I3. Each job that was given is remembered until somebody asks what it was: there are as many as may be under way.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import select
import stat
import threading
from typing import TYPE_CHECKING

from mpengine.reading import Interruptible
from mpengine.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

READ_BYTES = 1 << 16
Arguments = tuple[str, ...]


class Records:
    """What stands between separators in a file, as text: UTF-8, and other bytes as surrogates.

    Args:
        path: the file; None reads standard input.
        separator: one byte, which ends a record; of a line feed a carriage return before it goes too.

    Raises:
        OSError: the file cannot be opened, or is a folder.
    """

    def __init__(self, path: Path | None, separator: bytes = b"\n") -> None:
        """Open the file."""
        self._separator = separator
        self._fd = os.dup(0) if path is None else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        found = os.fstat(self._fd)
        if stat.S_ISDIR(found.st_mode):
            os.close(self._fd)
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        self._is_regular = stat.S_ISREG(found.st_mode)
        self._ending_fd, self._ender_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._reading = threading.Lock()
        self._is_ended = False
        self._is_released = False
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._poll.register(self._ending_fd, select.POLLIN)

    def fileno(self) -> int:
        """Return the file's descriptor."""
        return self._fd

    def count(self) -> int | None:
        """Return how many records are still to be read; None where that takes reading them."""
        if not self._is_regular:
            return None
        at = os.lseek(self._fd, 0, os.SEEK_CUR)
        total, last = 0, self._separator
        while chunk := os.pread(self._fd, READ_BYTES, at):
            at += len(chunk)
            total += chunk.count(self._separator)
            last = chunk[-1:]
        return total + (last != self._separator)

    def __iter__(self) -> Iterator[str]:
        """Yield the records; they can be had once."""
        rest = b""
        while chunk := self._read():
            *whole, rest = (rest + chunk).split(self._separator)
            yield from map(self._decoded, whole)
        if rest and not self._is_ended:  # one that was cut off by close() is none
            yield self._decoded(rest)

    def _decoded(self, record: bytes) -> str:
        if self._separator == b"\n":
            record = record.removesuffix(b"\r")
        return record.decode("utf-8", "surrogateescape")

    def _read(self) -> bytes:
        with self._reading:
            if self._is_released or self._is_ended or any(fd == self._ending_fd for fd, _ in self._poll.poll()):
                return b""
            return os.read(self._fd, READ_BYTES)

    def close(self) -> None:
        """End the reading, now and from now on (I1)."""
        self._is_ended = True
        if not self._is_released:
            with contextlib.suppress(OSError):
                os.write(self._ender_fd, b"!")

    def release(self) -> None:
        """Close every descriptor, once no thread is reading (I2)."""
        self.close()
        with self._reading:
            if not self._is_released:
                self._is_released = True
                for fd in (self._fd, self._ending_fd, self._ender_fd):
                    os.close(fd)


class Listed:
    """Lists of the command line: each of one with each of the others, the last one changing first.

    Args:
        lists: at least one.
    """

    def __init__(self, lists: list[list[str]]) -> None:
        """Keep them."""
        self._lists = lists

    def count(self) -> int:
        """Return how many combinations there are."""
        total = 1
        for members in self._lists:
            total *= len(members)
        return total

    def __iter__(self) -> Iterator[Arguments]:
        """Yield the combinations."""
        return itertools.product(*self._lists)

    def close(self) -> None:
        """Nothing to end: nobody waits here."""

    def release(self) -> None:
        """Nothing to close."""


@dataclass(frozen=True, slots=True)
class Given:
    """A job that was given to the engine.

    Attributes:
        index: how many were given before it.
        seq: its number among all, from 1.
        args: its arguments.
    """

    index: int
    seq: int
    args: Arguments


class Jobs(Interruptible):
    """The jobs as a source of an engine: pairs of number and arguments.

    Args:
        arguments: those of all jobs, in order.
        close: ends whatever they wait for.
        is_wanted: whether a job is to run, by its number and arguments; whatever it raises ends the run.

    Attributes:
        seen: how many jobs there were so far, those left out included.
    """

    def __init__(
        self,
        arguments: Iterable[Arguments],
        close: Callable[[], object] = lambda: None,
        is_wanted: Callable[[int, Arguments], bool] = lambda *_: True,
    ) -> None:
        """Read nothing yet."""
        self._arguments = iter(arguments)
        self._close = close
        self._is_wanted = is_wanted
        self._changed = threading.Condition()
        self._has_room = True
        self._is_ended = False
        self._under_way: dict[int, Given] = {}
        self._numbers: dict[int, int] = {}
        self._given = 0
        self.seen = 0

    def __next__(self) -> tuple[int, Arguments]:
        with self._changed:
            self._changed.wait_for(lambda: self._has_room or self._is_ended)
            if self._is_ended:
                raise StopIteration
        while True:
            args = next(self._arguments)
            self.seen += 1
            if self._is_wanted(self.seen, args):
                break
        given = Given(self._given, self.seen, args)
        self._given += 1
        self._under_way[given.seq] = given
        self._numbers[given.index] = given.seq
        return given.seq, args

    def seq_of(self, index: int) -> int:
        """Return the number of the job that was given as the ``index``-th and has not been taken back."""
        return self._numbers[index]

    def index_of(self, seq: int) -> int:
        """Return how many jobs were given before that one, which has not been taken back."""
        return self._under_way[seq].index

    def take_back(self, seq: int) -> Given:
        """Return a job that is through, and forget it (I3)."""
        given = self._under_way.pop(seq)
        del self._numbers[given.index]
        return given

    def make_room(self, *, has_room: bool) -> None:
        """Let jobs be given, or hold them back."""
        if has_room is not self._has_room:
            with self._changed:
                self._has_room = has_room
                self._changed.notify_all()

    def interrupt(self) -> None:
        """See ``Interruptible``."""
        self.close()

    def close(self) -> None:
        """Give no further job; from any thread, and from a signal handler (I1)."""
        self._is_ended = True
        self._close()
        with self._changed:  # reentrant: the handler may have interrupted make_room() in this very thread
            self._changed.notify_all()


def split_columns(records: Iterable[str], separator: str | None) -> Iterator[Arguments]:
    """Yield the arguments that each record holds.

    Args:
        records: texts.
        separator: a regular expression that stands between two columns; None: a record is one argument.
    """
    if separator is None:
        for record in records:
            yield (record,)
        return
    import re

    pattern = re.compile(separator)
    for record in records:
        yield tuple(pattern.split(record))
