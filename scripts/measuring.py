"""Measuring contenders side by side, for the benchmarks beside this file: turns, quiet moments, ratios, tables."""

from __future__ import annotations

import gc
import os
import random
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CORES = os.cpu_count() or 1
QUIET = 0.05  # what others may take of the machine in a repeat that counts as quiet
SEED = 1


def busy_seconds() -> float:
    """Return the CPU time the machine has spent on anything, and what its host has taken from it."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """Return the CPU time of this process and all below it."""
    import psutil

    total = 0.0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


@dataclass
class Moment:
    """What the machine has done until now: all of it, and by our processes."""

    at: float = field(default_factory=time.perf_counter)
    busy_s: float = field(default_factory=busy_seconds)
    own_s: float = field(default_factory=own_seconds)

    def foreign_since(self, before: Moment) -> float:
        """Return which share of the machine others have had since ``before``."""
        others = (self.busy_s - before.busy_s) - (self.own_s - before.own_s)
        return max(0.0, others / ((self.at - before.at) * CORES))


def await_quiet(patience_s: float) -> None:
    """Wait until the others leave the machine alone for a moment, but not for ever."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        before = Moment()
        time.sleep(0.2)
        if Moment().foreign_since(before) <= QUIET:
            return


@dataclass
class Series:
    """The values of every contender, repeat by repeat; what each cost, and what others took meanwhile."""

    values: dict[str, list[float]]
    cpu_s: dict[str, list[float]]
    foreign: dict[str, list[float]]
    loads: list[float] = field(default_factory=list)

    def best(self, name: str, of: Sequence[str]) -> None:
        """Add the highest of some contenders, in each repeat, as a contender of its own."""
        winners = [
            max(of, key=lambda one, number=number: self.values[one][number]) for number in range(len(self.loads))
        ]
        for figures in (self.values, self.cpu_s, self.foreign):
            figures[name] = [figures[winner][number] for number, winner in enumerate(winners)]

    def ratios(self, name: str, reference: str, *, quiet: bool = False) -> list[float]:
        """Return the ratios of one contender to another, each within its repeat; or of the repeats quiet for both."""
        pairs = zip(self.values[name], self.values[reference], strict=True)
        others = map(max, self.foreign[name], self.foreign[reference])
        return [
            value / other for (value, other), share in zip(pairs, others, strict=True) if not quiet or share <= QUIET
        ]

    def cpu_ratios(self, name: str, reference: str) -> list[float]:
        """Return the CPU time of one contender as ratios to another's."""
        return [own / max(other, 0.01) for own, other in zip(self.cpu_s[name], self.cpu_s[reference], strict=True)]

    def note(self) -> str:
        """Return what else went on."""
        shares = [share for one in self.foreign.values() for share in one]
        return (
            f"{len(self.loads)} repeats; load average before a repeat {min(self.loads):.1f} to {max(self.loads):.1f};"
            f" other programs had {statistics.median(shares):.0%} of the machine in the median run"
            f" (at most {max(shares):.0%})."
        )


def interleave(contenders: dict[str, Callable[[], float]], repeats: int, patience_s: float = 0) -> Series:
    """Run all contenders ``repeats`` times, taking turns."""
    series = Series(*({name: [] for name in contenders} for _ in range(3)))
    order = list(contenders)
    chance = random.Random(SEED)  # noqa: S311 - an order, no secret
    for number in range(repeats):
        if sys.stderr.isatty():
            print(f"  repeat {number + 1} of {repeats}", end="\r", file=sys.stderr, flush=True)
        await_quiet(patience_s)
        series.loads.append(os.getloadavg()[0])
        chance.shuffle(order)
        for name in order:
            gc.collect()
            before = Moment()
            series.values[name].append(contenders[name]())
            after = Moment()
            series.cpu_s[name].append(after.own_s - before.own_s)
            series.foreign[name].append(after.foreign_since(before))
    return series


def rate(items: int, run: Callable[[], object]) -> float:
    """Return how many items a second ``run`` does."""
    began = time.perf_counter()
    run()
    return items / (time.perf_counter() - began)


# ---------------------------------------------------------------------- tables


@dataclass
class Table:
    """A table of figures, and what there is to know about them."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]]
    note: str = ""

    def show(self) -> None:
        """Print it."""
        import rich.console
        import rich.table

        shown = rich.table.Table(title=self.title, caption=self.note, title_justify="left", caption_justify="left")
        for number, column in enumerate(self.columns):
            shown.add_column(column, justify="right" if number else "left")
        for row in self.rows:
            shown.add_row(*row)
        rich.console.Console(width=None if sys.stdout.isatty() else 160).print(shown)

    def markdown(self) -> str:
        """Return it as Markdown."""
        rule = ["---", *["--:"] * (len(self.columns) - 1)]
        lines = ["| " + " | ".join(row) + " |" for row in (self.columns, rule, *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines, "", self.note, ""])

    def rst(self) -> str:
        """Return it as reStructuredText."""
        lines = [f".. list-table:: {self.title}", "   :header-rows: 1", ""]
        for row in (self.columns, *self.rows):
            lines += [("     - " if number else "   * - ") + (cell or "..") for number, cell in enumerate(row)]
        return "\n".join([*lines, "", self.note, ""])


def compare(title: str, series: Series, reference: str, *, unit: str = "items/s", in_full: bool = False) -> Table:
    """Return a table of what every contender reached, as a ratio to one of them."""
    columns = ["contender", f"median {unit}", "ratio, median", "lowest", "highest"]
    if in_full:
        columns += ["quiet repeats", "median of these", "CPU time, ratio"]
    rows = []
    for name, values in series.values.items():
        ratios = series.ratios(name, reference)
        row = [name, figure(statistics.median(values)), f"{statistics.median(ratios):.3f}"]
        row += [f"{min(ratios):.3f}", f"{max(ratios):.3f}"]
        if in_full:
            calm = series.ratios(name, reference, quiet=True)
            row += [str(len(calm)), f"{statistics.median(calm):.3f}" if calm else "none"]
            row.append(f"{statistics.median(series.cpu_ratios(name, reference)):.3f}")
        rows.append(row)
    return Table(title, columns, rows, series.note())


def figure(value: float) -> str:
    """Return a number with three digits that count."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 3  # noqa: PLR2004
    return f"{value:,.{digits}f}"


def spread(name: str, values: Sequence[float], scale: float = 1.0) -> list[str]:
    """Return a row: median, lowest, highest."""
    return [name, *(figure(value * scale) for value in (statistics.median(values), min(values), max(values)))]


def put_between(path: Path, marks: tuple[str, str], parts: Sequence[str]) -> None:
    """Put paragraphs and tables between two marks of a page.

    Raises:
        ValueError: the page has no such marks.
    """
    text, (first, last) = path.read_text(encoding="utf-8"), marks
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"{path} has no lines {first!r} and {last!r}")
    path.write_text("\n".join([before + first, "", *parts, last + after]), encoding="utf-8")
