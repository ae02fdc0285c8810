"""The loop's end of what observers are told: small tuples on a bounded tape.

There is a tape only where a run has observers, so a run without any pays one look for it each time it takes events in.

T1. Only the thread that feeds the scheduler adds to the tape, and only the teller's thread takes from it.  Both count
    for themselves, so that neither takes a lock.
T2. Nothing that is kept refers to a payload: those are recycled, and large.
T3. A tape that is full takes nothing more; the loop counts what it leaves out.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from mpengine.metrics import BOUNDS_S
from mpengine.monitor.observing import ItemFailed, RunCancelled
from mpengine.scheduler import commands, events
from mpengine.scheduler.events import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpengine.scheduler.scheduler import Scheduler

MAX_ENTRIES: Final = 50_000
SLACK_S: Final = 0.001
TEXT: Final = 1_000
"""An entry counts for one more for so many characters that it holds."""

SENT: Final = 0
REPORTED: Final = 1
STARTED: Final = 2
ENDED: Final = 3
PLAIN: Final = 4
"""What an entry begins with; behind ``PLAIN`` stands a record as it is."""

_HOLDS: Final = (Progress.MORE, Progress.SUSPENDED)

Entry = tuple[Any, ...]


class Tape:
    """What has happened and has not been told yet.

    Args:
        scheduler: whose batches.
        pid_of: the process number for a slot.
    """

    def __init__(self, scheduler: Scheduler, pid_of: Callable[[int], int | None]) -> None:
        """Begin empty."""
        chains = scheduler.plan.chains
        self._spans = [(chain.first_stage, chain.first_stage + len(chain.stages)) for chain in chains]
        self._scheduler = scheduler
        self._entries: deque[Entry] = deque()
        # The loop's:
        self._put = 0
        self._dropped = 0
        self._out: dict[int, tuple[int, Sequence[int], tuple[int, int]]] = {}  # by batch: worker, indices, stages
        self._retired: set[int] = set()
        self._makers: dict[type, Callable[[Any], Entry | None]] = {
            events.BatchReturned: self._reported,
            events.WorkerReady: lambda event: (STARTED, event.at, event.worker_id, pid_of(event.worker_id)),
            events.WorkerDied: self._ended,
            commands.Dispatch: self._sent,
            commands.RetireWorker: self._retire,
            commands.ReportFailure: self._failed,
            commands.CancelRun: lambda command: (PLAIN, RunCancelled(time.monotonic(), command.reason)),
        }
        # The teller's:
        self._taken = 0
        self._told_dropped = 0

    # ------------------------------------------------------------------ the loop's thread

    def note(self, happened: Sequence[events.Event], decided: Sequence[commands.Command]) -> None:
        """Put on the tape what observers want to know of (T1)."""
        makers = self._makers
        for thing in (*happened, *decided):
            make = makers.get(type(thing))
            if make is not None:
                entry = make(thing)
                if entry is not None:
                    self._add(entry)

    def _add(self, entry: Entry, weight: int = 1) -> None:
        if self._put - self._taken + weight > MAX_ENTRIES:
            self._dropped += 1
            return
        self._put += weight
        self._entries.append((weight, *entry))

    def _sent(self, command: commands.Dispatch) -> Entry | None:
        batch = self._scheduler.stock.batches.get(command.batch_id)
        if batch is None:
            return None
        span = self._spans[command.chain]
        self._out[command.batch_id] = (command.worker_id, batch.origin, span)
        first, last = batch.origin[command.lo], batch.origin[command.hi - 1]
        return (
            SENT, time.monotonic(), command.worker_id, command.batch_id, span, command.hi - command.lo, first, last,
        )  # fmt: skip

    def _reported(self, event: events.BatchReturned) -> Entry | None:
        known = self._out.get(event.batch_id)
        if known is None or known[0] != event.worker_id:
            return None  # of a batch that is not out, or not there; whoever says so is not believed either
        if event.progress not in _HOLDS:
            del self._out[event.batch_id]
        results = sum([chunk.count for chunk in event.chunks])
        return (
            REPORTED, event.at, event.worker_id, event.batch_id, known[2], event.progress.value, event.consumed,
            results, event.tallies, *checked_timing(event.timing, event.at, known[1]),
        )  # fmt: skip

    def _retire(self, command: commands.RetireWorker) -> None:
        self._retired.add(command.worker_id)

    def _ended(self, event: events.WorkerDied) -> Entry:
        held = tuple([batch_id for batch_id, out in self._out.items() if out[0] == event.worker_id])
        for batch_id in held:
            del self._out[batch_id]
        was_retired = event.worker_id in self._retired
        self._retired.discard(event.worker_id)
        return (ENDED, event, was_retired, held)

    def _failed(self, command: commands.ReportFailure) -> Entry | None:
        failure = command.failure
        record = ItemFailed(
            time.monotonic(), command.stage, command.index, command.worker_id, command.policy.value, failure.how.value,
            failure.summary, failure.item, failure.traceback, failure.attempts, failure.output,
        )  # fmt: skip
        self._add((PLAIN, record), 1 + (len(failure.traceback) + len(failure.output)) // TEXT)
        return None

    # ------------------------------------------------------------------ the teller's thread

    def take(self) -> list[Entry]:
        """Return what is on the tape, and take it off."""
        entries = self._entries
        taken = [entries.popleft() for _ in range(len(entries))]
        self._taken += sum([entry[0] for entry in taken])
        return [entry[1:] for entry in taken]

    def take_dropped(self) -> int:
        """Return how many entries were left out since the last call (T3)."""
        dropped = self._dropped
        count, self._told_dropped = dropped - self._told_dropped, dropped
        return count


def checked_timing(
    timing: tuple[Any, ...], at: float, origin: Sequence[int]
) -> tuple[float, float, tuple[Any, ...]]:  # fmt: skip
    """Return when a report's items were begun and ended, and their times, the slowest by their source index.

    A report is a worker's word, and a worker runs foreign code: what cannot be is left out (K9).

    Args:
        timing: as in ``ipc.messages.Returned``.
        at: when the report came.
        origin: the source index of each item of the batch's payload.
    """
    try:
        begun_at, ended_at, times = timing
        if not 0 < begun_at <= ended_at <= at + SLACK_S:
            return 0.0, 0.0, ()
        told = tuple([
            (
                tuple([(int(place), int(items)) for place, items in bins if 0 <= place <= len(BOUNDS_S)]),
                tuple([(origin[position], float(seconds)) for position, seconds in slowest]),
            )
            for bins, slowest in times
        ])  # fmt: skip
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return 0.0, 0.0, ()
    return begun_at, ended_at, told
