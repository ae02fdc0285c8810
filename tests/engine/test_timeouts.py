"""A call that takes too long ends with its worker, and its item alone fails; the others give the same values."""

import ctypes
import os
import signal
import time

import engine_stages as stages
import pytest

from mpengine import Err, ItemError, ItemTimeoutError, Retry, stage

SLOW = pytest.mark.slow
LIMIT_S = 0.25
FOR_EVER_S = 300


def sleep_at(*numbers):
    def sleep(x):
        if x in numbers:
            time.sleep(FOR_EVER_S)  # here it hangs
        return x

    return sleep


def check(result, numbers, length, attempts=1):
    report = result.unwrap()
    assert report.values == [x for x in range(length) if x not in numbers]
    assert sorted(error.index for error in report.errors) == sorted(numbers)
    for error in report.errors:
        assert type(error.error) is ItemTimeoutError
        assert error.attempts == attempts
        assert f"took longer than {LIMIT_S} s" in str(error.error)
    assert sum(book.timed_out for book in report.snapshot.stages) == len(numbers)
    assert sum(book.retried for book in report.snapshot.stages) == len(numbers) * (attempts - 1)
    assert sum(book.crashed for book in report.snapshot.stages) == 0
    for book in report.snapshot.stages:
        assert book.processed == book.succeeded + book.failed + book.skipped
    return report


@SLOW
@pytest.mark.parametrize("start_method", ["forkserver", "fork"])
def test_the_item_alone_fails_and_says_where_it_hung(make_engine, start_method):
    engine = make_engine(start_method, on_error="drop")
    result = engine.run([range(30), stage(sleep_at(7), name="sleepy", timeout=LIMIT_S)])
    (error,) = check(result, {7}, 30).errors
    line = sleep_at.__code__.co_firstlineno + 3
    assert f"it was in sleep ({__file__}:{line})" in str(error.error)
    assert f'File "{__file__}", line {line}, in sleep' in error.traceback
    assert (error.stage, error.item) == ("sleepy", "7")
    assert error.worker_id in (0, 1)


def hang_in_c(x):
    ctypes.PyDLL(None).sleep(FOR_EVER_S)  # PyDLL keeps the interpreter's lock; a signal ends this sleep early
    return x


def hang_in_c_and_return(x):
    hang_in_c(x)
    return "too late to count"


def hang_in_c_and_raise(x):
    hang_in_c(x)
    raise ValueError("too late to count")


def stop_itself(x):
    os.kill(os.getpid(), signal.SIGSTOP)


def block_every_signal(x):
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(FOR_EVER_S)


def spin(x):
    while True:
        pass


HANGS = [
    hang_in_c,
    hang_in_c_and_return,
    hang_in_c_and_raise,
    stop_itself,
    block_every_signal,
    spin,
    stages.never_return,
]


@SLOW
@pytest.mark.parametrize("hang", HANGS)
def test_whatever_holds_a_worker_up_is_ended(make_engine, hang):
    engine = make_engine("fork", on_error="drop")
    members = [stages.keep, stage(lambda x: hang(x) if x == 4 else x, timeout=LIMIT_S), stages.keep]
    (error,) = check(engine.run([range(12), *members]), {4}, 12).errors
    if hang not in (stop_itself, block_every_signal):
        assert f"it was in {hang.__name__.removesuffix('_and_return').removesuffix('_and_raise')} (" in str(error.error)


@SLOW
@pytest.mark.parametrize("hang", [hang_in_c_and_return, hang_in_c_and_raise])
def test_a_generator_that_comes_back_too_late_fails_too(make_engine, hang):
    def give(x):
        yield x
        if x == 2:
            hang(x)
        yield -x

    report = make_engine("fork", on_error="emit").run([range(5), stage(give, timeout=LIMIT_S)]).unwrap()
    values = [type(x.error) if isinstance(x, ItemError) else x for x in report.values]
    assert [x for x in values if x in (2, ItemTimeoutError)] in ([2, ItemTimeoutError], [ItemTimeoutError])
    assert [x for x in values if x not in (2, ItemTimeoutError)] == [0, 0, 1, -1, 3, -3, 4, -4]


