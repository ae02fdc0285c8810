"""Runs recipes in this process, one after the other, and tells of each on a pipe: what the supervisor starts."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import gc
import json
import logging
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpengine import Engine, Err
from mpengine.testing import assert_no_orphans
from soaking import building, judging
from soaking.belongings import Belongings, left_since
from soaking.blows import Blows
from soaking.judging import Fault, Outcome, Terms
from soaking.recipes import FANS_OUT, make_recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpengine import ItemError
    from soaking.recipes import Course, Recipe

STACKS = signal.SIGUSR1
_PR_SET_PDEATHSIG = 1
CLOSED, CANCELLED = "the results were not wanted any more", "the soak has cancelled it"


@dataclass
class Told:
    """What became of one recipe.

    Attributes:
        seed: which.
        runs: how many runs it was.
        items: of all sources, as far as they were read.
        failed: items that failed, as they had to.
        interrupted: items that a blow made fail, as it may where a stage must not run twice.
        deaths: workers' deaths that the engine has seen.
        dealt: blows.
        warnings: what was logged, but for what is logged of items that fail.
        faults: what went wrong.
        seconds: how long it took.
    """

    seed: int
    runs: int = 0
    items: int = 0
    failed: int = 0
    interrupted: int = 0
    deaths: int = 0
    dealt: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    seconds: float = 0.0


def main(seeds: Sequence[int], fd: int, longest_stop_s: float) -> None:
    """Run a recipe for each seed, and tell on ``fd``, a line of JSON each, when one begins and what became of it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # nobody goes on soaking by himself
    faulthandler.enable()
    faulthandler.register(STACKS, all_threads=True)
    warm_up()
    with open(fd, "w", buffering=1, encoding="utf-8") as pipe:
        for seed in seeds:
            recipe = make_recipe(seed, longest_stop_s=longest_stop_s)
            print(json.dumps({"begins": seed, "limit_s": recipe.limit_s}), file=pipe)
            told = follow(recipe)
            print(json.dumps({"ended": {**vars(told), "faults": [*map(vars, told.faults)]}}), file=pipe)


def warm_up() -> None:
    """Have everything imported that stays for good: it is nobody's left-over."""
    import multiprocessing.connection
    import multiprocessing.managers  # noqa: F401 - as the metrics board does

    asyncio.run(asyncio.sleep(0))
    with Engine(1, metrics_interval_s=0.01) as engine:
        engine.run([range(10), lambda _: time.sleep(0.05)])
    gc.collect()


def follow(recipe: Recipe) -> Told:
    """Do what a recipe says, and judge it."""
    told = Told(recipe.seed)
    began_at = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    listener = _Listener(told.warnings)
    logging.getLogger("mpengine").addHandler(listener)
    logging.getLogger("mpengine").propagate = False
    before = Belongings.now()
    try:
        with assert_no_orphans(timeout_s=5.0), Engine(**recipe.engine) as engine:
            for number, course in enumerate(recipe.courses):
                place = folder / str(number)
                place.mkdir()
                _run(recipe, course, engine, place, told)
    except AssertionError as error:
        told.faults.append(Fault(judging.LEFTOVER, str(error)))
    except Exception:  # noqa: BLE001 - told as this recipe's
        told.faults.append(Fault(judging.CRASH, traceback.format_exc()))
    finally:
        logging.getLogger("mpengine").removeHandler(listener)
    told.faults += [Fault(judging.LEFTOVER, what) for what in left_since(before)]
    shutil.rmtree(folder)
    told.seconds = time.monotonic() - began_at
    return told


class _Listener(logging.Handler):
    def __init__(self, heard: Counter[str]) -> None:
        super().__init__(logging.WARNING)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if " failed" not in text:  # of items, and of runs that were to fail
            self._heard[text[:200]] += 1


