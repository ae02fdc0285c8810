"""Stages that are an async def: as many items at once as concurrency says, and everything that holds for others."""

import asyncio
import contextlib
import random
import threading
import time

import engine_stages as stages
import pytest

from mpengine import SKIP, Err, ItemError, ItemTimeoutError, KillSwitch, Retry, WorkerDiedError, stage

SLOW = pytest.mark.slow
FOR_EVER_S = 50


async def double_later(x):
    await asyncio.sleep(0)
    return 2 * x


class Gathering:
    """Lets nobody go on until so many are there at once; one in each worker, since it is made by a set-up."""

    def __init__(self, wanted):
        self.wanted = wanted
        self.present = 0
        self.most = 0
        self.is_complete = asyncio.Event()

    async def join(self):
        self.present += 1
        self.most = max(self.most, self.present)
        if self.present >= self.wanted:
            self.is_complete.set()
        await asyncio.wait_for(self.is_complete.wait(), 20)
        await asyncio.sleep(0)
        self.present -= 1
        return self.most


def gather_of(wanted):
    async def prepare(state):
        state.update(gathering=Gathering(wanted))

    return prepare


async def join(x, state):
    most = await state.get("gathering").join()
    return x, most


def test_as_many_items_as_concurrency_says_are_under_way_in_one_worker(kind, make_engine):
    """With one fewer at once the gathering would never be complete."""
    engine = make_engine(kind, workers=1)
    report = engine.run([list(range(40)), stage(join, concurrency=8, setup=gather_of(8))]).unwrap()
    assert [x for x, _ in report.values] == list(range(40))
    assert {most for _, most in report.values} <= set(range(9))
    assert max(most for _, most in report.values) == 8


def test_without_concurrency_they_run_one_after_another(engine):
    report = engine.run([range(20), stage(join, setup=gather_of(1))]).unwrap()
    assert report.values == [(x, 1) for x in range(20)]


def test_results_come_in_order_though_they_end_in_another(kind, make_engine):
    async def backwards(x):
        for _ in range(20 - x % 20):
            await asyncio.sleep(0)
        return x

    values = make_engine(kind).run([range(200), stage(backwards, concurrency=10)]).unwrap().values
    assert values == list(range(200))
    unordered = make_engine(kind, ordered=False)
    assert sorted(unordered.run([range(200), stage(backwards, concurrency=10)]).unwrap().values) == list(range(200))


class Client:
    def __init__(self):
        self.calls = 0

    async def __call__(self, x):
        self.calls += 1
        number = self.calls
        await asyncio.sleep(0)
        return x, number

    async def close(self):
        await asyncio.sleep(0)
        stages.Counter._note(self, "closed")


def test_a_class_with_an_async_call_is_built_once_and_closed_by_its_coroutine(make_engine, tmp_path, monkeypatch):
    monkeypatch.setenv("COUNTER_FILE", str(tmp_path / "notes"))
    report = make_engine("inline", workers=1).run([range(10), stage(Client, concurrency=3)]).unwrap()
    assert [x for x, _ in report.values] == list(range(10))
    assert sorted(calls for _, calls in report.values) == list(range(1, 11))
    assert (tmp_path / "notes").read_text().split()[0] == "closed"


def test_set_up_and_tear_down_may_be_coroutines_of_the_same_loop(kind, make_engine, tmp_path):
    async def set_up(state):
        await asyncio.sleep(0)
        state.update(loop=id(asyncio.get_running_loop()), lock=asyncio.Lock())

    async def work(x, state):
        async with state.get("lock"):
            return id(asyncio.get_running_loop()) == state.get("loop")

    async def tear_down(state):
        await asyncio.sleep(0)
        (tmp_path / f"{state.worker_id}").write_text(str(id(asyncio.get_running_loop()) == state.get("loop")))

    member = stage(work, concurrency=4, setup=set_up, teardown=tear_down)
    assert set(make_engine(kind).run([range(20), member]).unwrap().values) == {True}
    assert {path.read_text() for path in tmp_path.iterdir()} == {"True"}


