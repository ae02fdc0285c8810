"""Lets the contenders of a heat take their turns, and keeps what was seen."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from measuring import SEED, Table, await_quiet, figure, spread

from contenders import driving, jobs
from contenders.cases import CASES, taking_part
from contenders.field import PEERS, Entry
from contenders.scoring import Results, table_of, targets_of, work_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contenders.cases import Heat

MOST_FAILURES = 2  # who has failed so often in a row takes no further turns in a heat


@dataclass(frozen=True)
class Terms:
    """How a heat is run: how often each job, on how many workers, with which limits, by whom, and how quietly."""

    repeats: int
    workers: int
    peers: list[str]
    limits: driving.Limits = field(default_factory=driving.Limits)
    patience_s: float = 0.0


def hold(heat: Heat, terms: Terms) -> Iterator[Results]:
    """Run a heat: in each round all contenders take a turn at one job, in an order that changes.

    What was seen so far is yielded after each round, so that it can be kept should the next one not come to its end.
    """
    results = Results()
    entries = taking_part(heat, terms.peers)
    failures = dict.fromkeys((one.title for one in entries), 0)
    chance = random.Random(SEED)  # noqa: S311 - an order, no secret
    for number in range(terms.repeats * len(heat.work)):
        job, count = heat.work[number % len(heat.work)]
        chance.shuffle(entries)
        turns: dict[str, dict[str, Any]] = {}
        for one in entries:
            if failures[one.title] >= MOST_FAILURES:
                continue
            await_quiet(terms.patience_s)
            told = take_turn(one, one.job or job, min(one.items or count, count), heat.warm_up, terms)
            turns[one.title] = {**told, "job": job}
            failures[one.title] = failures[one.title] + 1 if told.get("fault") else 0
            say(f"{heat.name} {number + 1}/{terms.repeats * len(heat.work)} {one.title}: {outcome(told)}")
        results.rounds.append(turns)
        yield results


def take_turn(one: Entry, job: str, count: int, warm_up: int, terms: Terms) -> dict[str, Any]:
    """Run a contender once in a process of its own."""
    order = {
        "way": "throughput",
        "contender": PEERS[one.peer].contender,
        "options": one.options,
        "job": job,
        "count": count,
        "workers": terms.workers,
        "warm_up": min(warm_up, max(20, count // 20)),
    }
    told = driving.turn(order, terms.limits)
    return {**told, "count": count, "item_bytes": jobs.make(job, count, terms.workers).item_bytes}


def outcome(told: dict[str, Any]) -> str:
    """Return what became of a turn, for whoever watches."""
    return told.get("fault") or f"{told['count'] / told['seconds']:,.0f} items/s in {told['seconds']:.2f} s"


def say(words: str) -> None:
    """Tell whoever watches how far it is."""
    print(f"  {words}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------------- other ways


def leads(peers: list[str], workers: int, *, quick: bool) -> Table:
    """Measure how far each contender's source gets ahead of a slow consumer."""
    from contenders.leads import contenders, rows

    for_s = 1.0 if quick else 10.0
    turns = {}
    entries = [one for one in contenders(quick=quick) if one.peer in peers and PEERS[one.peer].is_here()]
    for one in entries:
        order = {"way": "contenders.leads:lead", "contender": PEERS[one.peer].contender, "options": one.options}
        order |= {"job": "single", "count": one.items, "workers": workers, "for_s": for_s}
        turns[one.title] = driving.turn(order, driving.Limits(run_s=for_s + 20))
        say(f"lead {one.title}: {turns[one.title].get('fault') or turns[one.title]['lead']}")
    columns = ["contender", "items pulled ahead, at most", "results taken", "MB that all have grown by, at most"]
    note = (
        f"{for_s:g} s of a consumer that sleeps for 1 ms after every 200 results.  Shared pages count for each process."
    )
    return Table("lead: the peers", columns, rows(Results([turns]), turns), note)


def cancelled(peers: list[str], workers: int, repeats: int) -> Table:
    """Measure how long it takes until each peer's busy workers are gone."""
    from contenders.cancelling import CANCELLED

    rows = []
    for peer in (name for name in CANCELLED if name in peers and PEERS[name].is_here()):
        order = {"way": "contenders.cancelling:cancelled", "contender": peer, "workers": workers}
        told = [driving.turn(order, driving.Limits()) for _ in range(repeats)]
        faults = [one["fault"] for one in told if one.get("fault")]
        well = [one for one in told if not one.get("fault")]
        gone = [one["gone_s"] for one in well]
        cells = (
            spread(PEERS[peer].title, [one["seconds"] for one in well], 1000)
            if well
            else [PEERS[peer].title, *[".."] * 3]
        )
        rows.append([*cells, figure(1000 * max(gone)) if gone else "..", "; ".join(sorted(set(faults)))])
        say(f"cancel {rows[-1]}")
    columns = ["contender", "median ms", "lowest", "highest", "until none is left, at most", "fault"]
    return Table("cancel: the peers, from the call to its return, busy items of 10 ms", columns, rows)


# ---------------------------------------------------------------------- what is kept


class Kept:
    """What was seen in earlier runs and in this one: a file, in which a case that is run again replaces that case."""

    def __init__(self, path: Path | None) -> None:
        """Read what there is."""
        self._path = path
        self._told: dict[str, Any] = {"setting": "", "heats": {}, "tables": {}}
        if path is not None and path.exists():
            self._told = json.loads(path.read_text(encoding="utf-8"))

    @property
    def setting(self) -> str:
        """What was measured last is told to have been measured on."""
        return str(self._told["setting"])

    def keep_heat(self, name: str, results: Results, setting: str) -> None:
        """Note what was seen in a heat."""
        self._told["heats"][name] = results.rounds
        self._save(setting)

    def keep_tables(self, name: str, tables: list[Table], setting: str) -> None:
        """Note the tables of a case that has no heats."""
        self._told["tables"][name] = [asdict(table) for table in tables]
        self._save(setting)

    def _save(self, setting: str) -> None:
        self._told["setting"] = setting
        if self._path is not None:
            self._path.write_text(json.dumps(self._told, indent=1) + "\n", encoding="utf-8")

    def heats(self, *, quick: bool) -> list[tuple[Heat, Results]]:
        """Return the heats that there is something of."""
        seen = self._told["heats"]
        every = [heat for case in CASES.values() for heat in case(quick=quick)]
        return [(heat, Results(seen[heat.name])) for heat in every if heat.name in seen]

    def tables_of(self, case: str, *, quick: bool) -> list[Table]:
        """Return the tables of a case."""
        if case in self._told["tables"]:
            return [Table(**told) for told in self._told["tables"][case]]
        heats = [one for one in self.heats(quick=quick) if one[0].name.partition("-")[0] == case]
        if not heats:
            return []
        each = [work_of(heat, results) for heat, results in heats if len(heat.work) > 1]
        return [*(table_of(heat, results) for heat, results in heats), *each, targets_of(heats)]

    def tables(self, *, quick: bool) -> list[Table]:
        """Return the targets of all cases, and then the tables of each."""
        heats = self.heats(quick=quick)
        tables = [targets_of(heats)] if heats else []
        for heat, results in heats:
            tables += [table_of(heat, results), *([work_of(heat, results)] if len(heat.work) > 1 else [])]
        return [*tables, *(Table(**told) for case in self._told["tables"].values() for told in case)]
