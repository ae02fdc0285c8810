"""What is on its way from the loop to the consumer: packed results, then the end.

H1. A consumer that keeps results, and looks at none before the end, need not be woken for each batch of them: waking it
    takes a core from a worker.  It gets them ``HOLD_S`` later at most, and before there are ``HOLD_BYTES`` of them.
H2. Nobody ever waits for results that are held: they go at once where something could follow from their being taken.
"""

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


HOLD_S = 0.25
HOLD_BYTES = 1 << 16
INLINE = (bytes, memoryview)


class End:
    """Nothing more will come.  A type of its own, so that no result can be taken for it."""


class Outlet:
    """A queue of deliveries.  How much is in it is bounded by the scheduler's window, not here.

    Attributes:
        is_patient: whether the consumer need not have results at once (H1); it may say so at any time.
        due_at: when what is held is to go; None when nothing is.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._queue: queue.SimpleQueue[Delivery | End] = queue.SimpleQueue()
        self.is_patient = False
        self.due_at: float | None = None
        self._held: list[Delivery] = []  # the loop's alone, as is its weight
        self._held_bytes = 0

    def put(self, delivery: Delivery | End) -> None:
        """Add a delivery, behind all that was held; never waits."""
        self.release()
        self._queue.put(delivery)

    def put_some_time(self, delivery: Delivery, at: float) -> None:
        """Add a delivery; where the consumer is patient it may be held until ``release``."""
        payload = delivery.payload
        if not self.is_patient or type(payload) not in INLINE or len(payload) + self._held_bytes > HOLD_BYTES:
            self.put(delivery)
            return
        self._held.append(delivery)
        self._held_bytes += len(payload)
        if self.due_at is None:
            self.due_at = at + HOLD_S

    def release(self) -> None:
        """Let go of what is held."""
        for delivery in self._held:
            self._queue.put(delivery)
        self._held.clear()
        self._held_bytes = 0
        self.due_at = None

    def get(self) -> Delivery | End:
        """Return the next delivery, waiting for it; signals are handled meanwhile."""
        return self._queue.get()

    def get_nowait(self) -> Delivery | End | None:
        """Return the next delivery, or None when there is none."""
        try:
            return self._queue.get_nowait()
        except queue.Empty:
            return None
