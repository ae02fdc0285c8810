"""Workers that have grown too large: found by looking at their resident memory, not by asking them.

M1. While there are workers, all are looked at every ``LOOK_S``, and never where no limit was set.
M2. One that is over the limit is told to the scheduler once: it gets no further items, and is replaced when it holds
    none any more.
M3. It is killed if the item that it is at is still there at the next look and has made it so large: it is among the
    first that its process was given, or the process has grown by more than half the limit since it began.  One
    that only took the last step of a long way ends in peace, for it may not bear being run twice.
M4. Payloads in the arena that it writes or looks at do not count: they are the engine's, and bounded as such.
M5. One that is over the limit before it was given anything would be replaced for ever.  The run ends, and says why.
"""

from __future__ import annotations

from mpengine.records import dataclass
from mpengine.scheduler import events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mpengine.backends.fleet import Fleet
    from mpengine.backends.links import Link

LOOK_S = 0.1


@dataclass(slots=True)
class _Seen:
    generation: int
    at_item: tuple[int, int | None] | None  # its batch and place
    rss_before: int  # what the process had when that item was not there yet
    was_over: bool = False
    is_told: bool = False


class MemoryGuard:
    """Watches the memory of a fleet's workers in one run.

    Args:
        limit: bytes of resident memory that a worker may have; None: any number.
        measure: tells the resident memory of a process, in bytes, or raises a ``psutil.Error``.
    """

    def __init__(self, limit: int | None, measure: Callable[[int], int] | None = None) -> None:
        """Look for the first time at once."""
        self._limit = limit
        self._measure = measure or resident_bytes
        self._look_at = 0.0
        self._seen: dict[int, _Seen] = {}
        self._killed: dict[tuple[int, int], events.Excess] = {}

    def wait_s(self, at: float) -> float | None:
        """Return the seconds until the next look; None when there is none."""
        return None if self._limit is None else max(0.0, self._look_at - at)

    def bury(self, worker_id: int, generation: int) -> events.Excess | None:
        """A worker's process is gone; return what it was killed for, if this has killed it for anything."""
        return self._killed.pop((worker_id, generation), None)

    def look(self, fleet: Fleet, at: float) -> list[events.Event]:
        """Look at all workers if it is time to, and return what is to be told of them."""
        if self._limit is None or at < self._look_at:
            return []
        import psutil  # a slow import, for those who set a limit

        self._look_at = at + LOOK_S
        told: list[events.Event] = []
        for link in fleet.links.values():
            pid = fleet.pid_of(link.worker_id) if link.greeted else None
            if pid is None or (link.worker_id, link.generation) in self._killed:
                continue
            try:
                rss = self._measure(pid) - fleet.payload_bytes(link)
            except psutil.Error:  # gone, as the registry is about to tell
                continue
            told += self._take_in(fleet, link, rss, self._limit, at)
        return told

    def _take_in(self, fleet: Fleet, link: Link, rss: int, limit: int, at: float) -> list[events.Event]:
        record = link.slot.read()
        at_item = None if record is None or record.batch_id is None else (record.batch_id, record.position)
        seen = self._seen.get(link.worker_id)
        if seen is None or seen.generation != link.generation:
            seen = self._seen[link.worker_id] = _Seen(link.generation, at_item, rss)
        is_same = at_item is not None and at_item == seen.at_item
        was_over, seen.was_over, seen.at_item = seen.was_over and is_same, rss > limit, at_item
        if rss <= limit:
            seen.rss_before = seen.rss_before if is_same else rss
            return []
        is_fresh = link.items == 0
        if at_item is None:
            seen.rss_before = rss
            if is_fresh and record is not None and record.batches == 0:  # M5
                story = f"a worker has {rss:,} bytes of memory before its first item, over memory_limit, {limit:,}"
                return [events.StartFailed(at, story)]
        elif was_over and (is_fresh or rss - seen.rss_before > limit // 2):  # M3
            self._killed[link.worker_id, link.generation] = events.Excess(rss, limit, is_fresh=is_fresh)
            fleet.kill(link)
            return []
        if seen.is_told:
            return []
        seen.is_told = True
        return [events.WorkerBloated(at, link.worker_id)]


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process, in bytes; ``psutil.Error`` where there is none of that number."""
    import psutil

    return int(psutil.Process(pid).memory_info().rss)
