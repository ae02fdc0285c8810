"""Stages with batch=: lists in, as many results out, and one bad item costs nobody but itself."""

import random
import threading
import time

import engine_stages as stages
import pytest

from mpengine import SKIP, Err, KillSwitch, PipelineError, Retry, StageError, WorkerDiedError, stage


def note_sizes(folder, name="sizes"):
    """A stage function that notes how long each list is that it gets."""
    path = folder / name

    def double_all(xs):
        assert type(xs) is list
        with path.open("a") as file:
            file.write(f"{len(xs)}\n")
        return [2 * x for x in xs]

    return double_all


def read_sizes(folder, name="sizes"):
    return [int(line) for line in (folder / name).read_text().split()]


def test_a_function_gets_lists_and_gives_as_many_results(engine, tmp_path):
    report = engine.run([range(100), stage(note_sizes(tmp_path), batch=8)]).unwrap()
    assert report.values == [2 * x for x in range(100)]
    sizes = read_sizes(tmp_path)
    assert sum(sizes) == 100
    assert max(sizes) == 8
    assert report.snapshot.stages[0].succeeded == 100


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9])
def test_the_last_list_is_as_long_as_what_is_left(make_engine, tmp_path, length):
    engine = make_engine("inline", workers=1)
    report = engine.run([list(range(length)), stage(note_sizes(tmp_path), batch=8)]).unwrap()
    assert report.values == [2 * x for x in range(length)]
    if length:
        assert read_sizes(tmp_path) == [8] * (length // 8) + [length % 8] * (length % 8 > 0)


@pytest.mark.parametrize("ordered", [True, False])
def test_lists_fill_up_behind_another_chain(kind, make_engine, tmp_path, ordered):
    engine = make_engine(kind, ordered=ordered)
    members = [stages.increment, stage(note_sizes(tmp_path), batch=8), stages.keep]
    report = engine.run([range(400), *members]).unwrap()
    assert sorted(report.values) == [2 * (x + 1) for x in range(400)]
    if ordered:
        assert report.values == sorted(report.values)
    sizes = read_sizes(tmp_path)
    assert sum(sizes) == 400
    assert sizes.count(8) > len(sizes) / 2


@pytest.mark.slow
def test_lists_fill_up_behind_a_filter(kind, make_engine, tmp_path):
    """A millisecond an item, one in five is left: some five of each batch, and what is left of several is joined."""

    def keep_one_in_five(x):
        time.sleep(0.001)
        return SKIP if x % 5 else x

    engine = make_engine(kind, workers=1)
    report = engine.run([range(500), keep_one_in_five, stage(note_sizes(tmp_path), batch=10)]).unwrap()
    assert report.values == [2 * x for x in range(0, 500, 5)]
    sizes = read_sizes(tmp_path)
    assert sum(sizes) == 100
    assert max(sizes) == 10
    assert len(sizes) < 18  # 10 at best; 20 and more where nothing is joined


def test_a_batch_larger_than_the_buffer_is_filled_all_the_same(make_engine, tmp_path):
    engine = make_engine("inline", workers=1, buffer=2)
    members = [stages.keep, stage(note_sizes(tmp_path), batch=32, buffer=1)]
    assert engine.run([range(320), *members]).unwrap().values == [2 * x for x in range(320)]
    assert max(read_sizes(tmp_path)) == 32


@pytest.mark.parametrize("how", ["raise", "too few", "too many", "None", "str", "bytes", "number", "lazy"])
def test_a_call_that_fails_is_followed_by_one_for_each_item_alone(engine, how):
    def picky(xs):
        if 13 not in xs:
            return [x + 1 for x in xs]
        if how == "raise":
            raise ValueError("13")
        if how == "lazy":
            return (1 // 0 for x in xs)
        given = {"too few": xs[1:], "too many": [*xs, 0], "None": None, "str": "x" * len(xs), "number": 7}
        return given.get(how, bytes(len(xs)))

    report = engine.run([range(40), stage(picky, batch=8, on_error="drop"), stages.keep]).unwrap()
    assert report.values == [x + 1 for x in range(40) if x != 13]
    (error,) = report.errors
    assert (error.index, error.item, error.attempts) == (13, "13", 1)
    kinds = {"raise": ValueError, "number": TypeError, "lazy": ZeroDivisionError}
    assert type(error.error) is kinds.get(how, StageError)
    book = report.snapshot.stages[0]
    assert (book.processed, book.failed, book.retried) == (40, 1, 0)


def test_what_a_wrong_return_value_says_names_stage_and_numbers(engine):
    result = engine.run([range(3), stage(lambda xs: xs[1:], name="short", batch=3)])
    assert isinstance(result, Err)
    assert "stage 'short' was given 1 items and returned 0 results" in result.reason
    result = engine.run([range(3), stage(lambda xs: None, name="none", batch=3)])
    assert "stage 'none' has batch=3 and must return a list of results, not NoneType" in result.reason


def test_a_list_that_must_not_run_twice_fails_as_a_whole(make_engine):
    calls = []

    def picky(xs):
        calls.append(xs)
        if 3 in xs:
            raise ValueError("3")
        return xs

    engine = make_engine("inline", workers=1, on_error="drop")
    report = engine.run([list(range(6)), stage(picky, batch=6, idempotent=False)]).unwrap()
    ran = [x for xs in calls for x in xs]
    assert sorted(ran) == list(range(6))
    failed = {error.index for error in report.errors}
    assert 3 in failed
    assert sorted([*report.values, *failed]) == list(range(6))


def test_retries_are_for_the_list_first_and_then_for_each_item(make_engine):
    calls = []

    def picky(xs):
        calls.append(list(xs))
        if 2 in xs:
            raise OSError("2")
        return xs

    engine = make_engine("inline", workers=1, on_error="drop")
    stage_ = stage(picky, batch=3, retries=Retry(1, on=(OSError,)))
    with engine.iter([list(range(3)), stage_]) as results:
        assert list(results) == [0, 1]
    lists = [xs for xs in calls if len(xs) > 1]
    assert all(lists.count(xs) == 2 for xs in lists)
    assert calls.count([2]) == 2
    (error,) = results.result.report.errors
    assert error.attempts == 2
    assert results.result.report.snapshot.stages[0].retried == len(calls) - len(lists) // 2 - sum(
        map(len, {tuple(xs) for xs in lists})
    ) - (not lists)


@pytest.mark.parametrize("wrong", ["raise", "too few"])
def test_a_retry_mends_a_whole_list(make_engine, wrong):
    calls = []

    def flaky(xs):
        calls.append(xs)
        if len(calls) % 2:
            if wrong == "raise":
                raise OSError("first")
            return []
        return xs

    engine = make_engine("inline", workers=1)
    report = engine.run([range(64), stage(flaky, batch=4, retries=1)]).unwrap()
    assert report.values == list(range(64))
    assert report.snapshot.stages[0].retried == len(calls) / 2
    assert calls[::2] == calls[1::2]


@pytest.mark.parametrize("result", ["one", "all"])
def test_results_of_a_list_may_be_skipped(engine, result):
    def drop_odd(xs):
        if result == "all":
            return SKIP if len(xs) > 1 or xs[0] % 2 else xs
        return [SKIP if x % 2 else x for x in xs]

    report = engine.run([range(20), stage(drop_odd, batch=4)]).unwrap()
    book = report.snapshot.stages[0]
    assert book.skipped + book.succeeded == 20
    if result == "one":
        assert report.values == list(range(0, 20, 2))
        assert (book.skipped, report.snapshot.filtered) == (10, 10)


@pytest.mark.parametrize("how", ["a result", "the return value", "raised"])
def test_a_kill_switch_out_of_a_list_cancels_the_run(engine, how):
    def kill(xs):
        if 17 not in xs:
            return xs
        if how == "raised":
            raise KillSwitch("enough")
        return KillSwitch("enough") if how == "the return value" else [KillSwitch("enough") for _ in xs]

    result = engine.run([range(100), stage(kill, batch=4)])
    assert (type(result), result.reason) == (Err, "enough")
    assert result.report.snapshot.stages[0].failed == 0


@pytest.mark.slow
def test_a_worker_that_dies_of_a_list_costs_only_the_culprit(make_engine):
    def deadly(xs):
        if 13 in xs:
            stages.die("SIGKILL")
        return [x + 1 for x in xs]

    engine = make_engine("fork", on_error="drop")
    report = engine.run([range(60), stages.keep, stage(deadly, batch=8)]).unwrap()
    assert report.values == [x + 1 for x in range(60) if x != 13]
    (error,) = report.errors
    assert (error.index, error.item, type(error.error)) == (13, "13", WorkerDiedError)


def test_items_that_will_not_unpickle_never_reach_a_list(make_engine):
    source = [stages.BadToUnpickle() if x in (2, 7) else x for x in range(20)]
    engine = make_engine("fork", on_error="emit")
    report = engine.run([source, stage(lambda xs: [x + 1 for x in xs], batch=4)]).unwrap()
    assert [x if isinstance(x, int) else x.index for x in report.values] == [
        x if x in (2, 7) else x + 1 for x in range(20)
    ]


def test_an_array_of_results_will_do(engine):
    numpy = pytest.importorskip("numpy")
    report = engine.run([range(20), stage(lambda xs: numpy.array(xs) * 2, batch=8)]).unwrap()
    assert [int(x) for x in report.values] == [2 * x for x in range(20)]
    rows = engine.run([range(9), stage(lambda xs: numpy.ones((len(xs), 3)), batch=4)]).unwrap().values
    assert {row.shape for row in rows} == {(3,)}


def test_state_classes_and_a_set_up_work_with_lists(engine):
    class Model:
        def __call__(self, xs):
            return [x + 1 for x in xs]

    def with_state(xs, state):
        return [state.get("add") + x for x in xs]

    members = [stage(Model, batch=4), stage(with_state, batch=3, setup=lambda state: state.update(add=10))]
    assert engine.run([range(20), *members]).unwrap().values == [x + 11 for x in range(20)]


def test_what_has_no_lists_is_refused(make_engine):
    async def later(xs):
        return xs

    for member in (stages.count_up, later):
        with pytest.raises(PipelineError, match="batch= is"):
            make_engine("inline").run([[1], stage(member, batch=2)])


def test_a_list_does_not_wait_for_a_source_that_pauses(make_engine):
    """Three items are there and no more: they are run, though a list would take eight."""
    is_delivered = threading.Event()

    def source():
        yield from range(3)
        assert is_delivered.wait(20)
        yield 3

    engine = make_engine("fork", workers=1)
    with engine.iter([source, stages.keep, stage(lambda xs: xs, batch=8)]) as results:
        first = [next(results) for _ in range(2)]
        is_delivered.set()
        assert [*first, *results] == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_workers_killed_at_random_lose_and_double_nothing_of_any_list(make_engine, seed):
    """Lists are joined of what several workers have made, and taken apart again when one of them dies."""

    def add_all(xs):
        return [x + 1 for x in xs]

    engine = make_engine("fork", crash_retries=50, on_error="emit")
    members = [lambda x: SKIP if x % 3 else x, stage(add_all, batch=7), stage(add_all, batch=5, buffer=20)]
    chosen, kills = random.Random(seed), 0
    with engine.iter([range(6000), *members]) as results:
        values = []
        for value in results:
            values.append(value)
            if kills < 8 and chosen.random() < 0.01:
                pids = engine.pids()
                kills += stages.kill(chosen.sample(pids, k=min(1, len(pids))))
    assert values == [x + 2 for x in range(0, 6000, 3)]
    assert kills >= 3
    assert all(book.failed == 0 for book in results.result.report.snapshot.stages)
