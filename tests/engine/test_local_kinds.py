"""Stages of kind thread and async run beside the coordinator: nothing is pickled, and nothing holds the loop up."""

import asyncio
import itertools
import logging
import os
import threading
import time

import engine_stages as stages
import pytest

from mpengine import (
    SKIP,
    Err,
    ItemError,
    ItemTimeoutError,
    KillSwitch,
    PipelineError,
    Retry,
    WorkerDiedError,
    cancelled,
    mix,
    stage,
)

pytestmark = pytest.mark.slow
PATIENCE_S = 20.0


def where(x):
    return x, os.getpid(), threading.current_thread().name


def on_thread(fn, **options):
    return stage(fn, kind="thread", **options)


def kinds_of(members):
    return " ".join(
        f"{getattr(member, 'kind', '')} {getattr(member, 'name', None) or member.__name__}" for member in members
    )


def balanced(result):
    for book in result.report.snapshot.stages:
        assert book.processed == book.succeeded + book.failed + book.skipped
    return result.report


def values(result):
    assert result.is_ok, result
    return balanced(result).values


def threads():
    return [
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith(("mpengine-thread-", "mpengine-async-"))
    ]


@pytest.fixture
def engine(make_engine):
    return make_engine("fork", workers=2)


@pytest.fixture
def gate():
    """Opened at the end of the test, should the test not get so far."""
    event = threading.Event()
    yield event
    event.set()


# ---------------------------------------------------------------------- where they run


def test_a_thread_stage_runs_in_threads_of_this_process_that_are_gone_afterwards(engine):
    with engine:
        found = values(engine.run([range(50), on_thread(where)]))
        assert [x for x, _, _ in found] == list(range(50))
        assert {pid for _, pid, _ in found} == {os.getpid()}
        assert all(name.startswith("mpengine-thread-") for _, _, name in found)
        assert engine.pids() == []  # nothing asks for a process
        assert threads() == []


def test_nothing_is_pickled_between_source_thread_stages_and_consumer(engine):
    items = [threading.Lock() for _ in range(20)]
    found = values(engine.run([items, on_thread(stages.keep), on_thread(list, batch=3)]))
    assert all(one is other for one, other in zip(found, items, strict=True))


def test_closures_over_anything_will_do(engine):
    lock, seen = threading.Lock(), []

    def note(x):
        with lock:
            seen.append(x)
        return x

    assert values(engine.run([range(30), on_thread(note)])) == list(range(30))
    assert sorted(seen) == list(range(30))


@pytest.mark.parametrize(
    ("options", "seats"), [({"workers": 3}, 3), ({"concurrency": 4}, 4), ({"workers": 1, "concurrency": 1}, 1), ({}, 2)]
)
def test_there_are_as_many_threads_as_asked_for_or_as_workers(engine, options, seats):
    barrier = threading.Barrier(seats)

    def meet(x):
        barrier.wait(PATIENCE_S)
        return threading.current_thread().name

    # One item each: what an item costs is not known before the first has come back, so none is kept in reserve.
    with engine.iter([range(seats), on_thread(meet, **options)]) as results:
        assert len({*results}) == seats


@pytest.mark.parametrize(
    "members",
    [
        [on_thread(stages.increment), stages.double],
        [stages.double, on_thread(stages.increment)],
        [stages.double, on_thread(stages.increment), stages.double, on_thread(stages.increment)],
        [on_thread(stages.increment), stages.count_up],
        [stages.count_up, on_thread(stages.increment), stages.keep],
        [on_thread(stages.count_up), stages.increment],
        [stages.increment, on_thread(stages.count_up), on_thread(stages.count_up)],
        [on_thread(stages.skip_odd), stage(stages.keep, workers=1), on_thread(stages.increment, buffer=1)],
        [mix(stages.keep, on_thread(stages.double)), on_thread(sum)],
        [mix(on_thread(stages.keep), on_thread(stages.double), merge=on_thread(sum)), stages.increment],
        [on_thread(stages.keep), mix(on_thread(stages.keep), stages.double, merge=sum)],
    ],
    ids=kinds_of,
)
@pytest.mark.parametrize("options", [{}, {"ordered": False}, {"buffer": 1}])
def test_before_behind_and_between_processes_they_give_what_inline_gives(make_engine, members, options):
    inline = make_engine("inline", **options)
    wanted = values(inline.run([range(12), *members]))
    found = values(make_engine("fork", **options).run([range(12), *members]))
    assert found == wanted if options.get("ordered", True) else sorted(found) == sorted(wanted)


