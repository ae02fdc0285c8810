"""Actors that die, hang, grow or do not stop."""

import itertools
import os
import signal
import threading
import time

import numpy as np
import pytest

from mpengine import Err, ErrorPolicy, ItemTimeoutError, WorkerDiedError, cancelled, stage

pytestmark = pytest.mark.slow


def test_user_code_runs_in_the_main_thread_of_its_actor(make_engine):
    engine = make_engine()

    def where(_):
        return os.getpid(), threading.current_thread() is threading.main_thread()

    found = set(engine.run([range(100), where]).unwrap().values)
    assert len({pid for pid, _ in found}) <= 2
    assert os.getpid() not in {pid for pid, _ in found}
    assert {is_main for _, is_main in found} == {True}


def test_an_item_that_kills_its_worker_is_named_and_costs_no_other(make_engine):
    engine = make_engine(on_error=ErrorPolicy.DROP, crash_retries=1)

    def fatal(item):
        if item == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    report = engine.run([range(20), fatal]).unwrap()
    assert report.values == [item for item in range(20) if item != 5]
    (error,) = report.errors
    assert (error.index, type(error.error), error.item) == (5, WorkerDiedError, "5")
    assert report.snapshot.stages[0].crashed == 1


def test_actors_killed_at_any_time_cost_no_item_and_double_none(make_engine, tmp_path):
    engine = make_engine(crash_retries=10)
    killed = itertools.count()

    def fill(item):
        time.sleep(0.005)
        return np.full(20_000, item)

    def fan(array):
        for number in range(3):
            yield int(array[0]) * 3 + number

    def source():
        for item in range(150):
            if item % 50 == 49 and next(killed) < 2:
                os.kill(engine.pids()[0], signal.SIGKILL)
            yield item

    report = engine.run([source(), stage(fill, buffer=16), stage(fan, buffer=16)]).unwrap()
    assert report.values == list(range(450))
    assert sum(worker.deaths for worker in report.snapshot.workers) >= 1
    assert [book.succeeded for book in report.snapshot.stages] == [150, 150]


def test_what_must_not_run_twice_does_not_when_actors_are_killed(make_engine, tmp_path):
    engine = make_engine(on_error=ErrorPolicy.DROP)
    notes = tmp_path / "notes"

    def note(item):
        with notes.open("a") as file:
            file.write(f"{item}\n")
        return item

    def source():
        for item in range(120):
            if item in (40, 80):
                os.kill(engine.pids()[0], signal.SIGKILL)
            yield item

    report = engine.run([source(), stage(note, idempotent=False, buffer=8)]).unwrap()
    lines = notes.read_text().split()
    assert len(lines) == len(set(lines))
    assert sorted([*report.values, *(error.index for error in report.errors)]) == list(range(120))


def test_a_call_that_hangs_is_ended_and_says_where(make_engine):
    engine = make_engine(on_error=ErrorPolicy.DROP)

    def hangs(item):
        if item == 3:
            threading.Event().wait()
        return item

    report = engine.run([range(6), stage(hangs, timeout=1.0)]).unwrap()
    assert report.values == [0, 1, 2, 4, 5]
    (error,) = report.errors
    assert isinstance(error.error, ItemTimeoutError)
    assert "it was in wait" in str(error.error)
    assert "in hangs" in error.traceback


def test_a_busy_loop_is_cancelled_by_force_and_the_reason_stays(make_engine):
    engine = make_engine(grace_s=0.2)

    def spin(item):
        while item == 3:
            pass
        return item

    values = []
    with engine:
        results = engine.iter([itertools.count(), stage(spin, batch=None)])
        values.append(next(results))
        canceller = threading.Timer(0.5, engine.cancel, ["no more"])
        canceller.start()
        with pytest.raises(Exception, match="no more"):
            values.extend(results)
        canceller.join()
        assert values == [0, 1, 2][: len(values)]
        assert engine.run([range(3), str]).unwrap().values == ["0", "1", "2"]


def test_a_stage_that_looks_is_told_of_the_cancellation(make_engine, tmp_path):
    engine = make_engine(grace_s=30.0)
    begun = tmp_path / "begun"

    def looks(item):
        begun.touch()
        while not cancelled():
            time.sleep(0.01)
        return item

    def wait_and_cancel():
        while not begun.exists():
            time.sleep(0.01)
        engine.cancel("asked to")

    canceller = threading.Thread(target=wait_and_cancel)
    canceller.start()
    result = engine.run([range(4), looks])
    canceller.join()
    assert isinstance(result, Err)
    assert result.reason == "asked to"
    assert result.report.duration_s < 30


def test_an_iterator_that_is_closed_early_leaves_an_engine_that_runs_again(make_engine):
    with make_engine() as engine:
        results = engine.iter([range(100_000), str])
        assert next(results) == "0"
        results.close()
        assert engine.run([range(5), str]).unwrap().values == ["0", "1", "2", "3", "4"]


def test_a_worker_is_replaced_after_so_many_items(make_engine):
    engine = make_engine(workers=1, max_items_per_worker=5)

    pids = engine.run([range(12), lambda _: os.getpid()]).unwrap().values
    assert len(set(pids)) == 3
    assert max(pids.count(pid) for pid in set(pids)) <= 5


def test_an_item_that_takes_its_actor_over_the_limit_fails_alone(make_engine):
    engine = make_engine(workers=1, memory_limit=500_000_000, on_error=ErrorPolicy.DROP)

    def hoards(item):
        hoard = bytearray(700_000_000 if item == 2 else 1)
        for page in range(0, len(hoard), 4096):
            hoard[page] = 1
        time.sleep(30 if item == 2 else 0)
        return item

    report = engine.run([range(4), hoards]).unwrap()
    assert report.values == [0, 1, 3]
    assert [type(error.error).__name__ for error in report.errors] == ["MemoryLimitError"]
