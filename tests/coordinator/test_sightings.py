"""What workers are at: seen by the loop, for those who ask."""

import os
import queue
import threading

import pytest

from mpengine import Engine, stage
from mpengine.coordinator.sightings import Sightings
from mpengine.ipc.controlblock import SlotRecord
from mpengine.pipeline import Pipeline
from mpengine.plan import make_plan
from mpengine.policies import ErrorPolicy
from mpengine.scheduler import events
from mpengine.scheduler.scheduler import Scheduler, Settings

PATIENCE_S = 20.0


class Backend:
    def __init__(self):
        self.records = {}
        self.rings = 0

    def record_of(self, worker_id):
        return self.records.get(worker_id)

    def wake(self):
        self.rings += 1


def record(batch_id, position, stage=0, **fields):
    return SlotRecord(batch_id, position, stage, 0.0, 0.0, 0, 0, **fields)


@pytest.fixture
def backend():
    return Backend()


@pytest.fixture
def scheduler():
    pipeline = Pipeline(()) >> abs >> float
    plan = make_plan(pipeline.stages, default_buffer=64, default_policy=ErrorPolicy.RAISE)
    scheduler = Scheduler(plan, Settings(workers=2))
    scheduler.handle(events.RunStarted(1.0))
    scheduler.handle(events.WorkerReady(1.0, 0))
    scheduler.handle(events.SourcePacked(2.0, b"", 3, 24))
    return scheduler


@pytest.fixture
def sightings(scheduler, backend):
    return Sightings(scheduler.plan, scheduler, backend)


def look(sightings):
    answer = queue.SimpleQueue()
    sightings.wanted.append(answer)
    sightings.answer()
    return answer.get_nowait()[0]


def test_an_item_is_named_by_its_number_in_the_source_and_its_stage_in_the_pipeline(sightings, scheduler, backend):
    (batch,) = scheduler.crew[0].held.values()
    backend.records[0] = record(batch.batch_id, batch.lo, 1, text="'x'", attempt=2)
    first, second = look(sightings)
    assert (first.stage, first.item, first.first, first.text, first.attempt) == (1, 0, 0, "'x'", 2)
    assert first.since_s > 0
    assert (second.stage, second.item, second.since_s) == (None, None, None)


def test_where_no_item_is_named_the_batch_is_told(sightings, scheduler, backend):
    (batch,) = scheduler.crew[0].held.values()
    backend.records[0] = record(batch.batch_id, None, in_setup=True)
    first, _ = look(sightings)
    assert (first.stage, first.item, first.first, first.last) == (0, None, 0, batch.count - 1)
    assert first.in_setup


@pytest.mark.parametrize("found", [None, record(None, None), record(4711, 0)], ids=["torn", "nothing", "past"])
def test_o3_what_the_books_do_not_know_is_no_sight_but_what_they_do_is(found, sightings, backend):
    backend.records[0] = found
    first, _ = look(sightings)
    assert (first.stage, first.item, first.first, first.since_s) == (0, None, 0, None)
    assert first.unreported_s > 0


@pytest.mark.parametrize(("position", "stage"), [(10**9, 0), (0, 99)])
def test_o3_a_slot_that_says_what_cannot_be_harms_nobody(position, stage, sightings, scheduler, backend):
    (batch,) = scheduler.crew[0].held.values()
    backend.records[0] = record(batch.batch_id, position, stage)
    first, _ = look(sightings)
    assert first.stage in {0, 1}


def test_o1_a_loop_that_has_no_time_is_not_waited_for(sightings, backend):
    assert sightings.ask(0.0) is None
    assert backend.rings == 1


def test_o1_whoever_asks_in_another_thread_is_told_by_the_loop(sightings):
    found = []
    asker = threading.Thread(target=lambda: found.append(sightings.ask(PATIENCE_S)))
    asker.start()
    while not sightings.wanted:
        pass
    sightings.answer()
    asker.join(PATIENCE_S)
    assert [sight.worker_id for sight in found[0].workers] == [0, 1]
    assert "bottleneck" in found[0].bottleneck
    assert (sightings.total, sightings.fans_out) == (None, False)


@pytest.mark.slow
def test_workers_of_a_real_run_are_seen_at_their_items_while_they_hang(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    @stage(timeout=600)
    def hold(number):
        if number == 3:
            pipe.open().close()
        return number

    with Engine(2, ordered=False, metrics_interval_s=0) as engine:
        results = engine.iter([range(6), int, hold])
        sightings, held = engine._run.sightings, []
        while not held:
            held = [sight for sight in sightings.ask(PATIENCE_S).workers if sight.item == 3 and sight.stage == 1]
        assert (held[0].text, held[0].attempt, held[0].in_setup) == ("3", 1, False)
        assert sightings.total == 6
        pipe.open("w").close()
        assert sorted(results) == list(range(6))
