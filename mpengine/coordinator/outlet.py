"""What is on its way from the loop to the consumer: packed results, then the end."""

from __future__ import annotations

import queue

from mpengine.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


@dataclass(frozen=True, slots=True)
class Delivery:
    """Packed results; ``origin[i]`` is the source index of result ``i``."""

    batch_id: int
    payload: Any
    lo: int
    hi: int
    origin: Sequence[int]


class End:
    """Nothing more will come.  A type of its own, so that no result can be taken for it."""


class Outlet:
    """A queue of deliveries.  How much is in it is bounded by the scheduler's window, not here."""

    def __init__(self) -> None:
        """Start empty."""
        self._queue: queue.SimpleQueue[Delivery | End] = queue.SimpleQueue()

    def put(self, delivery: Delivery | End) -> None:
        """Add a delivery; never waits."""
        self._queue.put(delivery)

    def get(self) -> Delivery | End:
        """Return the next delivery, waiting for it; signals are handled meanwhile."""
        return self._queue.get()

    def get_nowait(self) -> Delivery | End | None:
        """Return the next delivery, or None when there is none."""
        try:
            return self._queue.get_nowait()
        except queue.Empty:
            return None
