"""What jobs that run in this very process need: no slot to name anything in, and reports that need not travel."""

from __future__ import annotations

import time
from array import array
from typing import TYPE_CHECKING, Any

from mpengine.backends.base import failure_from
from mpengine.scheduler import events

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpengine.worker.reports import Report


class NoSlot:
    """Names nothing, since nobody would look; tells which calls have come back too late, since nobody can end them."""

    def __init__(self) -> None:
        """Begin without a call."""
        self._deadline_at = 0.0

    def begin_item(self, position: int, stage: int) -> None:
        """See ``Naming``."""

    def begin_stage(self, stage: int) -> None:
        """See ``Naming``."""

    def begin_attempt(self, stage: int, attempt: int, timeout_s: float) -> None:  # noqa: ARG002 - nothing is named
        """See ``Naming``."""
        self._deadline_at = time.monotonic() + timeout_s

    def end_attempt(self) -> bool:
        """See ``Naming``."""
        return time.monotonic() > self._deadline_at

    def describe(self, text: str) -> None:
        """See ``Naming``."""


def returned(
    worker_id: int,
    batch_id: int,
    report: Report,
    chunks: Sequence[tuple[int, int, bytes | None]],
    payloads: Sequence[Any],
) -> events.BatchReturned:
    """Return the event of a report that has come about in this process."""
    return events.BatchReturned(
        time.monotonic(),
        worker_id,
        batch_id,
        events.Progress(report.progress),
        report.consumed,
        report.emitted,
        tuple(
            events.Chunk(
                payload, count, first, None if places is None else array("I", places),
                len(payload) if isinstance(payload, bytes) else 0,
            )
            for (count, first, places), payload in zip(chunks, payloads, strict=True)
        ),
        tuple(map(failure_from, report.failures)),
        tuple(events.Tally(*tally.fields()) for tally in report.tallies),
        report.kill,
        report.timing,
    )  # fmt: skip
