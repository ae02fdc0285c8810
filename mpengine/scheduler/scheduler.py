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

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mpengine.errors import InternalError, WorkerDiedError
from mpengine.policies import ErrorPolicy
from mpengine.scheduler import commands, events
from mpengine.scheduler.batching import MAX_BATCH, BatchSizer
from mpengine.scheduler.crew import CREDIT, Crew
from mpengine.scheduler.dispatching import Dispatcher
from mpengine.scheduler.lifecycles import RUN, BatchState, RunMove, RunState, WorkerMove, follow
from mpengine.scheduler.reports import is_possible
from mpengine.scheduler.stock import Stock

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpengine.plan import Plan
    from mpengine.scheduler.batches import Batch, Family
    from mpengine.scheduler.commands import Command

START_TRIES = 3
START_BACKOFF_S = 0.1


@dataclass(frozen=True, slots=True)
class Settings:
    """What a scheduler has to know beside the plan.

    Attributes:
        workers: how many slots there are.
        ordered: whether results leave in input order.
        out_buffer: results that may wait for the consumer.
        crash_retries: how many further deaths an item may cause after its first.
        max_bytes: payloads under way may weigh so much.
        length: how many items the source has, if it tells.
    """

    workers: int
    ordered: bool = True
    out_buffer: int = 1024
    crash_retries: int = 1
    max_bytes: int = 1 << 30
    length: int | None = None


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
        self.crew = Crew(settings.workers, [chain.workers for chain in plan.chains])
        limits = [min(MAX_BATCH, chain.buffer) for chain in plan.chains]
        self.sizers = [BatchSizer(limit) for limit in limits]
        self.window = lead_bound(plan, settings)
        self.requested = 0
        self.source_ended = False
        self.started_at = 0.0
        self._source_failure: events.SourceFailed | None = None
        self._dispatcher = Dispatcher(self.stock, self.crew, self.sizers)
        self._failed_starts = 0
        self._setup_deaths: dict[int, int] = {}
        self._fatal: commands.ReportFailure | None = None
        self._out: list[Command] = []
        self._handlers: dict[type, Callable[[Any], None]] = {
            events.RunStarted: self._on_run_started,
            events.SourcePacked: self._on_source_packed,
            events.SourceEnded: self._on_source_ended,
            events.SourceFailed: self._on_source_failed,
            events.WorkerReady: self._on_worker_ready,
            events.WorkerDied: self._on_worker_died,
            events.StageBroken: self._on_stage_broken,
            events.StartFailed: self._on_start_failed,
            events.BatchReturned: self._on_batch_returned,
            events.DeliveryTaken: self._on_delivery_taken,
            events.DeliveryRefused: self._on_delivery_refused,
            events.CancelRequested: self._on_cancel_requested,
        }

    def handle(self, event: events.Event) -> list[Command]:
        """Take in what has happened and return what is to be done.

        Raises:
            InternalError: the event cannot be: a bug of ours or of a backend.
        """
        self.version += 1
        try:
            self._handlers[type(event)](event)
            self._heed_failures()
            if self.state is RunState.RUNNING:
                self._advance()
        finally:
            out, self._out = self._out, []
            self.version += 1
        return out

    @property
    def wants_news(self) -> bool:
        """Whether anything but a worker's report could lead to a command now."""
        return not self.crew.is_full

    def close_books(self) -> None:
        """End the run's accounts: nothing more will come.

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

    # ------------------------------------------------------------------ the run and its source

    def _on_run_started(self, event: events.RunStarted) -> None:
        self.state = follow(RUN, self.state, RunMove.START, event)
        self.started_at = event.at
        for worker in self.crew:
            worker.move(WorkerMove.START)
            self._out.append(commands.StartWorker(worker.worker_id))

    def _on_source_packed(self, event: events.SourcePacked) -> None:
        self.requested = max(0, self.requested - event.pulled)
        first = self.ledger.source_items
        if self.state is not RunState.RUNNING:  # pulled while the run was being cancelled (S3)
            self.stock.leave(self.stock.admit(event.payload, event.pulled, set(), event.size_bytes))
            return
        unpacked = {failure.position for failure in event.failures}
        batch = self.stock.admit(event.payload, event.pulled, unpacked, event.size_bytes)
        for failure in event.failures:
            self.ledger.reject(0)
            self._fail_item(0, failure, first + failure.position, None, batch.family)
        if batch.count == 0:
            self.stock.settle(batch)

    def _on_source_ended(self, event: events.SourceEnded) -> None:  # noqa: ARG002 - the table of handlers wants it
        self.source_ended = True
        self.requested = 0

    def _on_source_failed(self, event: events.SourceFailed) -> None:
        """What came before the failure is still run and delivered, as a plain loop over the source would have done."""
        self.source_ended = True
        self.requested = 0
        self._source_failure = event

    def _on_cancel_requested(self, event: events.CancelRequested) -> None:
        self._cancel(event.reason, event.error)

    def _cancel(self, reason: str, error: Any = None, failure: commands.ReportFailure | None = None) -> None:
        if self.state not in (RunState.PENDING, RunState.RUNNING):
            return  # the first reason wins
        self.state = follow(RUN, self.state, RunMove.CANCEL, reason)
        self.reason = reason
        for batch in list(self.stock.batches.values()):
            if batch.state is not BatchState.TAKEN:  # what was handed over, the consumer still gets
                self.stock.leave(batch)
        self._out.append(commands.CancelRun(reason, error, failure))

    def _advance(self) -> None:
        """Do whatever has become possible."""
        self._hand_over()
        self._out.extend(self._dispatcher.commands(source_ended=self.source_ended))
        if not self.source_ended:
            self._pull()
        elif self.stock.batches:
            return
        elif self._source_failure is not None:
            self._cancel(f"the source failed: {self._source_failure.summary}", self._source_failure.error)
        else:
            self.state = follow(RUN, self.state, RunMove.SETTLE, "all settled")
            self._out.append(commands.FinishRun())

    def _hand_over(self) -> None:
        for batch in self.stock.hand_over():
            self._out.append(commands.Deliver(batch.batch_id, batch.payload, batch.lo, batch.hi, batch.origin))

    def _pull(self) -> None:
        """Ask the source for what the first chain can use (S2)."""
        settings, sizer = self.settings, self.sizers[0]
        size = sizer.size
        under_way = self.stock.open_items + self.requested
        waiting = self.backlog.waiting[0] + self.requested
        room = min(settings.workers * CREDIT * size, self.plan.chains[0].buffer) - waiting
        room = min(room, self.window - under_way)
        if sizer.item_bytes and under_way:
            free = (settings.max_bytes - self.stock.held_bytes) / sizer.item_bytes
            room = min(room, int(free) - self.requested)
        if settings.length is not None:  # smaller towards the end, so that no worker idles
            remaining = settings.length - self.ledger.source_items - self.requested
            size = min(size, max(1, -(-remaining // (settings.workers * CREDIT))))
            if remaining > 0:
                room = min(room, remaining)
            elif self.requested:
                return  # what was asked for is to come first; then one more, which tells whether that was the end
            else:
                room = min(room, 1)
        if room >= size:  # never less than a batch: a window that opens by crumbs would end in batches of crumbs
            room -= room % size
            self.requested += room
            self._out.append(commands.PullSource(room, size))

    # ------------------------------------------------------------------ workers

    def _on_worker_ready(self, event: events.WorkerReady) -> None:
        self._failed_starts = 0
        self.crew[event.worker_id].move(WorkerMove.GREET)

    def _on_worker_died(self, event: events.WorkerDied) -> None:
        worker = self.crew[event.worker_id]
        was_ready = worker.is_ready
        worker.move(WorkerMove.DIE)
        worker.deaths += 1
        worker.active = 0
        self.crew.unpin(worker)
        held, worker.held = worker.held, {}
        if self.state is not RunState.RUNNING:
            return
        for batch in reversed(held.values()):  # each goes to the front, so the one sent first ends up first
            self.stock.requeue(batch)
        current = None if event.batch_id is None else held.get(event.batch_id)
        if current is not None:
            self._blame(current, event)
            self._heed_failures()
        if not was_ready:
            self._failed_starts += 1
            if self._failed_starts >= START_TRIES:
                self._cancel(f"workers die while they start: {event.how}")
        if self.state is RunState.RUNNING:
            worker.move(WorkerMove.START)
            after_s = START_BACKOFF_S * 2 ** (self._failed_starts - 1) if self._failed_starts else 0.0
            self._out.append(commands.StartWorker(worker.worker_id, after_s))

    def _blame(self, batch: Batch, event: events.WorkerDied) -> None:
        """A worker died at ``batch``: find the item, or run it alone, or give it up (K5)."""
        if event.in_setup:
            self._blame_setup(batch, event)
            return
        position = event.position
        if position is None or not batch.lo <= position < batch.hi:
            if not batch.careful:
                batch.careful = True  # not known which item; the next worker names each one before it runs it
                return
            position = batch.lo  # it was to name each one and got to none: blame the first, or this would never end
        if position + 1 < batch.hi:
            self.stock.split(batch, position + 1)
        if batch.lo < position:
            batch = self.stock.split(batch, position)  # the later part first, so that the earliest ends up in front
        batch.careful = True
        batch.deaths += 1
        if batch.deaths <= self.settings.crash_retries:
            return
        chain = self.plan.chains[batch.chain]
        place = min(event.stage, len(chain.stages) - 1)  # a slot may tell anything (K9)
        stage = chain.first_stage + place
        summary = f"WorkerDiedError: the worker died ({event.how}), {batch.deaths} times with this item"
        failure = events.Failure(position, place, summary, None, event.item, attempts=batch.deaths, crashed=True)
        self.ledger.crash(chain.first_stage, stage)
        self._fail_item(stage, failure, batch.origin[position], event.worker_id, batch.family)
        self.stock.settle(batch)

    def _blame_setup(self, batch: Batch, event: events.WorkerDied) -> None:
        """A worker died while it built a chain's stages: no item is to blame, and none will fare better."""
        chain = self.plan.chains[batch.chain]
        deaths = self._setup_deaths[chain.index] = self._setup_deaths.get(chain.index, 0) + 1
        if deaths > self.settings.crash_retries:
            names = ", ".join(repr(stage.name) for stage in chain.stages)
            story = f"stage {names} could not be set up: the worker died ({event.how}), {deaths} times"
            self._cancel(story, WorkerDiedError(story))

    def _on_stage_broken(self, event: events.StageBroken) -> None:
        name = self.plan.stages[event.stage].name
        self._cancel(f"stage {name!r} could not be set up: {event.summary}", event.error)

    def _on_start_failed(self, event: events.StartFailed) -> None:
        self._cancel(f"workers could not be started: {event.summary}", event.error)

    # ------------------------------------------------------------------ results

    def _on_batch_returned(self, event: events.BatchReturned) -> None:
        if self.state is not RunState.RUNNING:
            return
        worker = self.crew[event.worker_id]
        batch = worker.held.get(event.batch_id)
        if batch is None:
            msg = f"worker {event.worker_id} reports on batch {event.batch_id}, which it does not hold"
            raise InternalError(msg)
        given = sum(chunk.count for chunk in event.chunks)
        chain = self.plan.chains[batch.chain]
        if not is_possible(event, batch, chain):
            msg = f"worker {event.worker_id} reports what cannot be of {batch}: {event}"
            raise InternalError(msg)
        busy_s = sum(tally.busy_s for tally in event.tallies)
        worker.batches += 1
        worker.items += event.consumed
        worker.busy_s += busy_s
        self._setup_deaths.pop(batch.chain, None)  # it can be set up after all
        weight = batch.size_bytes * event.consumed // (batch.count or 1)
        self.sizers[batch.chain].learn(event.consumed, busy_s, weight)
        self.ledger.tally(chain.first_stage, event.tallies, given)
        self.stock.add_results(batch, event.chunks)
        self.stock.progress(batch, event.consumed, given)
        batch.skip = event.emitted
        if event.progress is events.Progress.SUSPENDED:
            self.stock.suspend(batch, worker)
        elif event.progress is events.Progress.DONE:
            worker.active -= 1
            del worker.held[batch.batch_id]
        if event.failures or event.kill is not None:
            self._hand_over()  # what came before the failure is delivered, even if the failure ends the run
        for failure in event.failures:
            index = batch.origin[failure.position]
            self._fail_item(chain.first_stage + failure.stage, failure, index, event.worker_id, batch.family)
        if event.progress is events.Progress.DONE:
            self.stock.settle(batch)
        if event.kill is not None:
            self._heed_failures()  # they came first
            self._cancel(event.kill)

    def _on_delivery_taken(self, event: events.DeliveryTaken) -> None:
        batch = self.stock.batches.get(event.batch_id)
        if batch is None:
            return  # refused meanwhile, by somebody who closed the run over the consumer's head
        last = len(self.plan.stages) - 1
        self.ledger.unpackable(last, len(event.failures))
        self.ledger.deliver(batch, batch.count - len(event.failures))
        for failure in event.failures:
            self._fail_item(last, failure, batch.origin[failure.position], batch.worker_id, batch.family)
        self.stock.settle(batch)

    def _on_delivery_refused(self, event: events.DeliveryRefused) -> None:
        batch = self.stock.batches.get(event.batch_id)
        if batch is not None:  # else it was taken meanwhile
            self.stock.leave(batch)

    def _fail_item(
        self, stage: int, failure: events.Failure, index: int, worker_id: int | None, family: Family | None
    ) -> None:
        """Apply the stage's policy to an item that failed for good."""
        chain = next(chain for chain in reversed(self.plan.chains) if chain.first_stage <= stage)
        policy = chain.policies[stage - chain.first_stage]
        dropped = policy is not ErrorPolicy.RAISE
        self.ledger.fail(stage, dropped=dropped, index=index, family=family)
        report = commands.ReportFailure(stage, index, worker_id, policy, failure)
        self._out.append(report)
        if not dropped and self._fatal is None:
            self._fatal = report

    def _heed_failures(self) -> None:
        """Cancel the run for the first item whose policy asks for that, once all that an event tells of is booked."""
        fatal = self._fatal
        if fatal is not None:
            name = self.plan.stages[fatal.stage].name
            reason = f"stage {name!r} failed on item {fatal.index}: {fatal.failure.summary}"
            self._cancel(reason, fatal.failure.error, fatal)


def lead_bound(plan: Plan, settings: Settings) -> int:
    """Return how many items the source may ever be ahead of what has left: every buffer, and what workers hold."""
    buffers = sum(chain.buffer for chain in plan.chains) + settings.out_buffer
    return buffers + settings.workers * CREDIT * min(MAX_BATCH, plan.chains[0].buffer)
