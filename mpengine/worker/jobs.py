"""A batch in a worker, on its way through a chain.

J1. Results are reported about ``REPORT_S`` after the last report, so that they flow and that little is done twice when
    a worker dies; half as long after that at most, where the whole batch is known to be through by then.  Each report
    wakes the parent; so once a worker has been at it for some time, results that leave the pipeline and are light are
    reported about ``LONG_REPORT_S`` after the last ones.
J2. Items that cost less than ``QUICK_S`` run in one tight loop (``slices``), a slice of about ``SLICE_S`` at a time;
    others one by one, each named in the slot before it runs.  A batch that a worker has died of always runs like that,
    and reports each item by itself: packing results runs user code too, which may be what kills.
J3. The cancel flag is looked at between items, or between slices.
J4. What takes much longer than it was thought to is not kept: once a job has had ``KEEP_S``, what it has not begun goes
    back to the coordinator, and to whoever is free.  (But where several items, or a part of one, have begun.)
J5. A chain that fans out is put aside when it has given what it was asked for, its generator as it stands; the worker
    is free for other work until it is told to go on.
"""

from __future__ import annotations

import time

from mpengine.bounded import bounded_repr
from mpengine.ipc.codec import Broken, Salvaged
from mpengine.records import dataclass
from mpengine.stages import SKIP
from mpengine.worker.chain import UNREADABLE, Killed, Stopped, attempt
from mpengine.worker.groups import call_group
from mpengine.worker.reports import DONE, GIVEN_BACK, MORE, SUSPENDED, Report, Tally, pass_on
from mpengine.worker.slices import Slicer
from mpengine.worker.streams import Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from mpengine.worker.chain import Chain, Site
    from mpengine.worker.coroutines import Coroutines
    from mpengine.worker.groups import Outcome

