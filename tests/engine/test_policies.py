"""EMIT puts an ItemError in the item's place, SIDE gives it to a handler: whatever the item has failed of."""

import itertools
import logging
import os
import sys
import threading
import time

import engine_stages as stages
import pytest

from mpengine import Err, ErrorPolicy, ItemError, ItemTimeoutError, PipelineError, WorkerDiedError, stage


def fail_on(*numbers):
    def fail(x):
        if x in numbers:
            raise ValueError(f"no {x}")
        return x

    return fail


def shown(values):
    """Values, with each ItemError as what tells it: where it is from, of which item, and what it was."""
    return [(x.stage, x.index, type(x.error).__name__) if isinstance(x, ItemError) else x for x in values]


def check_books(report, **emitted):
    for book in report.snapshot.stages:
        assert book.processed == book.succeeded + book.failed + book.skipped
        assert book.emitted_errors == emitted.get(book.name, 0)
    assert report.snapshot.delivered == len(report.values)


# ---------------------------------------------------------------------- EMIT


@pytest.mark.parametrize("policy", [ErrorPolicy.EMIT, "emit"])
def test_an_emitted_error_stands_where_the_item_would_have(engine, policy):
    first = stage(fail_on(0, 3, 4, 9), name="first", on_error=policy)
    report = engine.run([range(10), first, stages.double]).unwrap()
    failed = {x: ("first", x, "ValueError") for x in (0, 3, 4, 9)}
    assert shown(report.values) == [failed.get(x, 2 * x) for x in range(10)]
    assert sorted(error.index for error in report.errors) == [0, 3, 4, 9]
    assert (report.snapshot.delivered, report.snapshot.dropped, report.snapshot.failed) == (10, 0, 0)
    assert [book.processed for book in report.snapshot.stages] == [10, 6]
    check_books(report, first=4)


def test_an_emitted_error_tells_the_whole_story(kind, make_engine):
    engine = make_engine(kind, on_error="emit")
    (error,) = [x for x in engine.run([range(5), stage(fail_on(3), retries=2)]).unwrap().values if type(x) is not int]
    assert (error.stage, error.index, error.item, error.attempts) == ("fail", 3, "3", 3)
    assert "raise ValueError" in error.traceback
    assert error.worker_id in (0, 1)


LATER = {
    "plain": lambda: [stage(stages.increment, workers=1)],
    "fused": lambda: [stages.increment, stages.double],
    "generator": lambda: [stages.decorated_generator],
    "batch": lambda: [stage(lambda xs: [x + 1 for x in xs], batch=4)],
    "state": lambda: [stage(add_with_state, workers=2)],
    "class": lambda: [stage(Adder)],
    "async": lambda: [stage(add_async, concurrency=3)],
    "all": lambda: [m for name in ("plain", "fused", "generator", "batch", "state", "async") for m in LATER[name]()],
}


def add_with_state(x, state):
    state.update(calls=state.get("calls", 0) + 1)
    return x + 1


async def add_async(x):
    return x + 1


class Adder:
    def __call__(self, x):
        return x + 1


@pytest.mark.parametrize(
    ("kind", "name"),
    [*(("inline", name) for name in LATER), *(pytest.param("fork", name, marks=pytest.mark.slow) for name in LATER)],
)
@pytest.mark.parametrize("ordered", [True, False])
def test_an_emitted_error_bypasses_later_stages_whatever_they_are(make_engine, kind, name, ordered):
    engine = make_engine(kind, ordered=ordered, on_error="emit")
    bad = {0, 7, 8, 29}
    report = engine.run([range(30), stage(fail_on(*bad), name="bad"), *LATER[name]()]).unwrap()
    plain = engine.run([[x for x in range(30) if x not in bad], stages.keep, *LATER[name]()]).unwrap().values
    values = shown(report.values)
    assert [x for x in values if isinstance(x, int)] == plain if ordered else True
    assert sorted(x for x in values if isinstance(x, int)) == sorted(plain)
    assert sorted(x for x in values if not isinstance(x, int)) == [("bad", x, "ValueError") for x in sorted(bad)]
    if ordered:
        many = len(plain) // 26
        places = [place for place, x in enumerate(values) if not isinstance(x, int)]
        assert places == [number + many * (x - number) for number, x in enumerate(sorted(bad))]
    check_books(report, bad=4)


def test_errors_of_several_stages_stand_in_the_order_of_their_items(engine):
    members = [
        stage(fail_on(*range(0, 60, 7)), name="a", on_error="emit"),
        stage(fail_on(*range(0, 60, 5)), name="b", on_error="emit", workers=1),
        stage(fail_on(*range(0, 60, 3)), name="c", on_error="emit", buffer=2),
        stage(fail_on(*range(0, 60, 11)), name="d", on_error="drop"),
    ]
    values = shown(engine.run([range(60), *members]).unwrap().values)
    by = {x: name for name, number in (("d", 11), ("c", 3), ("b", 5), ("a", 7)) for x in range(0, 60, number)}
    assert values == [
        (by[x], x, "ValueError") if x in by else x for x in range(60) if by.get(x) != "d"
    ]  # fmt: skip


