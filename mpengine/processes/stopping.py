"""The stop ladder: when to ask, when to insist, when to kill.  It decides; somebody else acts."""

import enum

from mpengine.records import dataclass, field


class Rung(enum.Enum):
    """What to do to the workers that are still there."""

    TERMINATE = "terminate"
    KILL = "kill"


@dataclass(slots=True)
class StopLadder:
    """The rungs that follow a request to leave.

    Args:
        began_at: When the workers were asked to leave, on the monotonic clock.
        grace_s: How long they may take.
        term_s: How long SIGTERM may take before SIGKILL.
    """

    began_at: float
    grace_s: float
    term_s: float = 0.25
    _due_at: dict[Rung, float] = field(init=False)

    def __post_init__(self) -> None:
        terminate_at = self.began_at + self.grace_s
        self._due_at = {Rung.TERMINATE: terminate_at, Rung.KILL: terminate_at + self.term_s}

    def rungs_due(self, at: float) -> tuple[Rung, ...]:
        """The rungs whose time has come, in order; each is returned once."""
        due = tuple(rung for rung, due_at in self._due_at.items() if due_at <= at)
        for rung in due:
            del self._due_at[rung]
        return due

    def deadline_at(self, at: float) -> float | None:
        """When the next rung is due, never before `at`; None when there is none left."""
        return max(at, min(self._due_at.values())) if self._due_at else None

    def hurry(self, at: float) -> None:
        """Skip what is left of the ladder but its end: kill now."""
        self._due_at.pop(Rung.TERMINATE, None)
        if Rung.KILL in self._due_at:
            self._due_at[Rung.KILL] = min(at, self._due_at[Rung.KILL])
