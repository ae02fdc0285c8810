"""A batch in a worker, on its way through a chain.

J1. Results are reported no later than ``REPORT_S`` after the last report, so that they flow and that little is done
    twice when a worker dies.
J2. Items that cost less than ``QUICK_S`` run stage by stage in one tight loop, a slice of about ``SLICE_S`` at a time;
    others one by one, each named in the slot before it runs.  A batch that a worker has died of always runs like that,
    and reports each item by itself: packing results runs user code too, which may be what kills.
J3. The cancel flag is looked at between items, or between slices.
J4. A chain that fans out is put aside when it has given what it was asked for, its generator as it stands; the worker
    is free for other work until it is told to go on.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from mpengine.ipc.codec import Broken, Salvaged
from mpengine.results import bounded_repr
from mpengine.stages import SKIP, KillSwitch
from mpengine.worker.chain import LEAVING, UNREADABLE, Fields, Killed, attempt, failure_of
from mpengine.worker.slices import Tally, map_slice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mpengine.worker.chain import Chain, Step

REPORT_S = 0.05
QUICK_S = 20e-6
SLICE_S = 1e-3

DONE, MORE, SUSPENDED = "done", "more", "suspended"


class Naming(Protocol):
    """Where a job names what it is at: a slot of the control block."""

    def begin_item(self, position: int, stage: int) -> None:
        """Name an item."""

    def begin_stage(self, stage: int) -> None:
        """Name the stage that it is in."""

    def describe(self, text: str) -> None:
        """Say what the item is."""


@dataclass(slots=True)
class Report:
    """What a job has done since its last report; see ``scheduler.events.BatchReturned``."""

    tallies: list[Tally]
    results: list[Any] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    failures: list[Fields] = field(default_factory=list)
    consumed: int = 0
    emitted: int = 0
    progress: str = MORE
    kill: str | None = None
    abandoned: bool = False

    def fail(self, position: int, stage: int, error: BaseException, item: object, attempts: int) -> None:
        """Note that an item failed for good."""
        self.tallies[stage].failed += 1
        self.failures.append(failure_of(position, stage, error, item, attempts))


class Job:
    """Items ``position`` to ``hi`` of a batch.

    Args:
        chain: what to run.
        items: the whole payload's items.
        lo: first item.
        hi: one past the last item.
        skip: results of the first item that are not wanted again.
        careful: name each item before it runs (J2).
        slot: where.
        is_cancelled: whether to stop (J3).
    """

    def __init__(  # noqa: PLR0913 - mirrors the message that makes it
        self, chain: Chain, items: list[Any], lo: int, hi: int, *,
        skip: int, careful: bool, slot: Naming, is_cancelled: Callable[[], bool],
    ) -> None:  # fmt: skip
        """Begin with nothing done."""
        self._chain = chain
        self._items = items
        self._position = lo
        self._hi = hi
        self._skip = skip
        self.careful = careful
        self._slot = slot
        self._is_cancelled = is_cancelled
        self._quick = not (careful or chain.fans_out or isinstance(items, Salvaged))
        self._stream: _Stream | None = None

    def advance(self, budget: int) -> Report:
        """Go on until the batch is done, something is to be reported, or ``budget`` results are there."""
        report = Report([Tally() for _ in self._chain.steps])
        began = time.perf_counter()
        until = began + REPORT_S
        before = self._position
        try:
            self._go_on(report, until, budget)
        except Killed as killed:
            report.kill = killed.reason
        finally:
            self._learn(time.perf_counter() - began, self._position - before)
        report.consumed = self._position - before
        if self._position >= self._hi and self._stream is None:
            report.progress = DONE
        if self._stream is not None:
            report.emitted = self._stream.emitted
        return report

    def close(self) -> None:
        """Close what was put aside."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _go_on(self, report: Report, until: float, budget: int) -> None:
        while self._position < self._hi:
            if self._is_cancelled():
                report.abandoned = True
                return
            if self._quick and self._chain.item_s is not None and self._chain.item_s < QUICK_S:
                self._run_slice(report)
            elif self._chain.fans_out:
                if not self._run_stream(report, until, budget):
                    return
            else:
                self._run_item(report)
            if self.careful or time.perf_counter() >= until:
                return

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
            report.results.append(value)
            report.positions.append(position)

    def _begin_item(self, position: int) -> None:
        self._slot.begin_item(position, 0)
        if self.careful:  # a worker has died of this one or of its mates: leave word of what it is
            self._slot.describe(bounded_repr(self._items[position]))

    def _through(self, position: int, report: Report, steps: int) -> tuple[Any, bool]:
        """Take an item through the first ``steps`` stages; return what came out, and whether anything did."""
        value = self._items[position]
        if type(value) is Broken:
            report.fail(position, 0, value.error, UNREADABLE, 1)
            return None, False
        for stage in range(steps):
            step, tally, item = self._chain.steps[stage], report.tallies[stage], value
            if stage:
                self._slot.begin_stage(stage)
            began = time.perf_counter()
            try:
                value, error, attempts = attempt(step, item)
            except Killed:
                _pass_on(report, stage, -1)  # the item stays where it is, so no report may say that it went on
                raise
            tally.busy_s += time.perf_counter() - began
            tally.retried += attempts - 1
            if error is not None:
                report.fail(position, stage, error, item, attempts)
                return None, False
            if value is SKIP:
                tally.skipped += 1
                return None, False
            tally.succeeded += 1
        return value, True

    # ------------------------------------------------------------------ a slice at a time

    def _run_slice(self, report: Report) -> None:
        count = max(1, int(SLICE_S / max(self._chain.item_s or 0.0, 1e-9)))
        stop = min(self._hi, self._position + count)
        values = self._items[self._position : stop]
        positions: list[int] = list(range(self._position, stop))
        found: list[
            Fields
        ] = []  # kept apart until the slice is through: a KillSwitch leaves the slice out of the report
        tallies = [Tally() for _ in self._chain.steps]
        for stage, step in enumerate(self._chain.steps):
            began = time.perf_counter()
            values = map_slice(step, stage, values, positions, tallies[stage], found)
            tallies[stage].busy_s += time.perf_counter() - began
        for whole, part in zip(report.tallies, tallies, strict=True):
            whole.succeeded += part.succeeded
            whole.failed += part.failed
            whole.skipped += part.skipped
            whole.retried += part.retried
            whole.busy_s += part.busy_s
        report.failures += found
        report.results += values
        report.positions += positions
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
            _pass_on(report, last, -1)  # counted when the item is at its end, which may be reports later
            stream = self._stream = _Stream(self._chain.steps[last], value, self._skip)
            self._skip = 0
        else:
            self._slot.begin_item(position, last)
        if last:
            self._slot.begin_stage(last)
        began = time.perf_counter()
        try:
            ended = stream.fill(report, position, last, until, budget)
        finally:
            report.tallies[last].busy_s += time.perf_counter() - began
        if not ended:
            report.progress = SUSPENDED if len(report.results) >= budget else MORE
            return False
        _pass_on(report, last, 1)
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
        _pass_on(report, len(report.tallies) - 1, 1)
        self._position += 1
        report.consumed += 1
        report.emitted = 0
        if self._position >= self._hi:
            report.progress = DONE


