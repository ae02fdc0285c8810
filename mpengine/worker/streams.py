"""A generator stage's work on one item: streamed, put aside when nobody has room, and begun afresh without a repeat.

What an item has given is counted across attempts and across workers: an attempt that begins afresh gives the same
results again, and those that were sent are left out.  The time that a stream lies aside does not count for its timeout.
"""

from __future__ import annotations

import contextlib
import time

from mpengine.stages import SKIP, KillSwitch
from mpengine.worker.chain import LEAVING, Killed, Stopped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from mpengine.worker.chain import Site, Step
    from mpengine.worker.reports import Report


class Stream:
    """One item, on its way through a generator stage.

    Args:
        step: the stage.
        item: what it was given.
        site: where.
        skip: so many results were sent already, and are not wanted.
        attempts: so many attempts ended with workers that died.
    """

    def __init__(self, step: Step, item: object, site: Site, *, skip: int, attempts: int) -> None:
        """Begin with nothing given."""
        self._step = step
        self._item = item
        self._site = site
        self._skip = skip
        self._attempts = attempts
        self._spent_s = 0.0  # on this attempt
        self._given = 0
        self.busy_s = 0.0  # in all, for whoever wants to know how long the item took
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
                if self._take_in_time(report, position, stage, until, budget):
                    return False
            except KillSwitch as switch:
                raise Killed(switch.reason) from None
            except (Killed, Stopped, *LEAVING):
                raise
            except BaseException as error:  # noqa: BLE001 - that is the item's error, and goes back as such
                if not self._step.retry.is_worth_it(error, self._attempts):
                    report.fail(position, stage, error, self._item, self._attempts)
                    return True
                self._site.wait_for_retry(self._step.retry, self._attempts)
                tally.retried += 1
                self._skip = self.emitted  # another attempt starts afresh; what was sent is not sent again
                self._given = 0
                self._iterator = None
            else:
                tally.succeeded += 1
                return True

    def _take_in_time(self, report: Report, position: int, stage: int, until: float, budget: int) -> bool:
        """Take results, under the stage's timeout if it has one."""
        if self._iterator is None:
            self._attempts += 1
            self._spent_s = 0.0
        if self._step.timeout is None:
            return self._take(report, position, until, budget)
        began = time.perf_counter()
        self._site.slot.begin_attempt(stage, self._attempts, max(0.0, self._step.timeout - self._spent_s))
        try:
            may_be_more = self._take(report, position, until, budget)
        except (Killed, Stopped, KillSwitch, *LEAVING):
            raise
        except BaseException:
            self._end_attempt(began)
            raise
        self._end_attempt(began)
        return may_be_more

    def _end_attempt(self, began: float) -> None:
        """Note that nothing is timed any more.

        Raises:
            ItemTimeoutError: it took too long.
            Stopped: the same, and the run was cancelled before this process was ended for it.
        """
        self._spent_s += time.perf_counter() - began
        if self._site.slot.end_attempt():
            error = self._site.late(self._step)
            self.close()
            raise error

    def _take(self, report: Report, position: int, until: float, budget: int) -> bool:
        """Take results; return whether there may be more."""
        if self._iterator is None:
            self._iterator = self._begin()
        for value in self._iterator:
            if issubclass(type(value), KillSwitch):
                raise Killed(value.reason)
            if value is not SKIP:
                self._given += 1
                if self._given > self._skip:
                    report.add(value, position)
            if len(report.results) >= budget or time.perf_counter() >= until:
                return True
        return False

    def _begin(self) -> Iterator[Any]:
        given = self._step.call(self._item)
        if not self._step.is_async:
            return iter(given)
        from mpengine.worker.coroutines import drain

        return drain(given, self._step.loop, self._site)

    def close(self) -> None:
        """Close the generator; what that raises is of no consequence any more."""
        closer = getattr(self._iterator, "close", None)
        if closer is not None:
            with contextlib.suppress(BaseException):  # a generator may yield, raise or exit while it is closed
                closer()
