"""What every backend and every start method does alike."""

import functools
import gc
import itertools
import os
import pickle
import sys
import threading
import weakref

import engine_stages as stages
import numpy as np
import pytest

from mpengine import (
    SKIP,
    Engine,
    EngineClosedError,
    EngineError,
    Err,
    ErrorPolicy,
    ItemError,
    KillSwitch,
    Ok,
    Pipeline,
    PipelineError,
    Retry,
    StageError,
    WorkerDiedError,
    stage,
)
from mpengine.coordinator.loop import Coordinator


def values(result):
    assert isinstance(result, Ok), result
    return result.unwrap().values


def balances(report):
    assert all(book.processed == book.succeeded + book.failed + book.skipped for book in report.snapshot.stages)
    snapshot = report.snapshot
    settled = snapshot.filtered + snapshot.dropped + snapshot.failed + snapshot.cancelled
    delivered = snapshot.source_items - settled
    assert delivered >= 0
    return delivered


# ---------------------------------------------------------------------- stages


def test_functions_of_an_item_run_in_order(every_kind, make_engine):
    report = make_engine(every_kind).run([range(1000), stages.double, lambda x: x + 1]).unwrap()
    assert report.values == [2 * x + 1 for x in range(1000)]
    assert balances(report) == 1000
    assert report.snapshot.delivered == 1000


def test_every_form_of_callable_is_a_stage(engine):
    offset = 5
    members = [
        stages.double,
        lambda x: x + offset,
        functools.partial(pow, 2),
        stages.decorated_bare,
        stages.decorated,
        "{}".format,
        len,
    ]
    expected = [len(str(2 ** (2 * x + 5) + 110)) for x in range(20)]
    assert values(engine.run([range(20), *members])) == expected


def test_a_decorated_stage_beside_an_unpicklable_global_travels(every_kind, make_engine):
    engine = make_engine(every_kind)
    pipeline = Pipeline(range(5)) >> stages.decorated_bare >> stages.decorated >> stages.decorated_generator
    assert values(engine.run(pipeline)) == [sign * (x + 110) for x in range(5) for sign in (1, -1)]


def test_state_lives_as_long_as_its_worker(kind, make_engine):
    def number_of_call(item, state):
        state.update(calls=state.get("calls", 0) + 1)
        return state.worker_id, state.values["calls"]

    engine = make_engine(kind, workers=2)
    calls = values(engine.run([range(100), number_of_call]))
    for worker_id in (0, 1):
        counted = [count for worker, count in calls if worker == worker_id]
        assert sorted(counted) == list(range(1, len(counted) + 1))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_class_is_built_once_in_each_worker_and_closed(kind, workers, make_engine, tmp_path, monkeypatch):
    notes = tmp_path / "notes"
    monkeypatch.setenv("COUNTER_FILE", str(notes))
    engine = make_engine(kind, workers=workers)
    assert values(engine.run([range(50), stages.Counter, stages.ContextCounter])) == [x + 2 for x in range(50)]
    lines = notes.read_text().split("\n")[:-1]
    by_what = {what: sorted(line for line in lines if line.startswith(what)) for what in ("built", "closed", "left")}
    assert 2 <= len(by_what["built"]) <= 2 * workers
    assert len(by_what["closed"]) == len(by_what["left"]) == len(by_what["built"]) // 2
    if kind != "inline":
        assert len(set(by_what["built"])) == len(by_what["built"]) // 2  # two stages in each worker


def test_setup_comes_first_and_teardown_last(kind, make_engine, tmp_path):
    notes = tmp_path / "notes"

    def note(what):
        fd = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{what}\n".encode())
        os.close(fd)

    def setup(state):
        state.update(base=100)
        note("set up")

    def teardown(state):
        note(f"tear down {state.get('base')} {state.get('items')}")

    def add(item, state):
        state.update(items=state.get("items", 0) + 1)
        return item + state.get("base")

    added = stage(add, setup=setup, teardown=teardown)
    assert values(make_engine(kind, workers=1).run([range(9), added])) == [100 + x for x in range(9)]
    assert notes.read_text().splitlines() == ["set up", "tear down 100 9"]


def test_a_teardown_that_raises_harms_nobody(engine):
    def fail(state):
        raise ValueError("torn badly")

    assert values(engine.run([range(9), stage(stages.double, teardown=fail)])) == [2 * x for x in range(9)]


def test_a_generator_makes_many_of_one(engine):
    assert values(engine.run([[3, 0, 1, 2], stages.count_up])) == [0, 1, 2, 0, 0, 1]
    # The empty one is filtered out.
    snapshot = engine.snapshot()
    assert (snapshot.source_items, snapshot.delivered, snapshot.filtered) == (4, 6, 1)


