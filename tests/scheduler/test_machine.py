"""The scheduler against a world that does whatever it likes: nothing is lost, doubled, overrun or left waiting.

``MPENGINE_HYPOTHESIS=long`` tries many more runs, at random ones; the short profile tries the same ones each time.
"""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from scheduler_model import Watch, check_end, requeues, run_to_the_end, see_off
from scheduler_world import Death, Shape, StageShape, World

from mpengine.scheduler import events

IS_LONG = os.environ.get("MPENGINE_HYPOTHESIS") == "long"
WALKS = 20_000 if IS_LONG else 1200

stage_shapes = st.builds(
    StageShape,
    fans_out=st.booleans(),
    workers=st.sampled_from([None, None, 1, 2]),
    buffer=st.sampled_from([1, 1, 2, 3, 8, None]),
    policy=st.sampled_from(["drop", "drop", "emit", "side", "raise"]),
    retries=st.sampled_from([0, 0, 1, 2]),
    once=st.sampled_from([False, False, False, True]),
    batch=st.sampled_from([None, None, 2, 3]),
    hands_item=st.booleans(),
    mixes=st.sampled_from([0, 0, 0, 1, 2, 3]),
)
seldom = st.sampled_from([0, 0, 30, 200])
shapes = st.builds(
    Shape,
    stages=st.lists(stage_shapes, min_size=1, max_size=4).map(tuple),
    workers=st.integers(1, 4),
    ordered=st.booleans(),
    out_buffer=st.sampled_from([1, 1, 2, 5, 50]),
    crash_retries=st.integers(0, 2),
    max_bytes=st.sampled_from([1, 500, 1 << 30]),
    items=st.integers(0, 24),
    tells_length=st.booleans(),
    seed=st.integers(0, 1 << 16),
    fan=st.integers(0, 4),
    skip=seldom,
    fail=seldom,
    deadly=seldom,
    kill=st.sampled_from([0, 0, 0, 10]),
    broken=seldom,
    unpackable=seldom,
    handler=st.sampled_from([0, 0, 0, 100]),
    max_items=st.sampled_from([None, None, 1, 2, 5]),
    source_fails=st.sampled_from([False, False, False, True]),
)


class SchedulerMachine(RuleBasedStateMachine):
    """One run; each rule is something that may happen to it."""

    world = None

    @initialize(shape=shapes)
    def begin(self, shape):
        self.world = World(shape)
        self.watch = Watch(self.world)
        self.world.tell(events.RunStarted)
        self.watch.check()

    def _numbers(self, of):
        if self.world is None or self.world.cancels or self.world.finished:
            return []
        return [number for number, worker in enumerate(self.world.workers) if of(worker)]

    def _pick(self, choice, of):
        numbers = self._numbers(of)
        return numbers[choice % len(numbers)]

    @property
    def is_running(self):
        return self.world is not None and not (self.world.cancels or self.world.finished)

    @precondition(lambda self: self.is_running and self.world.can_pack)
    @rule(at_most=st.sampled_from([1, 2, 1000]))
    def pack(self, at_most):
        self.world.pack(at_most)
        self.watch.check()

    @precondition(lambda self: self.is_running and self.world.can_end)
    @rule()
    def end_source(self):
        self.world.end_source()
        self.watch.check()

    @precondition(lambda self: self._numbers(is_starting))
    @rule(choice=st.integers(0, 3))
    def greet(self, choice):
        self.world.greet(self._pick(choice, is_starting))
        self.watch.check()

    @precondition(lambda self: self._numbers(is_starting))
    @rule(choice=st.integers(0, 3), is_meant=st.integers(0, 5).map(lambda number: number == 3))
    def die_while_starting(self, choice, is_meant):
        if is_meant:
            self.world.die(self._pick(choice, is_starting))
            self.watch.check(requeued=True)

    @precondition(lambda self: self._numbers(is_busy))
    @rule(choice=st.integers(0, 3), units=st.sampled_from([1, 2, 1000]), suspend=st.booleans())
    def advance(self, choice, units, suspend):
        before = requeues(self.world)
        self.world.advance(self._pick(choice, is_busy), units, suspend=suspend)
        self.watch.check(requeued=requeues(self.world) > before)

    @precondition(lambda self: self.is_running)
    @rule(what=st.sampled_from([events.MemoryTightened, events.MemoryEased]))
    def change_memory(self, what):
        self.world.tell(what)
        self.watch.check()

    @precondition(lambda self: self._numbers(is_ready))
    @rule(choice=st.integers(0, 3), is_stale=st.booleans())
    def die_of_nothing(self, choice, is_stale):
        self.world.die(self._pick(choice, is_ready), Death(1 << 20) if is_stale else Death(None))
        self.watch.check(requeued=True)

    @precondition(lambda self: self._numbers(is_busy))
    @rule(
        choice=st.integers(0, 3),
        ahead=st.integers(0, 3),
        names_item=st.booleans(),
        before=st.sampled_from(
            ["", "", "", "", "payload", "payload", "setup", "timed out", "torn", "too large", "out of memory"]
        ),
    )
    def die_at_work(self, choice, ahead, names_item, before):
        number = self._pick(choice, is_busy)
        batch_id = self.world.workers[number].queue[0]
        self.world.die(number, death_of(batch_id, ahead, before, names_item=names_item))
        self.watch.check(requeued=True)

    @precondition(lambda self: self.is_running and self.world.outlet)
    @rule()
    def take(self):
        self.world.take()
        self.watch.check()

    @rule(how=st.integers(0, 60))
    def end_early(self, how):
        if not self.is_running:
            return
        if how == 10:
            self.world.tell(events.CancelRequested, "enough")
        elif how == 20:
            self.world.tell(events.StageBroken, 0, 0, "set-up failed")
        elif how == 30:
            self.world.tell(events.StartFailed, "no memory")
        self.watch.check()

    def teardown(self):
        if self.world is not None:
            finish(self.world, self.watch)


