"""The figures that the page about scale shows."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from measuring import Table, put_between

from simulating.costs import changing, even, slow_last, spread, with_slow
from simulating.world import PARENT_S, Setting, World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from simulating.outcomes import Outcome

BEGIN, END = ".. begin: the simulation's figures", ".. end: the simulation's figures"
REPEATS = 5
MOST_ITEMS = 1_000_000
LOAD = 0.7  # how busy the parent may be, so that nobody waits long for it
BATCH_BYTES = 100  # what an item weighs in the simulation


def cost_of_a_batch(*, quick: bool) -> Table:
    """Measure what the scheduler's decisions take, by the number of workers."""
    crews = (2, 64) if quick else (2, 64, 256, 1024)
    batches = 500 if quick else 4000
    measured: dict[int, list[Outcome]] = {workers: [] for workers in crews}
    for _ in range(1 if quick else REPEATS):
        for workers in crews:  # taking turns, so that a slow moment of the machine is not one crew's
            items = 25 * max(batches, 4 * workers)
            measured[workers].append(World(Setting((even(0.001),), workers, items, buffer=1 << 20)).run())
    medians = {workers: statistics.median(one.cpu_per_batch_s for one in found) for workers, found in measured.items()}
    rows = [
        [
            f"{workers:,}", f"{found[0].batches:,}", f"{1e6 * medians[workers]:.0f} µs",
            f"{1e6 * min(one.cpu_per_batch_s for one in found):.0f} µs", f"{medians[workers] / medians[crews[0]]:.2f}",
        ]
        for workers, found in measured.items()
    ]  # fmt: skip
    note = f"Items of 1 ms; {len(measured[2])} of each, taking turns; measured CPU time of ``Scheduler.handle``."
    return Table("What a batch costs the scheduler", ("workers", "batches", "median", "least", "ratio"), rows, note)


def utilisation(*, quick: bool) -> Table:
    """Simulate crews of all sizes with items of all lengths."""
    crews = (2, 16) if quick else (2, 16, 64, 256, 1024)
    lengths = (0.001, 0.1) if quick else (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0)
    rows = []
    for workers in crews:
        for item_s in lengths:
            items = int(min(MOST_ITEMS, workers * max(20, (0.2 if quick else 1.0) / item_s)))
            setting = Setting((even(item_s),), workers, items, item_bytes=BATCH_BYTES, buffer=1 << 20)
            one = World(setting).run()
            rows.append([f"{workers:,}", _seconds(item_s), *_figures(one)])
    columns = ("workers", "item", "utilisation", "parent busy", "batches", "items under way", "bytes under way")
    note = f"About a second of work for each worker, and 20 items at least, so the first batches count.  {_note()}"
    return Table("How busy workers are kept", columns, rows, note)


def cases(*, quick: bool) -> Table:
    """Simulate what is not even: pipelines, changes, heavy tails, deaths."""
    workers = 4 if quick else 64
    scale = workers * (1 if quick else 5)
    made: dict[str, Setting] = {
        "1 : 4 : 0.5 ms, three chains": Setting((even(0.001), even(0.004), even(0.0005)), workers, 100 * scale),
        "the same, its source tells no length": Setting(
            (even(0.001), even(0.004), even(0.0005)), workers, 100 * scale, tells_length=False
        ),
        "0.1 ms, then 10 ms": Setting((changing(0.0001, 0.01),), workers, 100 * scale),
        "10 ms, then 0.1 ms": Setting((changing(0.01, 0.0001),), workers, 100 * scale),
        "10 ms in the mean, log-normal, sigma 1": Setting((spread(0.01, 1.0),), workers, 40 * scale),
        "1 ms, one in 1,000 of 2 s": Setting((with_slow(0.001, 2.0, 1000),), workers, 300 * scale),
        "the same, unordered": Setting((with_slow(0.001, 2.0, 1000),), workers, 300 * scale, ordered=False),
        "1 ms, one in 100 of 0.2 s": Setting((with_slow(0.001, 0.2, 100),), workers, 200 * scale),
        "1 ms, one of 2 s near the end": Setting((slow_last(0.001, 2.0, 30 * workers),), workers, 400 * scale),
        "5 ms, a worker killed every 0.1 s": Setting((even(0.005),), workers, 40 * scale, deaths_s=0.1),
        "1 : 4 : 1 ms, the middle one for half of the workers": Setting(
            (even(0.001), even(0.004), even(0.001)), workers, 60 * scale, caps=(None, workers // 2, None)
        ),
    }
    rows = []
    for name, setting in made.items():
        one = World(setting).run()
        shares = (one.utilisation, one.efficiency, one.stranded_s / (one.workers * one.makespan_s))
        rows.append([name, *(f"{share:.3f}" for share in shares), f"{one.most_items:,}"])
    columns = ("case", "utilisation", "of single items", "idle beside others' items", "items under way")
    note = (
        f"{workers} workers.  *Of single items*: the time that handing out single items would take, each to whoever is"
        " free and at no cost, over the time that it took.  Where one item takes as long as the rest of the run, nobody"
        f" can keep all workers busy.  {_note()}"
    )
    return Table("What is not even", columns, rows, note)


def needed(*, quick: bool) -> Table:  # noqa: ARG001 - it takes no time
    """Work out how much work there has to be in a batch, and in an item, for the parent to keep up."""
    rows = []
    for workers in (2, 16, 64, 256, 1024):
        batches = [_seconds(workers * parent_s / LOAD) for parent_s in (30e-6, 100e-6, 300e-6)]
        items = [_seconds(workers * item_s / LOAD) for item_s in (0.2e-6, 1e-6, 5e-6)]
        rows.append([f"{workers:,}", *batches, *items])
    columns = (
        "workers", "batch, at 30 µs", "at 100 µs", "at 300 µs", "item, at 0.2 µs", "at 1 µs", "at 5 µs",
    )  # fmt: skip
    note = f"What the parent spends on a batch and on an item, so that it is busy {LOAD:.0%} of the time."
    return Table("How much work a batch and an item have to be", columns, rows, note.replace("%", " %"))


TABLES: dict[str, Callable[..., Table]] = {
    "cost": cost_of_a_batch, "utilisation": utilisation, "cases": cases, "needed": needed,
}  # fmt: skip


def _figures(one: Outcome) -> list[str]:
    return [
        f"{one.utilisation:.3f}", f"{one.parent_share:.2f}", f"{one.batches:,}", f"{one.most_items:,}",
        f"{one.most_bytes:,}",
    ]  # fmt: skip


def _note() -> str:
    return f"The parent takes {1e6 * PARENT_S:.0f} µs for a batch, a message 50 µs to reach a worker."


def _seconds(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def write(path: Path, made: Sequence[Table]) -> None:
    """Put tables between the marks of a page.

    Raises:
        ValueError: the page has no such marks.
    """
    put_between(path, (BEGIN, END), [table.rst() for table in made])
