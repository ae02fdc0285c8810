"""Cheap items, a slice at a time: stage by stage, or through all stages at once; who raises is found by counting.

Functions in Python are called from a loop written for the chain (``loops``), all stages for an item; of several
stages that takes a third less than a loop for each.  But one slice of ``SAMPLE`` goes stage by stage, in a loop in C
for each, and what these take tells how the time of the other slices is to be divided among the stages.  One stage alone
goes like that where ``map`` is quicker than a loop: when its function is not in Python, or Python is 3.11.
"""

from __future__ import annotations

import sys
import time
import types
from itertools import islice
from operator import length_hint

from mpengine.records import dataclass, field
from mpengine.stages import SKIP, KillSwitch
from mpengine.worker.chain import LEAVING, Fields, Killed, attempt, failure_of
from mpengine.worker.loops import NOTHING, Gone, Loop
from mpengine.worker.reports import Tally

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from mpengine.worker.chain import Site, Step

Places = list[int] | range

SAMPLE = 16
LOOPS = sys.version_info >= (3, 12)
"""Whether a loop in Python calls a function in Python sooner than ``map`` does."""


@dataclass(slots=True)
class Sliced:
    """What became of a slice.

    Attributes:
        tallies: one for each stage.
        values: what came out, or goes on.
        places: of the items that this came of.
        failures: of those that failed.
    """

    tallies: list[Tally]
    values: Any
    places: Places
    failures: list[Fields] = field(default_factory=list)


class Slicer:
    """Runs slices of batches through a chain.

    Args:
        steps: the chain's stages.

    Attributes:
        steps: the same.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        """Know nothing of the stages' times."""
        self.steps = steps
        self._loop: Loop | None = None
        self._slices = 0
        self._goes_by_stage = len(steps) == 1 and not (LOOPS and type(steps[0].function) is types.FunctionType)
        self._shares = [1 / len(steps)] * len(steps)

    def run(self, items: list[Any] | range, places: range, site: Site) -> Sliced:
        """Take a slice through the chain.

        Args:
            items: the items.
            places: where they are in the batch.
            site: where to run them.

        Raises:
            Killed: a stage gave or raised a ``KillSwitch``.
        """
        sliced = Sliced([Tally() for _ in self.steps], items, places)
        if self._goes_by_stage or (len(self.steps) > 1 and self._slices % SAMPLE == 0):
            self._by_stage(sliced, site)
        else:
            self._at_once(sliced, site)
        self._slices += 1
        return sliced

    def _by_stage(self, sliced: Sliced, site: Site) -> None:
        for stage, (step, tally) in enumerate(zip(self.steps, sliced.tallies, strict=True)):
            began = time.perf_counter()
            sliced.values, sliced.places = map_slice(
                step, stage, sliced.values, sliced.places, tally, sliced.failures, site
            )
            tally.busy_s = time.perf_counter() - began
        took_s = sum(tally.busy_s for tally in sliced.tallies)
        if took_s > 0:
            known = self._shares if self._slices else [tally.busy_s / took_s for tally in sliced.tallies]
            self._shares = [
                (share + tally.busy_s / took_s) / 2 for share, tally in zip(known, sliced.tallies, strict=True)
            ]

    def _at_once(self, sliced: Sliced, site: Site) -> None:
        began = time.perf_counter()
        if self._loop is None:
            self._loop = Loop(self.steps)
        all_items = sliced.values
        items = iter(all_items)
        results: list[Any] = []
        have_gone = False
        while True:
            some_have, error, stage, value = self._loop.run(items, results)
            have_gone = have_gone or some_have
            place = len(results)
            if error is None or place == len(all_items):
                break
            if len(all_items) - length_hint(items) == place:  # a signal's handler has raised between two items
                next(items)
                stage, value = 0, NOTHING
            result = self._go_on(sliced, place, stage, all_items[place] if value is NOTHING else value, error, site)
            have_gone = have_gone or type(result) is Gone
            results.append(result)
        if have_gone:
            _leave_out_gone(sliced, results)
        else:
            sliced.values = results
        took_s = time.perf_counter() - began
        entering = len(all_items)
        for tally, share in zip(sliced.tallies, self._shares, strict=True):
            tally.succeeded = entering = entering - tally.failed - tally.skipped
            tally.busy_s = took_s * share

    def _go_on(
        self, sliced: Sliced, place: int, stage: int, value: Any, error: BaseException | None, site: Site
    ) -> Any:  # fmt: skip
        """Take an item on from the stage that it has failed in, as far as it gets."""
        before = 1
        for number in range(stage, len(self.steps)):
            step, tally, item = self.steps[number], sliced.tallies[number], value
            value, error, attempts = attempt(step, item, site, stage=number, attempts=before, error=error)
            tally.retried += attempts - 1
            if error is not None:
                tally.failed += 1
                sliced.failures.append(failure_of(sliced.places[place], number, error, item, attempts))
                return Gone(None)
            if value is SKIP:
                return Gone(number)
            before = 0
        return value