def death_of(batch_id, ahead, before, *, names_item):
    """Return a death at a batch: in the midst of it, or ``before`` that."""
    excess = events.Excess(2000, 1000, is_fresh=ahead == 0) if before == "too large" else None
    return Death(
        batch_id, ahead, names_item, before == "payload", before == "setup", before == "timed out", before == "torn",
        excess, before == "out of memory",
    )  # fmt: skip


def is_starting(worker):
    return worker.state == "starting"


def is_ready(worker):
    return worker.state == "ready"


def is_busy(worker):
    return bool(worker.queue)


def finish(world, watch, choose=None):
    """The world turns fair: the run comes to its end, and its books are true."""
    run_to_the_end(world, watch, choose)
    if world.cancels:
        see_off(world, watch, takes=world.shape.seed % 4)
    check_end(world)


TestSchedulerMachine = pytest.mark.slow(SchedulerMachine.TestCase)
TestSchedulerMachine.settings = settings(
    max_examples=4000 if IS_LONG else 150,
    stateful_step_count=80 if IS_LONG else 40,
    deadline=None,
    derandomize=not IS_LONG,
    database=None,
    suppress_health_check=list(HealthCheck),
)


# ---------------------------------------------------------------------- many more runs than hypothesis has time for


def random_shape(draw):
    return Shape(
        stages=tuple(
            StageShape(
                draw.random() < 0.5,
                draw.choice([None, None, 1, 2]),
                draw.choice([1, 1, 2, 3, 8, None]),
                draw.choice(["drop"] * 9 + ["emit"] * 3 + ["side"] * 3 + ["raise"]),
                draw.choice([0, 0, 1, 2]),
                draw.random() < 0.2,
                draw.choice([None, None, None, 2, 3]),
                draw.choice([0, 0, 0, 0, 1, 2, 3]),
            )
            for _ in range(draw.randint(1, 4))
        ),
        workers=draw.randint(1, 4),
        ordered=draw.random() < 0.7,
        out_buffer=draw.choice([1, 1, 2, 5, 50]),
        crash_retries=draw.randint(0, 2),
        max_bytes=draw.choice([1, 500, 1 << 30]),
        items=draw.randint(0, 24),
        tells_length=draw.random() < 0.5,
        seed=draw.getrandbits(16),
        fan=draw.randint(0, 4),
        skip=draw.choice([0, 0, 200]),
        fail=draw.choice([0, 0, 100]),
        deadly=draw.choice([0, 0, 60]),
        kill=draw.choice([0, 0, 0, 0, 0, 5]),
        broken=draw.choice([0, 0, 100]),
        unpackable=draw.choice([0, 0, 0, 100]),
        handler=draw.choice([0] * 9 + [50]),
        max_items=draw.choice([None, None, None, 1, 2, 5]),
        source_fails=draw.random() < 0.1,
    )


class Walk:
    """A run in which whatever happens is drawn at random; ``strange`` is how often it is something out of the way."""

    def __init__(self, seed, strange):
        self.draw = random.Random(seed)
        self.world = World(random_shape(self.draw))
        self.strange = strange

    def run(self):
        watch = Watch(self.world)
        self.world.tell(events.RunStarted)
        finish(self.world, watch, self._choose)

    def _choose(self, possible):
        world, draw = self.world, self.draw
        busy = [number for number, worker in enumerate(world.workers) if worker.queue]
        ready = [number for number, worker in enumerate(world.workers) if worker.state == "ready"]
        starting = [number for number, worker in enumerate(world.workers) if worker.state == "starting"]
        if draw.random() > self.strange or world.steps > 300:
            return draw.choice(possible)
        number = draw.choice(busy) if busy else None
        queue = world.workers[number].queue if busy else ()
        strange = [
            (12, busy, lambda: world.advance(number, draw.randint(1, 3), suspend=draw.random() < 0.5)),
            (2, busy, lambda: world.die(number, self._death(queue))),
            (1, ready, lambda: world.die(draw.choice(ready))),
            (0.5, ready, lambda: world.tell(events.WorkerBloated, draw.choice(ready))),
            (0.5, True, lambda: world.tell(draw.choice([events.MemoryTightened, events.MemoryEased]))),
            (0.3, starting, lambda: world.die(draw.choice(starting))),
            (6, world.can_pack, lambda: world.pack(draw.randint(1, 3))),
            (0.02, True, lambda: world.tell(events.CancelRequested, "enough")),
        ]
        chances = [chance if can_be else 0 for chance, can_be, _ in strange]
        return draw.choices([happen for *_, happen in strange], chances)[0]

    def _death(self, queue):
        draw = self.draw
        kinds = {"": 40, "payload": 20, "setup": 3, "timed out": 20, "torn": 9, "too large": 10, "out of memory": 10}
        before = draw.choices(list(kinds), list(kinds.values()))[0]
        return death_of(queue[0], draw.randint(0, 3), before, names_item=draw.random() < 0.5)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("strange", [0.3, *(pytest.param(strange, marks=pytest.mark.long) for strange in (0.05, 0.7))])
def test_every_walk_ends_with_what_a_plain_loop_would_have_given(strange):
    for seed in range(WALKS // 3):
        try:
            Walk(seed, strange).run()
        except Exception as error:
            error.add_note(f"Walk({seed}, {strange}).run()")
            raise
