"""Who gets what next.

P1. The deepest work first, since it frees memory; in one chain the oldest first, since results wait for it.
P2. A worker that is one of the few for a chain looks there first.
P3. Nobody gets a second batch while somebody idle could have it, nor one in reserve when batches are long.
P4. What would overrun a bound behind its chain is cut to what fits, or waits.  Who makes many of one is promised a
    share of the room, so that all workers can be at it.
P5. An item that a worker has died of runs on a worker that runs nothing else; what that has put aside may stay there.
P6. Where a stage takes several items at once, what waits is joined until it has them.  For more it waits only while a
    worker is at something quick that may bring them, and no longer than ``FILL_S``.
P7. The branches of a mix take turns, so that one item is in all of them at the same time.  Where there are as many
    workers as branches, none has one in reserve behind another one, of these items or of others: two workers might each
    have in reserve what the other's items wait for; also of the same branch, since what a worker gives back (J4) is
    older than what it has in reserve.
P8. Where memory allows fewer processes at work than there are, only as many get something, and nothing in reserve.
P9. Near the end, when the source has and hardly any batch waits, they are cut to a share each, and nobody has one in
    reserve: who is through first takes the next.
P10. What came in small batches, since little was known when it was asked for, is joined up to what a batch ought to be;
    but only to a share for each who could be given some, and where neighbours in the backlog are neighbours in the
    order, and with few workers (Z5).
"""

from __future__ import annotations

from mpengine.scheduler.batching import FEW_WORKERS, MAX_BATCH, TARGET_S
from mpengine.scheduler.commands import Dispatch, Resume
from mpengine.scheduler.crew import CREDIT
from mpengine.scheduler.lifecycles import BatchState
from mpengine.scheduler.splicing import can_fill, splice
from mpengine.scheduler.timesheet import Wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mpengine.scheduler.admission import Admission
    from mpengine.scheduler.batches import Batch
    from mpengine.scheduler.batching import BatchSizer
    from mpengine.scheduler.commands import Command
    from mpengine.scheduler.crew import Crew, Muster, Worker
    from mpengine.scheduler.stock import Stock
    from mpengine.scheduler.timesheet import Timesheet

WORTH_SPLITTING_S = TARGET_S / 8
MOST_JOINED = 256
"""Items: joining more would take longer than the batches that it saves."""
FILL_S = 4 * TARGET_S
CHUNKS_AT_ONCE = 256
"""A fan-out is asked for so many chunks before anything is learnt of the next of them."""
UNLEARNT_CHUNK = 16
"""Results to a chunk while nothing is known of what the next chain makes of them; a chunk can be split later."""


