"""The scheduler: the one mutator.  Events in, commands out; no clock, no process, no lock, no I/O.

    source --> backlog 0 --> a worker, chain 0 --> backlog 1 --> a worker, chain 1 --> ... --> order --> consumer
       ^           ^                |  dies                                                                |
       |           +---- requeue ---+                                                                      |
       +------------------------------- window: what has left lets as much come in ------------------------+

S1. A batch is in the stock from its making until it is settled, in one state (K4).
S2. The source is asked for no more than the first backlog can use, and never for more than the window has room for.
S3. Nothing is done for a run that is cancelled, but to note what still comes back.
S4. A report is held against what was asked for before any of it is believed (K9).
"""

from __future__ import annotations

from mpengine.policies import ErrorPolicy
from mpengine.records import dataclass
from mpengine.scheduler import commands, events
from mpengine.scheduler.admission import Admission
from mpengine.scheduler.arrivals import Arrivals
from mpengine.scheduler.batching import sizer_for
from mpengine.scheduler.crew import Crew
from mpengine.scheduler.deaths import Deaths
from mpengine.scheduler.dispatching import Dispatcher
from mpengine.scheduler.intake import Intake
from mpengine.scheduler.lifecycles import RUN, RunMove, RunState, WorkerLife, WorkerMove, follow
from mpengine.scheduler.reports import is_possible
from mpengine.scheduler.stock import Stock
from mpengine.scheduler.timesheet import Timesheet
from mpengine.scheduler.verdicts import Verdicts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from mpengine.plan import Plan
    from mpengine.scheduler.batches import Batch
    from mpengine.scheduler.commands import Command
    from mpengine.scheduler.crew import Worker


@dataclass(frozen=True, slots=True)
class Settings:
    """What a scheduler has to know beside the plan.

    Attributes:
        workers: how many slots there are.
        ordered: whether results leave in input order.
        out_buffer: results that may wait for the consumer.
        crash_retries: how many further deaths an item may cause after its first.
        max_bytes: payloads under way may weigh so much.
        max_items: a worker's process is replaced when it was given so many items; None: never.
        length: how many items the source has, if it tells.
        endures_deaths: whether the run goes on when a worker has died.
        is_prompt: whether the source is asked for an item only when a worker is free for it.
    """

    workers: int
    ordered: bool = True
    out_buffer: int = 1024
    crash_retries: int = 1
    max_bytes: int = 1 << 30
    length: int | None = None
    max_items: int | None = None
    endures_deaths: bool = True
    is_prompt: bool = False


