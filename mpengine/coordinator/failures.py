"""Failed items: the first thousand kept for the report, and logged at a limited rate, by the scribe (T2).

An exception that came from a worker is not unpickled on the loop's thread, since that runs its class's code (T2): it is
kept as it came, and made into an ``ItemError`` by whoever asks.
"""

from __future__ import annotations

from collections import Counter

from mpengine.bounded import bounded_repr
from mpengine.coordinator.scribe import WARNING
from mpengine.errors import (
    EngineError,
    ItemTimeoutError,
    MalformedError,
    MemoryLimitError,
    WorkerDiedError,
    with_remote_traceback,
)
from mpengine.ipc.codec import load_error
from mpengine.policies import ErrorPolicy
from mpengine.results import MAX_REPORTED_ERRORS, ItemError
from mpengine.scheduler.events import Ending, Failure
from mpengine.worker.chain import format_traceback, summarize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Final

    from mpengine.coordinator.scribe import Scribe
    from mpengine.scheduler.commands import ReportFailure

LOG_EVERY_S = 1.0
_OURS: Final[dict[Ending, type[EngineError]]] = {  # what no stage raised, so that there is no exception to restore
    Ending.CRASHED: WorkerDiedError,
    Ending.OVER_MEMORY: MemoryLimitError,
    Ending.TIMED_OUT: ItemTimeoutError,
}


def restore(error: Any, summary: str, traceback: str) -> BaseException:
    """Return the exception behind a failure, with the worker's traceback as its cause where it came from one."""
    if isinstance(error, BaseException):
        return error
    return with_remote_traceback(load_error(error, summary), traceback)


def refused(items: Sequence[Any], place: int, error: BaseException) -> Failure:
    """Return the failure of an item of the source that could not be packed."""
    # What is malformed was raised by no code of anybody's, and has a place in its message.
    trace = "" if type(error) is MalformedError else format_traceback(error)
    return Failure(place, 0, summarize(error), error, bounded_repr(items[place]), trace, given=(items, place))


class Failures:
    """What failed in one run.

    Args:
        names: of the stages.
        scribe: logs.
    """

    def __init__(self, names: Sequence[str], scribe: Scribe) -> None:
        """Start empty."""
        self._names = names
        self._scribe = scribe
        self._kept: list[ReportFailure] = []
        self._held_back: Counter[int] = Counter()
        self._logged_at: dict[int, float] = {}

    def add(self, report: ReportFailure, at: float) -> None:
        """Keep a failure, and log it unless its stage was logged less than ``LOG_EVERY_S`` ago."""
        if len(self._kept) < MAX_REPORTED_ERRORS:
            self._kept.append(report)
        if report.policy in (ErrorPolicy.RAISE, ErrorPolicy.EMIT):
            return  # the run's result tells of it, or is it
        last = self._logged_at.get(report.stage)
        if last is not None and at - last < LOG_EVERY_S:
            self._held_back[report.stage] += 1
            return
        self._logged_at[report.stage] = at
        held_back = self._held_back.pop(report.stage, 0)
        more = f" ({held_back} more since the last line)" if held_back else ""
        name = self._names[report.stage]
        self._scribe.note(
            WARNING, "stage %r: item %d failed: %s%s", name, report.index, report.failure.summary, more,
            stage=name, worker_id=report.worker_id, index=report.index,
        )  # fmt: skip

    def tell_held_back(self) -> None:
        """Log how many were held back and never told; at the end of a run."""
        for stage, count in sorted(self._held_back.items()):
            name, plural = self._names[stage], "s" if count > 1 else ""
            self._scribe.note(WARNING, "stage %r: %d more item%s failed", name, count, plural, stage=name)
        self._held_back.clear()

    def item_errors(self) -> list[ItemError]:
        """Return the failures that were kept, each with its exception."""
        return [self.item_error(report) for report in self._kept]

    def item_error(self, report: ReportFailure) -> ItemError:
        """Return one failure with its exception."""
        failure = report.failure
        error: BaseException
        kind = _OURS.get(failure.how)
        if kind is not None and failure.error is None:
            error = kind(failure.summary.removeprefix(f"{kind.__name__}: "))
            if isinstance(error, WorkerDiedError):
                error.how, error.peak_rss = failure.exit, failure.peak_rss
                if failure.peak_rss:
                    error.add_note(f"It had {failure.peak_rss:,} bytes of memory at most.")
        else:
            error = restore(failure.error, failure.summary, failure.traceback)
        return ItemError(
            self._names[report.stage],
            report.index,
            failure.item,
            error,
            failure.traceback,
            failure.attempts,
            report.worker_id,
            failure.output,
        )
