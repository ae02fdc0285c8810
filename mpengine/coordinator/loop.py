"""The loop: waits, feeds events to the scheduler, carries out its commands; then sees everybody off.

It decides nothing and never waits for a worker or for user code (K7).  Whatever goes wrong in here becomes the run's
error, and the workers are seen off all the same.
"""

from __future__ import annotations

import heapq
import time
from collections import deque

from mpengine.coordinator.failures import Failures, restore
from mpengine.coordinator.outlet import Delivery, End, Outlet
from mpengine.coordinator.scribe import ERROR, WARNING
from mpengine.coordinator.sightings import Sightings
from mpengine.coordinator.snapshots import Snapshots
from mpengine.errors import InternalError
from mpengine.scheduler import commands, events
from mpengine.scheduler.lifecycles import RunState
from mpengine.worker.chain import summarize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mpengine.backends.base import Backend
    from mpengine.coordinator.feed import Feed
    from mpengine.coordinator.handlers import Handlers
    from mpengine.coordinator.journaling import RunNotes
    from mpengine.coordinator.scribe import Scribe
    from mpengine.coordinator.tape import Tape
    from mpengine.coordinator.telling import Teller
    from mpengine.ipc.messages import Logged
    from mpengine.monitor.observing import Observer
    from mpengine.plan import Plan
    from mpengine.scheduler.scheduler import Scheduler


Here = (
    commands.ReportFailure
    | commands.SettleItems
    | commands.CallHandler
    | commands.CancelRun
    | commands.FinishRun
)  # fmt: skip


_URGENT = events.CancelRequested | events.HandlerReturned | events.ItemsCalledOff
"""What the loop is woken for, whatever it waits for."""


