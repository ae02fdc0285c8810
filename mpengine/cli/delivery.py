"""What jobs have written, to where it goes: one job after another, each as a whole.

D1. Outcomes come as jobs end.  Kept in order, one that is early waits for those before it: in memory where it is small,
    else as the nameless file that it is.
D2. A job's output is written first and its line in the log after it, each by calls that go to the system at once.  So a
    kill at any moment leaves at most the output of one job that no line tells of, at the end of the file.
D3. What waits is bounded: no further job is given while there is too much of it.
"""

from __future__ import annotations

import contextlib
import os
import select
from typing import TYPE_CHECKING

from mpengine.records import dataclass, field
from mpengine.sinks import SinkClosedError, SinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpengine.cli.inputs import Jobs
    from mpengine.cli.joblog import JobLog
    from mpengine.programs.outcomes import Outcome

READ_BYTES = 1 << 18
WAITING_JOBS = 10_000
WAITING_BYTES = 1 << 26
WAITING_FILES = 128
STANDARD_ERROR = 2


@dataclass(slots=True)
class _Backlog:
    """Outcomes that wait for their turn, by place."""

    outcomes: dict[int, Outcome] = field(default_factory=dict)
    size_bytes: int = 0
    files: int = 0

    def add(self, place: int, outcome: Outcome) -> None:
        self.outcomes[place] = outcome
        self._count(outcome, 1)

    def pop(self, place: int) -> Outcome:
        outcome = self.outcomes.pop(place)
        self._count(outcome, -1)
        return outcome

    def _count(self, outcome: Outcome, sign: int) -> None:
        for content in (outcome.out, outcome.err):
            self.files += sign * (content is None)
            self.size_bytes += sign * len(content or b"")

    @property
    def has_room(self) -> bool:
        is_short = len(self.outcomes) < WAITING_JOBS and self.files < WAITING_FILES
        return is_short and self.size_bytes < WAITING_BYTES


class Delivery:
    """Writes what jobs have written.

    Args:
        fd: the output.
        jobs: where jobs come from.
        take_file: returns the descriptor of a file that a job has handed over.
        log: gets a line for each job; None: there is none.
        in_order: whether jobs are written in the order they were given.
        is_tagged: whether each line begins with the job's arguments.
        command_of: makes a command as a line of a job's number and arguments, where no worker has said it.
    """

    def __init__(  # noqa: PLR0913 - all that it stands between
        self,
        fd: int,
        jobs: Jobs,
        take_file: Callable[[int, int], int],
        *,
        log: JobLog | None = None,
        in_order: bool = True,
        is_tagged: bool = False,
        command_of: Callable[[int, tuple[str, ...]], str],
    ) -> None:
        """Write nothing yet."""
        self._fd = fd
        self._jobs = jobs
        self._take_file = take_file
        self._log = log
        self._in_order = in_order
        self._is_tagged = is_tagged
        self._command_of = command_of
        self._backlog = _Backlog()
        self._next = 0

    def take(self, outcome: Outcome) -> None:
        """Take in what a job came to, and write what is due.

        Raises:
            SinkError: it cannot be written; a ``SinkClosedError`` where nobody reads it any more.
        """
        if not self._in_order:
            self._write(outcome)
            return
        index = self._jobs.index_of(outcome.seq)
        if index != self._next:
            self._backlog.add(index, outcome)
            self._jobs.make_room(has_room=self._backlog.has_room)
            return
        self._write(outcome)
        self._next += 1
        while self._next in self._backlog.outcomes:
            self._write(self._backlog.pop(self._next))
            self._next += 1
        self._jobs.make_room(has_room=self._backlog.has_room)

    def flush(self) -> None:
        """Write whatever waits: those before it never came to anything.

        Raises:
            SinkError: as ``take``.
        """
        for place in sorted(self._backlog.outcomes):
            self._write(self._backlog.pop(place))

    def _write(self, outcome: Outcome) -> None:
        given = self._jobs.take_back(outcome.seq)
        tag = " ".join(given.args).encode("utf-8", "surrogateescape") + b"\t" if self._is_tagged else b""
        written = self._copy(outcome.seq, 1, outcome.out, self._fd, tag)
        with contextlib.suppress(SinkError):  # whether it can be read changes nothing
            self._copy(outcome.seq, 2, outcome.err, STANDARD_ERROR, tag)
        if self._log is not None:
            command = outcome.command or self._command_of(outcome.seq, given.args)
            try:
                self._log.add(outcome, command, written)
            except OSError as error:
                msg = f"cannot write the job log: {error.strerror or error}"
                raise SinkError(msg) from error

    def _copy(self, seq: int, which: int, content: bytes | None, fd: int, tag: bytes) -> int:
        """Write what a job has written; return how many bytes that were."""
        if content is not None:
            return put(fd, with_tag(tag, content)) if content else 0
        source = self._take_file(seq, which)
        try:
            written, ended = 0, True
            for chunk in _chunks(source):
                written += put(fd, with_tag(tag, chunk, begins=ended))
                ended = chunk.endswith(b"\n")
            return written
        finally:
            os.close(source)


def _chunks(fd: int) -> Iterator[bytes]:
    at = 0
    while chunk := os.pread(fd, READ_BYTES, at):
        at += len(chunk)
        yield chunk


def with_tag(tag: bytes, content: bytes, *, begins: bool = True) -> bytes:
    """Return ``content`` with ``tag`` before each of its lines.

    Args:
        tag: what to put there.
        content: lines.
        begins: whether the first byte of it begins a line.
    """
    if not tag:
        return content
    *whole, last = content.split(b"\n")  # bytes.splitlines() would end lines at carriage returns too
    lines = [*(line + b"\n" for line in whole), *([last] if last else [])]
    return b"".join([tag + line if begins or place else line for place, line in enumerate(lines)])


def put(fd: int, content: bytes) -> int:
    """Write ``content``, all of it, at once; return how many bytes that were.

    Raises:
        SinkClosedError: nobody reads it any more.
        SinkError: the system refuses to write it.
    """
    left = memoryview(content)
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:  # somebody made this pipe non-blocking, and it is full
            select.select((), (fd,), ())
        except BrokenPipeError as error:
            raise SinkClosedError("nobody reads the output any more") from error
        except OSError as error:
            msg = f"cannot write the output: {error.strerror or error}"
            raise SinkError(msg) from error
    return len(content)
