"""From what was seen in the turns to ratios, tables and verdicts.

S1. A ratio is taken within a round: both sides had the same work, shortly after one another.
S2. A contender that failed in a round has no ratio in it; how often it failed, and how, is in the table.
S3. The best of several is the best in each round, so that a ratio to it is never flattering.
"""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from measuring import QUIET, Table, figure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from contenders.cases import Heat, Target

NOTHING = ".."


@dataclass
class Results:
    """What was seen in a heat: for each round, what each contender told, by its title."""

    rounds: list[dict[str, dict[str, Any]]] = field(default_factory=list)

    def speed(self, number: int, title: str) -> float | None:
        """Return what a contender reached in a round, in items or MB a second; None if it reached nothing."""
        told = self.rounds[number].get(title, {})
        if told.get("fault") or not told.get("seconds"):
            return None
        weight = told["item_bytes"] / 1e6 if told["item_bytes"] else 1
        return told["count"] * weight / told["seconds"]

    def speeds(self, title: str) -> list[float]:
        """Return what a contender reached in all rounds in which it reached anything."""
        found = (self.speed(number, title) for number in range(len(self.rounds)))
        return [speed for speed in found if speed is not None]

    def ratios(self, title: str, of: Sequence[str], *, quiet: bool = False) -> list[float]:
        """Return the ratios of a contender to the best of some others; or of those rounds that were quiet for both."""
        found = []
        for number, told in enumerate(self.rounds):
            own = self.speed(number, title)
            others = {other: speed for other in of if (speed := self.speed(number, other)) is not None}
            if own is None or not others:
                continue
            best = max(others, key=lambda other: others[other])
            if not quiet or max(told[title]["foreign"], told[best]["foreign"]) <= QUIET:
                found.append(own / others[best])
        return found

    def cpu_ratios(self, title: str, reference: str) -> list[float]:
        """Return the CPU time an item costs as ratios to another contender's."""
        found = []
        for told in self.rounds:
            own, other = (_cpu_of(told.get(name, {})) for name in (title, reference))
            if own and other:
                found.append(own / other)
        return found

    def best_of(self, titles: Iterable[str]) -> str:
        """Return the one with the highest median; nothing if none reached anything."""
        medians = {title: statistics.median(speeds) for title in titles if (speeds := self.speeds(title))}
        return max(medians, key=lambda title: medians[title]) if medians else ""

    def faults(self, title: str) -> str:
        """Return how a contender failed, and how often."""
        seen = Counter(told["fault"] for told in self._told(title) if told.get("fault"))
        return "; ".join(f"{fault} ({times} x)" if times > 1 else fault for fault, times in seen.items())

    def stays(self, title: str) -> int:
        """Return how often a contender had to be ended after its turn."""
        return sum(bool(told.get("stays")) for told in self._told(title))

    def note(self) -> str:
        """Return what else went on."""
        told = [one for turns in self.rounds for one in turns.values() if "foreign" in one]
        if not told:
            return "Nothing was measured."
        loads = [one["load"] for one in told]
        shares = [one["foreign"] for one in told]
        return (
            f"Rounds: {len(self.rounds)}; load average {min(loads):.1f} to {max(loads):.1f}; other programs had"
            f" {statistics.median(shares):.0%} of the machine in the median turn (at most {max(shares):.0%})."
        )

    def _told(self, title: str) -> list[dict[str, Any]]:
        return [turns[title] for turns in self.rounds if title in turns]


def _cpu_of(told: dict[str, Any]) -> float | None:
    return None if told.get("fault") or not told.get("cpu_s") else float(told["cpu_s"] / told["count"])


# ---------------------------------------------------------------------- tables