def test_a_generator_behind_a_plain_stage_gives_more_than_a_report_holds(engine):
    def count_slowly(x):
        for number in range(3000):
            yield x, number

    result = engine.run([range(3), stages.keep, count_slowly])
    assert values(result) == [(x, number) for x in range(3) for number in range(3000)]
    assert [book.succeeded for book in result.report.snapshot.stages] == [3, 3]
    balances(result.report)


def test_generators_behind_one_another_multiply(engine):
    expected = [z for x in range(6) for y in range(x) for z in range(y)]
    assert values(engine.run([range(6), stages.count_up, stages.count_up, stages.keep])) == expected


def test_a_generator_class_and_one_with_state_work(engine):
    class Twice:
        def __call__(self, x):
            yield x
            yield x

    def with_state(x, state):
        state.update(seen=state.get("seen", 0) + 1)
        if state.get("seen"):
            yield x

    assert values(engine.run([range(3), Twice, with_state])) == [0, 0, 1, 1, 2, 2]


def test_a_huge_generator_is_streamed(engine):
    with engine.iter([[10**9], stages.count_up]) as results:
        assert list(itertools.islice(results, 5000)) == list(range(5000))
        assert results.snapshot().stages[0].processed == 0  # its only item is not at its end


def test_a_generator_that_fails_half_way_has_given_its_first_half(engine):
    def fail_at_two(x):
        yield from (10 * x, 10 * x + 1)
        if x == 1:
            raise ValueError("half-way")
        yield 10 * x + 2

    result = engine.run([range(3), stage(fail_at_two, on_error="drop")])
    assert values(result) == [0, 1, 2, 10, 11, 20, 21, 22]
    (error,) = result.report.errors
    assert (error.index, error.attempts) == (1, 1)
    balances(result.report)


def test_a_retried_generator_does_not_give_its_first_half_twice(kind, make_engine):
    def fail_twice(x, state):
        state.update(tries=state.get("tries", 0) + 1)
        yield "a"
        yield "b"
        if state.get("tries") < 3:
            raise ValueError("not yet")
        yield "c"

    result = make_engine(kind, workers=1).run([[0], stage(fail_twice, retries=2)])
    assert values(result) == ["a", "b", "c"]
    assert result.report.snapshot.stages[0].retried == 2


def test_skipped_items_are_filtered_out_and_counted(engine):
    result = engine.run([range(100), stages.skip_odd, stages.double])
    assert values(result) == [2 * x for x in range(0, 100, 2)]
    first, second = result.report.snapshot.stages
    assert (first.processed, first.succeeded, first.skipped, first.failed) == (100, 50, 50, 0)
    assert (second.processed, second.succeeded) == (50, 50)
    assert result.report.snapshot.filtered == 50


def test_skip_in_the_last_stage_and_of_every_item_leaves_nothing(engine):
    assert values(engine.run([range(3000), lambda x: SKIP])) == []


@pytest.mark.parametrize("member", [stages.kill_switch_returned, stages.kill_switch_raised])
def test_a_kill_switch_cancels_with_its_reason(engine, member):
    result = engine.run([range(1000), stages.keep, stage(member, on_error="drop", retries=3), stages.keep])
    assert isinstance(result, Err)
    assert (result.reason, result.report.errors) == ("enough", [])
    assert result.report.values == list(range(len(result.report.values)))[:3]


def test_a_generator_may_throw_the_kill_switch_too(engine):
    def generate(x):
        yield 1
        yield KillSwitch("from inside")

    result = engine.run([[0], generate])
    assert (result.reason, result.report.values) == ("from inside", [1])


def test_workers_option_limits_who_runs_a_stage(make_engine):
    engine = make_engine("fork", workers=3)
    pids = values(engine.run([range(60), stages.keep, stage(stages.pid_of, workers=1)]))
    assert len(pids) == 60
    assert len(set(pids)) == 1


def test_a_single_worker_runs_capped_stages_too(engine):
    chain = [stage(stages.increment, workers=1), stage(stages.double, workers=5), stage(stages.increment, workers=1)]
    assert values(engine.run([range(200), *chain])) == [2 * (x + 1) + 1 for x in range(200)]


@pytest.mark.parametrize("buffer", [1, 2, 7])
def test_tiny_buffers_end_in_no_deadlock(engine, buffer):
    small = [stage(member, buffer=buffer) for member in (stages.increment, stages.count_up, stages.double)]
    expected = [2 * y for x in range(30) for y in range(x + 1)]
    assert values(engine.run([range(30), *small])) == expected


# ---------------------------------------------------------------------- running


def test_unordered_results_are_the_same_results(kind, make_engine):
    engine = make_engine(kind, ordered=False)
    assert sorted(values(engine.run([range(2000), stages.double]))) == [2 * x for x in range(2000)]
    assert sorted(values(engine.run([range(50), stages.count_up]))) == sorted(y for x in range(50) for y in range(x))


