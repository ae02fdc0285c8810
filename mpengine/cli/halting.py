"""When a run is to halt before its end, as GNU parallel has it: pure."""

from __future__ import annotations

import re
from typing import Final

from mpengine.records import dataclass

_FORM: Final = re.compile(r"(now|soon),(fail|success|done)=(\d+(?:\.\d+)?)(%)?")
_NEVER: Final = {"never", "0"}
_OLD: Final = {"1": "soon,fail=1", "2": "now,fail=1", "-1": "soon,success=1", "-2": "now,success=1"}
FORMS: Final = "never, or soon or now, a comma, and fail, success or done = N or N%"


@dataclass(frozen=True, slots=True)
class HaltRule:
    """When to halt.

    Attributes:
        at_once: whether what runs is ended; else it may come to its end.
        counts: ``fail``, ``success`` or ``done``.
        number: how many of them; a share of all jobs where ``is_share``.
        is_share: see there.
    """

    at_once: bool
    counts: str
    number: float
    is_share: bool = False

    def wanted(self, total: int | None) -> float:
        """Return how many jobs have to be counted; never, where it is a share of a number that nobody knows."""
        if not self.is_share:
            return self.number
        return max(1.0, self.number * total) if total is not None else float("inf")


def parse_halt(text: str) -> HaltRule | None:
    """Return the rule that a text names; None: never.

    Raises:
        ValueError: it names none.
    """
    if text in _NEVER:
        return None
    found = _FORM.fullmatch(_OLD.get(text, text))
    if found is None:
        msg = f"{text!r} is no rule for halting: {FORMS}"
        raise ValueError(msg)
    when, counts, number, percent = found.groups()
    value = float(number) / 100 if percent else float(number)
    if not value or (not percent and value % 1) or (percent and value > 1):
        msg = f"{text!r}: a whole number of at least 1, or more than 0% and at most 100%"
        raise ValueError(msg)
    return HaltRule(when == "now", counts, value, bool(percent))


class Halt:
    """Counts jobs, and says when it is time.

    Args:
        rule: None: never.
        total: how many jobs there are; None where nobody knows.

    Attributes:
        failed: jobs that have failed.
        done: jobs that are done, failed or not.
        is_reached: whether it is time.
    """

    def __init__(self, rule: HaltRule | None, total: int | None = None) -> None:
        """Begin with none."""
        self.rule = rule
        self._wanted = float("inf") if rule is None else rule.wanted(total)
        self.failed = 0
        self.done = 0
        self.is_reached = False

    def take(self, *, is_well: bool) -> bool:
        """Count a job; return whether it is the one to halt at."""
        self.done += 1
        self.failed += not is_well
        if self.rule is None or self.is_reached:
            return False
        counted = {"fail": self.failed, "success": self.done - self.failed, "done": self.done}[self.rule.counts]
        self.is_reached = counted >= self._wanted
        return self.is_reached

    @property
    def status(self) -> int:
        """The exit status that the jobs make."""
        if self.rule is not None and self.rule.counts == "success":
            return 0 if self.is_reached or not self.failed else 1
        return 1 if self.failed else 0
