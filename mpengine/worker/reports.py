"""What a worker has done, counted: a tally for each stage, and a report on a batch."""

from __future__ import annotations

from mpengine.records import dataclass, field
from mpengine.worker.chain import Fields, failure_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DONE, MORE, SUSPENDED, GIVEN_BACK = "done", "more", "suspended", "given back"


@dataclass(slots=True)
class Tally:
    """What became of items in one stage, for one report; see ``scheduler.events.Tally``."""

    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    retried: int = 0
    busy_s: float = 0.0

    def fields(self) -> tuple[int, int, int, int, float]:
        """Return the figures as they travel."""
        return (self.succeeded, self.failed, self.skipped, self.retried, self.busy_s)


@dataclass(slots=True)
class Report:
    """What a job has done since its last report; see ``scheduler.events.BatchReturned``."""

    tallies: list[Tally]
    results: list[Any] = field(default_factory=list)
    positions: list[int] | range = field(default_factory=list)
    failures: list[Fields] = field(default_factory=list)
    consumed: int = 0
    emitted: int = 0
    progress: str = MORE
    kill: str | None = None
    abandoned: bool = False
    timing: tuple[Any, ...] = ()  # as in messages.Returned

    def add(self, value: object, position: int) -> None:
        """Note the result of the item at ``position``."""
        self.results.append(value)
        if type(self.positions) is range:
            self.positions = [*self.positions]
        self.positions.append(position)

    def add_all(self, values: list[Any], positions: list[int] | range) -> None:
        """Note the results of several items, in a list that is its own; a run of places costs nothing an item."""
        if self.results:
            self.results += values
        else:
            self.results = values
        known = self.positions
        if not known:
            self.positions = positions
        elif type(known) is range and type(positions) is range and known.stop == positions.start:
            self.positions = range(known.start, positions.stop)
        else:
            self.positions = [*known, *positions]

    def fail(self, position: int, stage: int, error: BaseException, item: object, attempts: int) -> None:
        """Note that an item failed for good."""
        self.tallies[stage].failed += 1
        self.failures.append(failure_of(position, stage, error, item, attempts))


def pass_on(report: Report, stage: int, items: int) -> None:
    """Count ``items`` as having come through all stages before ``stage``."""
    for tally in report.tallies[:stage]:
        tally.succeeded += items