class Coordinator:
    """One run's loop.

    Args:
        plan: what is run.
        scheduler: decides.
        backend: runs batches.
        scribe: logs.

    Attributes:
        outlet: where results come out.
        failures: what failed.
        crash: what went wrong in the loop itself; None if nothing did.
        snapshots: takes the run's snapshots.
        notes: what the run's journal is told; None: it has none.
        tape: notes what observers are told; None where there are none.
        sightings: sees what each worker is at, if somebody asks.
    """

    def __init__(self, plan: Plan, scheduler: Scheduler, backend: Backend, scribe: Scribe) -> None:
        """Bind the parts; nothing runs yet."""
        self._plan = plan
        self._scheduler = scheduler
        self._backend = backend
        self._scribe = scribe
        backend.on_record = self._hand_on
        backend.on_warning = lambda story: scribe.note(WARNING, "%s", story)
        self._feed: Feed | None = None
        self._handlers: Handlers | None = None
        self._grace_s = 0.0
        self._mailbox: deque[events.Event] = deque()
        self._rings = True
        self._later: list[tuple[float, int]] = []
        self._cancel: commands.CancelRun | None = None
        self.outlet = Outlet()
        self.failures = Failures([stage.name for stage in plan.stages], scribe)
        self.crash: BaseException | None = None
        self.snapshots = Snapshots(scheduler, backend.pid_of)
        self.notes: RunNotes | None = None
        self.tape: Tape | None = None
        self.sightings = Sightings(plan, scheduler, backend)

    def post(self, event: events.Event) -> None:
        """Tell the loop of an event; from any thread or signal handler (T3)."""
        self._mailbox.append(event)
        if self._rings or isinstance(event, _URGENT):
            self._backend.wake()

    def observed_by(self, observers: Sequence[Observer]) -> Teller | None:
        """Note from now on what observers are to be told; return who tells them, None where there are none."""
        if not observers:
            return None
        from mpengine.coordinator.telling import Teller  # for those who are observed

        teller = Teller(observers, self._scheduler, self._backend, self.snapshots.take, self._scribe)
        self.tape = teller.tape
        return teller

    def start(self, feed: Feed, handlers: Handlers, grace_s: float = 0.0) -> None:
        """Begin the run, with ``feed`` as its source, and ``handlers`` for items that fail under SIDE."""
        self._grace_s = grace_s
        self._feed = feed
        self._handlers = handlers
        self.snapshots.writes_here()
        self._take_in([events.RunStarted(time.monotonic())])

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to decide."""
        return self.crash is not None or self._scheduler.state not in (RunState.PENDING, RunState.RUNNING)

    def run(self, *, keep: bool, grace_s: float) -> None:
        """Go on until the run is over, then see everybody off; the body of the loop's thread."""
        self.snapshots.writes_here()
        try:
            while not self.is_over:
                self.step()
        except Exception as error:  # noqa: BLE001 - becomes the run's error; the workers still have to be seen off
            self.give_up(error)
        finally:
            self.see_off(keep=keep, grace_s=grace_s)

    def step(self) -> None:
        """Wait for something to happen, and take in all of it."""
        if self._backend.in_caller:
            self.snapshots.writes_here()
            self.snapshots.freshen()
        if self.sightings.wanted:
            self.sightings.answer()
        self._rings = self._backend.in_caller or self._scheduler.wants_news  # decided before the last look
        had_mail = bool(self._mailbox) and self._rings
        if had_mail:
            self._take_in(self._mail())
        if self.is_over:
            return
        due_at = self.outlet.due_at
        if due_at is not None and (self._scheduler.heeds_taking or due_at <= time.monotonic()):
            self.outlet.release()
        happened = self._backend.wait(0.0 if had_mail else self._until_later())
        self._rings = False  # there is another look at the mailbox before the next wait
        mail = self._mail()
        if mail or happened:
            self._take_in([*mail, *happened])
        if self._backend.in_caller and not (happened or had_mail or mail or self._mailbox or self._later):
            msg = f"the run is not over and there is nothing left to do\n{self._scheduler.ledger.story()}"
            raise InternalError(msg)
        look_again_at = self._scheduler.look_again_at
        if look_again_at is not None and look_again_at <= time.monotonic():
            self._take_in([events.TimePassed(time.monotonic())])
        while self._later and self._later[0][0] <= time.monotonic():
            self._backend.start_worker(heapq.heappop(self._later)[1])

    def _mail(self) -> list[events.Event]:
        """Take out what is in the mailbox."""
        return [self._mailbox.popleft() for _ in range(len(self._mailbox))]

    def see_off(self, *, keep: bool, grace_s: float) -> None:
        """End the run: source, stages, workers; then tell the consumer that nothing more comes."""
        try:
            assert self._feed is not None  # noqa: S101 - start() comes first
            assert self._handlers is not None  # noqa: S101 - the same
            self._feed.close()
            self._handlers.close()
            for problem in self._backend.finish(keep=keep, grace_s=grace_s):
                self._scribe.note(WARNING, "%s", problem)
            patience_s = min(grace_s, 1.0) if self.is_cancelled else grace_s
            for who, role in (("the source", self._feed), ("an error handler", self._handlers)):
                if not role.join(patience_s):
                    text = "%s does not give control back; its thread is left to itself"
                    self._scribe.note(WARNING, text, who)
        except Exception as error:  # noqa: BLE001 - becomes the run's error
            self.give_up(error)
        finally:
            self.snapshots.ended_at = time.monotonic()
            self.outlet.put(End())

    def settle_mail(self) -> None:
        """Take in what is left in the mailbox; called by the consumer, once the loop's thread has ended (T1)."""
        self.snapshots.writes_here()
        while self._mailbox:
            event = self._mailbox.popleft()
            out = self._scheduler.handle(event)
            if self.tape is not None:
                self.tape.note([event], out)
            for command in out:
                if isinstance(command, commands.ReportFailure | commands.SettleItems):
                    self._carry_out_here(command)

    @property
    def is_cancelled(self) -> bool:
        """Whether the run was cancelled, by whomever."""
        return self._cancel is not None or self.crash is not None

    def cause(self) -> BaseException | None:
        """Return the exception behind the end of a cancelled run, if there is one."""
        if self.crash is not None or self._cancel is None:
            return self.crash
        if self._cancel.failure is not None:
            return self.failures.item_error(self._cancel.failure).error
        error: Any = self._cancel.error
        if type(error) is tuple:  # a broken stage: the pickled exception, and its traceback; isinstance() would ask it
            return restore(error[0], self._cancel.reason, error[1])
        if type(error) is str:
            return restore(None, self._cancel.reason, error)
        return None if error is None else restore(error, self._cancel.reason, "")

    # ------------------------------------------------------------------ inside

    def _hand_on(self, logged: Logged, worker_id: int, run_id: int) -> None:
        """Have logged what a worker has sent; its batch is still out, for its report comes later."""
        index = None
        if logged.batch_id is not None and logged.position is not None:
            batch = self._scheduler.stock.batches.get(logged.batch_id)
            if batch is not None and 0 <= logged.position < len(batch.origin):
                index = batch.origin[logged.position]
        self._scribe.hand_on(logged, worker_id, run_id, index)

    def _until_later(self) -> float | None:
        later_at = self._later[0][0] if self._later else None
        due = [at for at in (self._scheduler.look_again_at, later_at, self.outlet.due_at) if at is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _take_in(self, happened: Sequence[events.Event]) -> None:
        out = self._scheduler.handle_all(happened)
        if self.tape is not None:
            self.tape.note(happened, out)
        self.snapshots.answer()
        for command in out:
            self._carry_out(command)

    def _carry_out(self, command: commands.Command) -> None:
        match command:
            case commands.Dispatch():
                self._backend.dispatch(command)
            case commands.Deliver(batch_id, payload, lo, hi, origin):
                self.outlet.put_some_time(Delivery(batch_id, payload, lo, hi, origin), self._scheduler.stock.now)
            case commands.PullSource(count, batch_size):
                assert self._feed is not None  # noqa: S101 - start() comes first
                self._feed.pull(count, batch_size)
            case commands.Resume():
                self._backend.resume(command)
            case commands.StartWorker(worker_id, after_s):
                if after_s:
                    heapq.heappush(self._later, (time.monotonic() + after_s, worker_id))
                else:
                    self._backend.start_worker(worker_id)
            case commands.KillWorker(worker_id, _, is_wanted=True):
                self._backend.kill(worker_id)
            case commands.KillWorker(worker_id, why):
                self._scribe.note(ERROR, "worker %d is ended: %s", worker_id, why, worker_id=worker_id)
                self._backend.kill(worker_id)
            case commands.RetireWorker(worker_id):
                self._backend.retire(worker_id, self._grace_s)
            case _:
                self._carry_out_here(command)

    def _carry_out_here(self, command: Here) -> None:
        """Carry out what is no work for the backend."""
        match command:
            case commands.ReportFailure():
                self.failures.add(command, time.monotonic())
                if self.notes is not None:
                    self.notes.note_failure(command)
            case commands.SettleItems():
                assert self.notes is not None  # noqa: S101 - nobody else wants to know
                self.notes.note_settled(command)
            case commands.CallHandler():
                assert self._handlers is not None  # noqa: S101 - start() comes first
                self._handlers.call(command)
            case commands.CancelRun():
                self._cancel = command
                assert self._feed is not None  # noqa: S101 - start() comes first
                self._feed.close()
                self._backend.cancel()
                if command.at_once:
                    self._backend.hurry()
            case commands.FinishRun():
                pass  # run() notices by itself, and sees everybody off

    def give_up(self, error: BaseException) -> None:
        """The loop itself has failed: keep the first error, and have everything stopped."""
        if self.crash is None:
            self.crash = error
        try:
            self._backend.cancel()
        except Exception as failure:  # noqa: BLE001 - the first error is the run's; this one is told
            text = "the workers could not be told that the run is over: %s"
            self._scribe.note(ERROR, text, summarize(failure))
