"""The times of one stage's items in one worker, for observers that ask for them: counted in bins, the slowest named.

There is none where nobody asks.  An item that runs by itself is timed anyway, for ``busy_s``, and counts with its own
time.  Items that run in a slice, in a list or side by side count with their mean: nobody looks at the clock between
them.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from operator import itemgetter

from mpengine.metrics import BOUNDS_S

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

Times = tuple[tuple[tuple[int, int], ...], tuple[tuple[int, float], ...]]
"""(bin, items) of all, and (position, seconds) of those that are among the slowest so far."""

KEPT: Final = 20


class Stopwatch:
    """Keeps the times of one stage since the last report."""

    __slots__ = ("_bins", "_floor_s", "_slowest", "_top_s")

    def __init__(self) -> None:
        """Begin with none."""
        self._bins: dict[int, int] = {}
        self._slowest: list[tuple[int, float]] = []
        self._top_s: list[float] = []  # of the slowest that there ever were; a heap
        self._floor_s = -1.0

    def note(self, position: int, seconds: float) -> None:
        """Count an item that has run by itself."""
        place = bisect_left(BOUNDS_S, seconds)
        self._bins[place] = self._bins.get(place, 0) + 1
        if seconds > self._floor_s:
            self._slowest.append((position, seconds))
            if len(self._top_s) < KEPT:
                heapq.heappush(self._top_s, seconds)
            else:
                heapq.heapreplace(self._top_s, seconds)
            if len(self._top_s) == KEPT:
                self._floor_s = self._top_s[0]

    def note_mean(self, items: int, seconds: float) -> None:
        """Count items that have run together."""
        if items:
            place = bisect_left(BOUNDS_S, seconds / items)
            self._bins[place] = self._bins.get(place, 0) + items

    def take(self) -> Times:
        """Return what was counted since the last call."""
        slowest = heapq.nlargest(KEPT, self._slowest, key=itemgetter(1)) if self._slowest else ()
        times = (tuple(self._bins.items()), tuple(slowest))
        self._bins.clear()
        self._slowest.clear()
        return times
