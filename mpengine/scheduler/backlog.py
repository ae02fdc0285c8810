"""What waits before each chain, and how much room there is behind it.

Bounds, all in items:

B1. At most ``buffer`` items wait before a chain, and what workers held and did not do.  A worker is only sent what fits
    the buffer behind its chain.
    What enters a mix counts until it leaves its merging stage, so that no branch can run ahead of the others for long.
B2. Behind a chain that fans out, no more items are alive than the buffers behind it hold together, the consumer's too.
B3. The front of the order of results may exceed both by one item at a time when everything else has come to rest:
    all of that waits for it, so holding it back would end in a deadlock.
B4. Where one item may become many, only the front of the order may fill a bound; what is behind it, and would have to
    wait for it in any case, may fill half.
B5. Room is used when an eighth of the bound is free, or all that is wanted: room that opens by crumbs and is used by
    crumbs would end in batches of one item.
"""

from __future__ import annotations

from collections import OrderedDict

from mpengine.scheduler.batching import MAX_BATCH
from mpengine.scheduler.crew import CREDIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mpengine.plan import ChainPlan, Plan
    from mpengine.scheduler.batches import Batch
    from mpengine.scheduler.scheduler import Settings


class Backlog:
    """The queues before the chains, oldest first.

    All figures are kept step by step, so that none is ever added up over chains or batches.

    Args:
        chains: the plan's chains.
        out_buffer: results that may wait for the consumer where one item may become many.

    Attributes:
        filled: the chains that something waits before: bit ``n`` of this number is chain ``n``.
        at_work: the chains that workers hold items of, likewise.
        waiting: items that wait before each chain.
        running: items that workers hold.
        promised: results that workers may still send.
        alive: items of batches that are not settled, by where they wait; the last are results.
        limits: for each chain that fans out, how many items may be alive behind it (B2).
    """

    def __init__(self, chains: tuple[ChainPlan, ...], out_buffer: int) -> None:
        """Start empty."""
        self._chains = chains
        self._queues: list[OrderedDict[int, Batch]] = [OrderedDict() for _ in chains]
        self.out_buffer = out_buffer
        self._count = 0
        self.filled = 0
        self.at_work = 0
        self.waiting = [0] * len(chains)
        self.running = [0] * len(chains)
        self.promised = [0] * len(chains)
        self.alive = [0] * (len(chains) + 1)
        self.limits = [
            out_buffer + sum(behind.buffer for behind in chains[chain.index + 1 :]) if chain.fans_out else None
            for chain in chains
        ]
        self._behind = [0] * len(chains)  # of those with a limit: what is alive behind them
        self._limited = [
            [chain.index for chain in chains[:place] if chain.fans_out] for place in range(len(chains) + 1)
        ]  # for each place: the chains with a limit that it is behind
        self._buffers_behind = [self._find_buffer_behind(chain) for chain in chains]
        self._bounds = [self._find_bound(chain) for chain in chains]
        self._least = [max(1, bound // 8) for bound in self._bounds]

    def __len__(self) -> int:
        """Return how many batches wait."""
        return self._count

    def put(self, batch: Batch, *, in_front: bool = False) -> None:
        """Queue ``batch`` before its chain."""
        queue = self._queues[batch.chain]
        queue[batch.batch_id] = batch
        if in_front:
            queue.move_to_end(batch.batch_id, last=False)
        self.waiting[batch.chain] += batch.count
        self._count += 1
        self.filled |= 1 << batch.chain

    def take(self, batch: Batch) -> None:
        """Take ``batch`` out of its queue."""
        queue = self._queues[batch.chain]
        del queue[batch.batch_id]
        self.waiting[batch.chain] -= batch.count
        self._count -= 1
        if not queue:
            self.filled ^= 1 << batch.chain

    def grow(self, place: int, items: int) -> None:
        """So many more ``items`` are alive at a ``place``; fewer if that is negative."""
        self.alive[place] += items
        for chain in self._limited[place]:
            self._behind[chain] += items

    def hold(self, chain: int, items: int, promised: int) -> None:
        """Workers hold so many more ``items``, of which so many more results may come."""
        self.running[chain] += items
        self.promised[chain] += promised
        if self.running[chain]:
            self.at_work |= 1 << chain

    def release(self, chain: int, items: int, promised: int) -> None:
        """Workers hold so many items less."""
        self.running[chain] -= items
        self.promised[chain] -= promised
        if not self.running[chain]:
            self.at_work &= ~(1 << chain)

    def first(self, chain: int) -> Batch | None:
        """Return the oldest batch before ``chain``."""
        queue = self._queues[chain]
        return next(iter(queue.values())) if queue else None

    def from_first(self, chain: int) -> Iterator[Batch]:
        """Iterate over what waits before ``chain``, oldest first; it must not be changed meanwhile."""
        return iter(self._queues[chain].values())

    def batches(self, chain: int) -> int:
        """Return how many batches wait before ``chain``."""
        return len(self._queues[chain])

    def room(self, chain: int, share: int = 1) -> int:
        """Return how many results of ``chain`` there is room for (B1, B2), in one part of ``share`` of it (B4)."""
        room = MAX_BATCH
        buffer = self._buffers_behind[chain]
        if buffer is not None:
            room = max(1, buffer // share) - self.level(self._chains[chain].following) - self.promised[chain]
        limit = self.limits[chain]
        if limit is not None:
            room = min(room, max(1, limit // share) - self._behind[chain] - self.promised[chain])
        return max(0, room)

    def bound(self, chain: int) -> int:
        """Return how many results of ``chain`` there is ever room for (B1, B2)."""
        return self._bounds[chain]

    def least(self, chain: int) -> int:
        """Return how much room is worth using (B5)."""
        return self._least[chain]

    def _find_bound(self, chain: ChainPlan) -> int:
        bounds = [self.limits[chain.index], self._buffers_behind[chain.index], MAX_BATCH]
        return min(bound for bound in bounds if bound is not None)

    def _find_buffer_behind(self, chain: ChainPlan) -> int | None:
        """Return how many items may wait behind ``chain``; None where nothing bounds that but the window."""
        return None if not chain.following or chain.joined_by is not None else self.buffer_of(chain.following)

    def buffer_of(self, chains: Sequence[int]) -> int:
        """Return how many items may wait before one chain, or be in a mix of several."""
        merging = self._chains[chains[0]].joined_by
        together = chains if merging is None else (*chains, merging)
        return min(self._chains[chain].buffer for chain in together)

    def at_once(self, chains: Sequence[int]) -> int:
        """Return how many items may come to ``chains`` at once.

        Into a mix a quarter of its buffer: what is under way in it counts as well, so that it would otherwise have to
        run empty before as much as that could come again.
        """
        buffer = self.buffer_of(chains)
        return buffer if self._chains[chains[0]].joined_by is None else max(1, buffer // 4)

    def level(self, chains: Sequence[int]) -> int:
        """Return how many items wait before one chain, or are in a mix of several."""
        merging = self._chains[chains[0]].joined_by
        return self.waiting[chains[0]] if merging is None else self.alive[merging]


def lead_bound(plan: Plan, settings: Settings) -> int:
    """Return how many items the source may ever be ahead of what has left: every buffer, and what workers hold."""
    buffers = sum(chain.buffer for chain in plan.chains) + settings.out_buffer
    workers = settings.workers + sum(chain.seats for chain in plan.chains)
    return buffers + workers * CREDIT * min(MAX_BATCH, plan.chains[0].buffer)