@SLOW
@pytest.mark.parametrize("retries", [1, Retry(2, on=(ItemTimeoutError,)), Retry(1, on=(OSError,))])
def test_retries_count_attempts_across_workers(make_engine, tmp_path, retries):
    def note_and_sleep(x):
        if x == 3:
            with (tmp_path / "notes").open("a") as notes:
                notes.write("x")
            time.sleep(FOR_EVER_S)
        return x

    engine = make_engine("fork", on_error="drop")
    result = engine.run([range(6), stage(note_and_sleep, timeout=LIMIT_S, retries=retries)])
    attempts = 1 + (retries if isinstance(retries, int) else retries.attempts)
    check(result, {3}, 6, attempts)
    assert len((tmp_path / "notes").read_text()) == attempts


@SLOW
def test_retries_for_other_errors_are_not_made_of_a_timeout(make_engine):
    engine = make_engine("fork", on_error="drop")
    result = engine.run([range(6), stage(sleep_at(3), timeout=LIMIT_S, retries=Retry(3, on=(ValueError,)))])
    check(result, {3}, 6, attempts=1)


@SLOW
def test_attempts_that_fail_and_attempts_that_hang_count_together(make_engine, tmp_path):
    """Raises, hangs, raises, hangs: four attempts, three retries, whoever has seen them."""

    def vary(x):
        if x != 3:
            return x
        path = tmp_path / "notes"
        with path.open("a") as notes:
            notes.write("x")
        if path.stat().st_size % 2:
            raise OSError("an odd attempt")
        time.sleep(FOR_EVER_S)
        return None

    result = make_engine("fork", on_error="drop").run([range(6), stage(vary, timeout=LIMIT_S, retries=3)])
    check(result, {3}, 6, attempts=4)


@SLOW
def test_an_item_that_hangs_once_is_delivered(make_engine, tmp_path):
    def hang_once(x):
        mark = tmp_path / str(x)
        if x % 10 == 3 and not mark.exists():
            mark.touch()
            time.sleep(FOR_EVER_S)
        return x

    report = make_engine("fork").run([range(24), stage(hang_once, timeout=LIMIT_S, retries=1)]).unwrap()
    assert report.values == list(range(24))
    book = report.snapshot.stages[0]
    assert (book.retried, book.failed, book.timed_out) == (3, 0, 0)


@SLOW
def test_several_items_that_hang_fail_each_and_nobody_else(make_engine):
    engine = make_engine("fork", workers=3, on_error="drop")
    check(engine.run([iter(range(200)), stage(sleep_at(0, 50, 51, 199), timeout=LIMIT_S)]), {0, 50, 51, 199}, 200)


@SLOW
@pytest.mark.parametrize("place", [0, 1, 2])
def test_in_a_fused_chain_the_stage_that_hangs_is_named(make_engine, place):
    members = [stage(sleep_at(5 if number == place else -1), name=f"s{number}", timeout=LIMIT_S) for number in range(3)]
    members[1] = stage(members[1].fn, name="s1", timeout=LIMIT_S if place == 1 else None)
    report = check(make_engine("fork", on_error="drop").run([range(10), *members]), {5}, 10)
    assert report.errors[0].stage == f"s{place}"
    assert [book.timed_out for book in report.snapshot.stages] == [int(number == place) for number in range(3)]
    assert [book.processed for book in report.snapshot.stages] == [10] * (place + 1) + [9] * (2 - place)


@SLOW
def test_a_list_that_hangs_costs_only_the_item_it_hangs_with(make_engine):
    def sleepy(xs):
        if 13 in xs:
            time.sleep(FOR_EVER_S)
        return xs

    check(make_engine("fork", on_error="drop").run([range(40), stage(sleepy, batch=8, timeout=LIMIT_S)]), {13}, 40)


@SLOW
def test_the_time_that_a_generator_is_put_aside_does_not_count(make_engine):
    """Its consumer is slower than its timeout allows the generator to be, many times over."""

    def give(x):
        yield from range(400)

    engine = make_engine("fork", workers=1, buffer=10)
    with engine.iter([range(2), stage(give, timeout=LIMIT_S)]) as results:
        values = []
        for value in results:
            values.append(value)
            if len(values) in (5, 200, 500):
                time.sleep(2 * LIMIT_S)
    assert values == [*range(400), *range(400)]


