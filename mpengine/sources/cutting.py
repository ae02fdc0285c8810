"""A file or standard input, cut into lines, by whichever thread feeds the run; it may wait for a writer that is slow.

See ``mpengine.reading`` for what may be done from other threads meanwhile (L1, L2).
"""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import threading
from typing import TYPE_CHECKING, Any

from mpengine.compression import compression_of, damage, decompressed, errors_of

if TYPE_CHECKING:
    from pathlib import Path

READ_BYTES = 1 << 16
MAX_LINE_BYTES = 1 << 26
BOM = b"\xef\xbb\xbf"


class NumberedLines:
    """The lines of a file, as bytes, with their ends.

    Args:
        path: the file; None reads standard input.
        max_bytes: no line may be longer than that.
        is_fixed: whether what is added to it from now on is left out.

    Attributes:
        name: of the file, for people.
        number: of the last line, from 1.

    Raises:
        OSError: the file cannot be opened, or is a folder.
        PipelineError: what its compression takes is not installed.
    """

    def __init__(self, path: Path | None, max_bytes: int = MAX_LINE_BYTES, *, is_fixed: bool = False) -> None:
        kind = compression_of(path)
        self.name = "standard input" if path is None else str(path)
        self.number = 0
        self._max_bytes = max_bytes
        self._errors = errors_of(kind)
        self._is_plain = kind is None
        self.file = InterruptibleFile(path, is_fixed=is_fixed)
        self._lines = decompressed(self.file, kind if self.file.total_bytes != 0 else None)  # nothing is no damage
        self._given_bytes = 0

    @property
    def given_share(self) -> float | None:
        """How much of the file its lines have come of, 0 to 1; None where that cannot be told."""
        total = self.file.total_bytes
        given = self._given_bytes if self._is_plain else self.file.read_bytes
        return min(1.0, given / total) if total else None

    @property
    def where(self) -> str:
        """The last line, for people."""
        return f"line {self.number} of {self.name}"

    def next_line(self) -> bytes | None:
        """Return the next line; nothing at the end, None in the place of one that is too long.

        Raises:
            SourceError: the file is damaged, or the system refuses to read it.
        """
        try:
            line = self._lines.readline(self._max_bytes + 1)
            self._given_bytes += len(line)
            if not line.endswith(b"\n") and self.file.is_interrupted:
                return b""  # whatever came of it is no whole line
            self.number += 1
            if self.number == 1:
                line = line.removeprefix(BOM)
            if len(line) > self._max_bytes and not line.endswith(b"\n"):
                self._skip_line()
                return None
        except self._errors as error:
            if self.file.is_interrupted:
                return b""
            raise damage(self.name, error) from error
        return line

    def too_long(self) -> str:
        """Say what is wrong with a line that is too long."""
        return f"is longer than {self._max_bytes:,} bytes"

    def _skip_line(self) -> None:
        while part := self._lines.readline(READ_BYTES):
            self._given_bytes += len(part)
            if part.endswith(b"\n"):
                return


class InterruptibleFile(io.RawIOBase):
    """A file whose ``read`` also ends, with nothing, when it is interrupted.

    Args:
        path: the file; None: standard input.
        is_fixed: whether what is added to it from now on is left out.

    Attributes:
        total_bytes: how many there are to be read; None where that is not known.
        read_bytes: how many have been.

    Raises:
        OSError: it cannot be opened, or is a folder.
    """

    def __init__(self, path: Path | None, *, is_fixed: bool = False) -> None:
        self._fd = os.dup(0) if path is None else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.total_bytes = _bytes_ahead(self._fd, path)
        except OSError:
            os.close(self._fd)
            raise
        self.read_bytes = 0
        self._limit = self.total_bytes if is_fixed else None
        self._interrupted_fd, self._interrupting_fd = os.pipe()
        self._reading = threading.Lock()
        self._interrupting = threading.RLock()
        self.is_interrupted = False
        self._is_given_up = False
        self._is_closed = False
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._poll.register(self._interrupted_fd, select.POLLIN)

    def readable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the number of its descriptor."""
        return self._fd

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with what there is, waiting for it; return how much that was."""
        if self._limit is not None:
            buffer = memoryview(buffer)[: self._limit - self.read_bytes]
        try:
            with self._reading:
                if self._is_closed or any(fd == self._interrupted_fd for fd, _ in self._poll.poll()):
                    return 0
                count = os.readv(self._fd, [buffer])
                self.read_bytes += count
                return count
        finally:
            if self._is_given_up:  # whoever gave it up may have met the lock
                self._close_unread()

    def interrupt(self) -> None:
        """Make the reader see the end, now and from now on (L1)."""
        with self._interrupting:
            if not (self.is_interrupted or self._is_closed):
                self.is_interrupted = True
                os.write(self._interrupting_fd, b"!")

    def give_up(self) -> None:
        """Interrupt the reader, and close every descriptor once no thread is reading (L2)."""
        self.interrupt()
        self._is_given_up = True
        self._close_unread()

    def _close_unread(self) -> None:
        """Close every descriptor, unless a thread is reading, which does it when it is through."""
        if not self._reading.acquire(blocking=False):
            return
        try:
            with self._interrupting:  # who interrupts writes to one of them
                is_closed, self._is_closed = self._is_closed, True
                for fd in () if is_closed else (self._fd, self._interrupted_fd, self._interrupting_fd):
                    os.close(fd)
        finally:
            self._reading.release()


def _bytes_ahead(fd: int, path: Path | None) -> int | None:
    """Return how many bytes are to be read, where that is known.

    Raises:
        OSError: it is a folder, which cannot be read at all.
    """
    found = os.fstat(fd)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), None if path is None else str(path))
    return max(0, found.st_size - os.lseek(fd, 0, os.SEEK_CUR)) if stat.S_ISREG(found.st_mode) else None