def test_an_async_set_up_that_fails_is_one_clear_error_and_leaves_nothing(engine):
    async def set_up(state):
        await asyncio.sleep(0)
        raise OSError("no connection")

    result = engine.run([range(5), stage(double_later, setup=set_up)])
    assert isinstance(result, Err)
    assert result.reason == "stage 'double_later' could not be set up: OSError: no connection"


async def count_up_later(x):
    for number in range(x):
        await asyncio.sleep(0)
        yield number


def test_an_async_generator_fans_out(engine):
    members = [stages.keep, stage(count_up_later), stage(stages.increment, workers=1)]
    assert engine.run([[3, 0, 2], *members]).unwrap().values == [1, 2, 3, 1, 2]


def test_an_async_generator_may_have_state_and_a_class(engine):
    async def with_state(x, state):
        yield x
        yield state.get("add") + x

    class Twice:
        async def __call__(self, x):
            yield x
            await asyncio.sleep(0)
            yield x

    members = [stage(with_state, setup=lambda state: state.update(add=100)), stage(Twice)]
    assert engine.run([[1, 2], *members]).unwrap().values == [1, 1, 101, 101, 2, 2, 102, 102]


def test_an_async_generator_is_streamed_and_closed(make_engine, tmp_path):
    async def endless(x):
        try:
            while True:
                await asyncio.sleep(0)
                yield x
        finally:
            await asyncio.sleep(0)
            (tmp_path / "closed").touch()

    engine = make_engine("inline", buffer=10)
    with engine.iter([[1], stage(endless)]) as results:
        assert [next(results) for _ in range(100)] == [1] * 100
    assert (tmp_path / "closed").exists()


def test_an_async_generator_that_fails_half_way_has_given_its_first_half(engine):
    async def give(x):
        yield x
        if x == 2:
            raise ValueError(x)
        yield -x

    values = engine.run([[1, 2, 3], stage(give, on_error="emit")]).unwrap().values
    assert [x.index if isinstance(x, ItemError) else x for x in values] == [1, -1, 2, 1, 3, -3]


def test_skipped_items_of_a_coroutine_are_filtered_out(engine):
    async def skip_odd(x):
        return SKIP if x % 2 else x

    report = engine.run([range(20), stage(skip_odd, concurrency=4)]).unwrap()
    assert report.values == list(range(0, 20, 2))
    assert report.snapshot.stages[0].skipped == 10


@pytest.mark.parametrize("how", ["returned", "raised"])
def test_a_kill_switch_of_a_coroutine_cancels_the_run(engine, how):
    async def kill(x):
        await asyncio.sleep(0)
        if x == 13 and how == "raised":
            raise KillSwitch("enough")
        return KillSwitch("enough") if x >= 13 else x

    result = engine.run([range(100), stage(kill, concurrency=4)])
    assert (type(result), result.reason) == (Err, "enough")
    assert result.report.snapshot.stages[0].failed == 0


def test_an_exception_of_a_coroutine_has_the_workers_traceback(kind, make_engine):
    async def deeper(x):
        await asyncio.sleep(0)
        raise ValueError(f"no {x}")

    async def picky(x):
        return await deeper(x) if x % 7 == 3 else x

    report = make_engine(kind, on_error="drop").run([range(30), stage(picky, concurrency=5)]).unwrap()
    assert report.values == [x for x in range(30) if x % 7 != 3]
    errors = sorted(report.errors, key=lambda error: error.index)
    assert [(error.index, str(error.error)) for error in errors] == [(x, f"no {x}") for x in range(3, 30, 7)]
    assert all("in picky" in error.traceback and "in deeper" in error.traceback for error in errors)
    assert all(error.traceback.count("Traceback") == 1 for error in errors)


