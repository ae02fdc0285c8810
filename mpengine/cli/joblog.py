"""The job log: a line for each job that is done, in GNU parallel's own columns.

B1. A line is written by one call, after the job's output: what a kill leaves of it at most is output that no line tells
    of.  The column ``Receive`` counts what was written to the output, so their sum says where that begins.
B2. A last line without an end was torn by a crash of the system; it is taken off before anything is added.
B3. A job that has two lines counts by the last of them.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from typing import TYPE_CHECKING, Self

import click

from mpengine.records import dataclass, field
from mpengine.sinks.base import write_all

if TYPE_CHECKING:
    from pathlib import Path

    from mpengine.programs.outcomes import Outcome

HEAD = b"Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"
_COLUMNS = 9


@dataclass(slots=True)
class Past:
    """What a job log tells of the runs before.

    Attributes:
        commands: of each job, by its number, with its line ends as they are in the log.
        failed: the numbers of those that failed.
        written_bytes: how much all of them have written to the output.
    """

    commands: dict[int, str] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)
    written_bytes: int = 0


class JobLog:
    """A job log that is written.

    Args:
        path: the file.
        keeps: whether what it holds is to stay, and more to be added; it is emptied else, once the run has begun.

    Raises:
        UsageError: it cannot be used.
    """

    def __init__(self, path: Path, *, keeps: bool) -> None:
        """Open it, and read what it holds if that is to stay."""
        self._path = path
        self._keeps = keeps
        self.past = Past()
        self._end = 0
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise click.UsageError(f"cannot write {path}: {error.strerror}") from error
        if keeps:
            try:
                self._read()
            except BaseException:
                self.close()
                raise

    def fileno(self) -> int:
        """Return the file's descriptor."""
        return self._fd

    def begin(self) -> None:
        """Make it ready for the first line: until now nothing of it is changed."""
        if stat.S_ISREG(os.fstat(self._fd).st_mode):
            os.ftruncate(self._fd, self._end)  # B2; nothing stays where nothing was read
        if not self._end:
            self._put(HEAD)

    def add(self, outcome: Outcome, command: str, written: int) -> None:
        """Write the line of a job.

        Args:
            outcome: what it came to.
            command: it as a line.
            written: bytes that were written to the output.

        Raises:
            OSError: it cannot be written.
        """
        # A line end in a command would end the line: GNU parallel puts a zero byte there, and so do we.
        shown = command.replace("\n", "\0").encode("utf-8", "surrogateescape")
        figures = (
            f"{outcome.seq}\t:\t{outcome.started_at:.3f}\t{outcome.runtime_s:10.3f}\t0\t{written}"
            f"\t{outcome.exitval}\t{outcome.signal}\t"
        )
        self._put(figures.encode("ascii") + shown + b"\n")

    def close(self) -> None:
        """Close the file; idempotent."""
        if self._fd != -1:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _put(self, content: bytes) -> None:
        write_all(self._fd, content)

    def _read(self) -> None:
        with os.fdopen(os.dup(self._fd), "rb") as file:
            file.seek(0)
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    return  # B2
                self._end += len(line)
                if number == 1 and line == HEAD:
                    continue
                with contextlib.suppress(ValueError):
                    self._take_in(line)
                    continue
                raise click.UsageError(f"{self._path}, line {number}: this is no line of a job log")

    def _take_in(self, line: bytes) -> None:
        parts = line.rstrip(b"\n").split(b"\t", _COLUMNS - 1)
        if len(parts) < _COLUMNS:
            raise ValueError
        seq, written, exitval, signum = (int(parts[place]) for place in (0, 5, 6, 7))
        past = self.past
        past.commands[seq] = parts[-1].decode("utf-8", "surrogateescape").replace("\0", "\n")
        past.written_bytes += written
        if exitval or signum:
            past.failed.add(seq)
        else:
            past.failed.discard(seq)


def words_of(command: str) -> str:
    """Return a command of a job log in the one way that its words can be written."""
    try:
        return shlex.join(shlex.split(command))
    except ValueError:
        return command
