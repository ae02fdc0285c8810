"""From one integer to everything that a run is made of; the same integer, the same recipe.

What a run has to give must be known exactly, so some things do not go together:

W1. Blows that kill come with so many ``crash_retries`` that they never make an item fail.
W2. Items that hang come with no blow that holds workers up, or the time of others would be up as well.
W3. Where a stage is not idempotent, no stage raises for a whole run: what a blow interrupts there fails, and that is
    told from what has to fail by its error.
W4. An item that kills, kills each time; so with many ``crash_retries`` there are few of them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

from soaking import forms

MARGIN = 3  # more crash_retries than blows could use up
KILLS = ("kill one", "kill one", "kill one", "segv one", "term one", "kill all", "kill nursery")
HOLDS = ("stop one", "stop one", "stop all", "stop nursery", "stop board", "hogs", "freeze")
OTHERS = ("kill board",)
AT_ALL = ("kill all", "kill nursery", "stop all", "stop nursery")
MEAN_S = 0.15  # between two blows
STOP_S = 1.0
NEVER = float("inf")
COSTS_S = (0.0, 0.00002, 0.0002, 0.001, 0.003, 0.01)
WORK_S = (0.2, 0.4, 0.8, 1.2)
MOST_ITEMS, MOST_SLOW_ITEMS = 1_000, 120
SMALL_BUFFER = 10


@dataclass(frozen=True)
class Blow:
    """Something that happens to a run.

    Attributes:
        at_s: seconds after its start.
        what: one of ``KILLS``, ``HOLDS`` and ``OTHERS``.
        whom: from 0 to 1, which worker.
        hold_s: how long it lasts, where it is one that lasts.
    """

    at_s: float
    what: str
    whom: float
    hold_s: float


@dataclass(frozen=True)
class Step:
    """A stage to be made.

    Attributes:
        form: name of a class in ``forms``; or ``Mix``, ``Built``, ``Thread``, ``Async``.
        number: varies what it does.
        cost_s: of an item.
        options: of the stage.
        poison: which items of the source end whom, and how.
    """

    form: str
    number: int
    cost_s: float
    options: dict[str, Any]
    poison: dict[int, str]


@dataclass(frozen=True)
class Course:
    """One run: a pipeline, who consumes it and how, and what happens meanwhile."""

    length: int
    is_list: bool
    ballast: int
    steps: tuple[Step, ...]
    consumer: str  # run, arun, iter, aiter, close, cancel
    stop_after: float  # of the values, or seconds
    blows: tuple[Blow, ...]
    awaits_workers: bool  # whether the blows do

    @property
    def is_once(self) -> bool:
        """Whether a stage must not run twice."""
        return any(not step.options.get("idempotent", True) for step in self.steps)


@dataclass(frozen=True)
class Recipe:
    """An engine and what it runs, one course after the other."""

    seed: int
    engine: dict[str, Any]
    courses: tuple[Course, ...]

    @property
    def limit_s(self) -> float:
        """How long it may take before somebody looks what is wrong."""
        return 45.0 + 20.0 * len(self.courses)


def make_recipe(seed: int, *, longest_stop_s: float = STOP_S) -> Recipe:
    """Return what ``seed`` stands for."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    workers = chance.choice((1, 2, 2, 3, 4))
    method = chance.choice(("forkserver",) * 7 + ("fork",) * 2 + ("spawn",))
    courses = tuple(_course(chance, workers, method, longest_stop_s) for _ in range(chance.choice((1, 1, 2, 3))))
    deaths = sum(
        workers if blow.what in AT_ALL else 1
        for course in courses
        for blow in course.blows
        if blow.what in KILLS or blow.what.startswith("stop")  # who stays stopped for long may be killed for it
    )
    engine = {
        "workers": workers,
        "start_method": method,
        "ordered": chance.random() < 0.7,  # noqa: PLR2004
        "buffer": chance.choice((None, None, 16, 64, 1000)),
        "crash_retries": deaths + MARGIN if deaths else chance.choice((0, 1, 1, 2)),
        "max_items_per_worker": chance.choice((None, None, None, 50, 400)),
        "memory_limit": chance.choice((None, None, 4 << 30)),
        "metrics_interval_s": chance.choice((0.05, 0.05, 0.5, 0)),
        "grace_s": 10.0,
        "preload": chance.choice(((), ("json",))),
    }
    return Recipe(seed, engine, courses)


