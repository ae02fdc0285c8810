"""The output of a run of jobs: bytes as they are, each written at once.

As any output (``streams`` has the rules) it is changed by nothing but a run that has begun, and is never what is read.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from typing import TYPE_CHECKING, Self

import click

from mpengine.cli.streams import STANDARD

if TYPE_CHECKING:
    from pathlib import Path


class Output:
    """A file, a pipe or a terminal that takes bytes.

    Args:
        path: which; ``STANDARD`` is standard output.
        read_fd: what is read, if that is a file.

    Attributes:
        is_standard: whether it is standard output, of which nothing is ever taken back.

    Raises:
        UsageError: it cannot be written.
    """

    def __init__(self, path: Path, read_fd: int | None) -> None:
        """Open it, and change nothing yet."""
        self.is_standard = path == STANDARD
        if self.is_standard and sys.__stdout__ is None:
            raise click.UsageError("cannot write standard output: it is closed")
        name = "standard output" if self.is_standard else str(path)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
            self._fd = os.dup(1) if self.is_standard else os.open(path, flags, 0o666)
        except OSError as error:
            raise click.UsageError(f"cannot write {name}: {error.strerror}") from error
        if read_fd is not None and self.is_same(read_fd):
            self.close()
            raise click.UsageError(f"{name} cannot be input and output at once")

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    @property
    def is_regular(self) -> bool:
        """Whether it is a file that can be cut."""
        return stat.S_ISREG(os.fstat(self._fd).st_mode)

    @property
    def size_bytes(self) -> int:
        """How much it holds."""
        return os.fstat(self._fd).st_size

    def is_same(self, fd: int) -> bool:
        """Whether ``fd`` is the same regular file."""
        return self.is_regular and os.path.sameopenfile(fd, self._fd)

    def begin(self, kept_bytes: int = 0) -> None:
        """Make it ready: of a file so many bytes stay, and more is added behind them."""
        if self.is_regular and not self.is_standard:
            os.ftruncate(self._fd, kept_bytes)
            os.lseek(self._fd, kept_bytes, os.SEEK_SET)

    def close(self) -> None:
        """Close it; idempotent."""
        if self._fd != -1:
            with contextlib.suppress(OSError):  # everything was written before, and told if it could not be
                os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