def test_iter_gives_results_and_then_the_end(engine):
    results = engine.iter([range(2500), stages.double])
    assert results.result is None
    assert list(results) == [2 * x for x in range(2500)]
    assert results.result.is_ok
    assert list(results) == []
    results.close()


def test_iter_raises_the_cause_with_the_remote_traceback(kind, make_engine):
    results = make_engine(kind).iter([range(10), stages.fail_on_three])
    with pytest.raises(ValueError, match="no 3") as caught:
        list(results)
    shown = str(caught.value.__cause__) if kind != "inline" else ""
    assert kind == "inline" or "fail_on_three" in shown


def test_iter_delivers_what_came_before_the_failure(engine):
    results = engine.iter([range(10), stages.fail_on_three])
    taken = []
    with pytest.raises(ValueError, match="no 3"):
        taken.extend(results)
    assert taken == [0, 1, 2][: len(taken)]  # another worker may have been at some of them
    with pytest.raises(StopIteration):
        next(results)


def test_map_takes_functions_stages_and_options(engine):
    assert list(engine.map(stages.double, range(5))) == [0, 2, 4, 6, 8]
    assert list(engine.map(stages.decorated, iter(range(3)))) == [100, 101, 102]
    assert list(engine.map(stages.fail_on_three, range(5), on_error="drop")) == [0, 1, 2, 4]


def test_collect_false_counts_and_keeps_nothing(engine):
    report = engine.run([range(3000), stages.double], collect=False).unwrap()
    assert report.values == []
    assert report.snapshot.delivered == 3000


def test_snapshot_and_pids_tell_of_a_run_under_way(kind, make_engine):
    engine = make_engine(kind, workers=2)
    assert engine.snapshot().state == "idle"
    assert engine.pids() == []
    with engine.iter([range(10_000), stages.double]) as results:
        next(results)
        snapshot = engine.snapshot()
        assert snapshot.state == "running"
        assert 0 < snapshot.source_items <= 10_000
        assert len(snapshot.workers) == 2
        assert len(engine.pids()) == (0 if kind == "inline" else 2)
        assert set(engine.pids()) == {worker.pid for worker in snapshot.workers} - {None}
    assert engine.snapshot().state == "finished"
    assert engine.snapshot().reason == "the results were not wanted any more"
    assert engine.pids() == []


def test_workers_stay_warm_between_the_runs_of_one_with(make_engine):
    with make_engine("forkserver", workers=2) as engine:
        first = set(values(engine.run([range(200), stages.pid_of])))
        pids = set(engine.pids())
        second = set(values(engine.run([range(200), stages.pid_of])))
        assert first <= pids
        assert second <= pids
        assert set(engine.pids()) == pids
        assert len(pids) == 2
        (engine.iter([range(1000), stages.keep])).close()  # a cancelled run lets them go
        assert values(engine.run([range(10), stages.keep])) == list(range(10))
    assert engine.pids() == []


def test_each_run_of_a_warm_engine_builds_its_own_state(kind, make_engine):
    def count(item, state):
        state.update(calls=state.get("calls", 0) + 1)
        return state.get("calls")

    with make_engine(kind, workers=1) as engine:
        for _ in range(3):
            assert values(engine.run([range(4), count])) == [1, 2, 3, 4]


def test_without_with_each_run_has_its_own_workers(make_engine):
    engine = make_engine("forkserver", workers=1)
    first, second = (set(values(engine.run([range(3), stages.pid_of]))) for _ in range(2))
    assert engine.pids() == []
    assert not first & second


def test_a_second_run_at_the_same_moment_is_refused(engine):
    with engine.iter([range(10_000), stages.double]) as results:
        assert next(results) == 0
        for attempt in (lambda: engine.run([[1], stages.double]), lambda: engine.iter([[1], stages.double])):
            with pytest.raises(EngineError, match="one at a time"):
                attempt()
        assert next(results) == 2
    assert values(engine.run([[1], stages.double])) == [2]


def test_a_closed_engine_refuses(engine):
    assert values(engine.run([[1], stages.double])) == [2]
    engine.close()
    engine.close()
    with pytest.raises(EngineClosedError):
        engine.run([[1], stages.double])
    with pytest.raises(EngineClosedError), engine:
        pass


def test_closing_an_engine_cancels_its_run_and_says_so(engine):
    results = engine.iter([range(100_000), stages.double])
    assert next(results) == 0
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        list(results)
    assert results.result.reason == "the engine was closed"


@pytest.mark.slow
@pytest.mark.parametrize("every_kind", ["forkserver", "spawn", "fork"])
def test_closing_from_another_thread_ends_a_run_that_waits(every_kind, make_engine):
    """The end must reach the consumer whoever else waits for it: it is told once, and taken by the one who closes."""
    engine = make_engine(every_kind)
    unpickling, closed = threading.Event(), threading.Event()

    def source():
        yield 1
        unpickling.set()
        assert closed.wait(20)
        yield from range(5000)

    def close():
        assert unpickling.wait(20)
        threading.Thread(target=closed.set).start()
        engine.close()

    closer = threading.Thread(target=close)
    closer.start()
    result = engine.run([source, stages.double])
    closer.join()
    assert isinstance(result, Err)
    assert result.reason == "the engine was closed"