def test_inline_runs_every_kind_in_the_callers_thread(make_engine):
    async def later(x):
        await asyncio.sleep(0)
        return (*x, threading.current_thread().name)

    engine = make_engine("inline")
    for _, pid, name, later_name in values(engine.run([range(5), on_thread(where), stage(later, kind="async")])):
        assert (pid, name, later_name) == (os.getpid(), threading.current_thread().name, name)


def test_a_warm_engine_runs_them_again_and_its_processes_stay(engine):
    with engine:
        found = [values(engine.run([range(20), stages.pid_of, on_thread(where)])) for _ in range(2)]
        pids = [{pid for pid, _, _ in each} for each in found]
        assert pids[0] | pids[1] <= set(engine.pids())
        assert threads() == []


# ---------------------------------------------------------------------- they hold nothing up


def test_threads_that_block_do_not_keep_a_process_stage_from_going_on(engine, gate):
    """Both threads are held until the processes are through with every item that the buffers let them have."""

    def wait(x):
        assert gate.wait(PATIENCE_S)
        return x

    members = [stage(stages.double, workers=1, buffer=10), on_thread(wait, buffer=10)]
    with engine.iter([range(40), *members]) as results:
        deadline_at = time.monotonic() + PATIENCE_S
        while results.snapshot().stages[0].processed < 10 and time.monotonic() < deadline_at:
            time.sleep(0.001)
        snapshot = results.snapshot()
        assert snapshot.stages[0].processed >= 10
        assert snapshot.stages[1].processed == 0
        gate.set()
        assert list(results) == [2 * x for x in range(40)]


def test_an_endless_source_is_never_further_ahead_than_the_bound(make_engine):
    for buffer in (1, 3, None):
        engine = make_engine("fork", buffer=buffer)
        for members in (
            [on_thread(stages.keep)],
            [on_thread(stages.keep, workers=3), stages.keep, on_thread(stages.keep)],
        ):
            pulled = itertools.count()
            with engine.iter([pulled, *members]) as results:
                bound = results.snapshot().lead_bound
                for taken, _ in enumerate(itertools.islice(results, 500)):
                    assert results.snapshot().source_items - taken <= bound


# ---------------------------------------------------------------------- the forms of functions


def test_state_class_setup_and_teardown_belong_to_one_thread_each(engine):
    built, closed, notes = [], [], []

    class Built:
        def __init__(self):
            built.append(threading.get_ident())

        def __call__(self, x):
            assert threading.get_ident() in built
            return x

        def close(self):
            closed.append(threading.get_ident())

    def count(x, state):
        assert state.get("thread") == threading.get_ident()
        state.update(seen=state.get("seen", 0) + 1)
        return state.get("seen")

    members = [
        on_thread(Built, workers=2),
        on_thread(
            count,
            workers=2,
            setup=lambda state: state.update(thread=threading.get_ident()),
            teardown=lambda state: notes.append((state.get("thread") == threading.get_ident(), state.get("seen"))),
        ),
    ]
    assert len(values(engine.run([range(100), *members]))) == 100
    assert 1 <= len(built) <= 2
    assert sorted(built) == sorted(closed)
    assert all(is_same for is_same, _ in notes)
    assert sum(seen for _, seen in notes) == 100


def test_skips_failures_retries_lists_and_switches_are_those_of_processes(engine):
    def flaky(x, state):
        if x % 10 == 0 and state.get("last") != x:
            state.update(last=x)
            raise OSError(x)
        return x

    def listed(xs):
        assert len(xs) <= 4
        return [x + 1 for x in xs]

    members = [
        on_thread(stages.skip_odd),
        on_thread(flaky, retries=Retry(1)),
        on_thread(listed, batch=4),
        on_thread(lambda x: x if x != 7 else 1 / 0, name="divide", on_error="emit"),
    ]
    result = engine.run([range(40), *members])
    found = values(result)
    error = found.pop(3)
    assert isinstance(error, ItemError)
    assert (error.stage, error.index, error.item, type(error.error)) == ("divide", 6, "7", ZeroDivisionError)
    assert "1 / 0" in error.traceback
    assert found == [x + 1 for x in range(0, 40, 2) if x != 6]
    assert result.report.snapshot.stages[1].retried == 4
    switched = engine.run([itertools.count(), on_thread(stages.kill_switch_raised)])
    assert isinstance(switched, Err)
    assert switched.reason == "enough"
    balanced(switched)


