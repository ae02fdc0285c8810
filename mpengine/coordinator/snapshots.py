"""The scheduler's books as a ``Snapshot``, whole, from any thread.

The writer is the thread that feeds events to the scheduler: the loop's, and the consumer's before and after it.  It
takes no lock.  ``Scheduler.version`` is odd while it writes, and changes each time.

V1. A reading counts only if ``version`` was even before it and the same after it.  Any other has mixed two moments and
    is thrown away: nobody ever sees it.
V2. A reader that meets the writer in the middle asks it for a copy, which it makes between two events, and waits for
    that, ``ASK_TRIES`` times ``ASK_S`` at most.
V3. Who cannot wait, because it *is* the writer (a signal handler that came in between, the collector), or has waited
    long enough, gets the youngest whole snapshot that was ever taken.  There is one from the beginning.
V4. Whoever has taken a snapshot leaves it for V3, unless there is a younger one; so no thread ever sees a figure go
    back.  The lock for that is held for a comparison and a store, and the writer never waits for it but in V3.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque

from mpengine.metrics import Snapshot, StageMetrics, WorkerMetrics

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mpengine.scheduler.crew import Worker
    from mpengine.scheduler.scheduler import Scheduler

READ_TRIES = 3
ASK_TRIES = 20
ASK_S = 0.05
LOCK_S = 1.0
FRESH_S = 0.1


class _Request:
    """A reader's wish for a copy."""

    def __init__(self) -> None:
        self.answer: queue.SimpleQueue[_Reading] = queue.SimpleQueue()
        self.is_wanted = True


class _Reading:
    """A whole snapshot, and how old it is beside others."""

    def __init__(self, version: int, snapshot: Snapshot) -> None:
        self.age = (version, snapshot.elapsed_s)
        self.snapshot = snapshot


class Snapshots:
    """Takes the snapshots of one run.

    Args:
        scheduler: whose books.
        pid_of: the process number for a slot.

    Attributes:
        ended_at: when the run ended; None while it goes on.
    """

    def __init__(self, scheduler: Scheduler, pid_of: Callable[[int], int | None]) -> None:
        """Take the first, of a run that has not begun."""
        self._scheduler = scheduler
        self._pid_of = pid_of
        self.ended_at: float | None = None
        self._requests: deque[_Request] = deque()
        self._lock = threading.RLock()  # a signal handler may come in between and take a snapshot itself
        self._youngest = _Reading(scheduler.version, _read(scheduler, pid_of, None, 0.0))
        self._writer = threading.get_ident()
        self._fresh_until = 0.0

    def take(self) -> Snapshot:
        """Return the figures of one moment; from any thread or signal handler."""
        reading = self._read_whole() or self._ask_writer()
        with_lock = self._lock.acquire(timeout=LOCK_S)  # a process forked at the wrong moment would wait for ever
        try:
            if reading is None:
                reading = self._youngest
            elif reading.age >= self._youngest.age:
                self._youngest = reading
        finally:
            if with_lock:
                self._lock.release()
        return reading.snapshot

    def _read_whole(self) -> _Reading | None:
        """Read the books; return None when they were being written (V1)."""
        for _ in range(READ_TRIES):
            before = self._scheduler.version
            if before % 2:
                return None
            try:
                reading = self._read(before)
            except RuntimeError:  # something changed size while it was looked through
                continue
            if self._scheduler.version == before:
                return reading
        return None

    def _read(self, version: int) -> _Reading:
        # The time before the look whether the run has ended: else it could seem to have lasted longer than it did.
        at, ended_at = time.monotonic(), self.ended_at
        floor_s = self._youngest.snapshot.elapsed_s
        started_at = self._scheduler.started_at
        elapsed_s = max(floor_s, (ended_at or at) - started_at) if started_at else 0.0
        return _Reading(version, _read(self._scheduler, self._pid_of, ended_at, elapsed_s))

    def _ask_writer(self) -> _Reading | None:
        """Wait for a copy (V2); None when there is no use in waiting (V3)."""
        if threading.get_ident() == self._writer:
            return None
        request = _Request()
        try:
            self._requests.append(request)
            for _ in range(ASK_TRIES):
                reading = self._read_whole()  # the writer may have come to rest before it could see the request
                if reading is not None:
                    return reading
                try:
                    return request.answer.get(timeout=ASK_S)
                except queue.Empty:
                    continue
        finally:
            request.is_wanted = False
        return None

    # ------------------------------------------------------------------ the writer's thread

    def writes_here(self) -> None:
        """Say that the calling thread feeds events to the scheduler from now on."""
        self._writer = threading.get_ident()

    def answer(self) -> None:
        """Give a copy to everybody who has asked; between two events."""
        if self._requests:
            reading = self._read(self._scheduler.version)
            while self._requests:
                request = self._requests.popleft()
                if request.is_wanted:
                    request.answer.put(reading)

    def freshen(self) -> None:
        """See to it that V3 has something young, where the writer's own thread is the one that asks: inline."""
        at = time.monotonic()
        if at >= self._fresh_until:
            self._fresh_until = at + FRESH_S
            self.take()


def _read(
    scheduler: Scheduler, pid_of: Callable[[int], int | None], ended_at: float | None, elapsed_s: float
) -> Snapshot:
    ledger = scheduler.ledger
    workers = tuple(
        WorkerMetrics(
            worker.worker_id,
            pid_of(worker.worker_id),
            _state_of(worker, has_ended=ended_at is not None),
            worker.batches,
            worker.items,
            worker.busy_s,
            worker.deaths,
        )
        for worker in scheduler.crew
    )
    return Snapshot(
        stages=_stages(scheduler, elapsed_s),
        workers=workers,
        state=scheduler.state.value,
        reason=scheduler.reason,
        elapsed_s=elapsed_s,
        source_items=ledger.source_items,
        delivered=ledger.values,
        filtered=ledger.filtered,
        dropped=ledger.dropped,
        failed=ledger.failed,
        cancelled=ledger.cancelled,
        lead_bound=scheduler.window,
        resumed=ledger.passed,
    )


def _state_of(worker: Worker, *, has_ended: bool) -> str:
    if has_ended:
        return "idle" if worker.is_ready else "absent"
    if not worker.is_ready:
        return worker.life.value
    return "busy" if worker.active else "idle"


def _stages(scheduler: Scheduler, elapsed_s: float) -> tuple[StageMetrics, ...]:
    stages = []
    for chain in scheduler.plan.chains:
        for number in range(chain.first_stage, chain.first_stage + len(chain.stages)):
            book = scheduler.ledger.stages[number]
            is_first = number == chain.first_stage
            stages.append(
                StageMetrics(
                    name=book.name,
                    buffer=chain.buffer,
                    queued=scheduler.backlog.waiting[chain.index] if is_first else 0,
                    in_flight=scheduler.backlog.running[chain.index] if is_first else 0,
                    processed=book.processed,
                    succeeded=book.succeeded,
                    failed=book.failed,
                    skipped=book.skipped,
                    dropped=book.dropped,
                    emitted_errors=book.emitted,
                    retried=book.retried,
                    timed_out=book.timed_out,
                    crashed=book.crashed,
                    busy_s=book.busy_s,
                    items_per_s=book.processed / elapsed_s if elapsed_s else 0.0,
                )
            )
    return tuple(stages)