@pytest.mark.slow
def test_closing_before_the_run_has_begun_waits_for_it(make_engine, monkeypatch):
    engine = make_engine("fork")
    failed = []

    def close():
        try:
            engine.close()
        except RuntimeError as error:
            failed.append(error)

    closer = threading.Thread(target=close)
    start = Coordinator.start

    def start_while_somebody_closes(coordinator, *feeds):
        start(coordinator, *feeds)
        closer.start()
        closer.join(0.2)

    monkeypatch.setattr(Coordinator, "start", start_while_somebody_closes)
    result = engine.run([itertools.count(), stages.double])
    closer.join()
    assert (result.reason, failed) == ("the engine was closed", [])


def test_a_result_that_is_unpacked_while_the_engine_is_closed_ends_the_run(make_engine):
    engine = make_engine("fork", workers=1)
    threads = []

    def close_meanwhile():
        threads.append(threading.Thread(target=engine.close))
        threads[0].start()
        threads[0].join()  # the closer has seen the whole run off when this value is there
        return "late"

    engine_stages_hook(close_meanwhile)
    result = engine.run([[1], lambda x: ClosesWhenUnpickled()])
    assert isinstance(result, Err)
    assert result.reason == "the engine was closed"


_hooks = []


def engine_stages_hook(hook):
    _hooks[:] = [hook]


def run_hook():
    return _hooks[0]()


class ClosesWhenUnpickled:
    def __reduce__(self):
        return run_hook, ()


def test_nested_pipelines_join_on_both_sides(engine):
    head = Pipeline(range(5)) >> stages.double
    tail = Pipeline([99]) >> stages.increment >> stages.double
    expected = [2 * (2 * x + 1) for x in range(5)]
    assert values(engine.run(Pipeline(head) >> tail)) == expected
    assert values(engine.run(head >> tail)) == expected
    assert values(engine.run(tail, head)) == expected
    assert values(engine.run([stages.increment, stages.double], head)) == expected
    assert values(engine.run(tail, range(3))) == [2, 4, 6]
    assert values(tail.run(engine)) == [200]
    assert list(tail.iter(engine)) == [200]


@pytest.mark.parametrize(
    "wrong", [[], [range(3)], [3, stages.double], [range(3), 3], stages.double, "ab", [range(3), None], None]
)
def test_what_is_no_pipeline_is_refused_before_anything_starts(make_engine, wrong):
    engine = make_engine("forkserver")
    with pytest.raises(PipelineError):
        engine.run(wrong)
    assert engine.pids() == []


def test_stages_and_pipelines_can_be_used_again(engine):
    member = stage(stages.double, name="twice")
    pipeline = Pipeline([1, 2]) >> member >> member
    for _ in range(2):
        result = engine.run(pipeline)
        assert values(result) == [4, 8]
        assert [book.name for book in result.report.snapshot.stages] == ["twice", "twice"]
    assert member(4) == 8


def test_one_stage_runs_in_two_engines_at_once(kind, make_engine):
    one, other = make_engine(kind), make_engine(kind)
    with one.iter([range(3000), stages.decorated]) as first, other.iter([range(3000), stages.decorated]) as second:
        assert list(zip(first, second, strict=True)) == [(x + 100, x + 100) for x in range(3000)]


# ---------------------------------------------------------------------- sources


class Source:
    """An iterator that tells how often it was closed, and fails where it is told to."""

    def __init__(self, items, *, fail_at=None, fail_in_close=False):
        self._items = iter(items)
        self._fail_at = fail_at
        self._fail_in_close = fail_in_close
        self.given = 0
        self.closed = 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.given == self._fail_at:
            raise OSError("the source is broken")
        self.given += 1
        return next(self._items)

    def close(self):
        self.closed += 1
        if self._fail_in_close:
            raise OSError("the source will not close")


async def arange(stop):
    for number in range(stop):
        yield number


def many_sources():
    return {
        "list": [0, 1, 2],
        "tuple": (0, 1, 2),
        "range": range(3),
        "dict": dict.fromkeys(range(3)),
        "iterator": iter(range(3)),
        "generator": (x for x in range(3)),
        "function": lambda: iter(range(3)),
        "generator function": stages.count_up.__get__(3),
        "async iterable": arange(3),
        "async function": lambda: arange(3),
        "array": np.arange(3),
        "bytes": bytes(range(3)),
    }


@pytest.mark.parametrize("name", many_sources())
def test_every_kind_of_source_will_do(name, make_engine):
    for kind in ("inline", "fork"):
        assert values(make_engine(kind).run([many_sources()[name], stages.double])) == [0, 2, 4]