@pytest.mark.parametrize("bad", [asyncio.CancelledError, TimeoutError, StopAsyncIteration])
def test_odd_errors_of_a_coroutine_are_its_items(engine, bad):
    async def picky(x):
        if x == 3:
            raise bad("the user's")
        return x

    member = stage(picky, concurrency=3, on_error="drop", timeout=50)
    report = engine.run([range(10), member]).unwrap()
    assert report.values == [x for x in range(10) if x != 3]
    (error,) = report.errors
    assert type(error.error) is bad
    assert report.snapshot.stages[0].timed_out == 0


def test_what_will_not_unpickle_fails_alone_among_coroutines(make_engine):
    source = [stages.BadToUnpickle() if x in (0, 5, 6, 19) else x for x in range(20)]
    engine = make_engine("fork", on_error="drop")
    report = engine.run([source, stage(double_later, concurrency=4)]).unwrap()
    assert report.values == [2 * x for x in range(20) if x not in (0, 5, 6, 19)]


# ---------------------------------------------------------------------- timeouts and retries


def test_a_coroutine_whose_time_is_up_is_cancelled_and_fails_alone(kind, make_engine, tmp_path):
    async def wait(x):
        if x == 4:
            try:
                await asyncio.sleep(FOR_EVER_S)
            except asyncio.CancelledError:
                (tmp_path / "cleaned up").touch()
                raise
        return x

    engine = make_engine(kind, on_error="drop")
    report = engine.run([range(12), stage(wait, concurrency=4, timeout=0.1)]).unwrap()
    assert report.values == [x for x in range(12) if x != 4]
    (error,) = report.errors
    assert type(error.error) is ItemTimeoutError
    line = wait.__code__.co_firstlineno + 3
    assert str(error.error) == f"took longer than 0.1 s; it was in wait ({__file__}:{line})"
    assert "in wait" in error.traceback
    assert (error.index, error.attempts) == (4, 1)
    assert (report.snapshot.stages[0].timed_out, report.snapshot.stages[0].failed) == (1, 1)
    assert (tmp_path / "cleaned up").exists()
    assert sum(worker.deaths for worker in report.snapshot.workers) == 0


async def block(x):
    stages.block()


async def refuse_to_end(x):
    while True:
        with contextlib.suppress(asyncio.CancelledError):  # goes on all the same
            await asyncio.sleep(FOR_EVER_S)


@SLOW
@pytest.mark.parametrize("stubborn", [block, refuse_to_end])
@pytest.mark.parametrize("retries", [0, 1])
def test_a_coroutine_that_will_not_end_is_ended_with_its_worker(make_engine, stubborn, retries):
    async def wait(x):
        return await stubborn(x) if x == 4 else x

    engine = make_engine("fork", on_error="drop")
    member = stage(wait, concurrency=4, timeout=0.1, retries=retries)
    report = engine.run([range(12), member]).unwrap()
    assert report.values == [x for x in range(12) if x != 4]
    (error,) = report.errors
    assert (type(error.error), error.index, error.attempts) == (ItemTimeoutError, 4, retries + 1)
    if stubborn is block:
        assert "it was in block (" in str(error.error)
    book = report.snapshot.stages[0]
    assert (book.timed_out, book.retried, book.failed) == (1, retries, 1)


@pytest.mark.parametrize("how", ["blocks", "swallows", "raises"])
def test_a_coroutine_that_comes_back_too_late_fails(kind, make_engine, how):
    async def late(x):
        if x != 2:
            return x
        if how == "blocks":
            stages.block(0.15)
            return x
        try:
            await asyncio.sleep(FOR_EVER_S)
        except asyncio.CancelledError:
            if how == "raises":
                raise ValueError("instead") from None
        return x

    report = make_engine(kind, on_error="drop").run([range(5), stage(late, timeout=0.1)]).unwrap()
    assert report.values == [0, 1, 3, 4]
    assert [type(error.error) for error in report.errors] == [ItemTimeoutError]
    assert report.snapshot.stages[0].timed_out == 1


