"""How large batches are: learnt from what items have cost so far.

A batch ought to be about ``TARGET_S`` of work: long enough that handing it over costs little in comparison, short
enough that results flow and that workers end at the same time.  In a run that lasts it becomes ``LONGEST_S``.

Z1. Costs that rise are followed at once, and those that fall over a hundred batches or so: a batch that is too short
    costs microseconds, while one that is too long holds items up behind the slow one that nobody has foreseen.
Z2. With many workers batches are longer, so that the coordinator has ``PARENT_S`` for each of them.
Z3. Where a batch would have to wait long in reserve, there is none.  It waits for what is left of the one before, and
    the longer that one takes the likelier it is to be met: so half of the mean square over the mean, not half the mean.
Z4. Batches grow with the run, to a part of the time it has lasted, ``LONG_S`` at most, and once it has lasted long
    ``LONGEST_S``: each one wakes the parent, whose caches are cold by then, on a core that a worker needs.  Where they
    turn out uneven they are short again.
Z5. Where it is known how many items nobody has begun, batches are a share of these instead, up to ``LONGEST_S`` from
    early on: however long they are, there is enough left to make up for that, and they shrink as it gets less.  Not
    with over ``FEW_WORKERS``: what wakes the parent costs each of them less, and before the first slow item is over it
    has many of its like, with more mates to wait for them.
Z6. Both only where results leave the pipeline: a next chain's workers would wait for them.
Z7. Until ``FRESH_BYTES`` have gone through, batches of small items weigh ``FRESH_BATCH_BYTES`` at most: for each one
    under way several processes touch that many pages for the first time, which takes longer than handing it over.
"""

from __future__ import annotations

from mpengine.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mpengine.plan import ChainPlan

TARGET_S = 0.025
LONG_S = 0.1
PART = 1 / 2
LONGEST_S = 0.2
LATER = 1 / 40
FEW_WORKERS = 8
SHARES = 3
"""What is left is cut into so many batches for each worker."""
GUIDED = 2
"""A batch is no longer than so many times all the work that its cost was learnt from."""
EVEN = 1.5
VERY_EVEN = 1.15
"""Batches are even where their squared times add up to hardly more than those that were foreseen."""
PARENT_S = 100e-6
LEAST_S = 1e-12
MAX_BATCH = 16_384
MAX_BATCH_BYTES = 1 << 22
FRESH_BYTES = 1 << 25
FRESH_BATCH_BYTES = 1 << 19
SMALL_BYTES = 1 << 12
GROWTH = 16
FORGET = 0.75
FORGET_SLOWLY = 0.99


def sizer_for(chain: ChainPlan, workers: int) -> BatchSizer:
    """Return what says how large the batches of a chain are that so many workers may run."""
    limit = 1 if chain.singly else min(MAX_BATCH, chain.buffer)
    leaves = not chain.following
    return BatchSizer(limit, chain.unit, target_for(workers), workers, has_reserve=not chain.singly, leaves=leaves)


def target_for(workers: int) -> float:
    """Return how much work a batch ought to be, with so many workers (Z2)."""
    return max(TARGET_S, workers * PARENT_S)