def test_an_empty_source_is_a_run_like_any_other(engine):
    for source in ([], iter(()), lambda: (), arange(0), range(0), ""):
        result = engine.run([source, stages.double, stages.count_up])
        assert values(result) == []
        assert result.report.snapshot.source_items == 0


def test_a_range_longer_than_any_list_can_be_a_source(engine):
    with engine.iter([range(10**20), stages.double]) as results:
        assert list(itertools.islice(results, 100)) == [2 * x for x in range(100)]


@pytest.mark.parametrize("fail_at", [0, 1, 1500])
def test_a_source_that_raises_ends_the_run_with_its_error(engine, fail_at):
    source = Source(range(3000), fail_at=fail_at)
    result = engine.run([source, stage(stages.double, on_error="drop")])
    assert isinstance(result, Err)
    assert isinstance(result.cause, OSError)
    assert result.reason == "the source failed: OSError: the source is broken"
    assert result.report.values == [2 * x for x in range(len(result.report.values))]
    assert source.closed == 1
    assert result.report.snapshot.source_items == fail_at


def test_a_source_function_that_raises_ends_the_run_with_its_error(engine):
    def source():
        raise OSError("no such source")

    result = engine.run([source, stages.double])
    assert isinstance(result.cause, OSError)
    result = engine.run([lambda: 3, stages.double])
    assert isinstance(result.cause, PipelineError)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("at", [0, 1])
def test_a_source_that_wants_to_leave_ends_its_run_and_not_the_program(engine, error, at):
    def source():
        yield from range(at)
        raise error

    result = engine.run([source, stages.keep])
    assert isinstance(result, Err)
    assert type(result.cause) is error
    with pytest.raises(error):
        list(engine.iter([source, stages.keep]))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_inline_stage_that_wants_to_leave_ends_its_run_and_not_the_program(make_engine, error):
    def leave(x):
        raise error

    result = make_engine("inline").run([[1], leave])
    assert type(result.cause) is error


def test_a_source_that_fails_when_it_is_closed_has_failed(engine):
    source = Source(range(10), fail_in_close=True)
    result = engine.run([source, stages.double])
    assert isinstance(result, Err)
    assert isinstance(result.cause, OSError)
    assert source.closed == 1


def test_a_source_that_fails_when_it_is_closed_does_not_touch_the_next_run(kind, make_engine):
    with make_engine(kind) as engine:
        assert not engine.run([Source(range(10), fail_in_close=True), stages.double]).is_ok
        assert values(engine.run([range(3), stages.increment])) == [1, 2, 3]


def test_a_failing_close_does_not_replace_the_first_reason(engine):
    source = Source(range(10_000), fail_in_close=True)
    result = engine.run([source, stages.kill_switch_raised])
    assert (result.reason, source.closed) == ("enough", 1)


def test_a_source_is_closed_once_and_after_its_last_item(engine):
    source = Source(range(3))
    assert values(engine.run([source, stages.double])) == [0, 2, 4]
    assert (source.given, source.closed) == (4, 1)


def test_two_thousand_items_of_a_source_are_each_pulled_once(engine):
    pulled = []
    source = (pulled.append(x) or x for x in range(2000))
    assert values(engine.run([source, stages.keep])) == pulled == list(range(2000))


@pytest.mark.parametrize("wrap", [iter, list])
@pytest.mark.parametrize("bad", [stages.BadToPickle, threading.Lock])
def test_an_item_that_will_not_pickle_fails_alone(make_engine, wrap, bad):
    items = [0, 1, bad(), 3]
    result = make_engine().run([wrap(items), stage(stages.keep, on_error="drop")])
    assert values(result) == [0, 1, 3]
    (error,) = result.report.errors
    assert (error.index, error.stage) == (2, "keep")


@pytest.mark.parametrize("wrap", [iter, list])
def test_an_item_that_exits_when_it_is_pickled_does_not_hang_the_run(make_engine, wrap):
    result = make_engine("fork").run([wrap([0, stages.ExitsWhenPickled(), 3]), stage(stages.keep, on_error="drop")])
    if result.is_ok:
        assert result.report.values == [0, 3]
    else:
        assert isinstance(result.cause, SystemExit)


def test_an_item_that_will_not_unpickle_fails_alone(make_engine):
    items = [0, 1, stages.BadToUnpickle(), {"a": [stages.BadToUnpickle()]}, 4]
    result = make_engine().run([items, stage(stages.keep, on_error="drop")])
    assert values(result) == [0, 1, 4]
    assert sorted(error.index for error in result.report.errors) == [2, 3]  # which worker reports first is open
    assert "will not be unpickled" in str(result.report.errors[0].error)