def test_iter_gives_emitted_errors_among_the_values(engine):
    with engine.iter([range(1000), stage(fail_on(*range(0, 1000, 10)), on_error="emit")]) as results:
        values = list(results)
    assert [x.index if isinstance(x, ItemError) else x for x in values] == list(range(1000))
    assert results.result.report.snapshot.delivered == 1000


def test_a_generator_that_fails_half_way_gives_its_first_half_and_then_the_error(engine):
    def give(x):
        for number in range(4):
            if x == 1 and number == 2:
                raise ValueError(x)
            yield 10 * x + number

    report = engine.run([range(3), stage(give, on_error="emit"), stages.keep]).unwrap()
    assert shown(report.values) == [0, 1, 2, 3, 10, 11, ("give", 1, "ValueError"), 20, 21, 22, 23]
    check_books(report, give=1)


def test_generators_of_one_batch_that_fail_half_way_have_each_error_in_its_place(engine):
    def give(x):
        yield x
        if x % 3 == 1:
            raise ValueError(x)
        yield -x

    report = engine.run([range(300), stage(give, on_error="emit")]).unwrap()
    expected = [[x, ("give", x, "ValueError")] if x % 3 == 1 else [x, -x] for x in range(300)]
    assert shown(report.values) == [value for values in expected for value in values]
    check_books(report, give=100)


def test_an_item_of_which_every_part_was_emitted_has_not_failed(engine):
    members = [stages.count_up, stage(fail_on(0, 1, 2), name="parts", on_error="emit")]
    report = engine.run([[3, 0, 2], *members]).unwrap()
    assert shown(report.values) == [("parts", index, "ValueError") for index in (0, 0, 0, 2, 2)]
    snapshot = report.snapshot
    assert (snapshot.delivered, snapshot.filtered, snapshot.failed, snapshot.dropped) == (5, 1, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("wrap", [list, iter])
def test_items_and_results_that_will_not_travel_are_emitted_in_their_places(make_engine, ordered, wrap):
    source = list(range(40))
    source[0] = source[11] = stages.BadToPickle()
    source[12] = stages.BadToUnpickle()
    parent = os.getpid()

    def spoil(x):
        return {20: stages.BadToPickle(), 21: stages.InParent(parent), 39: stages.BadToPickle()}.get(x, x)

    engine = make_engine("fork", ordered=ordered, on_error="emit")
    report = engine.run([wrap(source), stages.keep, stage(spoil, workers=1)]).unwrap()
    values = [("error", x.index) if isinstance(x, ItemError) else x for x in report.values]
    bad = {0, 11, 12, 20, 21, 39}
    expected = [("error", x) if x in bad else x for x in range(40)]
    assert values == expected if ordered else sorted(map(str, values)) == sorted(map(str, expected))
    check_books(report, keep=3, spoil=3)
    assert sorted(error.index for error in report.errors) == sorted(bad)
    assert report.snapshot.delivered == 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ordered", "options"),
    [(True, {}), (True, {"workers": 1}), (True, {"batch": 5}), (True, {"retries": 1}), (False, {})],
)
def test_dead_workers_and_timeouts_are_emitted_in_their_places(make_engine, ordered, options):
    def trouble(x):
        for one in x if isinstance(x, list) else [x]:
            if one == 3:
                stages.die("SIGKILL")
            if one == 17:
                time.sleep(60)
            if one in (9, 18):
                raise ValueError(one)
        return x

    engine = make_engine("fork", ordered=ordered, on_error="emit", crash_retries=0)
    report = engine.run([range(20), stages.keep, stage(trouble, timeout=0.3, **options), stages.keep]).unwrap()
    kinds = {3: WorkerDiedError, 17: ItemTimeoutError, 9: ValueError, 18: ValueError}
    expected = [("trouble", x, kinds[x].__name__) if x in kinds else x for x in range(20)]
    values = shown(report.values)
    assert values == expected if ordered else sorted(map(str, values)) == sorted(map(str, expected))
    check_books(report, trouble=4)
    assert report.snapshot.stages[1].timed_out == report.snapshot.stages[1].crashed == 1


def test_emitted_errors_and_dropped_items_of_one_run_are_told_apart(engine):
    members = [
        stage(fail_on(1), name="e", on_error="emit"),
        stage(fail_on(2), name="d", on_error="drop"),
        stages.skip_odd,
    ]
    report = engine.run([range(6), *members]).unwrap()
    assert shown(report.values) == [0, ("e", 1, "ValueError"), 4]
    snapshot = report.snapshot
    assert (snapshot.delivered, snapshot.dropped, snapshot.filtered) == (3, 1, 2)
    assert len(report.errors) == 2