def test_a_generator_on_a_thread_is_put_aside_and_closed(make_engine):
    closed = []

    def endless(x):
        try:
            yield from itertools.count()
        finally:
            closed.append(x)

    engine = make_engine("fork", buffer=4)
    with engine.iter([[1], on_thread(endless), on_thread(stages.keep)]) as results:
        assert list(itertools.islice(results, 3000)) == list(range(3000))
    assert closed == [1]


def test_a_call_that_comes_back_too_late_has_failed(engine):
    def slow(x):
        if x == 2:
            time.sleep(0.05)
        return x

    result = engine.run([range(5), on_thread(slow, timeout=0.02, on_error="drop")])
    assert 2 not in values(result)
    assert ItemTimeoutError in {type(error.error) for error in result.report.errors if error.index == 2}


# ---------------------------------------------------------------------- ends


def test_cancelled_is_true_in_a_thread_when_the_run_is_cancelled(engine):
    saw = []

    def work(x):
        if x == 0:
            engine.cancel("enough seen")
        deadline_at = time.monotonic() + PATIENCE_S
        while not cancelled() and time.monotonic() < deadline_at:
            time.sleep(0.001)
        saw.append(cancelled())
        return x

    result = engine.run([range(10), on_thread(work)])
    assert isinstance(result, Err)
    assert result.reason == "enough seen"
    assert saw
    assert all(saw)
    assert not cancelled()
    assert threads() == []
    balanced(result)


def test_a_retry_that_waits_is_woken_by_a_cancel(engine):
    def fail(x):
        engine.cancel("enough seen")
        raise OSError(x)

    began = time.monotonic()
    result = engine.run([range(3), on_thread(fail, retries=Retry(3, backoff_s=300.0, max_s=300.0))])
    assert result.reason == "enough seen"
    assert time.monotonic() - began < PATIENCE_S
    assert threads() == []


def test_a_thread_that_gives_no_control_back_is_left_to_itself_and_heard_no_more(make_engine, caplog):
    """It comes back while the next run of the same engine is under way, and its report must not be taken for one's."""
    gate, back = threading.Event(), threading.Event()

    def hold(x):
        engine.cancel("enough seen")
        assert gate.wait(PATIENCE_S)
        return "late"

    def look(x):
        if x == 3:
            gate.set()
            assert back.wait(PATIENCE_S)
        return x

    with make_engine("fork", workers=1, grace_s=0.05) as engine, caplog.at_level(logging.WARNING, logger="mpengine"):
        result = engine.run([range(3), on_thread(hold, name="stubborn", workers=1)])
        assert result.reason == "enough seen"
        told = [record.getMessage() for record in caplog.records if "give control back" in record.getMessage()]
        assert len(told) == 1
        assert "'stubborn'" in told[0]
        (left,) = [thread for thread in threading.enumerate() if thread.name.startswith("mpengine-thread-")]
        assert left.daemon
        waiter = threading.Thread(target=lambda: (left.join(PATIENCE_S), back.set()))
        waiter.start()
        assert values(engine.run([range(10), on_thread(look, workers=1)])) == list(range(10))
        waiter.join()
        assert not left.is_alive()


@pytest.mark.parametrize("crash_retries", [0, 2])
def test_what_ends_a_process_ends_a_thread_and_is_told_as_a_death(make_engine, crash_retries):
    calls = []

    def leave(x):
        if x == 5:
            calls.append(x)
            raise SystemExit(3)
        return x

    engine = make_engine("fork", crash_retries=crash_retries, on_error="drop")
    result = engine.run([range(12), on_thread(leave)])
    assert values(result) == [x for x in range(12) if x != 5]
    (error,) = result.report.errors
    assert (error.index, error.stage, type(error.error)) == (5, "leave", WorkerDiedError)
    assert "SystemExit" in str(error.error)
    assert error.item in {"", "5"}
    assert len(calls) - crash_retries in {1, 2}  # once more where it was not named
    assert result.report.snapshot.stages[0].crashed == 1
    assert threads() == []


def test_what_a_thread_that_has_ended_had_built_is_torn_down(engine):
    notes = []

    async def leave(x, state):
        if x == 2:
            raise SystemExit(3)
        return x

    member = stage(
        leave,
        kind="async",
        on_error="drop",
        setup=lambda state: notes.append("up"),
        teardown=lambda state: notes.append("down"),
    )
    assert values(engine.run([range(5), member])) == [0, 1, 3, 4]
    assert notes.count("up") == notes.count("down") >= 2


def test_a_setup_that_ends_its_thread_ends_the_run(engine):
    def leave(state):
        raise SystemExit(3)

    result = engine.run([range(5), on_thread(stages.keep, setup=leave)])
    assert isinstance(result, Err)
    assert "'keep' could not be set up" in result.reason