def test_a_result_that_will_not_pickle_fails_alone(make_engine):
    def fail_some(x):
        return stages.BadToPickle() if x % 1000 == 3 else x

    result = make_engine().run([range(2500), stage(fail_some, on_error="drop")])
    assert values(result) == [x for x in range(2500) if x % 1000 != 3]
    assert sorted(error.index for error in result.report.errors) == [3, 1003, 2003]
    balances(result.report)


def test_a_result_that_will_not_unpickle_fails_alone(make_engine):
    pid = os.getpid()
    engine = make_engine()
    source = [0, 1, 2, 3]
    result = engine.run([source, stage(lambda x: stages.InParent(pid) if x == 2 else x, on_error="drop")])
    assert values(result) == [0, 1, 3]
    (error,) = result.report.errors
    assert error.index == 2
    assert "in the parent" in str(error.error)
    balances(result.report)
    between = [source, lambda x: stages.InParent(pid), stage(lambda x: type(x).__name__, workers=1)]
    assert values(engine.run(between)) == ["InParent"] * 4  # between stages the coordinator does not unpickle


# ---------------------------------------------------------------------- failures


def test_raise_is_the_default_and_keeps_the_original_error(engine):
    result = engine.run([range(1000), stages.keep, stages.fail_on_three, stages.keep])
    assert isinstance(result, Err)
    assert isinstance(result.cause, ValueError)
    assert result.cause.args == ("no 3",)
    assert result.reason == "stage 'fail_on_three' failed on item 3: ValueError: no 3"
    assert result.report.values == [0, 1, 2][: len(result.report.values)]
    assert not result.report.ok
    with pytest.raises(ValueError, match="no 3"):
        result.unwrap()


@pytest.mark.parametrize("policy", ["drop", ErrorPolicy.DROP])
def test_dropped_items_are_counted_and_the_others_go_on(kind, make_engine, policy):
    result = make_engine(kind, on_error=policy).run([range(2000), stages.fail_on_three, stages.double])
    assert values(result) == [2 * x for x in range(2000) if x != 3]
    snapshot = result.report.snapshot
    assert (snapshot.dropped, snapshot.stages[0].dropped, snapshot.stages[0].failed) == (1, 1, 1)
    balances(result.report)


def test_a_stage_policy_goes_before_the_engines(kind, make_engine):
    engine = make_engine(kind, on_error="drop")
    assert not engine.run([range(5), stage(stages.fail_on_three, on_error="raise")]).is_ok
    assert engine.run([range(5), stages.fail_on_three]).is_ok


def test_an_item_error_tells_the_whole_story(kind, make_engine):
    def divide_all(x):
        return 12 // x  # the user's line

    division = stage(divide_all, retries=2, on_error="drop", name="divide")
    result = make_engine(kind, workers=1).run([range(-5, 5), stages.keep, division])
    (error,) = result.report.errors
    assert isinstance(error, ItemError)
    assert (error.stage, error.index, error.item, error.attempts, error.worker_id) == ("divide", 5, "0", 3, 0)
    assert isinstance(error.error, ZeroDivisionError)
    assert "12 // x  # the user's line" in error.traceback
    assert "divide_all" in error.traceback
    assert error.traceback.startswith("Traceback (most recent call last):")
    assert "divide: item 5 (0): ZeroDivisionError" in str(error)
    copied = pickle.loads(pickle.dumps(error))
    assert (copied.index, copied.traceback, type(copied.error)) == (5, error.traceback, ZeroDivisionError)
    assert result.report.snapshot.stages[1].retried == 2


def test_thousands_of_failures_are_all_counted_and_the_first_thousand_kept(engine):
    def fail(x):
        raise ValueError(x)

    result = engine.run([range(2500), stage(fail, on_error="drop")])
    assert values(result) == []
    assert len({error.index for error in result.report.errors}) == len(result.report.errors) == 1000
    assert result.report.snapshot.dropped == result.report.snapshot.stages[0].failed == 2500


def test_retries_mend_what_fails_now_and_then(engine):
    def flaky(x, state):
        failed = state.get("failed", set())
        if x % 3 == 0 and x not in failed:
            state.update(failed={*failed, x})
            raise OSError(x)
        return x

    result = engine.run([range(600), stage(flaky, retries=1)])
    assert values(result) == list(range(600))
    assert result.report.snapshot.stages[0].retried == 200


def test_retries_for_other_errors_are_not_made(engine):
    picky = stage(stages.fail_on_three, retries=Retry(5, on=(OSError,)), on_error="drop")
    result = engine.run([range(5), picky])
    assert [error.attempts for error in result.report.errors] == [1]