def _course(chance: random.Random, workers: int, method: str, longest_stop_s: float) -> Course:
    blows = _blows(chance, longest_stop_s)
    is_deadly = any(blow.what in KILLS for blow in blows)
    is_held = any(blow.what in HOLDS for blow in blows)
    cost_s = chance.choice(COSTS_S)
    names = [chance.choice(FORMS) for _ in range(chance.choice((1, 2, 2, 3, 3, 4, 5)))]
    is_once = any(name.startswith("Once") for name in names)
    if sum(name in FANS_OUT for name in names) > 1:
        names = [name for name in names if name not in FANS_OUT] or ["Plain"]
    costly = chance.randrange(len(names))
    steps = [
        _step(chance, name, cost_s if place == costly else 0.0, is_once=is_once) for place, name in enumerate(names)
    ]
    # One message for each item, where a report is due after each or where no more fit into a buffer.
    is_slow = is_once or any((step.options["buffer"] or MOST_ITEMS) < SMALL_BUFFER for step in steps)
    most = MOST_SLOW_ITEMS if is_slow else MOST_ITEMS
    length = max(20, min(most, int(chance.choice(WORK_S) * workers / max(cost_s, 0.0002))))
    if chance.random() < 0.45:  # noqa: PLR2004
        _poison(chance, steps, length, is_few=is_deadly or method == "spawn", may_hang=not is_held)
    return Course(
        length=length,
        is_list=chance.random() < 0.5,  # noqa: PLR2004
        ballast=chance.choice((0, 0, 50_000, 100_000)) if length < 1000 else 0,  # noqa: PLR2004
        steps=tuple(steps),
        consumer=chance.choice(("run", "run", "arun", "iter", "iter", "aiter", "close", "cancel")),
        stop_after=chance.random(),
        blows=blows,
        awaits_workers=chance.random() < 0.7,  # noqa: PLR2004
    )


FORMS = (
    "Plain", "Plain", "Plain", "Filter", "Failing", "Flaky", "Flaky", "Built", "Many", "ManyLater", "Later", "Listed",
    "Mix", "Thread", "Async", "Once", "Once many", "Once listed", "Once later",
)  # fmt: skip
FANS_OUT = ("Many", "ManyLater", "Once many")
_IN_PARENT = ("Thread", "Async")
_MENDED = ("Flaky",)


def _step(chance: random.Random, name: str, cost_s: float, *, is_once: bool) -> Step:
    number = chance.randint(2, 5)
    options: dict[str, Any] = {
        "workers": chance.choice((None,) * 5 + (1, 2)),
        "buffer": chance.choice((None,) * 6 + (1, 3, 50)),
        "on_error": chance.choice(("drop", "emit", "side") if is_once else ("drop", "drop", "emit", "side", "raise")),
    }
    if name.startswith("Once"):
        options["idempotent"] = False
    if "later" in name.lower():
        options["concurrency"] = chance.choice((1, 2, 8))
    if "listed" in name.lower():
        options["batch"] = number
        if cost_s:
            cost_s /= number
    if name in _MENDED:
        options["retries"] = chance.choice((1, "backoff"))
    return Step(name, number, cost_s, options, {})


def _poison(chance: random.Random, steps: list[Step], length: int, *, is_few: bool, may_hang: bool) -> None:
    """Poison some items for one of the steps."""
    able = [place for place, step in enumerate(steps) if step.form != "Once listed"]
    if not able:
        return
    place = chance.choice(able)
    step = steps[place]
    kinds = ["raises"]
    if step.form in _IN_PARENT:
        kinds += ["sys.exit"]
    else:
        kinds += forms.DEADLY
        if may_hang and chance.random() < 0.3:  # noqa: PLR2004
            kinds, is_few = list(forms.HANGING), True
            step.options["timeout"] = 1.5
    if step.form in FANS_OUT:
        is_few = True
    count = chance.randint(1, 2 if is_few else 8)
    indices = chance.sample(range(length), count)
    steps[place] = replace(step, poison={index: chance.choice(kinds) for index in indices})


def _blows(chance: random.Random, longest_stop_s: float) -> tuple[Blow, ...]:
    if chance.random() < 0.2:  # noqa: PLR2004
        return ()
    kinds = chance.choice((KILLS, KILLS, HOLDS, KILLS + HOLDS + OTHERS, KILLS + HOLDS + OTHERS))
    at_s, blows = 0.0, []
    for _ in range(chance.randint(1, 8)):
        at_s += chance.expovariate(1 / MEAN_S)
        hold_s = NEVER if longest_stop_s == NEVER else chance.uniform(0.01, longest_stop_s)
        blows.append(Blow(at_s, chance.choice(kinds), chance.random(), hold_s))
    return tuple(blows)
