"""The workers, as the scheduler sees them: which are there, what each holds, and who may run what.

W1. Nobody looks through all workers for a batch's sake: whoever changes a worker calls one of its methods, which keeps
    the crew's counts and sets in step.  So an event costs the same with two workers and with a thousand.
W2. Workers of whom nothing is known that would tell them apart, when work is handed out, are of one ``Rank``.  What one
    of them cannot be given, none of them can, so each rank is asked once.
W3. A set of workers is a number, bit by bit: the first of a thousand is found in a tenth of a microsecond.
"""

from __future__ import annotations

from collections import Counter

from mpengine.scheduler.lifecycles import WORKER, WorkerLife, WorkerMove, follow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mpengine.scheduler.batches import Batch

CREDIT = 2
"""Batches a worker may have: the one it is at, and one in reserve, so that it never waits for the coordinator."""

Rank = tuple[int | None, frozenset[int], bool, frozenset[int]]
"""The one chain that a thread runs; the chains it is pinned to; whether it is used up; the chains of which it has put
something aside."""

_NOTHING: frozenset[int] = frozenset()


class Worker:
    """What is known of one slot.

    Attributes:
        worker_id: the slot's number.
        bit: the set of this one worker (W3).
        life: whether a process holds it.
        held: the batches its process holds, by number, in the order in which they were sent.
        aside: those of them that it has put aside.
        active: how many of them are in flight, not put aside.
        pinned: the capped chains that it is one of the few to run.
        batches: reports it gave.
        items: items in them.
        busy_s: seconds it spent in stage functions.
        deaths: processes of this slot that died in this run.
        only: the one chain that it runs, as a thread beside the coordinator; None: it is a process.
        quota: how many more items its process may be given; None: any number.
        is_distrusted: whether its process has told what cannot be true, and is about to be ended.
        is_called_off: whether its process is about to be ended since nobody wants what it is at.
        since: when it last reported, or was sent something when it had nothing to do.
        rank: see ``Rank``.
    """

    __slots__ = (
        "_crew", "_lone", "active", "aside", "batches", "bit", "busy_s", "deaths", "held", "is_called_off",
        "is_distrusted", "items", "life", "only", "pinned", "quota", "rank", "since", "worker_id",
    )  # fmt: skip

    def __init__(self, worker_id: int, crew: Crew, only: int | None = None) -> None:
        """Begin as an empty slot."""
        self._crew = crew
        self._lone = 0  # batches held that are alone
        self.worker_id = worker_id
        self.bit = 1 << worker_id
        self.life = WorkerLife.ABSENT
        self.held: dict[int, Batch] = {}
        self.aside: dict[int, Batch] = {}
        self.active = 0
        self.pinned: set[int] = set()
        self.batches = 0
        self.items = 0
        self.busy_s = 0.0
        self.deaths = 0
        self.only = only
        self.quota: int | None = None
        self.is_distrusted = self.is_called_off = False
        self.since = 0.0
        self.rank: Rank = (only, _NOTHING, False, _NOTHING)

    def __repr__(self) -> str:
        """Return what it is at."""
        return f"<worker_id={self.worker_id} {self.life.value}, held={self.held}>"

    @property
    def is_ready(self) -> bool:
        """Whether it can be given work at all."""
        return self.life is WorkerLife.READY and not self.is_distrusted

    @property
    def is_spent(self) -> bool:
        """Whether its process has had all it may be given, and holds nothing any more."""
        return self.quota == 0 and not self.held and self.is_ready

    @property
    def is_open(self) -> bool:
        """Whether it could be given anything more."""
        return self.active < CREDIT and not (self.quota == 0 and self.active) and self.is_ready

    @property
    def has_lone_batch(self) -> bool:
        """Whether it runs or has put aside an item that a worker has died of, and nothing may share that risk."""
        return self._lone > 0

    # ------------------------------------------------------------------ what changes it (W1)

    def move(self, what: WorkerMove) -> None:
        """Change state, if the table allows it."""
        self.life = follow(WORKER, self.life, what, self)
        self._crew.place(self)

    def allow(self, quota: int | None) -> None:
        """Say how many more items its process may be given."""
        self.quota = quota
        self._crew.rank(self)

    def distrust(self) -> None:
        """Its process is not believed any more, and is given nothing."""
        self.is_distrusted = True
        self._crew.place(self)

    def take(self, batch: Batch, at: float) -> None:
        """It is sent ``batch``."""
        self.since = self.since if self.active else at
        self.held[batch.batch_id] = batch
        self._lone += batch.is_alone
        self.active += 1
        self._crew.place(self)

    def put_aside(self, batch: Batch) -> None:
        """It has put ``batch`` aside."""
        self.aside[batch.batch_id] = batch
        self.active -= 1
        self._crew.rank(self)

    def take_up(self, batch: Batch, at: float) -> None:
        """It goes on with ``batch``."""
        self.since = self.since if self.active else at
        del self.aside[batch.batch_id]
        self.active += 1
        self._crew.rank(self)

    def finish(self, batch: Batch) -> None:
        """It is through with ``batch``."""
        del self.held[batch.batch_id]
        self._lone -= batch.is_alone
        self.active -= 1
        self._crew.place(self)

    def give_back(self, batch: Batch) -> None:
        """It gives ``batch`` back, whose items it has not had."""
        self.finish(batch)
        if self.quota is not None:
            self.allow(self.quota + batch.count)

    def let_go(self) -> list[Batch]:
        """Its process is gone, and with it whatever that had built; return what it held."""
        held, self.held = self.held, {}
        self.aside = {}
        self.active = self._lone = 0
        self.is_distrusted = False
        self._crew.unpin(self)
        return list(held.values())


