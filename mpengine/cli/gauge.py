"""How far a run is, how fast, and how long it will take: pure, from one snapshot after another.

Rates are those of the last ``WINDOW_S`` seconds, so that a slow start, while workers begin, is soon forgotten.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpengine.cli.speech import one_line

if TYPE_CHECKING:
    from mpengine.metrics import Snapshot

WINDOW_S = 15.0


@dataclass(frozen=True, slots=True)
class StageReading:
    """One stage at one moment.

    Attributes:
        name: its name, in one line.
        done: items that have left it.
        per_s: how many do in a second.
        queued: items that wait before it.
        bound: how many may.
        in_flight: items that workers hold for it.
        failed: items that failed in it for good.
    """

    name: str
    done: int
    per_s: float
    queued: int
    bound: int
    in_flight: int
    failed: int


@dataclass(frozen=True, slots=True)
class Reading:
    """A run at one moment.

    Attributes:
        elapsed_s: seconds since it began.
        is_ending: whether it has been cancelled.
        items_in: items pulled from the source.
        values_out: values written.
        done: source items that are dealt with.
        total: how many there are in all; None where nobody knows.
        share: how much of the run is done, 0 to 1; None where nobody knows.
        per_s: source items dealt with in a second, but those that were passed over, since a journal has them.
        left_s: seconds it will still take; None where nobody knows.
        stages: the stages, in order.
    """

    elapsed_s: float
    is_ending: bool
    items_in: int
    values_out: int
    done: int
    total: int | None
    share: float | None
    per_s: float
    left_s: float | None
    stages: tuple[StageReading, ...]


@dataclass(frozen=True, slots=True)
class _Mark:
    at: float
    done: int
    by_stage: tuple[int, ...]


class Gauge:
    """Reads snapshots.

    Args:
        total: how many items the source has, where that is known.
        fans_out: whether one item may become many, so that values that came out tell nothing of items.
        joins_late: whether the run may have gone on for long before the first reading: that one has the averages of the
            whole run then, and those after it look back no further than to that one.
    """

    def __init__(self, *, total: int | None = None, fans_out: bool = False, joins_late: bool = False) -> None:
        self._total = total
        self._joins_late = joins_late
        self._fans_out = fans_out
        self._marks: deque[_Mark] = deque()

    def read(self, snapshot: Snapshot, pulled_share: float | None = None) -> Reading:
        """Return what ``snapshot`` says, in the light of those before it.

        Args:
            snapshot: figures of the run.
            pulled_share: how much of the source has been pulled, 0 to 1, where its total is not known but this is.
        """
        done = self._done(snapshot)
        # What was passed over was done by another run, and tells nothing of how fast this one is.
        own = done - snapshot.resumed
        now = _Mark(snapshot.elapsed_s, own, tuple(stage.processed for stage in snapshot.stages))
        before = self._mark_before(now)
        passed_s = now.at - before.at
        per_s = _rate(before.done, own, passed_s)
        total = self._total
        expected = total if pulled_share is None else snapshot.source_items / pulled_share if pulled_share else None
        return Reading(
            elapsed_s=snapshot.elapsed_s,
            is_ending=snapshot.state == "cancelling",
            items_in=snapshot.source_items,
            values_out=snapshot.delivered,
            done=done,
            total=total,
            share=min(1.0, done / expected) if expected else None,
            per_s=per_s,
            left_s=max(0.0, expected - done) / per_s if expected and per_s else None,
            stages=tuple(
                StageReading(
                    name=one_line(stage.name),
                    done=stage.processed,
                    per_s=_rate(earlier, stage.processed, passed_s),
                    queued=stage.queued,
                    bound=stage.buffer,
                    in_flight=stage.in_flight,
                    failed=stage.failed,
                )
                for stage, earlier in zip(snapshot.stages, before.by_stage, strict=True)
            ),
        )

    def _done(self, snapshot: Snapshot) -> int:
        if self._fans_out:
            # Values are counted, not the items they came of: the first stage is the last place that knows those.
            return snapshot.resumed + (snapshot.stages[0].processed if snapshot.stages else 0)
        return snapshot.resumed + snapshot.delivered + snapshot.filtered + snapshot.dropped + snapshot.failed

    def _mark_before(self, now: _Mark) -> _Mark:
        """Keep ``now``, and return the mark that rates are to be taken from."""
        if not self._marks:
            self._marks.append(_Mark(0.0, 0, (0,) * len(now.by_stage)))
        elif self._joins_late:
            self._joins_late = False
            self._marks.popleft()
        self._marks.append(now)
        while len(self._marks) > 2 and self._marks[1].at <= now.at - WINDOW_S:  # noqa: PLR2004 - the oldest and now
            self._marks.popleft()
        return self._marks[0]


def _rate(before: int, now: int, passed_s: float) -> float:
    return max(0, now - before) / passed_s if passed_s > 0 else 0.0
