"""How a run goes about it: what an engine's options come to, and what stands in no option."""

from __future__ import annotations

from mpengine.records import dataclass
from mpengine.settings import DEFAULT_MAX_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpengine.coordinator.scribe import Scribe
    from mpengine.journal.description import Journal, JournalLike
    from mpengine.monitor.observing import Observer
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
        journal: where what is done is kept; None: nowhere.
        observers: who is told what happens.
        endures_deaths: whether it goes on when a worker has died.
        is_prompt: whether the source is asked for an item only when a worker is free for it.
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
    journal: Journal | None = None
    observers: Sequence[Observer] = ()
    endures_deaths: bool = True
    is_prompt: bool = False

    @classmethod
    def chosen(
        cls, options: EngineOptions, workers: int, *, keep: bool, scribe: Scribe, journal: JournalLike = None
    ) -> RunOptions:  # fmt: skip
        """Return what an engine's options come to for one run.

        Raises:
            PipelineError: the journal is none.
        """
        kept = None
        if journal is not None:
            from mpengine.journal.description import as_journal

            kept = as_journal(journal)
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
            journal=kept,
            observers=options.observers,
        )