def test_an_attempt_that_times_out_is_followed_by_another(engine):
    async def slow_at_first(x, state):
        state.update(**{f"n{x}": state.get(f"n{x}", 0) + 1})
        if x % 5 == 0 and state.get(f"n{x}") == 1:
            await asyncio.sleep(FOR_EVER_S)
        return x

    member = stage(slow_at_first, concurrency=4, timeout=0.1, retries=Retry(1, on=(TimeoutError,)))
    report = engine.run([range(12), member]).unwrap()
    assert report.values == list(range(12))
    assert report.snapshot.stages[0].retried == 3


def test_back_off_lets_the_others_go_on(make_engine):
    """Item 0 waits for its second attempt until the last item has come through, or would for minutes."""
    engine = make_engine("inline", workers=1)

    async def flaky(x, state):
        state.update(seen=state.get("seen", 0) + 1)
        if x == 0 and state.get("seen") < 16:
            raise OSError("too early")
        await asyncio.sleep(0)
        return x

    member = stage(flaky, concurrency=16, retries=Retry(1000, backoff_s=0.001, factor=1))
    assert engine.run([list(range(16)), member]).unwrap().values == list(range(16))


# ---------------------------------------------------------------------- cancelling and deaths


@pytest.mark.parametrize("form", ["function", "generator"])
def test_cancelling_interrupts_a_wait_at_once_and_coroutines_may_clean_up(kind, make_engine, tmp_path, form):
    """Whoever waits does so for minutes, and the run's grace is as long."""

    async def wait(x):
        try:
            (tmp_path / f"waits {x}").touch()
            await asyncio.sleep(FOR_EVER_S)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            (tmp_path / f"cleaned up {x}").touch()
            raise

    async def give(x):
        await wait(x)
        yield x

    engine = make_engine(kind, grace_s=FOR_EVER_S, workers=1)
    member = stage(wait, concurrency=3) if form == "function" else stage(give)

    def cancel():
        wanted = 3 if form == "function" else 1
        while len(list(tmp_path.glob("waits *"))) < wanted:
            time.sleep(0.005)
        engine.cancel("enough")

    canceller = threading.Thread(target=cancel)
    canceller.start()
    result = engine.run([[0, 1, 2], member])
    canceller.join()
    assert (type(result), result.reason) == (Err, "enough")
    waited = {path.name.split()[-1] for path in tmp_path.glob("waits *")}
    assert {path.name.split()[-1] for path in tmp_path.glob("cleaned up *")} == waited


@SLOW
@pytest.mark.parametrize("seed", [1, 2])
def test_workers_killed_at_random_lose_nothing_and_double_nothing(make_engine, seed):
    async def wander(x):
        for _ in range(x % 5):
            await asyncio.sleep(0.0001)
        return x

    engine = make_engine("fork", crash_retries=50)
    chosen, kills = random.Random(seed), 0
    with engine.iter([range(1500), stages.keep, stage(wander, concurrency=8, buffer=64)]) as results:
        values = []
        for value in results:
            values.append(value)
            if kills < 6 and chosen.random() < 0.01:
                pids = engine.pids()
                kills += stages.kill(chosen.sample(pids, k=min(1, len(pids))))
    assert values == list(range(1500))
    assert kills >= 3


@SLOW
@pytest.mark.parametrize("how", ["SIGKILL", "sys.exit"])
def test_an_item_whose_coroutine_kills_fails_alone(make_engine, how):
    async def deadly(x):
        await asyncio.sleep(0)
        if x == 7:
            stages.die(how)
        return x

    engine = make_engine("fork", on_error="drop")
    report = engine.run([range(24), stage(deadly, concurrency=6)]).unwrap()
    assert report.values == [x for x in range(24) if x != 7]
    assert [(error.index, type(error.error)) for error in report.errors] == [(7, WorkerDiedError)]


def test_coroutines_before_and_behind_other_stages(engine):
    members = [
        stages.increment, stage(double_later, concurrency=3), stages.skip_odd,
        stage(double_later), stages.decorated_generator, stages.keep,
    ]  # fmt: skip
    expected = [sign * 4 * (x + 1) for x in range(30) for sign in (1, -1)]
    assert engine.run([range(30), *members]).unwrap().values == expected