def _run(recipe: Recipe, course: Course, engine: Engine, folder: Path, told: Told) -> None:
    reference = _reference(course)
    handled: list[tuple[str, int]] = []
    stages = building.build(course, folder, lambda error: handled.append((error.stage, error.index)))
    with Blows(engine, course.blows, awaits_workers=course.awaits_workers) as blows:
        outcome = _consume(course, engine, stages, len(reference.values))
    outcome.handled = handled
    notes = folder / building.NOTES
    if notes.exists():
        words = (line.split() for line in notes.read_text().splitlines())
        outcome.notes = [(stage, tuple(map(int, path.split(".")))) for stage, path in words]
    terms = terms_of(recipe, course)
    told.faults += judging.judge(terms, reference, outcome)
    told.runs += 1
    told.items += outcome.snapshot.source_items
    told.failed += len(outcome.errors)
    told.interrupted += sum(terms.may_interrupt and "not to be run twice" in str(e.error) for e in outcome.errors)
    told.deaths += sum(worker.deaths for worker in outcome.snapshot.workers)
    told.dealt.update(blows.dealt)


def terms_of(recipe: Recipe, course: Course) -> Terms:
    """Return what a run of this course may do."""
    # Where a worker has several items in hand, one that kills it interrupts others.
    several = any(step.form == "Once many" or step.options.get("concurrency", 1) > 1 for step in course.steps)
    interrupts = bool(course.blows) or (several and any(step.poison for step in course.steps))
    named = [(building.name_of(place, step), step) for place, step in enumerate(course.steps)]
    raising = [name for name, step in named if step.options["on_error"] == "raise"]
    return Terms(
        ordered=recipe.engine["ordered"],
        length=course.length,
        may_interrupt=course.is_once and interrupts,
        raising=tuple(part for name in raising for part in (name, f"{name[:-1]}a", f"{name[:-1]}c", name[:-1])),
        stopping={"close": (CLOSED,), "cancel": (CANCELLED,)}.get(course.consumer, ()),
        fans_out=any(step.form in FANS_OUT for step in course.steps),
        noted=tuple(name for name, step in named if not step.options.get("idempotent", True)),
    )


def _reference(course: Course) -> Outcome:
    handled: list[tuple[str, int]] = []

    def note(error: ItemError) -> None:
        handled.append((error.stage, error.index))

    engine = Engine(1, backend="inline")
    report = engine.run([building.source_of(course), *building.build(course, None, note)]).unwrap()
    return Outcome(report.values, report.errors, handled, report.snapshot)


def _consume(course: Course, engine: Engine, stages: Sequence[Any], count: int) -> Outcome:
    source = building.source_of(course)
    if course.consumer in ("run", "cancel"):
        timer = threading.Timer(course.stop_after * 1.5, engine.cancel, (CANCELLED,))
        if course.consumer == "cancel":
            timer.start()
        result = engine.run([source, *stages])
        timer.cancel()
        if course.consumer == "cancel":
            timer.join()
        return _outcome(result.report.values, result)
    if course.consumer == "arun":
        result = asyncio.run(engine.arun([source, *stages]))
        return _outcome(result.report.values, result)
    values: list[Any] = []
    if course.consumer == "aiter":
        return _outcome(values, asyncio.run(_take_all(engine, [source, *stages], values)))
    enough = int(course.stop_after * count) if course.consumer == "close" else -1
    with engine.iter([source, *stages]) as results, contextlib.suppress(Exception):  # the result has it
        while len(values) != enough:
            values.append(next(results))
    assert results.result is not None  # noqa: S101 - it is closed
    return _outcome(values, results.result)


async def _take_all(engine: Engine, members: list[Any], values: list[Any]) -> Any:
    results = engine.aiter(members)
    async with contextlib.aclosing(results):
        with contextlib.suppress(Exception):  # the result has it
            async for value in results:
                values.append(value)  # noqa: PERF401 - those that came before it raised are wanted
    return results.result


def _outcome(values: list[Any], result: Any) -> Outcome:
    reason, cause = (result.reason, result.cause) if isinstance(result, Err) else (None, None)
    return Outcome(values, result.report.errors, [], result.report.snapshot, reason, cause)