class Scheduler:
    """Decides what a run does next.

    Args:
        plan: the chains.
        settings: see ``Settings``.

    Attributes:
        state: where the run is.
        reason: why it was cancelled; None when it was not.
        version: odd while an event is being taken in, so that a reader in another thread notices.
    """

    def __init__(self, plan: Plan, settings: Settings) -> None:
        """Start in the state PENDING."""
        self.plan = plan
        self.settings = settings
        self.state = RunState.PENDING
        self.reason: str | None = None
        self.version = 0
        self.stock = Stock(plan, ordered=settings.ordered, out_buffer=settings.out_buffer)
        self.ledger = self.stock.ledger
        self.backlog = self.stock.backlog
        caps = [None if chain.seats else chain.workers for chain in plan.chains]
        self.crew = Crew(settings.workers, caps, [chain.seats for chain in plan.chains])
        self.sizers = [sizer_for(chain, self.crew.size_for(chain.index)) for chain in plan.chains]
        self.started_at = 0.0
        self._source_failure: events.SourceFailed | None = None
        self._admission = Admission(self.crew, self.stock.batches)
        self._intake = Intake(settings, self.stock, self.crew, self.sizers, self._admission)
        self.timesheet = Timesheet(plan, self.crew, self.stock, self._intake, self._admission)
        self._dispatcher = Dispatcher(self.stock, self.crew, self.sizers, self._admission, self.timesheet)
        self._out: list[Command] = []
        self._verdicts = Verdicts(plan, self.stock, self._out)
        self._deaths = Deaths(plan, self.stock, self._verdicts, self._out, settings, self._admission)
        arrivals = Arrivals(plan, self.stock, self._intake, self._verdicts)
        self._handlers: dict[type, Callable[[Any], None]] = {
            events.RunStarted: self._on_run_started,
            events.SourcePacked: lambda event: arrivals.packed(event, leaves=self.state is not RunState.RUNNING),
            events.SourcePassed: arrivals.passed,
            events.SourceRecalled: lambda event: arrivals.recalled(event, leaves=self.state is not RunState.RUNNING),
            events.SourceEnded: lambda _: self._intake.end(),
            events.SourceFailed: self._on_source_failed,
            events.WorkerReady: self._on_worker_ready,
            events.WorkerBloated: self._on_worker_bloated,
            events.MemoryTightened: lambda event: self._admission.tighten(event.at),
            events.MemoryEased: lambda event: self._admission.ease(event.at),
            events.WorkerDied: self._on_worker_died,
            events.StageBroken: self._on_stage_broken,
            events.StartFailed: lambda event: self._cancel(
                f"workers could not be started: {event.summary}", event.error
            ),
            events.BatchReturned: self._on_batch_returned,
            events.DeliveryTaken: self._on_delivery_taken,
            events.DeliveryRefused: self._on_delivery_refused,
            events.HandlerReturned: self._verdicts.handled,
            events.TimePassed: lambda _: None,
            events.ItemsCalledOff: self._on_items_called_off,
            events.CancelRequested: lambda event: self._cancel(event.reason, event.error),
        }

    def handle(self, event: events.Event) -> list[Command]:
        """Take in what has happened and return what is to be done; see ``handle_all``."""
        return self.handle_all((event,))

    def handle_all(self, happened: Iterable[events.Event]) -> list[Command]:
        """Take in all that has happened, one thing after the other, and return what is to be done.

        What follows is decided once, knowing all of it: that costs as much as taking in does.

        Raises:
            InternalError: an event cannot be: a bug of ours or of a backend.
        """
        self.version += 1
        try:
            for event in happened:
                self.stock.now = max(self.stock.now, event.at)  # other threads' events may have waited for a moment
                if self.state is RunState.RUNNING:
                    self.timesheet.advance(self.stock.now)
                self._handlers[type(event)](event)
                if self.stock.complete:
                    self._join_complete()
                if self._verdicts.ending is not None:
                    self._heed_failures()
            if self.state is RunState.RUNNING:
                self._advance()
                self.timesheet.take_down()
            if self.stock.closed:
                self._out += self.stock.tell_closed()
        finally:
            out = self._out.copy()
            self._out.clear()
            self.version += 1
        return out

    @property
    def requested(self) -> int:
        """Items that the source was asked for and that have not come."""
        return self._intake.requested

    @property
    def window(self) -> int:
        """How many items the source may ever be ahead of what has left."""
        return self._intake.window

    @property
    def look_again_at(self) -> float | None:
        """When it wants to be told that time has passed, should nothing else happen; None when it does not."""
        return self._dispatcher.look_again_at if self.state is RunState.RUNNING else None

    @property
    def wants_news(self) -> bool:
        """Whether anything but a worker's report could lead to a command now."""
        return not self.crew.is_full

    @property
    def heeds_taking(self) -> bool:
        """Whether results being taken could lead to a command now; what is under way goes on without that."""
        if self._intake.has_ended and self.crew.busy and not self.plan.fans_out:
            return False  # there is room for all results of what there is
        return not self.crew.is_full

    def close_books(self) -> list[commands.SettleItems]:
        """End the run's accounts, of which nothing more will come; return what became of the last items.

        Raises:
            InternalError: the ledger does not balance.
        """
        self.version += 1
        for batch in list(self.stock.batches.values()):
            self.stock.leave(batch)
        if self.state is not RunState.FINISHED:
            self.state = follow(RUN, self.state, RunMove.SETTLE, self.reason)
        self.version += 1
        self.ledger.check()
        return self.stock.tell_closed()

    # ------------------------------------------------------------------ the run and its source

    def _on_run_started(self, event: events.RunStarted) -> None:
        self.state = follow(RUN, self.state, RunMove.START, event)
        self.started_at = event.at
        self.timesheet.advance(self.stock.now)
        for worker in self.crew.wanted():
            worker.move(WorkerMove.START)
            self._out.append(commands.StartWorker(worker.worker_id))

    def _on_source_failed(self, event: events.SourceFailed) -> None:
        """What came before the failure is still run and delivered, as a plain loop over the source would have done."""
        self._intake.end()
        self._source_failure = event

    def _cancel(
        self, reason: str, error: Any = None, failure: commands.ReportFailure | None = None, *, at_once: bool = False
    ) -> None:  # fmt: skip
        if self.state not in (RunState.PENDING, RunState.RUNNING):
            return  # the first reason wins
        self.state = follow(RUN, self.state, RunMove.CANCEL, reason)
        self.reason = reason
        self._verdicts.is_over = True
        self.stock.leave_all()
        self._out.append(commands.CancelRun(reason, error, failure, at_once))

    def _advance(self) -> None:
        """Do whatever has become possible."""
        self._hand_over()
        self._intake.look_ahead()
        self._out.extend(self._dispatcher.commands(source_ended=self._intake.has_ended))
        self._retire()
        if not self._intake.has_ended:
            ask = self._intake.ask()
            if ask is not None:
                self._out.append(ask)
        elif self.stock.batches:
            return
        elif self._source_failure is not None:
            self._cancel(f"the source failed: {self._source_failure.summary}", self._source_failure.error)
        else:
            self.state = follow(RUN, self.state, RunMove.SETTLE, "all settled")
            self._out.append(commands.FinishRun())

    def _retire(self) -> None:
        """Have processes replaced that have done as much as one may, as long as there is anything left to do."""
        if self._intake.has_ended and not self.stock.batches:
            return
        while self.crew.spent:
            worker = self.crew.first_of(self.crew.spent)
            worker.move(WorkerMove.RETIRE)
            self._out.append(commands.RetireWorker(worker.worker_id))

    def _hand_over(self) -> None:
        for batch in self.stock.hand_over():
            self._out.append(commands.Deliver(batch.batch_id, batch.payload, batch.lo, batch.hi, batch.origin))

    # ------------------------------------------------------------------ workers

    def _on_worker_ready(self, event: events.WorkerReady) -> None:
        worker = self.crew[event.worker_id]
        if worker.life is WorkerLife.ABSENT:
            return  # left from an earlier run, and no use in this one, which has no stage for processes
        self._deaths.note_greeting()
        worker.move(WorkerMove.GREET)
        is_counted = self.settings.max_items is not None and worker.only is None
        worker.allow(max(0, (self.settings.max_items or 0) - event.items) if is_counted else None)

    def _on_worker_bloated(self, event: events.WorkerBloated) -> None:
        worker = self.crew[event.worker_id]
        if worker.is_ready:
            worker.allow(0)

    def _on_worker_died(self, event: events.WorkerDied) -> None:
        worker = self.crew[event.worker_id]
        if worker.life is WorkerLife.ABSENT:
            return
        was_ready, was_leaving = worker.is_ready, worker.life is WorkerLife.LEAVING
        worker.move(WorkerMove.DIE)
        worker.deaths += not was_leaving
        if self.state is RunState.RUNNING:
            self.timesheet.lose(worker)
        held = worker.let_go()
        if self.state is RunState.RUNNING:
            self._deaths.take_in(worker, held, event, was_ready=was_ready or was_leaving, was_leaving=was_leaving)

    def _on_items_called_off(self, event: events.ItemsCalledOff) -> None:
        if self.state is RunState.RUNNING:
            self._deaths.call_off(event, self.crew)

    def _on_stage_broken(self, event: events.StageBroken) -> None:
        self._cancel(f"stage {self.plan.stages[event.stage].name!r} could not be set up: {event.summary}", event.error)

    # ------------------------------------------------------------------ results

    def _on_batch_returned(self, event: events.BatchReturned) -> None:
        if self.state is not RunState.RUNNING:
            return
        worker = self.crew[event.worker_id]
        batch = worker.held.get(event.batch_id)
        if worker.is_distrusted:
            return
        if batch is None or not is_possible(event, batch, self.plan.chains[batch.chain]):
            worker.distrust()
            self._out.append(commands.KillWorker(worker.worker_id, f"it reports what cannot be of {batch}: {event}"))
            return
        given = sum([chunk.count for chunk in event.chunks])
        chain = self.plan.chains[batch.chain]
        busy_s = sum([tally.busy_s for tally in event.tallies])
        worker.batches += 1
        worker.items += event.consumed
        worker.busy_s += busy_s
        self.timesheet.engage(worker, batch, event)
        self._deaths.note_setup(batch.chain)
        weight = batch.size_bytes * event.consumed // (batch.count or 1)
        self.sizers[batch.chain].learn(event.consumed, busy_s, weight)
        self.ledger.tally(chain.first_stage, event.tallies, given)
        errors: list[tuple[int, Batch | None]] = []
        for failure in event.failures:
            stage = chain.first_stage + failure.stage
            self.ledger.note_ending(stage, failure.how)
            error = self._verdicts.judge_in(batch, stage, failure, event.worker_id)
            if error is not None or self.plan.policies[stage] is ErrorPolicy.RAISE:
                errors.append((failure.position, error))
        behind = self.stock.add_results(batch, event.chunks, errors)
        if event.failures or event.kill is not None:
            self._hand_over()  # what came before the failure is delivered, even if the failure ends the run
        if behind:
            self.stock.order.insert(behind, ahead_of=batch)
        self._note_progress(worker, batch, event, given)
        if event.kill is not None:
            self._heed_failures()  # they came first
            self._cancel(event.kill)

    def _note_progress(self, worker: Worker, batch: Batch, event: events.BatchReturned, given: int) -> None:
        """Keep in step with how far ``worker`` is, once its results have been taken in."""
        if event.progress is events.Progress.DONE:
            worker.finish(batch)
            self.stock.settle(batch)
            return
        self.stock.progress(batch, event.consumed, given)
        batch.skip = event.emitted
        if event.progress is events.Progress.SUSPENDED:
            self.stock.suspend(batch, worker)
        elif event.progress is events.Progress.GIVEN_BACK:
            worker.give_back(batch)
            self.stock.requeue(batch)

    def _join_complete(self) -> None:
        """Put together what has been through all branches of a mix."""
        complete = self.stock.complete
        while complete:
            joint = complete.pop()
            if self.state is not RunState.RUNNING:
                continue
            errors: list[tuple[int, Batch | None]] = []
            for failed in joint.first_failures():
                index = joint.place.origin[failed.position]
                families = joint.place.families
                error = self._verdicts.judge(failed.stage, failed.failure, index, failed.worker_id, families)
                if error is not None:
                    errors.append((failed.position, error))
            self.stock.join(joint, errors)

    def _on_delivery_taken(self, event: events.DeliveryTaken) -> None:
        batch = self.stock.batches.get(event.batch_id)
        if batch is None:
            return  # refused meanwhile, by somebody who closed the run over the consumer's head
        last = len(self.plan.stages) - 1
        failures = event.failures
        if failures:
            self.ledger.unpackable(last, len(failures))
        stand_in = self.plan.policies[last] is ErrorPolicy.EMIT  # the consumer has put the errors where they belong
        self.ledger.deliver(batch, batch.count if stand_in else batch.count - len(failures))
        for failure in failures:
            index = batch.origin[failure.position]
            if stand_in:
                self._verdicts.note_emitted(last, failure, index, batch.families)
            else:
                self._verdicts.judge(last, failure, index, None, batch.families)
        self.stock.settle(batch)

    def _on_delivery_refused(self, event: events.DeliveryRefused) -> None:
        batch = self.stock.batches.get(event.batch_id)
        if batch is not None:  # else it was taken meanwhile
            self.stock.leave(batch)

    def _heed_failures(self) -> None:
        """Cancel the run for the first item whose policy asks for that, once all that an event tells of is booked."""
        ending = self._verdicts.ending
        if ending is not None:
            error = ending.error if ending.failure is None else ending.failure.failure.error
            self._cancel(ending.reason, error, ending.failure, at_once=ending.at_once)