class Dispatcher:
    """Hands out work.

    Args:
        stock: the batches.
        crew: the workers.
        sizers: for each chain, how large its batches ought to be.
        admission: how many processes may be at work.
        sheet: told what idle workers cannot go on with.

    Attributes:
        look_again_at: when something that waits is to go whatever has come by then; None when nothing does.
    """

    def __init__(
        self, stock: Stock, crew: Crew, sizers: Sequence[BatchSizer], admission: Admission, sheet: Timesheet
    ) -> None:
        """Keep what it looks at."""
        self._admission = admission
        self._sheet = sheet
        self._stock = stock
        self._crew = crew
        self._sizers = sizers
        self._mixes = [chain.joins for chain in stock.plan.chains if len(chain.joins) > 1]
        self._chains = stock.plan.chains
        self._plan_fans_out = stock.plan.fans_out
        self._following = [
            [sizers[index] for index in chain.following] if chain.joined_by is None else [] for chain in self._chains
        ]
        self._threads = sum(worker.bit for worker in crew if worker.only is not None)
        self._is_personal = False
        self.look_again_at: float | None = None

    def commands(self, *, source_ended: bool) -> Iterator[Command]:
        """Yield one command for each batch that a worker gets now."""
        self.look_again_at = None
        if not self._has_work():
            return
        is_limited = self._admission.is_limited(self._stock.now)
        if self._crew.idle.members:
            yield from self._offer(self._crew.idle, is_limited=is_limited, source_ended=source_ended)
        is_scarce = is_limited or (source_ended and len(self._stock.backlog) < self._crew.ready)  # P8, P9
        if not is_scarce and self._crew.with_reserve_free.members and self._has_work():
            yield from self._offer(self._crew.with_reserve_free, is_limited=False, source_ended=source_ended)

    def _offer(self, muster: Muster, *, is_limited: bool, source_ended: bool) -> Iterator[Command]:
        """Hand out work to some workers, one of each rank asked first, until there is none that any of them can have.

        Who holds the front of the order is asked before all others, since it can have what its like cannot (B3, B4).
        """
        refused = 0
        while left := muster.members & ~refused:
            if is_limited and self._is_enough():
                left &= self._threads
                if not left:
                    return
            head = self._stock.order.head
            worker = self._crew.first_of(left)
            if head is not None and head.state is BatchState.SUSPENDED and head.worker_id is not None:
                holder = self._crew[head.worker_id]
                worker = holder if left & holder.bit else worker
            command = self._next_for(worker, source_ended=source_ended)
            if command is None:
                refused |= worker.bit if self._is_personal else muster.by_rank[worker.rank]
                continue
            yield command
            if not self._has_work():
                return
            refused = 0  # that may have made room
            if muster is self._crew.idle:
                self._sheet.forget_refusals()

    def _is_enough(self) -> bool:
        """Whether as many processes are at work as may be (P8)."""
        return self._crew.active_processes >= self._admission.most(self._stock.now)

    def _has_work(self) -> bool:
        return self._stock.backlog.filled > 0 or self._crew.suspended > 0

    def _next_for(self, worker: Worker, *, source_ended: bool) -> Command | None:
        """Return what ``worker`` is to do; None: nothing, and nor is anybody of its rank, unless that is personal."""
        self._is_personal = worker.active > 0 and worker.has_lone_batch
        if self._is_personal:
            return None  # P5; what is put aside could not go on beside anything, so the worker is left to become idle
        for chain in self._chains_for(worker):
            for batch in self._candidates(worker, chain):
                room = self._room(batch)
                if room <= 0:
                    self._note(worker, chain, Wait.OUTPUT)
                    continue
                if worker.active and self._sizers[chain].is_long:
                    return None  # P3; nor anything less deep, or a worker that always has a reserve would never take it
                return self._send(worker, batch, room, source_ended=source_ended)
        return None

    def _chains_for(self, worker: Worker) -> Iterable[int]:
        """Return the chains of which there is anything, in the order in which ``worker`` is to look at them."""
        if worker.only is not None:
            return (worker.only,)
        filled = self._stock.backlog.filled
        for chain in worker.rank[3]:
            filled |= 1 << chain
        if not (self._mixes or worker.pinned):
            return _from_the_deepest(filled)
        depths: Iterable[int] = _from_the_deepest(filled)
        if self._mixes:
            depths = sorted(depths, key=self._depth)
        return sorted(depths, key=lambda chain: chain not in worker.pinned)  # P2

    def _depth(self, chain: int) -> tuple[int, int, int]:
        """Return where a chain comes: branches of a mix are equally deep, and the oldest items come first (P7)."""
        merging = self._chains[chain].joined_by
        first = None if merging is None else self._stock.backlog.first(chain)
        if merging is None or first is None or first.joint is None or len(self._chains[merging].joins) == 1:
            return (-chain, 0, 0)
        return (-max(self._chains[merging].joins), first.joint.place.batch_id, first.lo)

    def _candidates(self, worker: Worker, chain: int) -> Iterator[Batch]:
        """Yield what ``worker`` could go on with in ``chain``, the best first."""
        head = self._stock.order.head
        if worker.aside:
            suspended = [batch for batch in worker.aside.values() if batch.chain == chain]
            self._is_personal |= any(batch is head for batch in suspended)
            yield from sorted(suspended, key=lambda batch: batch is not head)
        # What a worker has put aside may wait for room that only other work makes, perhaps this very worker's.
        is_spent = worker.quota == 0 and not worker.aside
        first = None if is_spent else self._stock.backlog.first(chain)
        if first is None:
            return
        if not self._crew.may_run(worker, chain):
            self._note(worker, chain, Wait.WORKERS)
            return
        queued = [first]
        if head is not None and head is not first and head.state is BatchState.QUEUED and head.chain == chain:
            queued.insert(0, head)  # what a mix has put together comes in the order of its completion
        for batch in queued:
            is_held_back = worker.active and (batch.is_alone or self._is_beside(worker, batch))  # P5, P7
            if is_held_back:
                continue
            if self._is_filling(batch):  # P6
                self._note(worker, chain, Wait.INPUT)
            else:
                yield batch

    def _note(self, worker: Worker, chain: int, wait: Wait) -> None:
        """Tell why ``worker`` cannot go on with ``chain``, if it has nothing else to do."""
        if not worker.active and self._crew.is_for(worker, chain):
            self._sheet.refuse(chain, wait)

    def _is_beside(self, worker: Worker, batch: Batch) -> bool:
        """Whether ``worker`` is at a branch already, and there is somebody else for this one (P7)."""
        joint = batch.joint
        if joint is None or self._crew.size_for(batch.chain) < len(joint.branches):
            return False
        return any(held.joint for held in worker.held.values())

    def _is_filling(self, batch: Batch) -> bool:
        """Whether ``batch`` is less than its stage takes at once, and more of it is about to come (P6)."""
        unit = self._sizers[batch.chain].unit
        if unit == 1 or not batch.is_plain or can_fill(self._stock, batch, unit):
            return False
        ahead = self._stock.backlog.at_work & ((1 << batch.chain) - 1)
        if all(self._sizers[chain].is_long for chain in _from_the_deepest(ahead)):
            return False
        until = batch.since + FILL_S
        if self._stock.now >= until:
            return False
        self.look_again_at = until if self.look_again_at is None else min(until, self.look_again_at)
        return True

    def _room(self, batch: Batch) -> int:
        """Return how many results of ``batch`` there is room for (P4), or 0 if it had better wait for more."""
        backlog, head = self._stock.backlog, self._stock.order.head
        is_behind = self._plan_fans_out and head is not None and batch is not head
        room = backlog.room(batch.chain, share=2 if is_behind else 1)
        fans_out = self._chains[batch.chain].fans_out
        if room >= backlog.least(batch.chain) or (not fans_out and room >= batch.count):
            return room
        if batch is head and self._stock.taken == 0 and self._crew.is_idle:
            return max(1, room)  # B3
        return 0

    def _send(self, worker: Worker, batch: Batch, room: int, *, source_ended: bool) -> Command:
        out_size = self._out_size(batch)
        budget = min(room, MAX_BATCH, CHUNKS_AT_ONCE * out_size)
        if self._chains[batch.chain].fans_out:  # nobody else's is counted, or looked at
            budget = min(budget, self._share(batch.chain))
        if batch.state is BatchState.SUSPENDED:
            self._stock.resume(batch, worker, budget)
            return Resume(worker.worker_id, batch.batch_id, out_size, budget)
        least = self._least(batch, room, source_ended=source_ended)
        if batch.count < least and batch.is_plain:
            batch = splice(self._stock, batch, least)
        wanted = self._wanted(batch, room, source_ended=source_ended)
        if worker.quota is not None:
            wanted = min(wanted, worker.quota or 1)
            worker.allow(max(0, worker.quota - wanted))
        if wanted < batch.count:
            self._stock.split(batch, batch.lo + wanted)
        self._crew.pin(worker, batch.chain)
        self._stock.dispatch(batch, worker, budget)
        return Dispatch(
            worker.worker_id,
            batch.batch_id,
            batch.chain,
            batch.payload,
            batch.lo,
            batch.hi,
            batch.skip,
            batch.careful or self._chains[batch.chain].once_from is not None,
            out_size,
            budget,
            batch.attempted,
        )

    def _least(self, batch: Batch, room: int, *, source_ended: bool) -> int:
        """Return how many items are to be joined where ``batch`` has less (P6, P10)."""
        sizer = self._sizers[batch.chain]
        is_of_use = self._stock.ordered and not source_ended and 2 * batch.count <= sizer.size
        if sizer.unit > 1 or not is_of_use or sizer.workers > FEW_WORKERS or self._chains[batch.chain].fans_out:
            return sizer.unit
        places = self._crew.open + self._crew.idle_count(batch.chain)
        share = self._stock.backlog.waiting[batch.chain] // (places or 1)
        return min(sizer.size, share, room, MOST_JOINED)

    def _share(self, chain: int) -> int:
        """Return how many results a batch may be asked for so that all workers of ``chain`` can have theirs (P4)."""
        workers = self._crew.size_for(chain)
        bound = self._stock.backlog.bound(chain)
        return bound if workers == 1 else max(1, bound // (CREDIT * workers))

    def _out_size(self, batch: Batch) -> int:
        """Return how many results of ``batch`` the next chain would like to get at once."""
        size = MAX_BATCH
        for sizer in self._following[batch.chain]:
            size = min(size, sizer.size if sizer.learnt else min(sizer.limit, UNLEARNT_CHUNK))
        return size

    def _wanted(self, batch: Batch, room: int, *, source_ended: bool) -> int:
        """Return how many items of ``batch`` are to be sent at once."""
        wanted = batch.count
        if not self._chains[batch.chain].fans_out:
            wanted = min(wanted, room)
        sizer = self._sizers[batch.chain]
        if wanted >= 2 * sizer.size:
            wanted = sizer.size
        takers = CREDIT * self._crew.size_for(batch.chain)
        if source_ended and wanted > sizer.unit and sizer.item_s and len(self._stock.backlog) <= takers:  # P9
            share = max(-(-self._stock.backlog.waiting[batch.chain] // takers), int(WORTH_SPLITTING_S / sizer.item_s))
            wanted = min(wanted, sizer.in_units(share))
        return wanted


def _from_the_deepest(chains: int) -> Iterator[int]:
    """Yield the members of a set of chains, which is a number, the last one first (P1)."""
    while chains:
        chain = chains.bit_length() - 1
        yield chain
        chains ^= 1 << chain
