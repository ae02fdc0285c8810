"""The scheduler's books as a ``Snapshot``, from any thread.

The loop's thread writes the books and takes no lock.  ``Scheduler.version`` is odd while it does, and changes each
time; a reader that finds it odd or changed has mixed two moments, and reads again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mpengine.metrics import Snapshot, StageMetrics, WorkerMetrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpengine.scheduler.crew import Worker
    from mpengine.scheduler.scheduler import Scheduler

READ_TRIES = 1000


def take_snapshot(scheduler: Scheduler, pid_of: Callable[[int], int | None], ended_at: float | None = None) -> Snapshot:
    """Return the run's figures.

    Args:
        scheduler: whose books.
        pid_of: the process number for a slot.
        ended_at: when the run ended; None while it goes on.
    """
    snapshot = Snapshot()
    for _ in range(READ_TRIES):
        before = scheduler.version
        try:
            snapshot = _read(scheduler, pid_of, ended_at)
        except RuntimeError:  # something changed size while it was looked through
            continue
        if before % 2 == 0 and scheduler.version == before:
            break
    return snapshot


def _read(scheduler: Scheduler, pid_of: Callable[[int], int | None], ended_at: float | None) -> Snapshot:
    ledger = scheduler.ledger
    elapsed_s = max(0.0, (ended_at or time.monotonic()) - scheduler.started_at) if scheduler.started_at else 0.0
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
