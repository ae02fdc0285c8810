"""How a run goes about it: what an engine's options come to, and what stands in no option."""

from __future__ import annotations

from mpengine.records import dataclass
from mpengine.settings import DEFAULT_MAX_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mpengine.coordinator.scribe import Scribe
    from mpengine.settings import EngineOptions


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run goes about it.

    Attributes:
        workers: how many slots.
        ordered: whether results come in input order.
        out_buffer: results that may wait for the consumer.
        crash_retries: further deaths an item may cause.
        max_items: a worker's process is replaced after so many items; None: never.
        max_bytes: payloads under way may weigh so much.
        grace_s: seconds for workers that are to leave.
        keep: whether workers stay for another run.
        scribe: logs.
    """

    workers: int
    ordered: bool
    out_buffer: int
    crash_retries: int
    max_items: int | None
    max_bytes: int
    grace_s: float
    keep: bool
    scribe: Scribe

    @classmethod
    def chosen(cls, options: EngineOptions, workers: int, *, keep: bool, scribe: Scribe) -> RunOptions:
        """Return what an engine's options come to for one run."""
        return cls(
            workers=workers,
            ordered=options.ordered,
            out_buffer=options.items_waiting,
            crash_retries=options.crash_retries,
            max_items=options.max_items_per_worker,
            max_bytes=options.max_bytes or DEFAULT_MAX_BYTES,
            grace_s=float(options.grace_s),
            keep=keep,
            scribe=scribe,
        )
