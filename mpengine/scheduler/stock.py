"""All batches that are not settled, and every figure that follows from them; the scheduler's bookkeeping.

Nothing is decided here.  Each method keeps backlog, order, ledger and weights in step with one change of one batch, so
that no caller can forget one of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence

from mpengine.records import replace
from mpengine.scheduler.backlog import Backlog
from mpengine.scheduler.batches import Batch, Family, Given, Joint, Piece, trace
from mpengine.scheduler.commands import SettleItems
from mpengine.scheduler.events import Chunk
from mpengine.scheduler.ledger import Ledger
from mpengine.scheduler.lifecycles import BatchMove, BatchState
from mpengine.scheduler.ordering import ArrivalOrder, InputOrder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mpengine.plan import Plan
    from mpengine.scheduler.batches import Families
    from mpengine.scheduler.commands import ReportFailure
    from mpengine.scheduler.crew import Worker
    from mpengine.scheduler.ordering import Order


Errors = Sequence[tuple[int, Batch | None]]


class Stock:
    """The batches under way.

    Attributes:
        batches: every batch that is not settled, by number (K4: each in one state).
        backlog: those that wait, and the room behind each chain.
        order: the order in which results leave.
        ledger: the books.
        held_bytes: what all payloads under way weigh.
        complete: mixed items that no branch is at any more, waiting to be put together.
        closed: what is settled and has not been told, where it is to be.
        now: the time of the event that is being taken in, or of a later one that was taken in before.
        taken: results that were handed over and that the consumer has not acknowledged.
    """

    def __init__(self, plan: Plan, *, ordered: bool, out_buffer: int) -> None:
        """Start empty."""
        self.plan = plan
        self.ordered = ordered
        self.batches: dict[int, Batch] = {}
        self.backlog = Backlog(plan.chains, out_buffer)
        self.order: Order = InputOrder() if ordered else ArrivalOrder()
        stages = plan.stages
        fans_out = [stage.is_generator for stage in stages]
        names = [stage.name for stage in stages]
        self._is_traced, self._keeps_items = plan.is_traced, plan.keeps_items
        self.ledger = Ledger(names, fans_out, plan.upstream, is_traced=self._is_traced)
        self.complete: list[Joint] = []
        self.held_bytes = 0
        self.taken = 0
        self.closed: list[Family] = []
        self.now = 0.0
        self._next_id = 0

    @property
    def open_items(self) -> int:
        """Source items of which something is still under way."""
        return self.ledger.source_items - self.ledger.settled

    # ------------------------------------------------------------------ coming in

    def admit(self, pulled: int) -> tuple[range, Families]:
        """Take in ``pulled`` source items; return their indices, and the family that traces them, should one have to.

        The family is held open until ``release``.
        """
        first = self.ledger.source_items
        indices = range(first, first + pulled)
        self.ledger.source_items += pulled
        families = (Family(indices, live=1),) if self._is_traced else ()
        return indices, families

    def release(self, families: Families) -> None:
        """Nothing more of ``families`` will come; close the books on those of which nothing is under way."""
        for family in families:
            family.live -= 1
            if family.live == 0:
                self.ledger.close_family(family)
                if family.given is not None:
                    self.held_bytes -= family.given.size_bytes
                    family.given = None
                if self.plan.tells_settled and not family.is_known:
                    self.closed.append(family)

    def tell_closed(self) -> list[SettleItems]:
        """Return what is settled and has not been told."""
        told = [SettleItems(one.indices, one.cancelled | one.failed, one.dropped) for one in self.closed]
        self.closed.clear()
        return told

    def add_source(
        self, chunk: Chunk, indices: Sequence[int], families: Families, errors: Errors = ()
    ) -> None:  # fmt: skip
        """Take in what the source gave; ``errors`` as for ``add_results``.  What ``is_known`` are results already."""
        for family in families if self._keeps_items else ():  # an error handler may want an item of it
            family.given = Given(chunk.payload, chunk.size_bytes, chunk.positions)
            self.held_bytes += chunk.size_bytes
        following = () if families and families[0].is_known else self.plan.entrance
        for child in self._lay_out(following, chunk, indices, families, errors):
            if child is not None:
                self.order.append(child)

    def add_results(self, parent: Batch, chunks: Sequence[Chunk], errors: Errors = ()) -> list[Batch]:
        """Take in what a worker has made of ``parent``, for the next chain or for the consumer.

        Args:
            parent: the batch.
            chunks: its results.
            errors: what takes the places of items that failed (see ``emit``), by their positions in the payload; None
                in the place of one that ends the run.

        Returns:
            What comes behind an item that ends the run, and is not in the order yet.
        """
        if parent.joint is not None:
            for chunk in chunks:
                self._add_piece(parent.joint, parent.chain, chunk)
            return []
        following = self.plan.chains[parent.chain].following
        if not errors:
            made = [self._lay_out(following, chunk, parent.origin, parent.families, ()) for chunk in chunks]
            self.order.insert([child for some in made for child in some if child is not None], ahead_of=parent)
            return []
        later = deque(sorted(errors, key=lambda error: error[0]))
        children: list[Batch | None] = []
        for number, chunk in enumerate(chunks, 1):
            mine = [*later] if number == len(chunks) else _before(later, chunk)
            children += self._lay_out(following, chunk, parent.origin, parent.families, mine)
        if not chunks:
            children += [error for _, error in later]
        ending = children.index(None) if None in children and self.ordered else len(children)
        self.order.insert([child for child in children[:ending] if child is not None], ahead_of=parent)
        return [child for child in children[ending:] if child is not None]

    def _lay_out(
        self, following: Sequence[int], chunk: Chunk, origin: Sequence[int], families: Families, errors: Errors
    ) -> list[Batch | None]:  # fmt: skip
        """Return a chunk as batches for the ``following`` chains, with ``errors`` among them; not in the order yet."""
        children: list[Batch | None] = []
        indices = trace(origin, chunk.first, chunk.count, chunk.positions)
        start = 0
        if errors and self.ordered and chunk.count:  # a result behind an error is cut off from those before it
            places = chunk.positions or range(chunk.first, chunk.first + chunk.count)
            for position, error in errors:
                end = bisect_right(places, position)
                if end > start:
                    children.append(self._add_window(following, chunk, indices, start, end, families))
                children.append(error)
                start = end
        else:
            children += [error for _, error in errors]
        if start < chunk.count:
            children.append(self._add_window(following, chunk, indices, start, chunk.count, families))
        return children

    def _add_window(
        self, following: Sequence[int], chunk: Chunk, origin: Sequence[int], lo: int, hi: int, families: Families
    ) -> Batch:
        weight = chunk.size_bytes * hi // chunk.count - chunk.size_bytes * lo // chunk.count
        chains = self.plan.chains
        if len(following) > 1 or (following and chains[following[0]].joined_by is not None):
            return self._fork(following, chunk, origin, lo, hi, families, weight)
        chain = following[0] if following else len(chains)
        state = BatchState.QUEUED if following else BatchState.READY
        child = self.adopt(Batch(self.new_id(), chain, chunk.payload, origin, lo, hi, weight, state, families=families))
        if following:
            self.ledger.enter(chains[chain].first_stage, child.count)
            self.backlog.put(child)
        return child

    def _fork(  # noqa: PLR0913, PLR0917 - as above
        self, branches: Sequence[int], chunk: Chunk, origin: Sequence[int], lo: int, hi: int, families: Families,
        weight: int,
    ) -> Batch:  # fmt: skip
        """Give each branch of a mix a batch of the same items; return the one that holds their place in the order."""
        chains = self.plan.chains
        merging = chains[branches[0]].joined_by
        assert merging is not None  # noqa: S101 - that is what makes them branches
        place = self.adopt(
            Batch(
                self.new_id(), merging, chunk.payload, origin, lo, hi, weight, BatchState.FORKED, families=families
            )
        )  # fmt: skip
        joint = Joint(place, tuple(branches))
        place.joint = joint
        for branch in branches:
            self.backlog.put(
                self.adopt(
                    Batch(
                        self.new_id(), branch, chunk.payload, origin, lo, hi, weight, families=families, joint=joint
                    )
                )
            )  # fmt: skip
            self.ledger.enter(chains[branch].first_stage, hi - lo)
        return place

    def _add_piece(self, joint: Joint, branch: int, chunk: Chunk) -> None:
        if chunk.count:
            positions = chunk.positions or range(chunk.first, chunk.first + chunk.count)
            joint.pieces.setdefault(branch, []).append(Piece(chunk.payload, positions))
            joint.place.size_bytes += chunk.size_bytes
            self.held_bytes += chunk.size_bytes

    def join(self, joint: Joint, errors: Errors) -> None:
        """Put together what the branches of a mix have made of the same items, for the chain that merges them."""
        place = joint.place
        positions = joint.common()
        self._lose(joint, len(positions))
        weight = place.size_bytes
        chunk = Chunk(joint.zipped(positions), len(positions), size_bytes=weight)
        if positions:
            chunk = replace(chunk, first=positions[0], positions=positions)
        children = self._lay_out((place.chain,), chunk, place.origin, place.families, errors)
        self.order.insert([child for child in children if child is not None], ahead_of=place)
        self.settle(place)

    def _lose(self, joint: Joint, joined: int) -> None:
        for branch in joint.branches:
            self.ledger.lose(self.plan.chains[branch].first_stage, joint.given(branch) - joined)

    def emit(self, report: ReportFailure, families: Families) -> Batch:
        """Return a result that stands for an item that failed; the caller puts it into the order."""
        return self._make_lone(report, BatchState.READY, families)

    def set_aside(self, report: ReportFailure, families: Families) -> Batch:
        """Keep an item that failed as under way, until its error handler has returned."""
        return self._make_lone(report, BatchState.ASIDE, families)

    def _make_lone(self, report: ReportFailure, state: BatchState, families: Families) -> Batch:
        mine = tuple(family for family in families if report.index in family.indices)
        chain = len(self.plan.chains)
        return self.adopt(Batch(self.new_id(), chain, report, (report.index,), 0, 1, state=state, families=mine))

    def new_id(self) -> int:
        """Return a number that no batch has."""
        self._next_id += 1
        return self._next_id

    def adopt(self, batch: Batch) -> Batch:
        """Keep ``batch`` from now on, and count it; return it."""
        self.batches[batch.batch_id] = batch
        batch.since = batch.since or self.now
        self.backlog.grow(batch.chain, batch.count)
        self.held_bytes += batch.size_bytes
        for family in batch.families:
            family.live += 1
        if batch.joint is not None:
            batch.joint.open += 1
        return batch

    # ------------------------------------------------------------------ changing hands

    def dispatch(self, batch: Batch, worker: Worker, budget: int) -> None:
        """A worker gets ``batch``."""
        self.backlog.take(batch)
        batch.move(BatchMove.DISPATCH)
        batch.worker_id = worker.worker_id
        batch.budget = budget
        worker.take(batch, self.now)
        self._hold(batch)

    def resume(self, batch: Batch, worker: Worker, budget: int) -> None:
        """A worker goes on with ``batch``, which it had put aside."""
        batch.move(BatchMove.RESUME)
        batch.budget = budget
        worker.take_up(batch, self.now)
        self._hold(batch)

    def suspend(self, batch: Batch, worker: Worker) -> None:
        """A worker puts ``batch`` aside."""
        self._release(batch)
        batch.move(BatchMove.SUSPEND)
        worker.put_aside(batch)

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
            self.new_id(), batch.chain, batch.payload, batch.origin, at, batch.hi, batch.size_bytes - weight,
            careful=batch.careful, families=batch.families, joint=batch.joint,
        )  # fmt: skip
        self.backlog.grow(batch.chain, -rest.count)
        self.held_bytes -= rest.size_bytes
        batch.hi, batch.size_bytes = at, weight
        self.adopt(rest)
        if batch.joint is None:
            self.order.insert_behind(batch, rest)
        self.backlog.put(rest, in_front=True)
        self.backlog.put(batch, in_front=True)
        return rest

    def _hold(self, batch: Batch) -> None:
        self.backlog.hold(batch.chain, batch.count, self._promise(batch))

    def _release(self, batch: Batch) -> None:
        if batch.state is BatchState.IN_FLIGHT:
            self.backlog.release(batch.chain, batch.count, self._promise(batch))

    def _promise(self, batch: Batch) -> int:
        """Return how many results ``batch`` may still bring before its worker asks again."""
        return batch.budget if self.plan.chains[batch.chain].fans_out else batch.hi - batch.lo

    def _drop_front(self, batch: Batch, count: int) -> None:
        if count:
            weight = batch.size_bytes * count // batch.count
            batch.size_bytes -= weight
            self.held_bytes -= weight
            self.backlog.grow(batch.chain, -count)
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
        self.backlog.grow(batch.chain, -batch.count)
        self.held_bytes -= batch.size_bytes
        if batch.joint is not None and batch.joint.place is not batch:
            batch.joint.open -= 1
            if batch.joint.open == 0:
                self.complete.append(batch.joint)
        if batch.families:
            self.release(batch.families)

    def leave_all(self) -> None:
        """A cancelled run leaves everything behind; but what was handed over, the consumer still gets."""
        for batch in list(self.batches.values()):
            if batch.state is not BatchState.TAKEN:
                self.leave(batch)
        self.complete.clear()  # what was left of a mix is not put together any more

    def leave(self, batch: Batch) -> None:
        """A cancelled run leaves ``batch`` behind."""
        if batch.state in (BatchState.ASIDE, BatchState.FORKED):
            self.ledger.abandon(batch)
            if batch.joint is not None:
                self._lose(batch.joint, 0)
        else:
            is_result = batch.chain == len(self.plan.chains)
            self.ledger.leave(None if is_result else self.plan.chains[batch.chain].first_stage, batch)
        self.settle(batch)


def _before(errors: deque[tuple[int, Batch | None]], chunk: Chunk) -> list[tuple[int, Batch | None]]:
    """Take out and return the errors whose places are among those of the chunk, or before them."""
    last = chunk.positions[-1] if chunk.positions else chunk.first + chunk.count - 1
    found = []
    while errors and errors[0][0] < last:
        found.append(errors.popleft())
    return found