@pytest.mark.parametrize("count", [10, 5000], ids=["one by one", "a slice at a time"])
@pytest.mark.parametrize("retries", [0, 1])
def test_stop_iteration_is_an_error_like_any_other(engine, count, retries):
    def stop_now_and_then(x):
        if x % 10 == 3:
            raise StopIteration("the user's")
        return x

    result = engine.run([range(count), stages.keep, stage(stop_now_and_then, on_error="drop", retries=retries)])
    assert values(result) == [x for x in range(count) if x % 10 != 3]
    first = min(result.report.errors, key=lambda error: error.index)
    assert (first.index, first.attempts, type(first.error)) == (3, 1 + retries, StopIteration)
    assert result.report.snapshot.dropped == count // 10
    balances(result.report)


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (lambda: stages.PickyError(1, 2), False),
        (lambda: stages.UnpicklableError("held a lock"), False),
        (lambda: stages.FalseError("no"), True),
        (lambda: ExceptionGroup("two", [ValueError(1), OSError(2)]), True),
        (lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), True),
    ],
    ids=["picky", "unpicklable", "false", "group", "unicode"],
)
def test_every_exception_finds_its_way_back(kind, make_engine, error, kept):
    def fail_at_eight(x):
        if x == 8:
            raise error()
        return x

    with make_engine(kind) as engine:
        for count in (10, 5000):  # one by one, and a slice at a time
            result = engine.run([range(count), stage(fail_at_eight, on_error="drop")])
            assert values(result) == [x for x in range(count) if x != 8]
            (failed,) = result.report.errors
            name = type(error()).__name__
            assert failed.index == 8
            assert type(failed.error) is (type(error()) if kept or kind == "inline" else StageError)
            assert name in type(failed.error).__name__ + str(failed.error)
            assert "fail_at_eight" in failed.traceback


def test_an_error_that_exits_when_it_is_unpickled_harms_nobody(make_engine):
    def fail(x):
        raise stages.ExitingError(x)

    engine = make_engine("fork")
    result = engine.run([[1], stage(fail, on_error="drop")])
    assert isinstance(result.report.errors[0].error, StageError)
    assert "ExitingError" in str(result.report.errors[0].error)
    assert values(engine.run([[1], stages.double])) == [2]


def test_an_odd_base_exception_is_its_items_error(engine):
    def fail(x):
        if x == 3:
            raise stages.SelfMadeBaseError("odd")
        return x

    result = engine.run([range(10), stage(fail, on_error="drop")])
    assert values(result) == [x for x in range(10) if x != 3]
    assert isinstance(result.report.errors[0].error, stages.SelfMadeBaseError)


@pytest.mark.slow
def test_system_exit_in_a_stage_costs_a_worker_and_the_item(make_engine):
    result = make_engine("fork").run([range(10), stage(lambda x: sys.exit(x) if x == 3 else x, on_error="drop")])
    assert values(result) == [x for x in range(10) if x != 3]
    assert isinstance(result.report.errors[0].error, WorkerDiedError)
    assert "exit code 3" in str(result.report.errors[0].error)


def test_a_failing_setup_or_class_is_one_clear_error(every_kind, make_engine):
    class NeedsAFile:
        def __init__(self):
            raise FileNotFoundError("no model here")

        def __call__(self, x):
            return x

    def setup(state):
        raise RuntimeError("no connection")

    engine = make_engine(every_kind, on_error="drop")
    result = engine.run([range(100), stages.keep, NeedsAFile])
    assert isinstance(result, Err)
    assert isinstance(result.cause, FileNotFoundError)
    assert result.reason == "stage 'NeedsAFile' could not be set up: FileNotFoundError: no model here"
    result = engine.run([range(100), stage(stages.keep, setup=setup)])
    assert isinstance(result.cause, RuntimeError)
    assert every_kind == "inline" or "raise RuntimeError" in str(result.cause.__cause__)


def test_a_function_that_will_not_travel_is_refused(make_engine):
    lock = threading.Lock()
    engine = make_engine("forkserver")
    for attempt in (engine.run, engine.iter):
        with pytest.raises(PipelineError, match=r"'<lambda>' cannot be sent .*lock"):
            attempt([range(3), lambda x: lock])
    assert values(engine.run([range(3), stages.keep])) == [0, 1, 2]


# ---------------------------------------------------------------------- values


def test_values_that_look_like_nothing_come_through(engine):
    odd = [None, "", 0, False, (), [], {}, b"", float("nan"), Ellipsis, NotImplemented, StopIteration, "SKIP", "\0"]
    for member in (stages.keep, lambda x: x):
        out = values(engine.run([odd, member, stages.keep]))
        assert list(map(repr, out)) == list(map(repr, odd))
        assert all(map(lambda a, b: type(a) is type(b), out, odd))


@pytest.mark.parametrize("count", [4, 3000])
def test_arrays_come_through(engine, count):
    items = [np.arange(5) + x for x in range(count)]
    out = values(engine.run([items, lambda a: a * 2, stages.keep]))
    assert len(out) == count
    assert all((a == 2 * b).all() for a, b in zip(out, items, strict=True))


