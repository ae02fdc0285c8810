"""What a simulated run came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulating.costs import Costs


@dataclass
class Outcome:
    """The figures of one run.

    Attributes:
        workers: how many there were.
        makespan_s: simulated seconds from the start to the end.
        work_s: what the items took, for each chain.
        bound_s: the time that handing out single items would take, in their order and at no cost.
        useful_s: what workers spent on items; more than all ``work_s`` when some were run again.
        parent_s: simulated seconds that the parent was busy.
        cpu_s: measured seconds of CPU time that ``Scheduler.handle`` took.
        events: how many events it was given.
        batches: how many batches it sent.
        sizes: how many items each of those had.
        delivered: items that reached the consumer.
        most_items: items under way at most.
        most_bytes: what payloads under way weighed at most.
        idle_s: worker-seconds with nothing to do, from samples.
        stranded_s: of these, those with as many items not begun at workers that were busy with others.
        deaths: workers that were killed.
    """

    workers: int
    makespan_s: float = 0.0
    work_s: list[float] = field(default_factory=list)
    bound_s: float = 0.0
    useful_s: float = 0.0
    parent_s: float = 0.0
    cpu_s: float = 0.0
    events: int = 0
    batches: int = 0
    sizes: list[int] = field(default_factory=list)
    delivered: int = 0
    most_items: int = 0
    most_bytes: int = 0
    idle_s: float = 0.0
    stranded_s: float = 0.0
    deaths: int = 0

    @property
    def utilisation(self) -> float:
        """Which share of the workers' time went into items, each counted once."""
        return sum(self.work_s) / (self.workers * self.makespan_s)

    @property
    def efficiency(self) -> float:
        """The time that handing out single items at no cost would take, over the time it took."""
        return self.bound_s / self.makespan_s

    @property
    def parent_share(self) -> float:
        """Which share of the time the parent was busy."""
        return self.parent_s / self.makespan_s

    @property
    def cpu_per_batch_s(self) -> float:
        """CPU time of the scheduler for each batch."""
        return self.cpu_s / self.batches


@dataclass
class Delay:
    """How long items waited, once a worker was through with them, until they were delivered."""

    ended_at: dict[int, float] = field(default_factory=dict)
    longest_s: float = 0.0
    total_s: float = 0.0
    items: int = 0

    def note_end(self, at: float, costs: Costs, first: int, stop: int) -> None:
        """A worker tells at ``at`` of items ``first`` to ``stop`` of the last chain."""
        end = costs.until[stop]
        for number in range(first, stop):
            self.ended_at[number] = at - (end - costs.until[number + 1])

    def note_delivery(self, at: float, numbers: range) -> None:
        """The consumer gets items."""
        for number in numbers:
            ended_at = self.ended_at.pop(number, None)
            if ended_at is not None:
                self.longest_s = max(self.longest_s, at - ended_at)
                self.total_s += at - ended_at
                self.items += 1
