"""What each worker is at: figures that a run takes only while somebody watches it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from mpengine.records import dataclass, fields

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSight:
    """What one worker is at.

    Attributes:
        worker_id: its slot.
        stage: the number of the stage that it is in, in the whole pipeline; None when it has nothing to do.
        item: the item's number in the source; None where it names none, since items are too quick for that.
        first: of the batch that it is at, the number of the first item in the source; None without one.
        last: the number of the last one.
        text: the item in words, where the worker has left any: with a timeout, or after a death.
        attempt: number of the attempt, from 1.
        in_setup: whether it builds the stages, and has not begun with the batch itself.
        since_s: how long it has been at that item, or at the batch where it names none; None where nobody knows.
        unreported_s: how long it has been at work without having reported anything.
    """

    worker_id: int
    stage: int | None = None
    item: int | None = None
    first: int | None = None
    last: int | None = None
    text: str = ""
    attempt: int = 1
    in_setup: bool = False
    since_s: float | None = None
    unreported_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sights:
    """What all of them are at.

    Attributes:
        workers: one for each slot, in order.
        bottleneck: what has held the run up so far, and what to do about it, in one line.
    """

    workers: tuple[WorkerSight, ...] = ()
    bottleneck: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain dicts, lists, strings and numbers, ready for JSON."""
        from dataclasses import asdict

        return {"workers": [asdict(worker) for worker in self.workers], "bottleneck": self.bottleneck}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return what ``as_dict`` has made plain; what another version has put there besides is let be."""
        known = {one.name for one in fields(WorkerSight)}
        workers = tuple(
            WorkerSight(**{name: value for name, value in worker.items() if name in known})
            for worker in values["workers"]
        )
        return cls(workers=workers, bottleneck=str(values["bottleneck"]))
