"""All batches that are not settled, and every figure that follows from them; the scheduler's bookkeeping.

Nothing is decided here.  Each method keeps backlog, order, ledger and weights in step with one change of one batch, so
that no caller can forget one of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpengine.scheduler.backlog import Backlog
from mpengine.scheduler.batches import Batch, Family, trace
from mpengine.scheduler.ledger import Ledger
from mpengine.scheduler.lifecycles import BatchMove, BatchState
from mpengine.scheduler.ordering import ArrivalOrder, InputOrder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpengine.plan import Plan
    from mpengine.scheduler.crew import Worker
    from mpengine.scheduler.events import Chunk
    from mpengine.scheduler.ordering import Order


class Stock:
    """The batches under way.

    Attributes:
        batches: every batch that is not settled, by number (K4: each in one state).
        backlog: those that wait, and the room behind each chain.
        order: the order in which results leave.
        ledger: the books.
        held_bytes: what all payloads under way weigh.
        taken: results that were handed over and that the consumer has not acknowledged.
    """

    def __init__(self, plan: Plan, *, ordered: bool, out_buffer: int) -> None:
        """Start empty."""
        self.plan = plan
        self.batches: dict[int, Batch] = {}
        self.backlog = Backlog(plan.chains, out_buffer)
        self.order: Order = InputOrder() if ordered else ArrivalOrder()
        self.ledger = Ledger([stage.name for stage in plan.stages], [stage.is_generator for stage in plan.stages])
        self.held_bytes = 0
        self.taken = 0
        self._next_id = 0

    @property
    def open_items(self) -> int:
        """Source items of which something is still under way."""
        return self.ledger.source_items - self.ledger.settled

    # ------------------------------------------------------------------ coming in

    def admit(self, payload: Any, pulled: int, unpacked: set[int], size_bytes: int) -> Batch:
        """Take in ``pulled`` source items, those at the places ``unpacked`` excepted, which the payload lacks."""
        first = self.ledger.source_items
        indices = range(first, first + pulled)
        self.ledger.source_items += pulled
        self.ledger.enter(0, pulled)
        origin: Sequence[int] = indices
        if unpacked:
            origin = [index for place, index in enumerate(indices) if place not in unpacked]
        family = Family(indices) if self.plan.fans_out else None
        batch = self._adopt(Batch(self._new_id(), 0, payload, origin, 0, len(origin), size_bytes, family=family))
        self.order.append(batch)
        self.backlog.put(batch)
        return batch

    def add_results(self, parent: Batch, chunks: Sequence[Chunk]) -> None:
        """Take in what a worker has made of ``parent``, for the next chain or for the consumer."""
        chain = parent.chain + 1
        is_result = chain == len(self.plan.chains)
        children = []
        for chunk in chunks:
            if chunk.count == 0:
                continue
            origin = trace(parent.origin, chunk.first, chunk.count, chunk.positions)
            child = Batch(
                self._new_id(), chain, chunk.payload, origin, 0, chunk.count, chunk.size_bytes,
                BatchState.READY if is_result else BatchState.QUEUED, family=parent.family,
            )  # fmt: skip
            children.append(self._adopt(child))
            if not is_result:
                self.ledger.enter(self.plan.chains[chain].first_stage, chunk.count)
                self.backlog.put(child)
        self.order.insert(children, ahead_of=parent)

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def _adopt(self, batch: Batch) -> Batch:
        self.batches[batch.batch_id] = batch
        self.backlog.alive[batch.chain] += batch.count
        self.held_bytes += batch.size_bytes
        if batch.family is not None:
            batch.family.live += 1
        return batch

    # ------------------------------------------------------------------ changing hands

    def dispatch(self, batch: Batch, worker: Worker, budget: int) -> None:
        """A worker gets ``batch``."""
        self.backlog.take(batch)
        batch.move(BatchMove.DISPATCH)
        batch.worker_id = worker.worker_id
        batch.budget = budget
        worker.held[batch.batch_id] = batch
        worker.active += 1
        self._hold(batch)

    def resume(self, batch: Batch, worker: Worker, budget: int) -> None:
        """A worker goes on with ``batch``, which it had put aside."""
        batch.move(BatchMove.RESUME)
        batch.budget = budget
        worker.active += 1
        self._hold(batch)

    def suspend(self, batch: Batch, worker: Worker) -> None:
        """A worker puts ``batch`` aside."""
        self._release(batch)
        batch.move(BatchMove.SUSPEND)
        worker.active -= 1

    def requeue(self, batch: Batch) -> None:
        """The worker that held ``batch`` is gone."""
        self._release(batch)
        batch.move(BatchMove.REQUEUE)
        batch.worker_id = None
        self.backlog.put(batch, in_front=True)

    def progress(self, batch: Batch, consumed: int, given: int) -> None:
        """A worker has done with the first ``consumed`` items of ``batch``, and ``given`` results came."""
        self._release(batch)
        self._drop_front(batch, consumed)
        batch.budget = max(0, batch.budget - given)
        self._hold(batch)

    def hand_over(self) -> list[Batch]:
        """Return the results that may leave now; the consumer has them from here on."""
        ready = []
        for batch in self.order.pop_ready():
            batch.move(BatchMove.HAND_OVER)
            self.taken += batch.count
            ready.append(batch)
        return ready

    def split(self, batch: Batch, at: int) -> Batch:
        """Leave the items before ``at`` in ``batch``, which is queued, and queue the others right behind it.

        Returns:
            The batch of the others.
        """
        self.backlog.take(batch)
        weight = batch.size_bytes * (at - batch.lo) // batch.count
        rest = Batch(
            self._new_id(), batch.chain, batch.payload, batch.origin, at, batch.hi, batch.size_bytes - weight,
            careful=batch.careful, family=batch.family,
        )  # fmt: skip
        self.backlog.alive[batch.chain] -= rest.count
        self.held_bytes -= rest.size_bytes
        batch.hi, batch.size_bytes = at, weight
        self._adopt(rest)
        self.order.insert_behind(batch, rest)
        self.backlog.put(rest, in_front=True)
        self.backlog.put(batch, in_front=True)
        return rest

    def _hold(self, batch: Batch) -> None:
        self.backlog.running[batch.chain] += batch.count
        self.backlog.promised[batch.chain] += self._promise(batch)

    def _release(self, batch: Batch) -> None:
        if batch.state is BatchState.IN_FLIGHT:
            self.backlog.running[batch.chain] -= batch.count
            self.backlog.promised[batch.chain] -= self._promise(batch)

    def _promise(self, batch: Batch) -> int:
        """Return how many results ``batch`` may still bring before its worker asks again."""
        return batch.budget if self.plan.chains[batch.chain].fans_out else batch.count

    def _drop_front(self, batch: Batch, count: int) -> None:
        if count:
            weight = batch.size_bytes * count // batch.count
            batch.size_bytes -= weight
            self.held_bytes -= weight
            self.backlog.alive[batch.chain] -= count
            batch.lo += count

    # ------------------------------------------------------------------ going out

    def settle(self, batch: Batch) -> None:
        """``batch`` is done with."""
        self._release(batch)
        if batch.state is BatchState.QUEUED:
            self.backlog.take(batch)
        elif batch.state is BatchState.TAKEN:
            self.taken -= batch.count
        self.order.remove(batch)
        batch.move(BatchMove.SETTLE)
        del self.batches[batch.batch_id]
        self.backlog.alive[batch.chain] -= batch.count
        self.held_bytes -= batch.size_bytes
        family = batch.family
        if family is not None:
            family.live -= 1
            if family.live == 0:
                self.ledger.close_family(family)

    def leave(self, batch: Batch) -> None:
        """A cancelled run leaves ``batch`` behind."""
        is_result = batch.chain == len(self.plan.chains)
        self.ledger.leave(None if is_result else self.plan.chains[batch.chain].first_stage, batch)
        self.settle(batch)
