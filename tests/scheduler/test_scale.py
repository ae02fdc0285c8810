"""An event costs the coordinator as much with many workers and stages as with few: its steps are counted, not timed."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
from scheduler_model import Watch
from scheduler_world import Shape, StageShape, begin, pack_all


class Steps:
    """Counts the lines of Python that a scheduler runs, by event."""

    def __init__(self, scheduler):
        self.lines = Counter()
        self.events = Counter()
        self._handle_all = scheduler.handle_all
        scheduler.handle_all = self.handle_all

    def handle_all(self, happened):
        (event,) = happened
        name = type(event).__name__
        self.events[name] += 1

        def trace(frame, what, _):
            self.lines[name] += what in ("line", "call")
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            return self._handle_all(happened)
        finally:
            sys.settrace(before)

    def per_event(self, name):
        return self.lines[name] / self.events[name]


def busy_world(workers, stages, **options):
    """A world in which every worker has had something to do."""
    options = {"ordered": False, "out_buffer": 10_000, "tells_length": False} | options
    world = begin(Shape(stages, workers=workers, items=100_000, **options))
    pack_all(world)
    return world


def run_on(world, rounds):
    """Let one worker after the other go on, so many times, with a source and a consumer that keep up."""
    turn = 0
    for _ in range(rounds):
        busy = [number for number, worker in enumerate(world.workers) if worker.queue]
        world.advance(busy[turn % len(busy)])
        turn += 7
        while world.outlet:
            world.take()
        if world.can_pack:
            world.pack()


def steps_of(workers, stages, **options):
    world = busy_world(workers, stages, **options)
    run_on(world, 3 * len(stages))
    steps = Steps(world.scheduler)
    run_on(world, 120)
    return steps


ROOMY = StageShape(buffer=20_000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stages", "options"),
    [
        pytest.param((ROOMY,), {}, id="plain"),
        pytest.param((ROOMY,), {"ordered": True}, id="ordered"),
        pytest.param((ROOMY, StageShape(buffer=20_000, workers=1)), {}, id="a stage for one worker"),
        pytest.param((StageShape(buffer=20_000, workers=1),), {}, id="all others idle"),
        pytest.param((ROOMY,), {"max_items": 50_000}, id="workers that are to be replaced some day"),
        pytest.param((StageShape(buffer=50_000, fans_out=True), ROOMY), {"fan": 2}, id="fan-out"),
        pytest.param((StageShape(buffer=20_000, batch=3),), {}, id="lists"),
        pytest.param((StageShape(buffer=20_000, mixes=2),), {}, id="mix"),
    ],
)
def test_w1_a_report_costs_as_much_with_many_workers_as_with_few(stages, options):
    few, many = steps_of(16, stages, **options), steps_of(200, stages, **options)

    for name in ("BatchReturned", "SourcePacked", "DeliveryTaken"):
        if few.events[name] and many.events[name]:
            assert many.per_event(name) <= 2 * few.per_event(name) + 60, name  # with twelve times as many workers


@pytest.mark.slow
def test_a_report_costs_as_much_with_many_stages_as_with_few():
    few, many = (steps_of(40, (ROOMY,) * count) for count in (3, 48))

    assert many.per_event("BatchReturned") <= 1.3 * few.per_event("BatchReturned")


@pytest.mark.slow
def test_w1_who_is_idle_is_known_after_every_step_of_a_run_with_capped_stages():
    stages = (StageShape(buffer=8), StageShape(buffer=8, workers=2), StageShape(buffer=8, workers=1))
    world = begin(Shape(stages, workers=5, items=60))
    watch = Watch(world)
    pack_all(world)
    for _ in range(200):
        busy = [number for number, worker in enumerate(world.workers) if worker.queue]
        if not busy:
            break
        world.advance(busy[0])
        watch.check()
        while world.outlet:
            world.take()
        pack_all(world)
