"""The workers, as the scheduler sees them: which are there, what each holds, and who may run what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpengine.records import dataclass, field
from mpengine.scheduler.lifecycles import WORKER, WorkerLife, WorkerMove, follow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mpengine.scheduler.batches import Batch

CREDIT = 2
"""Batches a worker may have: the one it is at, and one in reserve, so that it never waits for the coordinator."""


@dataclass(slots=True, eq=False)
class Worker:
    """What is known of one slot.

    Attributes:
        worker_id: the slot's number.
        life: whether a process holds it.
        held: the batches its process holds, by number, in the order in which they were sent.
        active: how many of them are in flight; the others are suspended.
        pinned: the capped chains that it is one of the few to run.
        batches: reports it gave.
        items: items in them.
        busy_s: seconds it spent in stage functions.
        deaths: processes of this slot that died in this run.
        only: the one chain that it runs, as a thread beside the coordinator; None: it is a process.
        quota: how many more items its process may be given; None: any number.
        is_distrusted: whether its process has told what cannot be true, and is about to be ended.
    """

    worker_id: int
    life: WorkerLife = WorkerLife.ABSENT
    held: dict[int, Batch] = field(default_factory=dict)
    active: int = 0
    pinned: set[int] = field(default_factory=set)
    batches: int = 0
    items: int = 0
    busy_s: float = 0.0
    deaths: int = 0
    only: int | None = None
    quota: int | None = None
    is_distrusted: bool = False

    def move(self, what: WorkerMove) -> None:
        """Change state, if the table allows it."""
        self.life = follow(WORKER, self.life, what, self)

    @property
    def is_ready(self) -> bool:
        """Whether it can be given work at all."""
        return self.life is WorkerLife.READY and not self.is_distrusted

    @property
    def is_spent(self) -> bool:
        """Whether its process has had all it may be given, and holds nothing any more."""
        return self.is_ready and self.quota == 0 and not self.held

    @property
    def has_lone_batch(self) -> bool:
        """Whether it runs or has put aside an item that a worker has died of, and nothing may share that risk."""
        return any(batch.is_alone for batch in self.held.values())


class Crew:
    """All workers.

    Args:
        size: how many slots there are.
        caps: for each chain, how many workers may run it; None: all.
        seats: for each chain, how many threads beside the coordinator run it; 0: processes do.
    """

    def __init__(self, size: int, caps: Sequence[int | None], seats: Sequence[int] = ()) -> None:
        """Start with empty slots."""
        self.workers = [Worker(worker_id) for worker_id in range(size)]
        for chain, count in enumerate(seats):
            self.workers += [Worker(len(self.workers) + seat, only=chain) for seat in range(count)]
        self._is_local = [count > 0 for count in seats] or [False] * len(caps)
        self._caps = tuple(None if cap is None or cap >= size else cap for cap in caps)
        self._pinned: list[set[int]] = [set() for _ in caps]

    def __iter__(self) -> Iterator[Worker]:
        """Iterate over all slots."""
        return iter(self.workers)

    def __getitem__(self, worker_id: int) -> Worker:
        """Return the slot with that number."""
        return self.workers[worker_id]

    def wanted(self) -> list[Worker]:
        """Return the slots that there is any use in filling."""
        return self.workers if not all(self._is_local) else [worker for worker in self if worker.only is not None]

    def idle(self) -> list[Worker]:
        """Return the workers that have nothing to do."""
        return [worker for worker in self.workers if worker.is_ready and worker.active == 0]

    @property
    def processes(self) -> int:
        """How many slots are those of processes."""
        return sum(worker.only is None for worker in self.workers)

    @property
    def active_processes(self) -> int:
        """How many processes are at work."""
        return sum(worker.active > 0 and worker.only is None for worker in self.workers)

    def with_reserve_free(self) -> list[Worker]:
        """Return the workers that have something to do, but nothing in reserve."""
        return [worker for worker in self.workers if worker.is_ready and 0 < worker.active < CREDIT]

    def idle_count(self, chain: int) -> int:
        """Return how many workers that are of the kind for ``chain`` have nothing to do."""
        return sum(worker.is_ready and worker.active == 0 and self._is_for(worker, chain) for worker in self.workers)

    def size_for(self, chain: int) -> int:
        """Return how many workers are of the kind for ``chain``."""
        return sum(self._is_for(worker, chain) for worker in self.workers)

    def _is_for(self, worker: Worker, chain: int) -> bool:
        return worker.only == (chain if self._is_local[chain] else None)

    @property
    def is_idle(self) -> bool:
        """Whether no worker has anything to do."""
        return not any(worker.active for worker in self.workers)

    @property
    def is_full(self) -> bool:
        """Whether there is work under way, and no ready worker could take any more."""
        ready = [worker for worker in self.workers if worker.is_ready]
        return any(worker.active for worker in ready) and all(
            worker.active >= CREDIT or (worker.quota == 0 and worker.active) for worker in ready
        )

    def has_suspended(self) -> bool:
        """Whether any worker has put a batch aside."""
        return any(len(worker.held) > worker.active for worker in self.workers)

    def may_run(self, worker: Worker, chain: int) -> bool:
        """Whether ``worker`` is, or may become, one of those that run ``chain``."""
        if not self._is_for(worker, chain):
            return False
        cap = self._caps[chain]
        if cap is None or worker.worker_id in self._pinned[chain]:
            return True
        if len(self._pinned[chain]) >= cap:
            return False
        # Spread the pins: a worker that has more of them than another is not the one to take the next.
        others = [other for other in self.workers if other.is_ready and self._is_for(other, chain)]
        return all(len(worker.pinned) <= len(other.pinned) for other in others)

    def pin(self, worker: Worker, chain: int) -> None:
        """Note that ``worker`` runs ``chain``; it is among the few from now on if the chain is capped."""
        if self._caps[chain] is not None:
            self._pinned[chain].add(worker.worker_id)
            worker.pinned.add(chain)

    def empty(self, worker: Worker) -> list[Batch]:
        """Note that ``worker``'s process is gone, and with it whatever it had built; return what it held."""
        worker.active = 0
        worker.is_distrusted = False
        self.unpin(worker)
        held, worker.held = worker.held, {}
        return list(held.values())

    def unpin(self, worker: Worker) -> None:
        """Note that ``worker`` is not one of the few for any chain any more."""
        for chain in worker.pinned:
            self._pinned[chain].discard(worker.worker_id)
        worker.pinned.clear()