class _Stream:
    """A generator stage's work on one item."""

    def __init__(self, step: Step, item: object, skip: int) -> None:
        """Begin with nothing given; the first ``skip`` results are not wanted."""
        self._step = step
        self._item = item
        self._skip = skip
        self._attempts = 0
        self._given = 0
        self._iterator: Iterator[Any] | None = None

    @property
    def emitted(self) -> int:
        """Results that were sent so far, by this worker or by one that died before it."""
        return max(self._given, self._skip)

    def fill(self, report: Report, position: int, stage: int, until: float, budget: int) -> bool:
        """Add results to ``report`` until it has enough or the time is up; return whether the item is at its end."""
        tally = report.tallies[stage]
        while True:
            try:
                if self._take(report, position, until, budget):
                    return False
            except KillSwitch as switch:
                raise Killed(switch.reason) from None
            except (Killed, *LEAVING):
                raise
            except BaseException as error:  # noqa: BLE001 - that is the item's error, and goes back as such
                if not self._step.retry.is_worth_it(error, self._attempts):
                    report.fail(position, stage, error, self._item, self._attempts)
                    return True
                tally.retried += 1
                self._skip = self.emitted  # another attempt starts afresh; what was sent is not sent again
                self._given = 0
                self._iterator = None
            else:
                tally.succeeded += 1
                return True

    def _take(self, report: Report, position: int, until: float, budget: int) -> bool:
        """Take results; return whether there may be more."""
        if self._iterator is None:
            self._attempts += 1
            self._iterator = iter(self._step.call(self._item))
        for value in self._iterator:
            if issubclass(type(value), KillSwitch):
                raise Killed(value.reason)
            if value is not SKIP:
                self._given += 1
                if self._given > self._skip:
                    report.results.append(value)
                    report.positions.append(position)
            if len(report.results) >= budget or time.perf_counter() >= until:
                return True
        return False

    def close(self) -> None:
        """Close the generator; what that raises is of no consequence any more."""
        closer = getattr(self._iterator, "close", None)
        if closer is not None:
            with contextlib.suppress(Exception):  # a generator may yield or raise while it is closed
                closer()


def _pass_on(report: Report, stage: int, items: int) -> None:
    """Count ``items`` as having come through all stages before ``stage``."""
    for tally in report.tallies[:stage]:
        tally.succeeded += items