@SLOW
def test_a_generator_that_hangs_has_given_what_came_before(make_engine):
    def give(x):
        yield 10 * x
        yield 10 * x + 1
        if x == 2:
            time.sleep(FOR_EVER_S)
        yield 10 * x + 2

    report = make_engine("fork", on_error="emit").run([range(4), stage(give, timeout=LIMIT_S)]).unwrap()
    values = ["error" if isinstance(x, ItemError) else x for x in report.values]
    assert [x for x in values if x not in (20, 21)] == [0, 1, 2, 10, 11, 12, "error", 30, 31, 32]
    assert report.snapshot.stages[0].timed_out == 1


@SLOW
def test_a_retried_generator_that_hung_gives_nothing_twice(make_engine, tmp_path):
    def give(x):
        yield x
        time.sleep(0.06)  # a report goes out with the next result
        yield x + 1
        if x == 20 and not (tmp_path / "seen").exists():
            (tmp_path / "seen").touch()
            time.sleep(FOR_EVER_S)
        yield x + 2

    report = make_engine("fork").run([[10, 20, 30], stage(give, timeout=2 * LIMIT_S, retries=1)]).unwrap()
    assert report.values == [10, 11, 12, 20, 21, 22, 30, 31, 32]
    assert report.snapshot.stages[0].retried == 1


@SLOW
def test_without_a_policy_a_timeout_ends_the_run(make_engine):
    result = make_engine("fork").run([range(10), stage(sleep_at(3), name="sleepy", timeout=LIMIT_S)])
    assert isinstance(result, Err)
    assert isinstance(result.cause, ItemTimeoutError)
    assert isinstance(result.cause, TimeoutError)
    assert result.reason.startswith(f"stage 'sleepy' failed on item 3: ItemTimeoutError: took longer than {LIMIT_S} s")


@SLOW
def test_a_timeout_in_one_run_says_nothing_of_the_next(make_engine):
    with make_engine("fork", on_error="drop") as engine:
        for _ in range(2):
            check(engine.run([range(6), stage(sleep_at(3), timeout=LIMIT_S)]), {3}, 6)
            assert engine.run([range(6), stages.keep]).unwrap().values == list(range(6))


@SLOW
def test_cancelling_does_not_wait_for_a_call_that_hangs(make_engine):
    engine = make_engine("fork", grace_s=0.1)
    with engine.iter([range(10), stage(sleep_at(5), timeout=FOR_EVER_S, workers=1)]) as results:
        assert list(zip(results, range(2), strict=False))
    assert results.result.report.snapshot.stages[0].timed_out == 0


@pytest.mark.parametrize("how", ["plain", "fused", "list", "generator"])
def test_inline_a_call_that_comes_back_too_late_fails(make_engine, how):
    def late(x):
        for one in x if isinstance(x, list) else [x]:
            if one == 2:
                time.sleep(0.05)
        return x

    def give(x):
        yield late(x)

    members = {
        "plain": [stage(late, timeout=0.04)],
        "fused": [stages.keep, stage(late, timeout=0.04), stages.keep],
        "list": [stage(late, timeout=0.04, batch=3)],
        "generator": [stage(give, timeout=0.04)],
    }
    engine = make_engine("inline", on_error="drop")
    report = engine.run([list(range(5)), *members[how]]).unwrap()
    assert how == "generator" or 2 not in report.values  # a generator's first half counts
    assert 2 in [error.index for error in report.errors]
    assert all(type(error.error) is ItemTimeoutError for error in report.errors)
    assert sum(book.timed_out for book in report.snapshot.stages) == len(report.errors)


def test_a_generous_timeout_changes_nothing(engine):
    members = [stage(stages.double, timeout=50), stage(stages.count_up, timeout=50), stage(stages.keep, timeout=50)]
    plain = [stages.double, stages.count_up, stages.keep]
    assert engine.run([range(20), *members]).unwrap().values == engine.run([range(20), *plain]).unwrap().values
