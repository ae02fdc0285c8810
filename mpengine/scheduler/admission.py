"""How many processes may be at work at once, as far as memory goes.

What an item needs nobody knows beforehand.  What is known is when memory gets tight, and when the kernel has killed:

J1. While memory is tight, one process at a time is given something to do.
J2. When it is well again, half as many are as were at work before, and one more every ``RAMP_S``.
J3. An item whose worker was killed for want of memory may have been its victim only.  Until it is settled one process
    at a time is at work: so the item is run with nobody beside it, and if it is killed then, it was the culprit.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from mpengine.scheduler.batches import Batch
    from mpengine.scheduler.crew import Crew

RAMP_S = 5.0


class Admission:
    """Decides how many.

    Args:
        crew: the workers.
        unsettled: all batches that are under way, by number.

    Attributes:
        is_tight: whether there is hardly any memory left.
    """

    def __init__(self, crew: Crew, unsettled: Mapping[int, Batch]) -> None:
        """Begin with as many as there are."""
        self._crew = crew
        self._unsettled = unsettled
        self._most = self._workers = crew.processes
        self._since = 0.0
        self._suspects: list[Batch] = []
        self.is_tight = False

    def tighten(self, at: float) -> None:
        """Memory has become tight."""
        self._halve(at, self._crew.active_processes)
        self.is_tight = True

    def ease(self, at: float) -> None:
        """There is memory again (J2)."""
        self.is_tight = False
        self._since = at

    def suspect(self, at: float, batch: Batch) -> None:
        """The kernel has killed the worker of the only item of ``batch`` for want of memory (J3)."""
        self._halve(at, self._crew.active_processes + 1)
        self._suspects.append(batch)

    def _halve(self, at: float, active: int) -> None:
        self._most = max(1, min(active, self.most(at)) // 2)
        self._since = at

    def most(self, at: float) -> int:
        """Return how many processes may be at work."""
        self._suspects = [batch for batch in self._suspects if batch.batch_id in self._unsettled]
        if self.is_tight or self._suspects:
            return 1
        if self._most < self._workers:
            return min(self._workers, self._most + int((at - self._since) / RAMP_S))
        return self._workers

    def is_limited(self, at: float) -> bool:
        """Whether fewer may be at work than there are."""
        return self.most(at) < self._workers
