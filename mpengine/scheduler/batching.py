"""How large batches are: learnt from what items have cost so far.

A batch ought to be about ``TARGET_S`` of work: long enough that handing it over costs nothing in comparison (measured:
6 to 40 microseconds a batch), short enough that results flow and that workers end at the same time.
"""

from __future__ import annotations

from mpengine.records import dataclass

TARGET_S = 0.025
MAX_BATCH = 16_384
MAX_BATCH_BYTES = 1 << 22
GROWTH = 16
FORGET = 0.75


@dataclass(slots=True)
class BatchSizer:
    """Learns a chain's cost per item and says how many items make a batch.

    Attributes:
        limit: never more items than this.
        unit: a multiple of so many, where that can be had.
        size: how many items make a batch now.
        learnt: whether anything was learnt yet.
    """

    limit: int = MAX_BATCH
    unit: int = 1
    size: int = 1
    learnt: bool = False
    _items: float = 0.0
    _seconds: float = 0.0
    _bytes: float = 0.0

    def __post_init__(self) -> None:
        """Begin with one unit."""
        self.unit = min(self.unit, self.limit)
        self.size = self.in_units(self.size)

    def in_units(self, items: int) -> int:
        """Return ``items`` in whole units, at least one."""
        return max(1, items // self.unit) * self.unit

    def learn(self, items: int, seconds: float, size_bytes: int) -> None:
        """Take in what a batch has cost.

        Old figures fade by ``FORGET`` a batch, weighed by items, so that one slow item among quick ones counts for what
        it is and a cost that changes mid-run is followed within a few batches.
        """
        if items <= 0:
            self._seconds += seconds  # of an item that is not through yet, and that counts once it is
            return
        self.learnt = True
        self._items = self._items * FORGET + items
        self._seconds = self._seconds * FORGET + seconds
        self._bytes = self._bytes * FORGET + size_bytes
        wanted = self.limit
        if self._seconds > 0:
            wanted = min(wanted, int(TARGET_S * self._items / self._seconds))
        if self._bytes > 0:
            wanted = min(wanted, int(MAX_BATCH_BYTES * self._items / self._bytes))
        self.size = self.in_units(min(wanted, self.size * GROWTH))

    @property
    def item_s(self) -> float:
        """Seconds an item takes, as far as is known; 0 before anything is."""
        return self._seconds / self._items if self._items else 0.0

    @property
    def item_bytes(self) -> float:
        """Bytes an item weighs, as far as is known; 0 before anything is."""
        return self._bytes / self._items if self._items else 0.0

    @property
    def is_long(self) -> bool:
        """Whether a batch takes, or may take, so long that one in reserve saves nothing and may hold an item up."""
        return not self.learnt or self.item_s * self.size > 2 * TARGET_S