def table_of(heat: Heat, results: Results) -> Table:
    """Return what every contender of a heat reached, the fastest first; then those that reached nothing."""
    columns = [
        "contender", f"median {heat.unit}", "ratio, median", "lowest", "highest", "rounds", "quiet ones",
        "median of these", "CPU time, ratio",
    ]  # fmt: skip
    taking_part = [one.title for one in heat.entries if any(one.title in turns for turns in results.rounds)]
    taking_part.sort(key=lambda title: -statistics.median(results.speeds(title) or [0.0]))
    rows = [[_cell_of(title, results), *_figures_of(title, heat, results)] for title in taking_part]
    note = f"Ratios are to {heat.reference}.  {results.note()}"
    fewer = {one.title: one.items for one in heat.entries if one.items and one.items < heat.work[0][1]}
    if any(title in fewer for title in taking_part):
        note += "  Slow contenders got fewer items."
    return Table(heat.title, columns, rows, f"{note}  {heat.note}".rstrip())


def _cell_of(title: str, results: Results) -> str:
    """Return a contender's title, with what went wrong."""
    wrong = results.faults(title)
    if stays := results.stays(title):
        wrong += f"{'; ' if wrong else ''}does not end by itself ({stays} x)"
    return f"{title}: {wrong}" if wrong else title


def _figures_of(title: str, heat: Heat, results: Results) -> list[str]:
    speeds = results.speeds(title)
    if not speeds:
        return [NOTHING] * 8
    calm = results.ratios(title, [heat.reference], quiet=True)
    costs = results.cpu_ratios(title, heat.reference)
    return [
        figure(statistics.median(speeds)),
        *three_of(results.ratios(title, [heat.reference])),
        str(len(speeds)),
        str(len(calm)),
        ratio(statistics.median(calm)) if calm else NOTHING,
        ratio(statistics.median(costs)) if costs else NOTHING,
    ]


def three_of(ratios: Sequence[float]) -> list[str]:
    """Return median, lowest and highest in words."""
    return [ratio(value(ratios)) if ratios else NOTHING for value in (statistics.median, min, max)]


def ratio(value: float) -> str:
    """Return a ratio with the digits that count."""
    return f"{value:.3f}" if value < 10 else figure(value)  # noqa: PLR2004


def verdict(target: Target, results: Results) -> list[str]:
    """Return a row: what was to be reached, and whether it was."""
    ratios = results.ratios(target.ours, target.of)
    best = results.best_of(target.of)
    beside = target.words if best in ("", target.words) else f"{target.words} ({best})"
    reached = "not measured" if not ratios else "yes" if statistics.median(ratios) >= target.at_least else "no"
    return [target.ours, beside, f"{target.at_least:g}", *three_of(ratios), str(len(ratios)), reached]


def targets_of(heats: Iterable[tuple[Heat, Results]]) -> Table:
    """Return all targets of some heats, and what became of them."""
    columns = ["work", "contender", "against", "target", "ratio, median", "lowest", "highest", "rounds", "reached"]
    rows = [[heat.title, *verdict(target, results)] for heat, results in heats for target in heat.targets]
    note = "Against the best of several, it is the best in each round; the name is that of the best in the median."
    return Table("Targets", columns, rows, note)


def work_of(heat: Heat, results: Results) -> Table:
    """Return, for a heat of several jobs, what became of each of them against each target."""
    columns = ["job", *(f"against {target.words}" for target in heat.targets), "lowest of these"]
    rows = []
    for name, _ in heat.work:
        part = Results([turns for turns in results.rounds if any(told.get("job") == name for told in turns.values())])
        medians = [part.ratios(target.ours, target.of) for target in heat.targets]
        cells = [ratio(statistics.median(found)) if found else NOTHING for found in medians]
        lowest = [min(found) for found in medians if found]
        rows.append([_name_of(name), *cells, ratio(min(lowest)) if lowest else NOTHING])
    return Table(f"{heat.title}: each of them", columns, rows)


def _name_of(job: str) -> str:
    from contenders import jobs

    kind, _, of = job.partition("-")
    return " : ".join(f"{ms:g}" for ms in jobs.profile(int(of))) + " ms" if kind == "profile" else job
