"""All batches that are not settled, and every figure that follows from them; the scheduler's bookkeeping.

Nothing is decided here.  Each method keeps backlog, order, ledger and weights in step with one change of one batch, so
that no caller can forget one of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import TYPE_CHECKING, Any

from mpengine.scheduler.backlog import Backlog
from mpengine.scheduler.batches import Batch, Family, trace
from mpengine.scheduler.ledger import Ledger
from mpengine.scheduler.lifecycles import BatchMove, BatchState
from mpengine.scheduler.ordering import ArrivalOrder, InputOrder
from mpengine.scheduler.payloads import Spliced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpengine.plan import Plan
    from mpengine.scheduler.batches import Families
    from mpengine.scheduler.commands import ReportFailure
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
        self.ordered = ordered
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
        families = (Family(indices),) if self.plan.fans_out else ()
        batch = self._adopt(Batch(self._new_id(), 0, payload, origin, 0, len(origin), size_bytes, families=families))
        self.order.append(batch)
        self.backlog.put(batch)
        return batch

    def add_results(
        self, parent: Batch, chunks: Sequence[Chunk], errors: Sequence[tuple[int, Batch]] = ()
    ) -> None:  # fmt: skip
        """Take in what a worker has made of ``parent``, for the next chain or for the consumer.

        Args:
            parent: the batch.
            chunks: its results.
            errors: what takes the places of items that failed (see ``emit``), by their positions in the payload.
        """
        later = deque(sorted(errors, key=lambda error: error[0]))
        children: list[Batch] = []
        for chunk in chunks:
            if chunk.count == 0:
                continue
            origin = trace(parent.origin, chunk.first, chunk.count, chunk.positions)
            start = 0
            if later and self.ordered:  # a result behind an error is cut off from those before it
                places = chunk.positions or range(chunk.first, chunk.first + chunk.count)
                while later and later[0][0] < places[-1]:
                    position, error = later.popleft()
                    end = bisect_right(places, position)
                    if end > start:
                        children.append(self._add_window(parent, chunk, origin, start, end))
                    children.append(error)
                    start = end
            children.append(self._add_window(parent, chunk, origin, start, chunk.count))
        children += [error for _, error in later]
        self.order.insert(children, ahead_of=parent)

    def _add_window(self, parent: Batch, chunk: Chunk, origin: Sequence[int], lo: int, hi: int) -> Batch:
        chain = parent.chain + 1
        is_result = chain == len(self.plan.chains)
        weight = chunk.size_bytes * hi // chunk.count - chunk.size_bytes * lo // chunk.count
        child = self._adopt(
            Batch(
                self._new_id(), chain, chunk.payload, origin, lo, hi, weight,
                BatchState.READY if is_result else BatchState.QUEUED, families=parent.families,
            )
        )  # fmt: skip
        if not is_result:
            self.ledger.enter(self.plan.chains[chain].first_stage, child.count)
            self.backlog.put(child)
        return child

    def interleave(self, batch: Batch, errors: Sequence[tuple[int, Batch]]) -> None:
        """Put ``errors`` (see ``emit``) between the items of a queued ``batch``, by their places among these."""
        first = []
        for place, error in reversed(errors):  # the earlier part stays in `batch`
            if place <= batch.lo:
                first.append(error)
            elif place >= batch.hi:
                self.order.insert_behind(batch, error)
            else:
                self.order.insert([error], ahead_of=self.split(batch, place))
        self.order.insert(reversed(first), ahead_of=batch)

    def emit(self, report: ReportFailure, families: Families) -> Batch:
        """Return a result that stands for an item that failed; the caller puts it into the order."""
        return self._make_lone(report, BatchState.READY, families)

    def set_aside(self, report: ReportFailure, families: Families) -> Batch:
        """Keep an item that failed as under way, until its error handler has returned."""
        return self._make_lone(report, BatchState.ASIDE, families)

    def _make_lone(self, report: ReportFailure, state: BatchState, families: Families) -> Batch:
        mine = tuple(family for family in families if report.index in family.indices)
        chain = len(self.plan.chains)
        return self._adopt(Batch(self._new_id(), chain, report, (report.index,), 0, 1, state=state, families=mine))

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def _adopt(self, batch: Batch) -> Batch:
        self.batches[batch.batch_id] = batch
        self.backlog.alive[batch.chain] += batch.count
        self.held_bytes += batch.size_bytes
        for family in batch.families:
            family.live += 1
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
            careful=batch.careful, families=batch.families,
        )  # fmt: skip
        self.backlog.alive[batch.chain] -= rest.count
        self.held_bytes -= rest.size_bytes
        batch.hi, batch.size_bytes = at, weight
        self._adopt(rest)
        self.order.insert_behind(batch, rest)
        self.backlog.put(rest, in_front=True)
        self.backlog.put(batch, in_front=True)
        return rest

    def splice(self, batch: Batch, wanted: int) -> Batch:
        """Join ``batch``, which is queued, with its queued neighbours, for up to ``wanted`` items."""
        members = [batch]
        total = batch.count
        while total < wanted and (following := self._neighbour(members[-1])) is not None:
            if total + following.count > wanted:
                self.split(following, following.lo + wanted - total)
            members.append(following)
            total += following.count
        if len(members) == 1:
            return batch
        parts = tuple(part for member in members for part in _parts_of(member))
        origin = [index for member in members for index in member.indices()]
        families = tuple(dict.fromkeys(family for member in members for family in member.families))
        weight = sum(member.size_bytes for member in members)
        joined = self._adopt(
            Batch(self._new_id(), batch.chain, Spliced(parts), origin, 0, total, weight, families=families)
        )
        self.order.insert([joined], ahead_of=batch)
        for member in members:
            self.settle(member)
        self.backlog.put(joined, in_front=True)
        return joined

    def neighbours(self, batch: Batch, wanted: int) -> int:
        """Return how many items ``splice`` would join, or ``wanted`` if there are more."""
        total, last = batch.count, batch
        while total < wanted and (following := self._neighbour(last)) is not None:
            total, last = total + following.count, following
        return min(total, wanted)

    def _neighbour(self, batch: Batch) -> Batch | None:
        """Return the queued batch whose items come right behind those of ``batch``, if there is one to be joined."""
        following = batch.behind if self.ordered else self.backlog.following(batch)
        if following is None or following.state is not BatchState.QUEUED or following.chain != batch.chain:
            return None
        return following if following.is_plain else None

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
        for family in batch.families:
            family.live -= 1
            if family.live == 0:
                self.ledger.close_family(family)

    def leave(self, batch: Batch) -> None:
        """A cancelled run leaves ``batch`` behind."""
        if batch.state is BatchState.ASIDE:
            self.ledger.abandon(batch)
        else:
            is_result = batch.chain == len(self.plan.chains)
            self.ledger.leave(None if is_result else self.plan.chains[batch.chain].first_stage, batch)
        self.settle(batch)


def _parts_of(batch: Batch) -> list[tuple[Any, int, int]]:
    """Return the windows of plain payloads that ``batch`` consists of."""
    if not isinstance(batch.payload, Spliced):
        return [(batch.payload, batch.lo, batch.hi)]
    parts = []
    start = 0
    for payload, lo, hi in batch.payload.parts:
        first, last = max(batch.lo, start), min(batch.hi, start + hi - lo)
        if first < last:
            parts.append((payload, lo + first - start, lo + last - start))
        start += hi - lo
    return parts
