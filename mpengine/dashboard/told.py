"""What observers are told of one run, as far as a page shows it, between the teller's thread and the dashboard's.

The teller's thread adds, the dashboard's takes; both in single steps, so neither takes a lock.  What fails faster than
it is shown pushes out what failed before (W3).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from mpengine.bounded import bounded_text
from mpengine.dashboard.history import TEXT_LENGTH, TROUBLES, cut, trouble
from mpengine.monitor.observing import BatchSent, ItemFailed, RunEnded, WorkerEnded
from mpengine.results import Err

if TYPE_CHECKING:
    from mpengine.metrics import Snapshot
    from mpengine.monitor.observing import Record, RunBegan
    from mpengine.results import Ok


class Told:
    """One run.

    Args:
        began: how it began; None: there is none.

    Attributes:
        result: what came of it; None while it goes on.
        is_to_be_cancelled: for what reason, where that was asked for before there was anything to cancel.
        at_work_on: for workers by number, the first stage of the batch that they got last.
    """

    def __init__(self, began: RunBegan | None = None) -> None:
        self.began = began
        self.result: Ok | Err | None = None
        self.is_to_be_cancelled: str | None = None
        self.at_work_on: dict[int, int] = {}
        self._troubles: deque[ItemFailed | WorkerEnded] = deque(maxlen=TROUBLES)

    def add(self, record: Record) -> None:
        """Take in what has happened."""
        if isinstance(record, BatchSent):
            self.at_work_on[record.worker_id] = record.stages[0]
        elif isinstance(record, ItemFailed) or (isinstance(record, WorkerEnded) and not record.was_retired):
            self._troubles.append(record)
        elif isinstance(record, RunEnded):
            self.result = record.result

    def cancel(self, reason: str) -> None:
        """Cancel the run, or the first one to come where there was none yet; nothing happens when it is over."""
        if self.began is not None:
            self.began.cancel(reason)
        else:
            self.is_to_be_cancelled = reason

    def outline(self) -> list[dict[str, Any]]:
        """Return how the stages hang together."""
        assert self.began is not None  # noqa: S101 - there is nothing to show before
        return [{"chain": stage.chain, "after": list(stage.after)} for stage in self.began.stages]

    def snapshot(self) -> Snapshot:
        """Return the figures of this moment, or the last ones."""
        assert self.began is not None  # noqa: S101 - as above
        result = self.result
        return self.began.snapshot() if result is None else result.report.snapshot

    def ahead(self, snapshot: Snapshot) -> dict[str, Any]:
        """Return what is known of what is still to come, where the source's length is."""
        total = self.began.length if self.began is not None else None
        if not total or not snapshot.stages:
            return {}
        done = snapshot.delivered + snapshot.filtered + snapshot.dropped + snapshot.failed
        if self.began is not None and any(stage.fans_out for stage in self.began.stages):
            done = snapshot.stages[0].processed  # values are counted there; this is the last that knows of items
        whole = done + snapshot.resumed
        share = min(1.0, whole / total)
        is_moving = done > 0 and share < 1 and snapshot.state == "running"
        left_s = snapshot.elapsed_s * (total - whole) / done if is_moving else None
        return {"total": total, "share": share, "left_s": left_s}

    def take_troubles(self) -> list[dict[str, Any]]:
        """Return what went wrong since the last call."""
        taken = [self._troubles.popleft() for _ in range(len(self._troubles))]
        return [
            _item(record, self._at_s(record.at))
            if isinstance(record, ItemFailed)
            else _worker(record, self._at_s(record.at))
            for record in taken
        ]

    def _at_s(self, at: float) -> float:
        return round(max(0.0, at - self.began.at), 2) if self.began is not None else 0.0

    def ending(self) -> dict[str, Any]:
        """Return how the run ended."""
        result = self.result
        assert result is not None  # noqa: S101 - it has ended
        cause = result.cause if isinstance(result, Err) else None
        return {
            "is_ok": result.is_ok,
            "cause": None if cause is None else cut(f"{type(cause).__name__}: {bounded_text(cause)}", TEXT_LENGTH),
            "advice": cut(result.report.bottleneck, TEXT_LENGTH),
        }


def _item(record: ItemFailed, at_s: float) -> dict[str, Any]:
    return trouble(
        {
            "kind": "item",
            "at_s": at_s,
            "stage": record.stage,
            "worker_id": record.worker_id,
            "index": record.index,
            "summary": record.summary,
            "item": record.item,
            "traceback": record.traceback,
            "attempts": record.attempts,
        }
    )


def _worker(record: WorkerEnded, at_s: float) -> dict[str, Any]:
    why = (
        "an item's time was up" if record.timed_out
        else "it was over its memory limit" if record.over_memory
        else "the machine was out of memory" if record.is_oom
        else record.how
    )  # fmt: skip
    return trouble(
        {
            "kind": "worker",
            "at_s": at_s,
            "stage": None,
            "worker_id": record.worker_id,
            "index": None,
            "summary": f"Worker {record.worker_id} has died: {why}",
            "item": None,
            "traceback": "",
            "attempts": 0,
        }
    )
