"""Ten thousand items, every five-hundredth of which kills whoever takes it, and what they cost the others.

Each worker that takes the place of a dead one imports this module, so what is dear is imported where it is needed.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from measuring import Table

    from mpengine import Report

ITEMS, EVERY = 10_000, 500
POISONED = tuple(range(EVERY - 1, ITEMS, EVERY))
MOST_RATIO = 2.0
REPEATS = 2
MS_S = 0.001
STAGE = "takes poison"


def quick(item: int) -> int:
    """Do next to nothing."""
    return item + 1


def slow(item: int) -> int:
    """Be busy for about a millisecond."""
    until = time.perf_counter() + MS_S
    while time.perf_counter() < until:
        pass
    return item + 1


def deadly(work: Callable[[int], int]) -> Callable[[int], int]:
    """Return the same work, with poison in it."""

    def take(item: int) -> int:
        if item % EVERY == EVERY - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return work(item)

    return take


def harmless(work: Callable[[int], int]) -> Callable[[int], int]:
    """Return the same work, without poison."""

    def take(item: int) -> int:
        if item % EVERY == EVERY:  # never; as dear as the other
            os.kill(os.getpid(), signal.SIGKILL)
        return work(item)

    return take


def campaign() -> Iterator[tuple[Table, bool]]:
    """Run them, and the same without poison; gives a table, and whether all was well."""
    from measuring import Table

    logging.getLogger("mpengine").setLevel(logging.ERROR)  # of each item that fails there is a line
    rows, faults = [], []
    for name, work in (("next to nothing", quick), ("a millisecond", slow)):
        clean, poisoned, deaths = [], [], 0
        for _ in range(REPEATS):
            clean.append(_run(harmless(work)).duration_s)
            report = _run(deadly(work))
            poisoned.append(report.duration_s)
            deaths = sum(worker.deaths for worker in report.snapshot.workers)
            faults += check(report)
        ratio = min(poisoned) / min(clean)
        death_ms = (min(poisoned) - min(clean)) / max(1, deaths) * 1000
        cells = [f"{ITEMS / min(clean):,.0f}", f"{ITEMS / min(poisoned):,.0f}", f"{ratio:.2f}", str(deaths)]
        rows.append([name, *cells, f"{death_ms:.1f}"])
    columns = ("an item takes", "items/s without", "items/s with poison", "times as long", "deaths", "ms a death")
    note = f"{ITEMS:,} items, {len(POISONED)} of which kill with SIGKILL; 2 workers, start included; best of {REPEATS}."
    for fault in faults:
        print(fault)
    yield Table("Poison", columns, rows, note), not faults


def _run(work: Callable[[int], int]) -> Report:
    from mpengine import Engine, stage

    engine = Engine(2, on_error="drop", crash_retries=1)
    return engine.run([range(ITEMS), stage(work, name=STAGE)]).unwrap()


def check(report: Report) -> list[str]:
    """Return what is wrong with a run that had poison: exactly those fail, and say where and of what."""
    from mpengine import WorkerDiedError

    faults = []
    if report.values != [item + 1 for item in range(ITEMS) if item not in POISONED]:
        faults.append(f"the others did not all come in order: {len(report.values)} came")
    if sorted(error.index for error in report.errors) != list(POISONED):
        faults.append(f"failed: {[error.index for error in report.errors]}")
    faults += [
        f"is not told well: {error}"
        for error in report.errors
        if error.stage != STAGE or type(error.error) is not WorkerDiedError or "SIGKILL" not in str(error.error)
    ]
    return faults