def test_emitted_errors_come_before_the_failure_that_ends_the_run(engine):
    members = [stage(fail_on(1), name="e", on_error="emit"), stage(fail_on(5), name="r")]
    result = engine.run([range(100), *members])
    assert isinstance(result, Err)
    assert result.reason.startswith("stage 'r' failed on item 5")
    first = [0, ("e", 1, "ValueError"), 2, 3, 4]
    assert shown(result.report.values)[:5] == first[: len(result.report.values)]


# ---------------------------------------------------------------------- SIDE


def test_a_handler_gets_every_item_that_failed_in_order_and_the_run_goes_on(kind, make_engine):
    seen, threads = [], set()

    def note(error):
        seen.append((error.stage, error.index, error.item, str(error.error)))
        threads.add(threading.current_thread().name)

    bad = range(0, 200, 3)
    member = stage(fail_on(*bad), name="picky", on_error="side", error_handler=note, workers=1)
    report = make_engine(kind).run([range(200), member, stages.double]).unwrap()
    assert report.values == [2 * x for x in range(200) if x % 3]
    assert seen == [("picky", x, str(x), f"no {x}") for x in bad]
    assert threads == {"MainThread" if kind == "inline" else "mpengine-handlers"}
    assert (report.snapshot.dropped, report.snapshot.stages[0].dropped) == (len(bad), len(bad))
    assert len(report.errors) == len(bad)
    check_books(report)


def test_each_stage_has_its_own_handler(engine):
    seen = []
    members = [
        stage(fail_on(1, 2), name="a", on_error="side", error_handler=lambda error: seen.append(("a", error.index))),
        stage(fail_on(3), name="b", on_error="side", error_handler=lambda error: seen.append(("b", error.index))),
    ]
    assert engine.run([range(5), *members]).unwrap().values == [0, 4]
    assert sorted(seen) == [("a", 1), ("a", 2), ("b", 3)]


@pytest.mark.slow
def test_a_handler_hears_of_whatever_an_item_has_failed_of(make_engine):
    source = [stages.BadToPickle() if x == 1 else x for x in range(12)]
    parent, seen = os.getpid(), []

    def trouble(x):
        if x == 3:
            stages.die("SIGKILL")
        if x == 5:
            time.sleep(60)
        return {7: stages.BadToPickle(), 9: stages.InParent(parent)}.get(x, x)

    member = stage(trouble, timeout=0.3, error_handler=seen.append)
    engine = make_engine("fork", on_error="side", crash_retries=0)
    report = engine.run([source, member]).unwrap()
    assert report.values == [0, 2, 4, 6, 8, 10, 11]
    assert sorted(error.index for error in seen) == [1, 3, 5, 7, 9]
    assert {type(error.error) for error in seen} >= {WorkerDiedError, ItemTimeoutError}
    assert report.snapshot.dropped == 5


@pytest.mark.slow
def test_a_slow_handler_holds_the_source_back(make_engine):
    """An endless source that fails throughout is never further ahead of its handler than the bound."""
    handled, pulled, gate = 0, 0, threading.Semaphore(0)

    def source():
        nonlocal pulled
        for number in itertools.count():
            pulled += 1
            yield number

    def slow(error):
        nonlocal handled
        assert gate.acquire(timeout=20)
        handled += 1

    def fail(x):
        if x < 3000 or x % 2:
            raise ValueError(x)
        return x

    engine = make_engine("fork", buffer=20)
    with engine.iter([source, stage(fail, on_error="side", error_handler=slow)]) as results:
        bound = results.snapshot().lead_bound
        leads = []
        for _ in range(3000):
            leads.append(pulled - handled)
            gate.release()
        gate.release(10**6)
        assert next(results) == 3000
        assert max(leads) <= bound
        assert pulled - 3000 <= 2 * bound


def test_a_handler_that_waits_lets_the_source_come_no_further_than_the_bound(make_engine):
    """With the handler shut behind its gate, the source comes to rest, and the snapshot says where."""
    gate, is_called = threading.Event(), threading.Event()
    pulled = 0

    def source():
        nonlocal pulled
        for number in range(5000):
            pulled += 1
            yield number

    def shut(error):
        is_called.set()
        assert gate.wait(20)

    engine = make_engine("fork", workers=1, buffer=10)
    with engine.iter([source, stage(fail_on(*range(4999)), on_error="side", error_handler=shut)]) as results:
        bound = results.snapshot().lead_bound
        assert is_called.wait(20)
        assert pulled <= bound
        gate.set()
        assert list(results) == [4999]


