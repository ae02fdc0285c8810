"""Where items come from: the lines of a file or of standard input.

A :class:`LineSource` is read by whichever thread feeds the run, and may wait there for a writer that never writes.  So:

L1. ``close()`` may be called from any thread, any number of times, and ends a wait at once: the reader sees the end.
L2. Descriptors are closed by ``release()`` alone, under the lock that a reading thread holds, so that no thread ever
    waits for a number that another file has got meanwhile.
"""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

READ_BYTES = 1 << 16


class LineSource:
    """The lines of a file without their line ends, as text.

    Lines end with LF or CRLF.  The text is UTF-8; other bytes come through as surrogates and can be encoded back.

    Args:
        path: the file; None reads standard input.

    Raises:
        OSError: the file cannot be opened, or is a folder.
    """

    def __init__(self, path: Path | None) -> None:
        self._raw = _InterruptibleFile(path)
        self._lines = io.BufferedReader(self._raw, READ_BYTES)
        self._given_bytes = 0

    @property
    def given_share(self) -> float | None:
        """How much of the file its lines have come of, 0 to 1; None where that cannot be told."""
        total = self._raw.total_bytes
        return min(1.0, self._given_bytes / total) if total else None

    def fileno(self) -> int:
        """Return the number of the file's descriptor."""
        return self._raw.fileno()

    def __iter__(self) -> Self:
        """Return the source: its lines can be had once."""
        return self

    def __next__(self) -> str:
        line = self._lines.readline()
        if not line:
            raise StopIteration
        self._given_bytes += len(line)
        return line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "surrogateescape")

    def close(self) -> None:
        """End the source, also for a thread that is waiting for the next line."""
        self._raw.interrupt()

    def release(self) -> None:
        """End the source and close its file."""
        self._raw.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class _InterruptibleFile(io.RawIOBase):
    """A file whose ``read`` also ends, with nothing, when it is interrupted."""

    def __init__(self, path: Path | None) -> None:
        self._fd = os.dup(0) if path is None else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.total_bytes = _bytes_ahead(self._fd)
        except OSError:
            os.close(self._fd)
            raise
        self._interrupted_fd, self._interrupting_fd = os.pipe()
        self._reading = threading.Lock()
        self._closing = threading.RLock()
        self._is_interrupted = False
        self._is_released = False
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._poll.register(self._interrupted_fd, select.POLLIN)

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def readinto(self, buffer: object) -> int:
        with self._reading:
            if self._is_released or any(fd == self._interrupted_fd for fd, _ in self._poll.poll()):
                return 0
            return os.readv(self._fd, [buffer])  # type: ignore[list-item]  # BufferedReader hands in a writable buffer

    def interrupt(self) -> None:
        """Make the reader see the end, now and from now on (L1)."""
        with self._closing:
            if not self._is_interrupted:
                self._is_interrupted = True
                os.write(self._interrupting_fd, b"!")

    def release(self) -> None:
        """Interrupt the reader, and close every descriptor once no thread is reading (L2)."""
        self.interrupt()
        with self._reading:
            if not self._is_released:
                self._is_released = True
                for fd in (self._fd, self._interrupted_fd, self._interrupting_fd):
                    os.close(fd)


def _bytes_ahead(fd: int) -> int | None:
    """Return how many bytes are to be read, where that is known.

    Raises:
        OSError: it is a folder, which cannot be read at all.
    """
    found = os.fstat(fd)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return max(0, found.st_size - os.lseek(fd, 0, os.SEEK_CUR)) if stat.S_ISREG(found.st_mode) else None