@pytest.mark.parametrize("count", [5, 3000])
def test_values_that_answer_no_question_come_through(engine, count):
    def through(x):
        return x

    def fail_on_two(x):
        if x.number == 2:
            raise ValueError("sulks")
        return x

    items = [stages.Sulky(x) for x in range(count)]
    result = engine.run([items, through, stage(fail_on_two, on_error="drop")])
    assert [value.number for value in values(result)] == [x for x in range(count) if x != 2]
    assert result.report.errors[0].item.startswith("<Sulky")


@pytest.mark.parametrize("count", [5, 3000])
def test_values_without_a_class_to_ask_for_come_through(engine, count):
    out = values(engine.run([[stages.Classless()] * count, stages.keep, lambda x: type(x).__name__]))
    assert out == ["Classless"] * count
    assert values(engine.run([range(count), lambda x: stages.Classless(), lambda x: 1])) == [1] * count


@pytest.mark.parametrize("count", [5, 3000])
def test_values_whose_type_has_no_hash_come_through(engine, count):
    out = values(engine.run([range(count), stages.make_of_unhashable_kind, lambda x: isinstance(x, int)]))
    assert out == [x != 3 for x in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("max_bytes", [None, 6_000_000], ids=["shared", "in messages"])
def test_large_values_come_through(make_engine, max_bytes):
    big = os.urandom(6_000_000)
    out = values(make_engine(max_bytes=max_bytes).run([[big, big, big], stages.keep, stage(stages.keep, workers=1)]))
    assert out == [big] * 3


def test_an_engine_that_is_dropped_leaves_nothing():
    engine = Engine(1)
    gone = weakref.ref(engine)
    assert values(engine.run([range(3), stages.double])) == [0, 2, 4]
    results = engine.iter([range(100_000), stages.double])
    assert next(results) == 0
    del results, engine
    gc.collect()
    assert gone() is None


# ---------------------------------------------------------------------- pipelines that were cancelled


def test_a_cancelled_pipeline_refuses_to_run(engine):
    pipeline = Pipeline(range(5)) >> stages.double
    pipeline.cancel("not today")
    pipeline.cancel("second thoughts")
    result = engine.run(pipeline)
    assert (type(result), result.reason, result.report.ok) == (Err, "not today", False)
    with pytest.raises(EngineError, match="not today"):
        engine.iter(pipeline)
    assert engine.pids() == []


def test_cancelling_a_pipeline_ends_its_run(engine):
    pipeline = Pipeline(itertools.count()) >> stages.double
    results = pipeline.iter(engine)
    assert next(results) == 0
    assert pipeline.snapshot().state == "running"
    pipeline.cancel("seen enough")
    with pytest.raises(EngineError, match="seen enough"):
        list(results)
    assert pipeline.run(engine).reason == "seen enough"


def test_cancelling_a_pipeline_that_has_run_changes_nothing_of_its_result(engine):
    pipeline = Pipeline(range(5)) >> stages.double
    result = engine.run(pipeline)
    pipeline.cancel("too late")
    assert values(result) == [0, 2, 4, 6, 8]
    assert pipeline.run(engine).reason == "too late"


# ---------------------------------------------------------------------- what lives in the main program

MAIN = """
    import dataclasses
    from mpengine import Engine, stage

    class Pair:
        def __init__(self, a):
            self.a = a

    @dataclasses.dataclass
    class Point:
        x: int

    class MyError(Exception):
        pass

    class Model:
        def __init__(self):
            self.scale = SCALE
        def __call__(self, pair):
            return Point(pair.a * self.scale)

    @stage
    def check(point):
        if point.x == 30:
            raise MyError("thirty")
        return point

    SCALE = 10
    engine = Engine(2, start_method="{method}")
    result = engine.run([[Pair(x) for x in range(3)], Model, check])
    print([p.x for p in result.unwrap().values], all(type(p) is Point for p in result.report.values))
    result = engine.run([map(Pair, range(9)), Model, check])
    print(type(result).__name__, type(result.cause) is MyError, result.cause)
    print(list(engine.map(lambda x: x + SCALE, range(3))))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "method"),
    [("file", "forkserver"), ("stdin", "forkserver"), ("-c", "forkserver"), ("stdin", "spawn"), ("file", "fork")],
)
def test_a_main_program_without_a_guard_works(run_program, method, how):
    done = run_program(MAIN.replace("{method}", method), how)
    assert done.stderr == "the run has failed: stage 'check' failed on item 3: MyError: thirty\n"
    assert done.stdout.splitlines() == ["[0, 10, 20] True", "Err True thirty", "[10, 11, 12]"]
    assert done.returncode == 0


def test_a_huge_generator_fills_batches_of_the_size_that_the_next_stage_wants():
    engine = Engine(2, backend="inline")  # which takes its steps in a fixed order
    result = engine.run([[40_000], stages.count_up, stages.keep])
    assert result.unwrap().values == list(range(40_000))
    assert sum(worker.batches for worker in result.report.snapshot.workers) < 1_000
