"""What a job came to: sent from its worker to the parent, in a few fields."""

from __future__ import annotations

from typing import Any

from mpengine.records import dataclass

TIMED_OUT = -1
"""In the place of an exit status, as GNU parallel has it: the job was ended since its time was up."""
NOT_FOUND = 127
NOT_STARTED = 126


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job came to.

    Attributes:
        seq: the job's number, from 1.
        started_at: seconds since 1970.
        runtime_s: how long it took.
        exitval: its exit status; ``TIMED_OUT`` where its time was up.
        signal: the number of the signal that ended it, or 0.
        out: what it wrote to standard output; None: that is a file which the switchboard has.
        err: what it wrote to standard error; None: the same.
        command: it as a line, where that was asked for.
        pid: of its process; 0 where none was started.
    """

    seq: int
    started_at: float
    runtime_s: float
    exitval: int = 0
    signal: int = 0
    out: bytes | None = b""
    err: bytes | None = b""
    command: str = ""
    pid: int = 0

    @property
    def is_well(self) -> bool:
        """Whether the job did what it was to do."""
        return not self.exitval and not self.signal

    def told(self) -> str:
        """Return in words what went wrong."""
        if self.exitval == TIMED_OUT:
            return f"timed out after {self.runtime_s:.3g} s"
        return f"ended by signal {self.signal}" if self.signal else f"exit status {self.exitval}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by place: there may be thousands in a second."""
        fields = (self.seq, self.started_at, self.runtime_s, self.exitval, self.signal)
        return Outcome, (*fields, self.out, self.err, self.command, self.pid)


class CommandFailedError(Exception):
    """A command that ended with another exit status than 0, by a signal, or since its time was up.

    Args:
        outcome: all that is known of it.
    """

    def __init__(self, outcome: Outcome) -> None:
        """Keep the outcome."""
        super().__init__(outcome)
        self.outcome = outcome

    def __str__(self) -> str:
        """Return what went wrong."""
        return self.outcome.told()