def test_a_setup_that_raises_is_told_with_its_error(engine):
    def fail(state):
        raise ValueError("no luck")

    result = engine.run([range(5), on_thread(stages.keep, setup=fail)])
    assert isinstance(result.cause, ValueError)
    assert "'keep' could not be set up" in result.reason


def test_a_teardown_that_fails_or_leaves_is_told_and_harms_nobody(engine, caplog):
    def fail(state):
        raise ValueError("will not close")

    def leave(state):
        raise SystemExit(3)

    for teardown, told in ((fail, "will not close"), (leave, "SystemExit")):
        with caplog.at_level(logging.WARNING, logger="mpengine"):
            assert values(engine.run([range(5), on_thread(stages.keep, teardown=teardown)])) == list(range(5))
        assert any(told in record.getMessage() for record in caplog.records)
        caplog.clear()


def test_an_item_that_will_not_pickle_behind_a_thread_fails_alone(engine):
    def make(x):
        return threading.Lock() if x == 3 else x

    result = engine.run([range(10), on_thread(make, on_error="drop"), stages.keep])
    assert values(result) == [x for x in range(10) if x != 3]
    (error,) = result.report.errors
    assert (error.index, error.stage) == (3, "make")


def test_what_ends_a_thread_while_its_result_is_pickled_blames_that_item(make_engine):
    """Results are pickled together, when the items behind that one have been named already."""

    def make(x):
        time.sleep(0.0005)  # or else no item is named at all
        return stages.ExitsWhenPickled() if x == 45 else x

    engine = make_engine("fork", crash_retries=0)
    result = engine.run([range(80), on_thread(make, on_error="drop", workers=1), stages.keep])
    assert values(result) == [x for x in range(80) if x != 45]
    (error,) = result.report.errors
    assert (error.index, error.stage) == (45, "make")


# ---------------------------------------------------------------------- coroutines beside the coordinator


def test_so_many_coroutines_as_asked_for_are_under_way_at_once(engine):
    at_once = []

    async def meet(x, state):
        here = state.get("here") or asyncio.Barrier(4)
        state.update(here=here)
        at_once.append(here.n_waiting)
        async with asyncio.timeout(PATIENCE_S):
            await here.wait()
        return x, os.getpid(), threading.current_thread().name

    found = values(engine.run([range(32), stage(meet, kind="async", concurrency=4)]))
    assert [x for x, _, _ in found] == list(range(32))
    assert {(pid, name.startswith("mpengine-async-")) for _, pid, name in found} == {(os.getpid(), True)}
    assert max(at_once) == 3


def test_a_connection_is_kept_from_item_to_item_and_closed_on_its_own_loop(engine):
    made, closed = [], []

    class Connection:
        def __init__(self):
            self.loop = asyncio.get_running_loop()
            made.append(self)

        async def send(self, x):
            assert asyncio.get_running_loop() is self.loop
            await asyncio.sleep(0)
            return x

        async def close(self):
            assert asyncio.get_running_loop() is self.loop
            closed.append(self)

    async def open_it(state):
        state.update(connection=Connection())

    async def store(x, state):
        return await state.get("connection").send(x)

    async def close_it(state):
        await state.get("connection").close()

    member = stage(store, kind="async", concurrency=8, setup=open_it, teardown=close_it)
    assert values(engine.run([range(200), stages.keep, member])) == list(range(200))
    assert len(made) == 1
    assert closed == made


def test_a_cancel_raises_cancelled_error_in_coroutines_that_wait(engine):
    ended = []

    async def wait(x):
        try:
            if x == 1:
                engine.cancel("enough seen")
            await asyncio.sleep(300)
        except asyncio.CancelledError:
            ended.append(x)
            raise

    result = engine.run([range(50), stage(wait, kind="async", concurrency=2)])
    assert result.reason == "enough seen"
    assert sorted(ended) == [0, 1]
    assert threads() == []
    balanced(result)


def test_a_plain_function_is_no_async_stage(engine):
    with pytest.raises(PipelineError, match=r"'double': kind='async' is for an async def"):
        engine.run([range(3), stage(stages.double, kind="async")])


def test_a_switch_and_a_skip_in_a_coroutine(engine):
    async def choose(x):
        if x == 9:
            raise KillSwitch("nine")
        return SKIP if x % 2 else x

    result = engine.run([itertools.count(), stage(choose, kind="async", concurrency=3)])
    assert result.reason == "nine"
    assert result.report.values == [0, 2, 4, 6, 8][: len(result.report.values)]