@pytest.mark.parametrize("error", [OSError, SystemExit])
@pytest.mark.parametrize("at", [0, 7, 19])
def test_a_handler_that_raises_ends_the_run_with_its_exception(engine, error, at):
    def fail_in_turn(item_error):
        if item_error.index == at:
            raise error("disk full")

    members = [stage(fail_on(*range(20)), name="picky", on_error="side", error_handler=fail_in_turn)]
    result = engine.run([range(20), *members])
    assert isinstance(result, Err)
    assert isinstance(result.cause, error)
    if error is OSError:
        assert result.reason == f"the error handler of stage 'picky' failed on item {at}: OSError: disk full"
    assert not result.report.ok
    check_books(result.report)


@pytest.mark.slow
def test_an_exit_in_a_handler_is_told_with_stage_and_item(make_engine):
    member = stage(fail_on(3), name="picky", on_error="side", error_handler=lambda error: sys.exit("bye"))
    result = make_engine("fork").run([range(20), member])
    assert result.reason == "the error handler of stage 'picky' failed on item 3: SystemExit: bye"


@pytest.mark.slow
def test_a_handler_that_blocks_for_ever_does_not_keep_a_cancelled_run(make_engine, caplog):
    gate, is_called = threading.Event(), threading.Event()

    def block(error):
        is_called.set()
        gate.wait(50)

    engine = make_engine("fork", grace_s=0.2)
    canceller = threading.Thread(target=lambda: (is_called.wait(20), engine.cancel("enough")))
    canceller.start()
    with caplog.at_level(logging.WARNING, logger="mpengine"):
        result = engine.run([range(50), stage(fail_on(3, 4), on_error="side", error_handler=block)])
    canceller.join()
    assert isinstance(result, Err)
    assert result.reason == "enough"
    told = [record.message for record in caplog.records if "handler" in record.message]
    assert told == ["an error handler does not give control back; its thread is left to itself"]
    (left,) = [thread for thread in threading.enumerate() if thread.name == "mpengine-handlers"]
    assert left.daemon
    gate.set()
    left.join(20)
    check_books(result.report)


def test_a_cancelled_run_calls_no_further_handler(engine):
    seen = []

    def cancel_at_five(error):
        seen.append(error.index)
        if error.index == 5:
            engine.cancel("seen enough")
            while not is_own_loop() and engine.snapshot().state == "running":
                time.sleep(0.001)  # the loop has a thread of its own, which takes it in when it can

    def is_own_loop():
        return threading.current_thread() is threading.main_thread()

    member = stage(fail_on(*range(100)), on_error="side", error_handler=cancel_at_five, workers=1)
    result = engine.run([range(100), member])
    assert (type(result), result.reason) == (Err, "seen enough")
    assert seen[:6] == list(range(6))
    assert len(seen) < 100
    check_books(result.report)


def test_a_handler_may_ask_for_a_snapshot(engine):
    seen = []

    def look(error):
        seen.append(engine.snapshot())

    assert engine.run([range(10), stage(fail_on(3, 8), on_error="side", error_handler=look)]).is_ok
    assert [snapshot.state for snapshot in seen] == ["running", "running"]
    assert all(snapshot.stages[0].failed <= 2 for snapshot in seen)


@pytest.mark.parametrize("policy", ["raise", "drop", "emit", None])
def test_a_handler_that_would_never_be_called_is_refused(make_engine, policy):
    member = stage(stages.keep, on_error=policy, error_handler=print)
    with pytest.raises(PipelineError, match="error_handler is never called"):
        make_engine("inline").run([[1], member])


def test_side_without_a_handler_is_refused(make_engine):
    with pytest.raises(PipelineError, match="needs an error_handler"):
        make_engine("inline").run([[1], stage(stages.keep, on_error="side")])
    with pytest.raises(PipelineError, match="needs an error_handler"):
        make_engine("inline", on_error="side").run(
            [[1], stage(stages.keep, name="a", error_handler=print), stages.keep]
        )


def test_the_engines_policy_holds_where_a_stage_names_none(kind, make_engine):
    seen = []
    engine = make_engine(kind, on_error=ErrorPolicy.SIDE)
    members = [
        stage(fail_on(1), error_handler=lambda error: seen.append(error.index)),
        stage(fail_on(2), name="e", on_error="emit"),
    ]
    assert shown(engine.run([range(4), *members]).unwrap().values) == [0, ("e", 2, "ValueError"), 3]
    assert seen == [1]


@pytest.mark.slow
def test_handlers_of_one_engine_serve_run_after_run(make_engine):
    seen = []
    member = stage(fail_on(1), on_error="side", error_handler=lambda error: seen.append(error.index))
    with make_engine("fork") as engine:
        for _ in range(3):
            assert engine.run([range(3), member]).unwrap().values == [0, 2]
    assert seen == [1, 1, 1]