def _leave_out_gone(sliced: Sliced, results: list[Any]) -> None:
    """Keep the results that are some, and count what was skipped."""
    kept = []
    for place, value in enumerate(results):
        if type(value) is not Gone:
            kept.append(place)
        elif value.stage is not None:
            sliced.tallies[value.stage].skipped += 1
    sliced.values = [results[place] for place in kept]
    sliced.places = [sliced.places[place] for place in kept]


def map_slice(  # noqa: PLR0913, PLR0917 - one stage of one slice
    step: Step, stage: int, values: Any, positions: Places, tally: Tally, found: list[Fields], site: Site
) -> tuple[list[Any], Places]:  # fmt: skip
    """Run one stage over a slice; return the values that go on, and the places of their items.

    ``list.extend`` keeps what came before an exception, so its length tells which item raised; a ``StopIteration`` out
    of user code ends it early without a word, which the length tells too.
    """
    results: list[Any] = []
    start = 0
    while start < len(values):
        before = len(results)
        error: BaseException | None = None
        try:
            results.extend(step.map(islice(values, start, None) if start else values))
        except KillSwitch as switch:
            raise Killed(switch.reason) from None
        except LEAVING:
            raise
        except BaseException as raised:  # noqa: BLE001 - the item's error, unless a retry mends it
            error = raised
        start += len(results) - before
        if start == len(values):
            break
        item = values[start]
        if error is None:
            error = StopIteration("raised by the stage's function")
        value, error, attempts = attempt(step, item, site, stage=stage, attempts=1, error=error)
        tally.retried += attempts - 1
        if error is None:
            results.append(value)
        else:
            tally.failed += 1
            found.append(failure_of(positions[len(results)], stage, error, item, attempts))
            if type(positions) is range:
                positions = [*positions]
            del positions[len(results)]
        start += 1
    results, kept = _without_skipped(results)
    if kept is not None:
        tally.skipped += len(positions) - len(kept)
        positions = [positions[place] for place in kept]
    tally.succeeded += len(results)
    return results, positions


def _without_skipped(results: list[Any]) -> tuple[list[Any], list[int] | None]:
    """Return the results that go on, and their places among all; None: that is all of them.

    Raises:
        Killed: one of them is a ``KillSwitch``.
    """
    kinds = _kinds(results)
    if any(issubclass(kind, KillSwitch) for kind in kinds):
        raise Killed(next(value.reason for value in results if issubclass(type(value), KillSwitch)))
    if not any(kind is type(SKIP) for kind in kinds):
        return results, None
    kept = [place for place, value in enumerate(results) if value is not SKIP]
    return [results[place] for place in kept], kept


def _kinds(values: list[Any]) -> Iterable[type]:
    try:
        return set(map(type, values))
    except Exception:  # noqa: BLE001 - a user's metaclass may have no hash, or one that raises
        return list(map(type, values))
