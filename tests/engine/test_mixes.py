"""Mixes: each item in every branch at the same time, put together again, whatever fails, dies or is slow."""

import itertools
import os
import pickle
import signal
import threading
import time

import engine_stages as stages
import pytest
from mix_stages import add_up, analyse, apart, negate, triple
from test_bounds import leads

from mpengine import (
    SKIP,
    EngineError,
    Err,
    ItemError,
    Pipeline,
    WorkerDiedError,
    cancelled,
    mix,
    stage,
)

PATIENCE_S = 20.0


def meet(folder, number, of, x):
    """Pass when all branches are at the same item at the same time."""
    (folder / f"{x}-{number}").touch()
    deadline_at = time.monotonic() + PATIENCE_S
    while not all((folder / f"{x}-{other}").exists() for other in range(of)):
        if time.monotonic() > deadline_at:
            raise TimeoutError(f"branch {number} is alone with item {x}")
        time.sleep(0.001)


def meeting(folder, number, of=3):
    def branch(x):
        meet(folder, number, of, x)
        return x, number, os.getpid()

    return branch


def noting(folder, name, what=None):
    """A branch that leaves a mark each time that it runs an item."""

    def branch(x):
        fd = os.open(folder / f"{name} {x}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, b"x")
        os.close(fd)
        return x if what is None else what(x)

    return branch


def runs(folder, name, x):
    path = folder / f"{name} {x}"
    return path.stat().st_size if path.exists() else 0


def fail_at(*numbers, kind=ValueError):
    def branch(x):
        if x in numbers:
            raise kind(x)
        return x

    return branch


def skip_at(*numbers):
    return lambda x: SKIP if x in numbers else x


def names_of(members):
    return " ".join(getattr(member, "name", None) or member.__name__ for member in members)


def balanced(result):
    """The report of a run that went well, after a look at its books."""
    report = result.report
    for book in report.snapshot.stages:
        assert book.processed == book.succeeded + book.failed + book.skipped
    snapshot = report.snapshot
    settled = snapshot.filtered + snapshot.dropped + snapshot.failed + snapshot.cancelled
    assert 0 <= settled <= snapshot.source_items
    return report


def values(result):
    assert result.is_ok, result
    return balanced(result).values


# ---------------------------------------------------------------------- what comes out


def test_results_come_in_the_order_of_the_branches_and_items_in_that_of_the_source(every_kind, make_engine):
    result = make_engine(every_kind).run([range(500), mix(stages.double, triple, negate)])
    assert values(result) == [[2 * x, 3 * x, -x] for x in range(500)]
    assert [book.processed for book in result.report.snapshot.stages] == [500] * 4


def test_merge_gets_the_list_and_gives_what_goes_on(engine):
    assert values(engine.run([range(100), mix(stages.double, triple, merge=add_up)])) == [5 * x for x in range(100)]


@pytest.mark.parametrize(
    "members",
    [
        [analyse],
        [stages.increment, analyse],
        [analyse, stages.increment],
        [analyse, analyse],
        [mix(stages.keep, analyse.branches[0]), add_up, analyse],
        [stages.count_up, analyse],
        [analyse, stages.count_up],
        [analyse, stages.count_up, analyse, stages.count_up],
        [stage(stages.increment, workers=1, buffer=2), analyse, stage(stages.increment, workers=1, buffer=2)],
        [mix(stages.keep), mix(sum, len, merge=max)],
        [mix(stages.keep, skip_at(3, 4), merge=add_up)],
    ],
    ids=names_of,
)
@pytest.mark.parametrize("ordered", [True, False])
def test_a_mix_may_stand_anywhere(kind, make_engine, members, ordered):
    expected = list(range(7))
    for member in members:
        given = [member(x) for x in expected]
        is_many = member is stages.count_up
        expected = [y for ys in given for y in ys] if is_many else [y for y in given if y is not SKIP]
    found = values(make_engine(kind, ordered=ordered, buffer=5).run([range(7), *members]))
    assert found == expected if ordered else sorted(found) == sorted(expected)


def test_every_way_to_put_a_mix_into_a_pipeline_is_the_same(engine):
    inner = Pipeline(range(9)) >> analyse
    wanted = [4 * x for x in range(9)]
    assert values(engine.run(inner)) == wanted
    assert values(engine.run(Pipeline(range(9)).stage(analyse))) == wanted
    assert list(engine.map(analyse, range(9))) == wanted
    assert values(engine.run([analyse], range(9))) == wanted
    assert values(engine.run(Pipeline(inner) >> stages.increment)) == [x + 1 for x in wanted]
    assert values(engine.run(Pipeline([1, 2]) >> (Pipeline([]) >> analyse >> stages.double))) == [8, 16]


def test_a_mix_is_used_in_two_engines_called_and_pickled(kind, make_engine):
    copy = pickle.loads(pickle.dumps(analyse))
    assert (copy(7), copy.name, repr(copy)) == (28, analyse.name, repr(analyse))
    for engine in (make_engine(kind), make_engine(kind, workers=1)):
        assert values(engine.run([range(5), analyse])) == values(engine.run([range(5), copy])) == [0, 4, 8, 12, 16]


def test_a_warm_engine_runs_mixes_again(kind, make_engine):
    with make_engine(kind, workers=3) as engine:
        for _ in range(3):
            assert values(engine.run([range(50), analyse])) == [4 * x for x in range(50)]
        with engine.iter([itertools.count(), analyse]) as results:
            assert next(results) == 0
        assert values(engine.run([range(50), mix(stages.keep, negate, merge=add_up)])) == [0] * 50


def test_branches_and_merge_keep_options_and_state_of_their_own(kind, make_engine, tmp_path, monkeypatch):
    monkeypatch.setenv("COUNTER_FILE", str(tmp_path / "notes"))

    def count(x, state):
        state.update(seen=state.get("seen", 10) + 1)
        return state.get("seen") > 10

    def flaky(x, state):
        if x % 3 == 0 and state.get("last") != x:
            state.update(last=x)
            raise OSError(x)
        state.update(last=None)
        return x

    async def later(x):
        return x + 5

    def prepare(state):
        state.update(offset=100)

    def merge(results, state):
        return sum(results) + state.get("offset")

    mixed = mix(
        stage(count, workers=1), stage(flaky, retries=1), stage(lambda xs: [2 * x for x in xs], batch=4, name="listed"),
        stage(later, concurrency=3), stages.Counter, stage(stages.keep, kind="thread", workers=2),
        stage(stages.keep, timeout=30.0, buffer=3), merge=stage(merge, setup=prepare),
    )  # fmt: skip
    result = make_engine(kind, workers=2).run([range(40), mixed])
    assert values(result) == [1 + x + 2 * x + x + 5 + x + 1 + x + x + 100 for x in range(40)]
    assert result.report.snapshot.stages[1].retried == 14
    notes = (tmp_path / "notes").read_text().split()[::2]
    assert notes.count("built") == notes.count("closed") >= 1


def test_a_merge_may_take_several_lists_at_once(engine):
    def merge(lists):
        assert len(lists) <= 4
        return [sum(results) for results in lists]

    mixed = mix(stages.double, skip_at(5), merge=stage(merge, batch=4))
    assert values(engine.run([range(90), mixed])) == [3 * x for x in range(90) if x != 5]


# ---------------------------------------------------------------------- at the same time


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 2, 40])
def test_an_item_is_in_all_branches_at_the_same_time(make_engine, tmp_path, length):
    engine = make_engine("fork", workers=3)
    mixed = mix(*(meeting(tmp_path, number) for number in range(3)))
    for results in values(engine.run([range(length), mixed])):
        assert len({pid for _, _, pid in results}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("members", [[stages.keep], [stages.keep, stage(stages.keep, buffer=3)]])
def test_also_when_many_items_wait_and_other_stages_have_work(make_engine, tmp_path, members):
    engine = make_engine("fork", workers=3)
    mixed = mix(*(meeting(tmp_path, number) for number in range(3)), merge=lambda results: results[0][0])
    found = values(engine.run([range(600), *members, mixed, stage(stages.keep, buffer=9), stages.increment]))
    assert found == [x + 1 for x in range(600)]


@pytest.mark.slow
def test_branches_on_threads_are_beside_those_in_processes(make_engine, tmp_path):
    mixed = mix(
        meeting(tmp_path, 0), stage(meeting(tmp_path, 1), kind="thread"), stage(meeting(tmp_path, 2), kind="thread"),
    )  # fmt: skip
    for results in values(make_engine("fork", workers=1).run([range(20), mixed])):
        assert [pid == os.getpid() for _, _, pid in results] == [False, True, True]


# ---------------------------------------------------------------------- skips and failures


def test_an_item_that_one_branch_skips_is_filtered_once(engine):
    result = engine.run([range(30), mix(skip_at(3, 4), stages.keep, skip_at(4, 5))])
    assert values(result) == [[x] * 3 for x in range(30) if x not in (3, 4, 5)]
    snapshot = result.report.snapshot
    assert (snapshot.filtered, snapshot.dropped, snapshot.delivered) == (3, 0, 27)
    assert [book.skipped for book in snapshot.stages] == [2, 0, 2, 0]
    assert [book.succeeded for book in snapshot.stages] == [28, 30, 28, 27]


@pytest.mark.parametrize("ordered", [True, False])
def test_an_item_that_fails_in_several_branches_fails_once(kind, make_engine, ordered):
    mixed = mix(
        stages.keep, stage(fail_at(2, 7), name="first"), stage(fail_at(7, 8, kind=KeyError), name="second"),
        on_error="drop",
    )  # fmt: skip
    engine = make_engine(kind, ordered=ordered, on_error="drop")
    result = engine.run([range(30), mixed])
    assert sorted(values(result)) == [[x] * 3 for x in range(30) if x not in (2, 7, 8)]
    told = {error.index: (error.stage, type(error.error), error.item) for error in result.report.errors}
    assert told == {2: ("first", ValueError, "2"), 7: ("first", ValueError, "7"), 8: ("second", KeyError, "8")}
    assert len(result.report.errors) == 3
    snapshot = result.report.snapshot
    assert (snapshot.dropped, snapshot.failed) == (3, 0)
    assert [book.failed for book in snapshot.stages] == [0, 2, 2, 0]
    assert [book.dropped for book in snapshot.stages] == [0, 2, 1, 0]


def test_by_default_a_failing_branch_ends_the_run(engine):
    result = engine.run([range(50), mix(stages.keep, stage(fail_at(9), name="weak"))])
    assert isinstance(result, Err)
    assert isinstance(result.cause, ValueError)
    assert "'weak' failed on item 9" in result.reason
    (error,) = result.report.errors
    assert (error.stage, error.index) == ("weak", 9)
    balanced(result)


@pytest.mark.parametrize("ordered", [True, False])
def test_emit_puts_one_error_in_the_place_of_the_item(kind, make_engine, ordered):
    mixed = mix(fail_at(0, 5, 19), fail_at(5, 6), merge=add_up, on_error="emit")
    result = make_engine(kind, ordered=ordered).run([range(20), mixed, stages.increment])
    found = values(result)
    assert len(found) == 20
    if not ordered:
        found.sort(key=lambda value: value.index if isinstance(value, ItemError) else (value - 1) // 2)
    for x, value in enumerate(found):
        if x in (0, 5, 6, 19):
            assert isinstance(value, ItemError)
            assert (value.index, value.item) == (x, str(x))
        else:
            assert value == 2 * x + 1
    assert result.report.snapshot.delivered == 20
    assert sum(book.emitted_errors for book in result.report.snapshot.stages) == 4


def test_side_calls_its_handler_once_for_an_item(engine):
    seen = []
    mixed = mix(fail_at(3, 4), fail_at(3), on_error="side", error_handler=seen.append)
    result = engine.run([range(10), mixed])
    assert values(result) == [[x, x] for x in range(10) if x not in (3, 4)]
    assert sorted(error.index for error in seen) == [3, 4]


def test_the_policy_is_that_of_the_first_branch_that_fails(engine):
    seen = []
    mixed = mix(
        stage(fail_at(1, 2), on_error="emit", name="a"),
        stage(fail_at(2, 3), on_error="drop", name="b"),
        stage(fail_at(3, 4), on_error="side", error_handler=seen.append, name="c"),
    )
    result = engine.run([range(6), mixed])
    assert [value if isinstance(value, list) else value.stage for value in values(result)] == [
        [0] * 3, "a", "a", [5] * 3,
    ]  # fmt: skip
    told = sorted((error.stage, error.index) for error in result.report.errors if error.index > 2)
    assert told == [("b", 3), ("c", 4)]
    assert [error.index for error in seen] == [4]


def test_a_merge_may_skip_and_fail(engine):
    def merge(results):
        if results[0] == 4:
            raise ValueError("no four")
        return SKIP if results[0] % 2 else results[0]

    result = engine.run([range(10), mix(stages.keep, negate, merge=stage(merge, on_error="drop"))])
    assert values(result) == [0, 2, 6, 8]
    (error,) = result.report.errors
    assert (error.stage, error.index, error.item) == ("merge", 4, "[4, -4]")
    assert (result.report.snapshot.filtered, result.report.snapshot.dropped) == (5, 1)


@pytest.mark.parametrize("switch", [stages.kill_switch_returned, stages.kill_switch_raised])
def test_a_kill_switch_in_a_branch_or_in_the_merge_ends_the_run(engine, switch):
    for mixed in (mix(stages.keep, switch), mix(stages.keep, merge=lambda results: switch(results[0]))):
        result = engine.run([itertools.count(), mixed])
        assert isinstance(result, Err)
        assert result.reason == "enough"
        wanted = [mixed(x) for x in range(3)]
        assert result.report.values == wanted[: len(result.report.values)]
        balanced(result)


@pytest.mark.slow
def test_an_item_that_will_not_pickle_fails_once_though_all_branches_wait_for_it(make_engine):
    items = [1, threading.Lock(), 3, threading.Lock()]
    result = make_engine("fork").run([items, mix(stages.double, triple, on_error="emit")])
    first, second, third, fourth = values(result)
    assert (first, third) == ([2, 3], [6, 9])
    assert [(error.index, error.stage) for error in (second, fourth)] == [(1, "double"), (3, "double")]
    assert [book.failed for book in result.report.snapshot.stages] == [2, 2, 0]


@pytest.mark.slow
def test_a_branch_whose_result_will_not_pickle_fails_the_item(make_engine):
    def lock_at_three(x):
        return threading.Lock() if x == 3 else x

    result = make_engine("fork", on_error="drop").run([range(60), mix(stages.keep, lock_at_three, merge=add_up)])
    assert values(result) == [2 * x for x in range(60) if x != 3]
    (error,) = result.report.errors
    assert (error.index, error.stage) == (3, "lock_at_three")


@pytest.mark.slow
def test_a_result_of_a_branch_that_will_not_unpickle_fails_the_item_where_they_are_put_together(make_engine):
    def bad_at_three(x):
        return stages.BadToUnpickle() if x == 3 else x

    result = make_engine("fork", on_error="drop").run([range(60), mix(stages.keep, bad_at_three)])
    assert values(result) == [[x, x] for x in range(60) if x != 3]
    (error,) = result.report.errors
    assert (error.index, error.stage) == (3, "mix(keep, bad_at_three)")


# ---------------------------------------------------------------------- deaths


@pytest.mark.slow
def test_what_other_branches_have_made_of_an_item_is_not_made_again_when_a_worker_dies(make_engine, tmp_path):
    """The item waits in one branch until the others are through, and then that branch's worker dies."""

    def wait_and_die(x):
        if x == 1 and runs(tmp_path, "mortal", 1) == 1:
            deadline_at = time.monotonic() + PATIENCE_S
            while not (runs(tmp_path, "first", 1) and runs(tmp_path, "third", 1)):
                assert time.monotonic() < deadline_at
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    mixed = mix(
        noting(tmp_path, "first", stages.double), noting(tmp_path, "mortal", wait_and_die), noting(tmp_path, "third")
    )
    engine = make_engine("fork", workers=3, buffer=1)
    result = engine.run([range(6), mixed])
    assert values(result) == [[2 * x, x, x] for x in range(6)]
    assert [runs(tmp_path, "first", x) for x in range(6)] == [1] * 6
    assert [runs(tmp_path, "third", x) for x in range(6)] == [1] * 6
    assert runs(tmp_path, "mortal", 1) in (2, 3)  # once more where it was not named
    assert sum(worker.deaths for worker in result.report.snapshot.workers) in (1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["drop", "emit"])
def test_an_item_that_kills_in_a_branch_fails_alone(make_engine, policy):
    def deadly(x):
        if x == 31:
            stages.die("SIGKILL")
        return x

    result = make_engine("fork", on_error=policy).run([range(60), mix(stages.keep, deadly, triple, merge=add_up)])
    found = values(result)
    if policy == "emit":
        assert isinstance(found.pop(31), ItemError)
    assert found == [5 * x for x in range(60) if x != 31]
    (error,) = [error for error in result.report.errors if error.index == 31]
    assert (error.stage, type(error.error)) == ("deadly", WorkerDiedError)
    assert result.report.snapshot.stages[1].crashed == 1


@pytest.mark.slow
def test_workers_killed_from_outside_lose_and_double_nothing_of_a_mix(make_engine):
    engine = make_engine("fork", workers=3, crash_retries=50)
    kills = 0
    with engine.iter([range(2000), mix(stages.double, triple, negate), stage(sum, buffer=20)]) as results:
        found = []
        for value in results:
            found.append(value)
            if len(found) % 300 == 0 and (pids := engine.pids()):
                kills += stages.kill([pids[len(found) // 300 % len(pids)]])
    assert found == [4 * x for x in range(2000)]
    assert kills >= 3
    balanced(results.result)


# ---------------------------------------------------------------------- bounds


@pytest.mark.parametrize("buffer", [1, 50, None])
def test_the_source_is_never_further_ahead_than_the_bound(kind, make_engine, buffer):
    engine = make_engine(kind, workers=3, buffer=buffer)
    for members in ([analyse], [stages.keep, analyse, stage(stages.keep, workers=1, buffer=2)], [analyse, analyse]):
        seen, bound = leads(engine, members, takes=100)
        assert max(seen) <= bound


@pytest.mark.slow
def test_a_branch_that_stands_still_holds_the_others_back(make_engine, tmp_path):
    """The quick branch comes no further than the mix's buffer, since what it has made must wait for the other."""
    buffer = 8

    def slow(x):
        deadline_at = time.monotonic() + PATIENCE_S
        while not (tmp_path / "go").exists():
            assert time.monotonic() < deadline_at
            time.sleep(0.001)
        return x

    engine = make_engine("fork", workers=3, buffer=buffer)
    with engine.iter([itertools.count(), mix(noting(tmp_path, "quick"), stage(slow, workers=1))]) as results:
        deadline_at = time.monotonic() + PATIENCE_S
        while results.snapshot().stages[0].processed < buffer - 2:  # two may wait behind a slow one
            assert time.monotonic() < deadline_at
            time.sleep(0.001)
        assert results.snapshot().source_items <= buffer
        (tmp_path / "go").touch()
        assert list(itertools.islice(results, 100)) == [[x, x] for x in range(100)]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_tiny_buffers_end_in_no_deadlock(kind, make_engine, workers, ordered):
    engine = make_engine(kind, workers=workers, buffer=1, ordered=ordered)
    members = [stages.count_up, mix(stages.keep, skip_at(2)), apart, mix(stages.keep, negate, merge=add_up)]
    found = values(engine.run([range(8), *members]))
    wanted = [0 for n in range(8) for x in range(n) if x != 2 for _ in range(2)]
    assert found == wanted


# ---------------------------------------------------------------------- cancelling


@pytest.mark.slow
def test_a_cancel_in_the_middle_of_a_mix_leaves_balanced_books(make_engine, tmp_path):
    def hold(x):
        (tmp_path / "held").touch()
        deadline_at = time.monotonic() + PATIENCE_S
        while not cancelled() and time.monotonic() < deadline_at:
            time.sleep(0.001)
        return x

    engine = make_engine("fork", workers=2)
    with engine.iter([itertools.count(), mix(stages.keep, hold, stages.double)]) as results:
        deadline_at = time.monotonic() + PATIENCE_S
        while not ((tmp_path / "held").exists() and results.snapshot().stages[2].processed):
            assert time.monotonic() < deadline_at
            time.sleep(0.001)
        engine.cancel("enough seen")
        with pytest.raises(EngineError, match="enough seen"):
            list(results)
    assert results.result.reason == "enough seen"
    balanced(results.result)
