"""Figures of a run as frozen values: what ``snapshot()`` returns and what a report carries."""

from __future__ import annotations

from mpengine.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

BOUNDS_S: Final = tuple(
    [float(f"{step}e{power}") for power in range(-7, 4) for step in (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)]
)  # fmt: skip
"""Upper bounds, in seconds, of the bins that item times are counted in; one more bin is for what takes longer."""


@dataclass(frozen=True, slots=True)
class StageMetrics:
    """What one stage has done so far.

    At the end of a run ``processed == succeeded + failed + skipped``.

    Attributes:
        name: the stage's name.
        buffer: how many items may wait before the stage's chain.
        queued: items that wait before the stage's chain now (0 inside a fused chain).
        in_flight: items that workers hold for the stage's chain now.
        processed: items that have left the stage, whatever became of them.
        succeeded: items the stage returned a value for, or a generator stage came to its end with.
        failed: items that failed for good.
        skipped: items the stage filtered out.
        dropped: failed items that the policy dropped.
        emitted_errors: failed items whose ``ItemError`` went on in their place.
        retried: further attempts made.
        timed_out: items that ran into the stage's timeout.
        crashed: items that failed because their worker died.
        busy_s: seconds that workers spent in the stage's function, all workers added up.
        items_per_s: processed per second of the run.
    """

    name: str
    buffer: int = 0
    queued: int = 0
    in_flight: int = 0
    processed: int = 0
    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    dropped: int = 0
    emitted_errors: int = 0
    retried: int = 0
    timed_out: int = 0
    crashed: int = 0
    busy_s: float = 0.0
    items_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkerMetrics:
    """What one worker has done in this run.

    Attributes:
        worker_id: the worker's slot.
        pid: the process that holds the slot now; None while there is none.
        state: name of the worker's state.
        batches: batches it gave back.
        items: items in those batches.
        busy_s: seconds it spent in stage functions.
        deaths: processes of this slot that died in this run.
    """

    worker_id: int
    pid: int | None = None
    state: str = "starting"
    batches: int = 0
    items: int = 0
    busy_s: float = 0.0
    deaths: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run at one moment.

    Attributes:
        stages: figures of each stage, in order.
        workers: figures of each worker, by slot.
        state: ``pending``, ``running``, ``cancelling``, ``finished``, or ``idle`` when there was no run.
        reason: why the run was cancelled; None when it was not.
        elapsed_s: seconds since the run began.
        source_items: items pulled from the source.
        delivered: values handed to the consumer.
        filtered: source items that ended without a value, on purpose.
        dropped: source items that failed and were dropped.
        failed: source items whose failure ended the run.
        cancelled: source items that were under way when the run was cancelled.
        lead_bound: how many items the source may ever be ahead of what has left.
        resumed: source items that were passed over, since the journal has them as settled.
    """

    stages: tuple[StageMetrics, ...] = ()
    workers: tuple[WorkerMetrics, ...] = ()
    state: str = "idle"
    reason: str | None = None
    elapsed_s: float = 0.0
    source_items: int = 0
    delivered: int = 0
    filtered: int = 0
    dropped: int = 0
    failed: int = 0
    cancelled: int = 0
    lead_bound: int = 0
    resumed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the snapshot as plain dicts, lists, strings and numbers, ready for JSON."""
        from dataclasses import asdict

        figures = asdict(self)
        figures["stages"] = list(figures["stages"])
        figures["workers"] = list(figures["workers"])
        return figures
