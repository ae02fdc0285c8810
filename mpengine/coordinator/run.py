"""One run, seen from the consumer's side: results in lists, then how it ended.

The thread that takes the results is the consumer.  It unpacks them, so that neither the loop nor the scheduler ever
runs user code, and tells the loop what it has taken, which is what lets more of the source in.
"""

from __future__ import annotations

import os
import signal
import threading
import time

from mpengine.backends.limits import explained
from mpengine.coordinator.feeds import feed_of
from mpengine.coordinator.handlers import InlineHandlers, ThreadedHandlers
from mpengine.coordinator.live import LIVE
from mpengine.coordinator.loop import Coordinator
from mpengine.coordinator.opening import length_of
from mpengine.coordinator.outlet import Delivery, End
from mpengine.coordinator.signals import graceful_signals, signals_held, sigpipe_blocked
from mpengine.coordinator.unpacking import unpacked
from mpengine.errors import EngineError
from mpengine.ipc.codec import PlainCodec
from mpengine.records import replace
from mpengine.results import Err, Ok, Report
from mpengine.scheduler import events
from mpengine.scheduler.scheduler import Scheduler, Settings
from mpengine.worker.chain import summarize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Any

    from mpengine.backends.base import Backend
    from mpengine.backends.headstart import HeadStart
    from mpengine.coordinator.journaling import RunNotes
    from mpengine.coordinator.runoptions import RunOptions
    from mpengine.metrics import Snapshot
    from mpengine.plan import Plan
    from mpengine.scheduler.commands import SettleItems