@dataclass(slots=True)
class BatchSizer:
    """Learns a chain's cost per item and says how many items make a batch.

    Attributes:
        limit: never more items than this.
        unit: a multiple of so many, where that can be had.
        target_s: a batch ought to take so long, at first and where batches are uneven.
        workers: how many may run the chain.
        size: how many items make a batch now.
        learnt: whether anything was learnt yet.
        item_s: seconds an item takes, as far as is known; 0 before anything is.
        is_long: whether a batch takes, or may take, so long that one in reserve saves nothing and holds items up.
        has_reserve: whether a worker may ever have one in reserve.
        leaves: whether its results leave the pipeline.
        left: how many items nobody has begun; None: nobody knows, or they are not to be shared out (Z5, Z6).
    """

    limit: int = MAX_BATCH
    unit: int = 1
    target_s: float = TARGET_S
    workers: int = 1
    size: int = 1
    learnt: bool = False
    item_s: float = 0.0
    is_long: bool = True
    has_reserve: bool = True
    leaves: bool = True
    left: int | None = None
    _items: float = 0.0
    _seconds: float = 0.0
    _bytes: float = 0.0
    _more_items: float = 0.0  # these are forgotten slowly
    _more_seconds: float = 0.0
    _squares: float = 0.0
    _foreseen_squares: float = 0.0
    _work_s: float = 0.0  # of all that has come back
    _moved_bytes: int = 0  # likewise

    def __post_init__(self) -> None:
        """Begin with one unit."""
        self.unit = min(self.unit, self.limit)
        self.size = self.in_units(self.size)

    def in_units(self, items: int) -> int:
        """Return ``items`` in whole units, at least one."""
        return max(1, items // self.unit) * self.unit

    def learn(self, items: int, seconds: float, size_bytes: int) -> None:
        """Take in what a batch has cost.

        Old figures fade a batch, weighed by items, so that one slow item among quick ones counts for what it is.
        """
        self._work_s += seconds
        self._moved_bytes += size_bytes
        if items <= 0:
            self._seconds += seconds  # of an item that is not through yet, and that counts once it is
            self._more_seconds += seconds
            return
        self.learnt = True
        self._items = self._items * FORGET + items
        self._seconds = self._seconds * FORGET + seconds
        self._bytes = self._bytes * FORGET + size_bytes
        if self._bytes < 1:  # what fades for ever would become too little to divide by; so would the time, below
            self._bytes = 0.0
        self._more_items = self._more_items * FORGET_SLOWLY + items
        self._more_seconds = self._more_seconds * FORGET_SLOWLY + seconds
        self._squares = self._squares * FORGET_SLOWLY + seconds * seconds
        foreseen_s = items * self._more_seconds / self._more_items
        self._foreseen_squares = self._foreseen_squares * FORGET_SLOWLY + foreseen_s * foreseen_s
        self.item_s = max(self._seconds / self._items, self._more_seconds / self._more_items)  # Z1
        if self.item_s < LEAST_S:
            self.item_s = 0.0
        aim_s = self._aim_s()
        wanted = self.limit
        if self.item_s > 0:
            wanted = min(wanted, int(aim_s / self.item_s))
        if self._bytes > 0:
            wanted = min(wanted, int(self.most_bytes * self._items / self._bytes))
        self.size = self.in_units(min(wanted, self.size * GROWTH))
        reserve_s = self._squares / (2 * self._more_seconds) if self._more_seconds else 0.0  # Z3
        if self.size == self.unit:
            aim_s = self._usual_aim_s()
        self.is_long = not self.has_reserve or self.item_s * self.size > 2 * aim_s or reserve_s > 2 * aim_s

    def _aim_s(self) -> float:
        """Return how much work a batch ought to be now (Z4, Z5)."""
        if self.left is None or self.workers > FEW_WORKERS or self._squares > VERY_EVEN * self._foreseen_squares:
            return self._usual_aim_s()
        share_s = self.left * self.item_s / (SHARES * self.workers)
        return max(self.target_s, min(LONGEST_S, GUIDED * self._work_s / self.workers, share_s))

    def _usual_aim_s(self) -> float:
        """Return how much work it ought to be where nobody knows how much is left (Z4)."""
        if self._squares > EVEN * self._foreseen_squares:
            return self.target_s
        at_it_s = self._work_s / self.workers
        aim_s = max(self.target_s, min(LONG_S, PART * at_it_s))
        return max(aim_s, min(LONGEST_S, LATER * at_it_s)) if self.leaves else aim_s

    @property
    def most_bytes(self) -> int:
        """Bytes that a batch may weigh now (Z7)."""
        is_fresh = self._moved_bytes < FRESH_BYTES and self._bytes < SMALL_BYTES * self._items
        return FRESH_BATCH_BYTES if is_fresh else MAX_BATCH_BYTES

    @property
    def item_bytes(self) -> float:
        """Bytes an item weighs, as far as is known; 0 before anything is."""
        return self._bytes / self._items if self._items else 0.0