REPORT_S = 0.1
LONG_REPORT_S = 0.25
KEEP_S = 0.5
QUICK_S = 20e-6
SLICE_S = 1e-3


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a payload that a job is to run; see ``scheduler.commands.Dispatch``.

    Attributes:
        lo: first item.
        hi: one past the last item.
        skip: results of the first item that are not wanted again.
        careful: name each item before it runs (J2).
        attempted: a stage, and how many attempts the first item has had there with workers that died.
    """

    lo: int
    hi: int
    skip: int = 0
    careful: bool = False
    attempted: tuple[int, int] = (0, 0)


class Job:
    """A window of a batch, on its way.

    Args:
        chain: what to run.
        items: the whole payload's items; a list or a range.
        window: which of them.
        site: where.

    Attributes:
        careful: whether each item is named before it runs (J2).
        gives_back: whether anybody takes back what it has not begun (J4).
        is_patient: whether nobody waits for its results to work on (J1).
    """

    gives_back = False
    is_patient = False

    def __init__(self, chain: Chain, items: list[Any], window: Window, site: Site) -> None:
        """Begin with nothing done."""
        self._had_s = 0.0
        self._chain = chain
        self._watches = chain.watches
        self._items = items
        self._window = window
        self._position = window.lo
        self._hi = window.hi
        self._skip = window.skip
        self.careful = window.careful
        self._site = site
        is_told_apart = window.careful or site.capture is not None
        self._quick = chain.is_plain and not (is_told_apart or isinstance(items, Salvaged))
        self._stream: Stream | None = None
        self._coroutines: Coroutines | None = None
        self._waiting: Iterator[tuple[int, Any, int]] = iter(())
        head = chain.steps[0]
        if head.is_async and not head.fans_out:
            from mpengine.worker.coroutines import Coroutines

            self._coroutines = Coroutines(head, site, is_alone=window.careful)
            self._waiting = (
                (place, items[place], self._attempts(place, 0))
                for place in range(window.lo, window.hi)
                if type(items[place]) is not Broken
            )

    def advance(self, budget: int) -> Report:
        """Go on until the batch is done, something is to be reported, or ``budget`` results are there."""
        report = Report([Tally() for _ in self._chain.steps])
        began = time.perf_counter()
        until = began + (max(REPORT_S, min(LONG_REPORT_S, self._chain.worked_s)) if self.is_patient else REPORT_S)
        before = self._position
        try:
            self._go_on(report, until, budget)
        except Killed as killed:
            report.kill = killed.reason
        except Stopped:
            report.abandoned = True
        finally:
            passed_s = time.perf_counter() - began
            self._had_s += passed_s
            self._chain.worked_s += passed_s
            self._learn(passed_s, self._position - before)
        report.consumed = self._position - before
        if self._watches is not None:
            report.timing = (began, began + passed_s, tuple([watch.take() for watch in self._watches]))
        if self._position >= self._hi and self._stream is None:
            report.progress = DONE
        elif self._can_give_back and report.consumed:
            report.progress = GIVEN_BACK
        if self._stream is not None:
            report.emitted = self._stream.emitted
        return report

    @property
    def _can_give_back(self) -> bool:
        """Whether the rest is to go back (J4)."""
        if not self.gives_back or self._had_s < KEEP_S or self.careful:
            return False
        return self._coroutines is None and not self._chain.fans_out

    def close(self) -> None:
        """Close what was put aside, or is under way."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self._coroutines is not None:
            self._coroutines.close()

    def _go_on(self, report: Report, until: float, budget: int) -> None:
        while self._position < self._hi:
            if self._site.is_cancelled():
                raise Stopped
            failed = len(report.failures)
            if self._quick and self._chain.item_s is not None and self._chain.item_s < QUICK_S:
                self._run_slice(report)
            elif self._chain.fans_out:
                goes_on = self._run_stream(report, until, budget)
                self._keep_output(report, failed)
                if not goes_on:
                    return
            elif self._coroutines is not None:
                self._run_coroutines(report, until, self._coroutines)
            elif self._chain.steps[0].batch is not None:
                self._run_group(report, self._chain.steps[0].batch)
            else:
                self._run_item(report)
            self._keep_output(report, failed)
            if self.careful:
                return
            late_s = time.perf_counter() - until
            if late_s >= 0 and not self._is_nearly_through(late_s):
                return

    def _keep_output(self, report: Report, failed: int) -> None:
        """Let what was printed go its way, and keep the end of it with the failures after the first so many."""
        capture = self._site.capture
        if capture is None:
            return
        printed = capture.take()
        if printed and (self._coroutines is None or self._chain.steps[0].concurrency == 1 or self.careful):
            report.failures[failed:] = [(*failure[:-1], printed) for failure in report.failures[failed:]]

    def _is_nearly_through(self, late_s: float) -> bool:
        """Whether the rest is as good as done, where a report has been due for so long (J1)."""
        item_s = self._chain.item_s
        return item_s is not None and late_s + item_s * (self._hi - self._position) < REPORT_S / 2

    def _learn(self, seconds: float, items: int) -> None:
        if items:
            item_s = seconds / items
            known = self._chain.item_s
            self._chain.item_s = item_s if known is None else (known + item_s) / 2

    # ------------------------------------------------------------------ one by one

    def _run_item(self, report: Report) -> None:
        position = self._position
        self._begin_item(position)
        value, went_through = self._through(position, report, len(self._chain.steps))
        self._position += 1
        if went_through:
            report.add(value, position)

    def _begin_item(self, position: int) -> None:
        self._site.slot.begin_item(position, 0)
        # A worker has died of this one or of its mates, or may be killed for it: leave word of what it is.
        if self.careful or self._chain.is_timed:
            self._site.slot.describe(bounded_repr(self._items[position]))

    def _through(self, position: int, report: Report, steps: int) -> tuple[Any, bool]:
        """Take an item through the first ``steps`` stages; return what came out, and whether anything did."""
        value = self._items[position]
        if type(value) is Broken:
            report.fail(position, 0, value.error, UNREADABLE, 1)
            return None, False
        for stage in range(steps):
            step, tally, item = self._chain.steps[stage], report.tallies[stage], value
            if stage:
                self._site.slot.begin_stage(stage)
            before = self._attempts(position, stage)
            began = time.perf_counter()
            try:
                value, error, attempts = attempt(step, item, self._site, stage=stage, attempts=before)
            except (Killed, Stopped):
                pass_on(report, stage, -1)  # the item stays where it is, so no report may say that it went on
                raise
            passed_s = time.perf_counter() - began
            tally.busy_s += passed_s
            if self._watches is not None:
                self._watches[stage].note(position, passed_s)
            tally.retried += attempts - before - 1
            if error is not None:
                report.fail(position, stage, error, item, attempts)
                return None, False
            if value is SKIP:
                tally.skipped += 1
                return None, False
            tally.succeeded += 1
        return value, True

    def _attempts(self, position: int, stage: int) -> int:
        """Return how many attempts at an item ended with workers that died."""
        place, attempts = self._window.attempted
        return attempts if position == self._window.lo and stage == place else 0

    # ------------------------------------------------------------------ a list at a time, or several at once

    def _run_group(self, report: Report, size: int) -> None:
        """Run the next items through a stage with ``batch=``; a careful job gives it lists of one."""
        start = self._position
        stop = min(self._hi, start + (1 if self.careful else size))
        if self.careful:
            self._begin_item(start)
        places = [place for place in range(start, stop) if type(self._items[place]) is not Broken]
        began = time.perf_counter()
        outcomes: dict[int, Outcome] = {}
        if places:
            items = [self._items[place] for place in places]
            found, retried = call_group(self._chain.steps[0], items, self._site, self._attempts(start, 0))
            report.tallies[0].retried += retried
            outcomes = dict(zip(places, found, strict=True))
        self._note_together(report, stop - start, time.perf_counter() - began)
        for place in range(start, stop):
            self._settle(report, place, outcomes.get(place))
        self._position = stop

    def _run_coroutines(self, report: Report, until: float, coroutines: Coroutines) -> None:
        """Run the next items through an ``async def``."""
        if type(self._items[self._position]) is Broken:
            self._settle(report, self._position, None)
            self._position += 1
            return
        if self.careful:
            self._begin_item(self._position)
        began = time.perf_counter()
        outcomes = coroutines.go_on(self._waiting, self._position, until)
        self._note_together(report, len(outcomes), time.perf_counter() - began)
        for outcome in outcomes:
            report.tallies[0].retried += outcome[2] - 1 - self._attempts(self._position, 0)
            self._settle(report, self._position, outcome)
            self._position += 1

    def _note_together(self, report: Report, items: int, seconds: float) -> None:
        """Book the time that the items of a chain of one stage have taken together."""
        report.tallies[0].busy_s += seconds
        if self._watches is not None:
            self._watches[0].note_mean(items, seconds)

    def _settle(self, report: Report, position: int, outcome: Outcome | None) -> None:
        """Book what became of an item in a chain of one stage; None: it could not be unpickled."""
        value, error, attempts = outcome or (None, self._items[position].error, 1)
        tally = report.tallies[0]
        if error is not None:
            item = self._items[position]
            report.fail(position, 0, error, UNREADABLE if type(item) is Broken else item, attempts)
        elif value is SKIP:
            tally.skipped += 1
        else:
            tally.succeeded += 1
            report.add(value, position)

    # ------------------------------------------------------------------ a slice at a time

    def _run_slice(self, report: Report) -> None:
        count = max(1, int(SLICE_S / max(self._chain.item_s or 0.0, 1e-9)))
        stop = min(self._hi, self._position + count)
        # All of it is kept apart until the slice is through: a KillSwitch leaves the slice out of the report.
        if self._chain.slicer is None:
            self._chain.slicer = Slicer(self._chain.steps)
        places = range(self._position, stop)
        items = self._items if len(places) == len(self._items) else self._items[places.start : stop]
        sliced = self._chain.slicer.run(items, places, self._site)
        for whole, part in zip(report.tallies, sliced.tallies, strict=True):
            whole.succeeded += part.succeeded
            whole.failed += part.failed
            whole.skipped += part.skipped
            whole.retried += part.retried
            whole.busy_s += part.busy_s
        if self._watches is not None:
            for watch, part in zip(self._watches, sliced.tallies, strict=True):
                watch.note_mean(part.succeeded + part.failed + part.skipped, part.busy_s)
        report.failures += sliced.failures
        report.add_all(sliced.values, sliced.places)
        self._position = stop

    # ------------------------------------------------------------------ one to many

    def _run_stream(self, report: Report, until: float, budget: int) -> bool:
        """Run the item whose turn it is; return whether it came to its end."""
        position, last = self._position, len(self._chain.steps) - 1
        stream = self._stream
        if stream is None:
            self._begin_item(position)
            value, went_through = self._through(position, report, last)
            if not went_through:
                self._position += 1
                self._skip = 0
                return len(report.results) < budget
            pass_on(report, last, -1)  # counted when the item is at its end, which may be reports later
            attempts = self._attempts(position, last)
            stream = self._stream = Stream(
                self._chain.steps[last], value, self._site, skip=self._skip, attempts=attempts
            )
            self._skip = 0
        else:
            self._site.slot.begin_item(position, last)
        if last:
            self._site.slot.begin_stage(last)
        began = time.perf_counter()
        try:
            ended = stream.fill(report, position, last, until, budget)
        finally:
            passed_s = time.perf_counter() - began
            report.tallies[last].busy_s += passed_s
            stream.busy_s += passed_s
        if ended and self._watches is not None:
            self._watches[last].note(position, stream.busy_s)
        if not ended:
            report.progress = SUSPENDED if len(report.results) >= budget else MORE
            return False
        pass_on(report, last, 1)
        self._stream = None
        self._position += 1
        if len(report.results) >= budget and self._position < self._hi:
            report.progress = SUSPENDED
            return False
        return True

    @property
    def fans_out(self) -> bool:
        """Whether one item may become many."""
        return self._chain.fans_out

    def item(self, position: int) -> object:
        """Return the item that a result came from, as the chain was given it."""
        return self._items[position]

    def is_at(self, position: int) -> bool:
        """Whether the item at ``position`` is being streamed and not at its end."""
        return self._stream is not None and position == self._position

    def drop_stream(self, report: Report) -> None:
        """Give up the item that is being streamed: something that it gave will not travel."""
        self.close()
        pass_on(report, len(report.tallies) - 1, 1)
        self._position += 1
        report.consumed += 1
        report.emitted = 0
        if self._position >= self._hi:
            report.progress = DONE