class Run:
    """A run, from its start to its result.

    Args:
        plan: what is run.
        source: where the items come from.
        backend: runs batches.
        options: see ``RunOptions``.
        on_end: called once, when the result is there.
        head: of the backend, to be kept until it begins.
    """

    def __init__(
        self,
        plan: Plan,
        source: object,
        backend: Backend,
        options: RunOptions,
        on_end: Callable[[Run], None],
        head: HeadStart | None = None,
    ) -> None:
        """Bind the parts; nothing runs yet."""
        self.backend = backend
        self._head = head
        self._options = options
        self._on_end = on_end
        self._journal: RunNotes | None = None
        length = length_of(source)
        packer = None
        if options.journal is not None:
            from mpengine.coordinator.journaling import journaled  # with sqlite3, which others need not pay for

            plan, self._journal, packer = journaled(plan, source, options.journal, self.cancel)
            source = packer
        self._plan = plan
        settings = Settings(
            workers=options.workers, ordered=options.ordered or (packer is not None and plan.fans_out),
            out_buffer=options.out_buffer, crash_retries=options.crash_retries, max_bytes=options.max_bytes,
            length=length, max_items=options.max_items, endures_deaths=options.endures_deaths,
            is_prompt=options.is_prompt,
        )  # fmt: skip
        self._scheduler = Scheduler(plan, settings)
        self._coordinator = Coordinator(plan, self._scheduler, backend, options.scribe)
        self.sightings = self._coordinator.sightings  # of what each worker is at
        self._coordinator.notes = self._journal
        self._teller = self._coordinator.observed_by(options.observers)
        codec = PlainCodec() if plan.begins_plain else backend.codec
        self._feed = feed_of(source, codec, self._coordinator.post, in_caller=backend.in_caller, packer=packer)
        make_handlers = InlineHandlers if backend.in_caller else ThreadedHandlers
        self._handlers = make_handlers(plan.stages, self._coordinator.failures, self._coordinator.post, codec)
        self._thread = threading.Thread(target=self._body, name="mpengine-coordinator", daemon=True)
        self._began_at = time.monotonic()
        self._in_hand: Delivery | None = None
        self._unpackable: tuple[events.Failure, ...] = ()
        # A signal handler, or the collector, may close the engine on the very thread that has one of these locks:
        self._concluding = threading.RLock()
        self._stepping = threading.RLock()
        # Who is in the middle of it, on whose thread nobody may wait for the end:
        self._starter: threading.Thread | None = threading.current_thread()
        self._stepper: threading.Thread | None = None
        self._concluder: threading.Thread | None = None
        self._pid = os.getpid()
        self._has_started = threading.Event()
        self._is_abandoned = False
        self._has_seen_off = False
        self._interrupt: tuple[str, BaseException] | None = None  # the first signal while somebody watched for them
        self.result: Ok | Err | None = None

    @property
    def is_here(self) -> bool:
        """Whether this is the process that the run belongs to, and not a child that was forked from it."""
        return os.getpid() == self._pid

    @property
    def goes_on(self) -> bool:
        """Whether it has been started and not concluded."""
        return self in LIVE

    @property
    def in_caller(self) -> bool:
        """Whether stage functions run in the consumer's own thread."""
        return self.backend.in_caller

    def watch_signals(self) -> AbstractContextManager[None]:
        """Return a context in which Ctrl-C and SIGTERM cancel the run in order, and once more at once."""
        return graceful_signals(self._cancel_by_signal, self.hurry, self._runs_user_code)

    def _cancel_by_signal(self, name: str, error: BaseException) -> None:
        self._interrupt = self._interrupt or (name, error)
        self.cancel(name, error)

    def with_interrupt(self, result: Ok | Err) -> Ok | Err:
        """Return ``result``, as an ``Err`` if a signal came that was too late to cancel anything: none is lost."""
        interrupt, self._interrupt = self._interrupt, None
        if interrupt is None or isinstance(result, Err):
            return result
        return Err(*interrupt, replace(result.report, ok=False))

    def _runs_user_code(self) -> bool:
        return self.backend.runs_user_code or self._feed.runs_user_code or self._handlers.runs_user_code

    def start(self) -> None:
        """Begin.

        Raises:
            PipelineError: the stages will not travel.
            EngineError: the system has no room for the engine; names the limit.
            JournalError: the journal cannot be used.
        """
        try:
            with sigpipe_blocked():
                self.backend.keeps_times = self._teller is not None and self._teller.wants_times
                try:
                    if self._journal is not None:
                        self._journal.open()
                    self.backend.begin(self._plan)
                    self._options.scribe.run_id = self.backend.run_id
                except BaseException as error:
                    if self._journal is not None:
                        self._journal.finish("did not begin")
                    if isinstance(error, OSError):
                        raise EngineError(explained(error)) from error
                    raise
                finally:
                    self._head = None
                try:
                    self._coordinator.start(self._feed, self._handlers, self._options.grace_s)
                except Exception as error:  # noqa: BLE001 - becomes the run's error, and what was started is seen off
                    self._coordinator.give_up(error)
                except BaseException as error:  # noqa: BLE001 - Ctrl-C while the source is first pulled; the same
                    self.cancel(type(error).__name__, error)
            if not self.backend.in_caller:
                self._start_thread()
            if self._teller is not None:
                self._teller.begin(self.cancel)
        finally:
            self._has_started.set()
            self._starter = None
        LIVE.add(self)

    def _start_thread(self) -> None:
        try:
            self._thread.start()
        except RuntimeError as error:  # there are too many, or the interpreter is on its way out
            self._coordinator.give_up(error)
            self._coordinator.see_off(keep=False, grace_s=self._options.grace_s)
            msg = f"a run needs threads, and none can be started: {explained(error)}"
            raise EngineError(msg) from error

    def _body(self) -> None:
        # A writer whose reader has died is told by an error; where the program has SIGPIPE at its default, a signal
        # would end it instead.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
        self._coordinator.run(keep=self._options.keep, grace_s=self._options.grace_s)
        # Somebody else who concludes the run at this moment waits for this very thread, so it waits for nobody.
        if self._is_abandoned and self._concluding.acquire(blocking=False):
            try:
                self._conclude()
            finally:
                self._concluding.release()

    def cancel(self, reason: str, error: BaseException | None = None) -> None:
        """Ask for the end; from any thread or signal handler, any number of times."""
        self._coordinator.post(events.CancelRequested(time.monotonic(), reason, error))
        if self.backend.in_caller:
            self.backend.cancel()  # the loop cannot: it is inside the stage function that asks cancelled()
            self._feed.interrupt()  # or it waits for an item

    def end(self, reason: str, error: BaseException | None = None) -> None:
        """Cancel what still goes on, and conclude it.

        Args:
            reason: as for ``cancel``.
            error: what ends it, which the caller raises; None: nothing.

        Raises:
            KeyboardInterrupt, SystemExit: as ``conclude``; or what came before it and nobody has been told of.
        """
        with signals_held(self.hurry):  # or one that came in between would leave the run cancelled and never concluded
            self.cancel(reason, error)
            self.conclude()
        if self.result is not None and self._interrupt is not None:
            (_, interrupt), self._interrupt = self._interrupt, None
            if error is None:
                raise interrupt

    def hurry(self) -> None:
        """Give up all patience with workers; from any thread or signal handler."""
        self.backend.hurry()

    def snapshot(self) -> Snapshot:
        """Return the figures so far; from any thread."""
        return self._coordinator.snapshots.take()

    # ------------------------------------------------------------------ the consumer's thread

    def next_batch(self, *, unpack: bool = True) -> list[Any] | None:
        """Return the next results, or None when there are no more; the ones before count as taken from here on.

        Args:
            unpack: whether anybody wants the values; if not, the list is empty.
        """
        if self._in_hand is not None:
            if self._journal is not None:
                self._journal.note_taken()
            taken = events.DeliveryTaken(time.monotonic(), self._in_hand.batch_id, self._unpackable)
            self._in_hand = None
            self._coordinator.post(taken)
        delivery = self._next_delivery()
        if isinstance(delivery, End):
            if self._journal is not None:
                self._journal.note_taken(is_last=True)
            self._coordinator.outlet.put(delivery)  # for whoever else may wait
            return None
        self._in_hand = delivery
        notes = self._journal
        values: list[Any] = []
        self._unpackable = ()
        if unpack or (notes is not None and notes.keeps_values):
            values, self._unpackable = unpacked(delivery, self.backend.codec, self._plan, self._coordinator.failures)
        if notes is not None:
            values = notes.admit(delivery, values, self._unpackable)
        return values if unpack else []

    def take_all(self, values: list[Any], *, collect: bool) -> None:
        """Take results until there are no more, and add them to ``values`` if they are to be kept."""
        # A function of its own, because Python 3.13 leaves the jump back to the top of a loop out of the try around it:
        # what a signal handler of the program raises just there would leave the run to itself.
        self._coordinator.outlet.is_patient = self._journal is None and not self.in_caller
        while (batch := self.next_batch(unpack=collect)) is not None:
            values += batch

    def _next_delivery(self) -> Delivery | End:
        if not self.backend.in_caller:
            return self._coordinator.outlet.get()
        while (delivery := self._coordinator.outlet.get_nowait()) is None:
            if self._coordinator.is_over:
                self._see_off_inline()
            else:
                self._step_inline()
        return delivery

    def _step_inline(self) -> None:
        """Take one step of the loop in this thread; whoever closes the engine from another one takes turns with it."""
        with self._stepping:
            self._stepper = threading.current_thread()
            try:
                if not self._coordinator.is_over:
                    self._coordinator.step()
            except Exception as error:  # noqa: BLE001 - becomes the run's error
                self._coordinator.give_up(error)
            finally:
                self._stepper = None

    def _see_off_inline(self) -> None:
        with self._stepping:
            self._stepper = threading.current_thread()
            try:
                if not self._has_seen_off:
                    self._has_seen_off = True
                    self._coordinator.see_off(keep=False, grace_s=self._options.grace_s)
            finally:
                self._stepper = None

    def conclude(self) -> Ok | Err:
        """Wait for the end, close the books and return how the run ended, without its values; idempotent.

        What was handed over and not taken by now is left behind.  May be called by another thread than the consumer's,
        which then meets the end as well.

        Raises:
            KeyboardInterrupt, SystemExit: SIGINT or SIGTERM came meanwhile, where nobody watches for them; the run is
                concluded all the same.
        """
        me = threading.current_thread()
        if me in (self._starter, self._stepper, self._concluder) or os.getpid() != self._pid:
            # A stage closes its own engine, or the collector or a signal handler comes in between, or this is a forked
            # child's copy: whoever is at it already, here or in the parent, concludes the run.
            return Err("closed from within", None, Report(ok=False))
        if me is self._thread or self._is_of_run(me):
            # The collector cleans up somebody's abandoned iterator on a thread of ours, which cannot wait for itself.
            self._is_abandoned = True
            return Err("abandoned", None, Report(ok=False))
        with signals_held(self.hurry), self._concluding:
            return self._conclude()

    def _is_of_run(self, thread: threading.Thread) -> bool:
        journaling = () if self._journal is None else self._journal.threads
        return thread in self._feed.threads or thread in self._handlers.threads or thread in journaling

    def _conclude(self) -> Ok | Err:
        """Conclude the run, once; the caller holds the lock for that."""
        self._concluder = threading.current_thread()
        try:
            self._await_end()
            return self._settle_up() if self.result is None else self.result
        finally:
            self._concluder = None

    def _settle_up(self) -> Ok | Err:
        """Refuse what nobody takes any more, close the books, and tell whoever made this run."""
        self._refuse(self._in_hand)
        self._in_hand = None
        while isinstance(delivery := self._coordinator.outlet.get_nowait(), Delivery):
            self._refuse(delivery)
        self._coordinator.outlet.put(End())  # for a consumer that waits meanwhile, in a thread of its own
        self.result = result = self._close_books()
        LIVE.discard(self)
        if self._teller is not None:
            self._teller.end(result)
        try:
            self._on_end(self)
        except Exception as error:  # noqa: BLE001 - becomes the run's error: run() raises for none
            self.result = result = Err(summarize(error), error, result.report)
        return result

    def _await_end(self) -> None:
        if self.backend.in_caller:
            while not self._coordinator.is_over:
                self._step_inline()
            self._see_off_inline()
        elif threading.current_thread() is not self._thread:
            self._has_started.wait()  # whoever closes the engine may be here before the run has begun
            if self._thread.ident is not None:
                self._thread.join()

    def _refuse(self, delivery: Delivery | None) -> None:
        if delivery is not None:
            self._coordinator.post(events.DeliveryRefused(time.monotonic(), delivery.batch_id))

    def _close_books(self) -> Ok | Err:
        coordinator, scheduler = self._coordinator, self._scheduler
        settled: list[SettleItems] = []
        try:
            coordinator.settle_mail()
            settled = scheduler.close_books()
        except Exception as error:  # noqa: BLE001 - becomes the run's error
            coordinator.crash = coordinator.crash or error
        coordinator.failures.tell_held_back()
        cause = coordinator.cause()
        reason = scheduler.reason
        if coordinator.crash is not None:
            reason = explained(coordinator.crash)
        if self._journal is not None:
            problem = self._journal.finish(reason or "ok", settled)
            if problem is not None and reason is None:
                cause, reason = problem, str(problem)
        report = Report(
            errors=coordinator.failures.item_errors(),
            snapshot=self.snapshot(),
            duration_s=time.monotonic() - self._began_at,
            ok=reason is None,
            profile=replace(scheduler.timesheet.profile(), is_inline=self.in_caller),
        )
        return Ok(report) if reason is None else Err(reason, cause, report)
