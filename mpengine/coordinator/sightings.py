"""What each worker is at, for those who watch: seen by the loop between two events, since the books and slots are its.

O1. Any thread may ask; it rings for the loop and waits for ``timeout_s`` at most.  A loop that sees its workers off has
    no time for it, and then there is no answer.
O2. Nothing is looked at unless somebody asks: the loop's part is to see that a list is empty.
O3. A worker's slot is read as it stands; what is half written, or of a batch that the books do not know any more, is no
    sight.
"""

from __future__ import annotations

import time
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    import queue

    from mpengine.backends.base import Backend
    from mpengine.ipc.controlblock import SlotRecord
    from mpengine.monitor.sights import Sights, WorkerSight
    from mpengine.plan import Plan
    from mpengine.profiles import Profile
    from mpengine.scheduler.batches import Batch
    from mpengine.scheduler.crew import Worker
    from mpengine.scheduler.scheduler import Scheduler


class Sightings:
    """Sees what the workers of one run are at.

    Args:
        plan: what is run.
        scheduler: whose books.
        backend: whose workers.

    Attributes:
        wanted: who has asked and waits.
    """

    def __init__(self, plan: Plan, scheduler: Scheduler, backend: Backend) -> None:
        """Look at nothing yet."""
        self._plan = plan
        self._scheduler = scheduler
        self._backend = backend
        self.wanted: deque[queue.SimpleQueue[tuple[tuple[WorkerSight, ...], Profile]]] = deque()

    @property
    def total(self) -> int | None:
        """How many items the source has; None where nobody knows."""
        return self._scheduler.settings.length

    @property
    def fans_out(self) -> bool:
        """Whether one item may become many."""
        return any(chain.fans_out for chain in self._plan.chains)

    def ask(self, timeout_s: float) -> Sights | None:
        """Return what the workers are at; None where the loop has no time (O1)."""
        import queue

        from mpengine.monitor.sights import Sights

        answer: queue.SimpleQueue[tuple[tuple[WorkerSight, ...], Profile]] = queue.SimpleQueue()
        self.wanted.append(answer)
        self._backend.wake()
        try:
            workers, profile = answer.get(timeout=timeout_s)
        except queue.Empty:
            return None
        return Sights(workers=workers, bottleneck=profile.bottleneck)

    # ------------------------------------------------------------------ the loop's thread

    def answer(self) -> None:
        """Look, and tell all who wait."""
        at = time.monotonic()
        seen = tuple(self._see(worker, at) for worker in self._scheduler.crew), self._scheduler.timesheet.profile()
        while self.wanted:
            self.wanted.popleft().put(seen)

    def _see(self, worker: Worker, at: float) -> WorkerSight:
        from mpengine.monitor.sights import WorkerSight  # only where somebody watches

        unreported_s = max(0.0, at - worker.since) if worker.active else 0.0
        record = self._backend.record_of(worker.worker_id)
        batch = None if record is None or record.batch_id is None else worker.held.get(record.batch_id)
        if record is not None and batch is not None:
            return self._see_named(worker, batch, record, at)
        at_work = [batch for batch in worker.held.values() if batch.batch_id not in worker.aside]
        if not at_work:
            return WorkerSight(worker_id=worker.worker_id)
        first, last = _ends(at_work[0])
        stage = self._plan.chains[at_work[0].chain].first_stage
        return WorkerSight(worker_id=worker.worker_id, stage=stage, first=first, last=last, unreported_s=unreported_s)

    def _see_named(self, worker: Worker, batch: Batch, record: SlotRecord, at: float) -> WorkerSight:
        from mpengine.monitor.sights import WorkerSight

        chain = self._plan.chains[batch.chain]
        first, last = _ends(batch)
        position = record.position
        is_known = position is not None and batch.lo <= position < batch.hi
        return WorkerSight(
            worker_id=worker.worker_id,
            stage=chain.first_stage + (min(record.stage, len(chain.stages) - 1) if is_known else 0),
            item=batch.origin[position] if is_known and position is not None else None,
            first=first,
            last=last,
            text=record.text,
            attempt=record.attempt,
            in_setup=record.in_setup,
            since_s=max(0.0, at - record.began_at),
            unreported_s=max(0.0, at - worker.since) if worker.active else 0.0,
        )


def _ends(batch: Batch) -> tuple[int | None, int | None]:
    return (batch.origin[batch.lo], batch.origin[batch.hi - 1]) if batch.count else (None, None)