class Crew:
    """All workers.

    Args:
        size: how many slots there are.
        caps: for each chain, how many workers may run it; None: all.
        seats: for each chain, how many threads beside the coordinator run it; 0: processes do.

    Attributes:
        processes: how many slots are those of processes.
        ready: how many workers can be given work at all.
        busy: how many have something to do, be they believed or not.
        active_processes: how many processes have.
        open: how many could be given anything more.
        suspended: how many have put something aside.
        spent: those whose process has had all it may be given, and holds nothing any more (W3).
        idle: those that have nothing to do, by rank.
        with_reserve_free: those that have something to do, but nothing in reserve, by rank.
    """

    def __init__(self, size: int, caps: Sequence[int | None], seats: Sequence[int] = ()) -> None:
        """Start with empty slots."""
        self.workers = [Worker(worker_id, self) for worker_id in range(size)]
        for chain, count in enumerate(seats):
            self.workers += [Worker(len(self.workers) + seat, self, only=chain) for seat in range(count)]
        self._is_local = [count > 0 for count in seats] or [False] * len(caps)
        self._caps = tuple(None if cap is None or cap >= size else cap for cap in caps)
        self._pinned: list[set[int]] = [set() for _ in caps]
        self._sizes = [seats[chain] if self._is_local[chain] else size for chain in range(len(caps))]
        self._by_pins: Counter[int] = Counter()  # ready processes, by how many chains they are pinned to
        self._marks: list[tuple[Muster | None, Rank, int, bool, bool, bool, bool]] = [
            (None, worker.rank, -1, False, False, False, False) for worker in self.workers
        ]  # what each is counted as
        self.processes = size
        self.ready = self.busy = self.active_processes = self.open = self.suspended = self.spent = 0
        self.idle = Muster()
        self.with_reserve_free = Muster()

    def __iter__(self) -> Iterator[Worker]:
        """Iterate over all slots."""
        return iter(self.workers)

    def __getitem__(self, worker_id: int) -> Worker:
        """Return the slot with that number."""
        return self.workers[worker_id]

    def wanted(self) -> list[Worker]:
        """Return the slots that there is any use in filling."""
        return self.workers if not all(self._is_local) else [worker for worker in self if worker.only is not None]

    def first_of(self, workers: int) -> Worker:
        """Return the first of a set, which is not empty (W3)."""
        return self.workers[(workers & -workers).bit_length() - 1]

    def idle_count(self, chain: int) -> int:
        """Return how many workers that are of the kind for ``chain`` have nothing to do."""
        return self.idle.count[chain if self._is_local[chain] else None]

    def size_for(self, chain: int) -> int:
        """Return how many workers are of the kind for ``chain``."""
        return self._sizes[chain]

    def cap_of(self, chain: int) -> int | None:
        """Return how many workers may run ``chain``; None: all that are of its kind."""
        return self._caps[chain]

    def is_for(self, worker: Worker, chain: int) -> bool:
        """Whether ``worker`` is of the kind for ``chain``."""
        return worker.only == (chain if self._is_local[chain] else None)

    @property
    def is_idle(self) -> bool:
        """Whether no worker has anything to do."""
        return not self.busy

    @property
    def is_full(self) -> bool:
        """Whether there is work under way, and no ready worker could take any more."""
        return self.ready > 0 and not self.open

    def may_run(self, worker: Worker, chain: int) -> bool:
        """Whether ``worker`` is, or may become, one of those that run ``chain``."""
        if not self.is_for(worker, chain):
            return False
        cap = self._caps[chain]
        if cap is None or worker.worker_id in self._pinned[chain]:
            return True
        if len(self._pinned[chain]) >= cap:
            return False
        # Spread the pins: a worker that has more of them than another is not the one to take the next.
        return not any(self._by_pins[fewer] for fewer in range(len(worker.pinned)))

    # ------------------------------------------------------------------ keeping in step, W1

    def pin(self, worker: Worker, chain: int) -> None:
        """Note that ``worker`` runs ``chain``; it is among the few from now on if the chain is capped."""
        if self._caps[chain] is not None and chain not in worker.pinned:
            self._pinned[chain].add(worker.worker_id)
            worker.pinned.add(chain)
            self.rank(worker)

    def unpin(self, worker: Worker) -> None:
        """Note that ``worker`` is not one of the few for any chain any more."""
        for chain in worker.pinned:
            self._pinned[chain].discard(worker.worker_id)
        worker.pinned.clear()
        self.rank(worker)

    def rank(self, worker: Worker) -> None:
        """Note what tells ``worker`` apart (W2)."""
        aside = frozenset([batch.chain for batch in worker.aside.values()]) if worker.aside else _NOTHING
        pinned = frozenset(worker.pinned) if worker.pinned else _NOTHING
        worker.rank = (worker.only, pinned, worker.quota == 0, aside)
        self.place(worker)

    def place(self, worker: Worker) -> None:
        """Count ``worker`` as what it is now."""
        active = worker.active
        is_ready, is_active = worker.is_ready, active > 0
        muster = None
        if is_ready and active < CREDIT:
            muster = self.with_reserve_free if is_active else self.idle
        pins = len(worker.pinned) if is_ready and worker.only is None else -1
        is_open = muster is not None and not (is_active and worker.quota == 0)
        mark = (muster, worker.rank, pins, is_ready, is_active, is_open, bool(worker.aside))
        before = self._marks[worker.worker_id]
        if mark == before:
            return self._place_spent(worker)
        self._marks[worker.worker_id] = mark
        was_in, old_rank, old_pins, was_ready, was_active, was_open, had_aside = before
        if muster is not was_in or old_rank is not worker.rank:
            if was_in is not None:
                was_in.remove(worker, old_rank)
            if muster is not None:
                muster.add(worker)
        if pins != old_pins:
            self._by_pins[old_pins] -= 1
            self._by_pins[pins] += 1
        self.ready += is_ready - was_ready
        self.open += is_open - was_open
        self.suspended += bool(worker.aside) - had_aside
        if is_active is not was_active:
            self.busy += is_active - was_active
            self.active_processes += (is_active - was_active) * (worker.only is None)
        return self._place_spent(worker)

    def _place_spent(self, worker: Worker) -> None:
        if worker.quota == 0 and worker.is_spent:
            self.spent |= worker.bit
        elif self.spent:
            self.spent &= ~worker.bit


class Muster:
    """Workers that are alike in what they do, by rank.

    Attributes:
        members: all of them (W3).
        by_rank: those of each rank.
        count: how many are threads that run a chain, for each, and how many are processes: None.
    """

    __slots__ = ("by_rank", "count", "members")

    def __init__(self) -> None:
        """Start with nobody."""
        self.members = 0
        self.by_rank: dict[Rank, int] = {}
        self.count: Counter[int | None] = Counter()

    def add(self, worker: Worker) -> None:
        """One more."""
        self.members |= worker.bit
        self.by_rank[worker.rank] = self.by_rank.get(worker.rank, 0) | worker.bit
        self.count[worker.only] += 1

    def remove(self, worker: Worker, rank: Rank) -> None:
        """One less, which was of ``rank``."""
        self.members ^= worker.bit
        left = self.by_rank[rank] ^ worker.bit
        if left:
            self.by_rank[rank] = left
        else:
            del self.by_rank[rank]
        self.count[worker.only] -= 1
