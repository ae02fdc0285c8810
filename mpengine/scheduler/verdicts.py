"""What becomes of an item that has failed for good: its stage's error policy, applied.

V1. The books, the report and the policy are seen to here and nowhere else, whatever an item has failed of.
V2. Under EMIT the ``ItemError`` bypasses the later stages: it is a result already, and waits in the item's place.
V3. Under SIDE an item counts as under way until its handler has returned, so that the source's window bounds how many
    wait for a slow handler.
"""

from __future__ import annotations

from mpengine.policies import ErrorPolicy
from mpengine.records import replace
from mpengine.scheduler import commands
from mpengine.scheduler.batches import BranchFailure, given_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mpengine.plan import Plan
    from mpengine.scheduler.batches import Batch, Families
    from mpengine.scheduler.commands import Command
    from mpengine.scheduler.events import Failure, HandlerReturned
    from mpengine.scheduler.stock import Stock


class Verdicts:
    """Applies error policies.

    Args:
        plan: whose policies.
        stock: the batches.
        out: gets the commands.

    Attributes:
        ending: how the run is to be cancelled, once all that an event tells of is booked; None: not at all.
        is_over: whether the run was cancelled, so that no further handler is called.
    """

    def __init__(self, plan: Plan, stock: Stock, out: list[Command]) -> None:
        """Keep what it looks at."""
        self._names = [stage.name for stage in plan.stages]
        self._policies = plan.policies
        self._stock = stock
        self._out = out
        self.ending: commands.CancelRun | None = None
        self.is_over = False

    def judge(
        self, stage: int, failure: Failure, index: int, worker_id: int | None, families: Families
    ) -> Batch | None:
        """Apply the policy of ``stage`` to a source item, or a part of one, that has failed in it.

        Returns:
            Under EMIT, the result that takes the item's place, which has yet to be put into the order; else None.
        """
        policy = self._policies[stage]
        kept = failure if failure.given is None else replace(failure, given=None)  # reports are kept for long
        report = commands.ReportFailure(stage, index, worker_id, policy, kept)
        self._out.append(report)
        match policy:
            case ErrorPolicy.SIDE if not self.is_over:
                batch = self._stock.set_aside(report, families)
                given = failure.given or given_at(index, families)
                self._out.append(commands.CallHandler(batch.batch_id, report, given))
                return None
            case ErrorPolicy.EMIT:
                self._stock.ledger.fail(report, families)
                return self._stock.emit(report, families)
            case ErrorPolicy.RAISE:
                self.end(f"stage {self._names[stage]!r} failed on item {index}: {failure.summary}", None, report)
            case ErrorPolicy.DROP | ErrorPolicy.SIDE:
                pass
        self._stock.ledger.fail(report, families)
        return None

    def judge_in(self, batch: Batch, stage: int, failure: Failure, worker_id: int | None) -> Batch | None:
        """As ``judge``, for an item of ``batch``: in a branch of a mix, only once all branches are through with it."""
        index = batch.origin[failure.position]
        if batch.joint is None or self._policies[stage] is ErrorPolicy.RAISE:
            return self.judge(stage, failure, index, worker_id, batch.families)
        batch.joint.failures.append(BranchFailure(failure.position, stage, failure, worker_id))
        return None

    def note_emitted(self, stage: int, failure: Failure, index: int, families: Families) -> None:
        """A result could not be unpacked, and the consumer has put the ``ItemError`` where it was."""
        report = commands.ReportFailure(stage, index, None, ErrorPolicy.EMIT, failure)
        self._out.append(report)
        self._stock.ledger.fail(report, families)

    def handled(self, event: HandlerReturned) -> None:
        """An error handler has come to its end: the item is dropped, or the handler has failed and ends the run."""
        batch = self._stock.batches.get(event.batch_id)
        if batch is None:
            return  # left behind by a run that was cancelled meanwhile
        report: commands.ReportFailure = batch.payload
        policy = ErrorPolicy.DROP if event.error is None else ErrorPolicy.RAISE
        self._stock.ledger.fail(report, batch.families, policy)
        self._stock.settle(batch)
        if event.error is not None:
            name = self._names[report.stage]
            self.end(f"the error handler of stage {name!r} failed on item {report.index}: {event.summary}", event.error)

    def end(
        self, reason: str, error: Any, report: commands.ReportFailure | None = None, *, at_once: bool = False
    ) -> None:  # fmt: skip
        """Have the run cancelled."""
        if self.ending is None:  # the first one counts
            self.ending = commands.CancelRun(reason, error, report, at_once)
