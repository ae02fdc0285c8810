"""What the contract promises (docs/contract.rst), a test for each sentence that has none elsewhere."""

import asyncio
import contextlib
import functools
import itertools
import json
import logging
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import engine_stages as stages
import psutil
import pytest

from mpengine import (
    SKIP,
    Engine,
    Err,
    ErrorPolicy,
    ItemError,
    ItemTimeoutError,
    KillSwitch,
    Ok,
    Pipeline,
    PipelineError,
    Report,
    Retry,
    Stage,
    StageError,
    WorkerDiedError,
    mix,
    stage,
)
from mpengine.coordinator.failures import Failures
from mpengine.coordinator.scribe import Scribe
from mpengine.scheduler.commands import ReportFailure
from mpengine.scheduler.events import Failure

SLOW = pytest.mark.slow
every_start = pytest.mark.parametrize(
    "start_method",
    [
        pytest.param("forkserver", marks=SLOW),
        *(pytest.param(name, marks=[SLOW, pytest.mark.long]) for name in ("spawn", "fork")),
    ],
)


def values(result):
    assert isinstance(result, Ok), result
    return result.report.values


def fail(item):
    raise ValueError(f"no {item}")


def meet(folder, own, other):
    """Come back when somebody else is here too: each opens a pipe that only the other one opens from its far end."""
    for name in sorted((own, other)):
        mode = os.O_WRONLY if name == own else os.O_RDONLY
        os.close(os.open(folder / name, mode))
    return own


@pytest.fixture
def meeting_point(tmp_path):
    """A folder where ``a`` and ``b`` can meet."""
    for name in "ab":
        os.mkfifo(tmp_path / name)
    return tmp_path


# ---------------------------------------------------------------------- stages


def test_stage_and_its_decorator_take_the_same_options():
    options = {
        "name": "it", "workers": 2, "buffer": 3, "batch": 4, "retries": 1, "timeout": 2.0, "on_error": "side",
        "error_handler": print, "kind": "thread", "concurrency": 5, "setup": print, "teardown": print,
        "idempotent": False, "singly": True,
    }  # fmt: skip
    made = [Stage(fail, **options), stage(fail, **options), stage(**options)(fail), stage(None, **options)(fail)]
    assert len({repr(one) for one in made}) == 1
    assert {one.name for one in made} == {"it"}


def test_a_stage_without_options_is_as_the_defaults_say():
    assert repr(stage(fail)) == repr(Stage(fail, name=None)) == "Stage(fail)"
    assert stage(fail, name=None).name == "fail"


def test_a_state_belongs_to_one_worker_and_one_stage(kind, make_engine):
    def first(item, state):
        state.update(calls=state.get("calls", 0) + 1)
        return item

    def second(item, state):
        return state.worker_id, dict(state.values)

    assert values(make_engine(kind, workers=1).run([range(5), first, second])) == [(0, {})] * 5


@SLOW
def test_a_class_without_an_end_and_one_that_is_closed_are_both_fine(engine, tmp_path):
    left = tmp_path / "left"

    class Endless:
        def __call__(self, item):
            return item + 1

    class Closing(Endless):
        def close(self):
            left.touch()

    assert values(engine.run([range(5), Endless, Closing])) == [2, 3, 4, 5, 6]
    assert left.exists()


def test_a_generator_is_streamed_before_its_item_is_through(kind, make_engine):
    def count_for_ever(item):
        yield from itertools.count(item)

    with make_engine(kind, workers=1).iter([[3], count_for_ever]) as results:
        assert list(itertools.islice(results, 10)) == list(range(3, 13))


@SLOW
def test_what_a_generator_gave_before_a_crash_is_not_given_again(make_engine, tmp_path):
    crashed = tmp_path / "crashed"

    def crash_once(item):
        yield item, 0
        yield item, 1
        if item == 1 and not crashed.exists():
            crashed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield item, 2

    result = make_engine("forkserver").run([range(3), crash_once])
    assert values(result) == [(item, part) for item in range(3) for part in range(3)]
    assert crashed.exists()


def test_an_async_def_runs_on_an_event_loop(kind, make_engine):
    async def add(item):
        await asyncio.sleep(0)
        assert asyncio.get_running_loop().is_running()
        return item + 1, os.getpid() == parent

    parent = os.getpid()
    assert values(make_engine(kind).run([range(20), add])) == [(x + 1, kind == "inline") for x in range(20)]


def test_an_async_def_has_as_many_items_at_once_as_its_concurrency(kind, make_engine):
    async def meet_three(item, state):
        under_way = state.get("under_way", 0) + 1
        state.update(under_way=under_way, most=max(under_way, state.get("most", 0)))
        if item < 3:
            await state.values.setdefault("gate", asyncio.Barrier(3)).wait()
        await asyncio.sleep(0)
        state.update(under_way=state.get("under_way") - 1)
        return state.get("most")

    found = values(make_engine(kind, workers=1).run([range(30), stage(meet_three, concurrency=3)]))
    assert max(found) == 3


@pytest.mark.parametrize("raised", [False, True])
def test_a_kill_switch_is_the_reason_whether_returned_or_raised(engine, raised):
    def stop(item):
        if raised:
            raise KillSwitch("why")
        return KillSwitch("why")

    result = engine.run([range(100), stop])
    assert (result.is_ok, result.reason, result.cause) == (False, "why", None)


class RangError(Exception):
    pass


def ring(signum, frame):
    raise RangError


def wait_for_the_alarm(_):
    signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        while True:
            signal.pause()
    except RangError:
        return threading.current_thread() is threading.main_thread()


@every_start
def test_stage_functions_run_in_the_workers_main_thread_where_alarms_work(start_method, make_engine):
    engine = make_engine(start_method, workers=1)
    assert values(engine.run([range(2), wait_for_the_alarm])) == [True, True]


def surroundings(_):
    return sys.stdin.read(), os.read(0, 10), str(Path.cwd()), list(sys.path)


@every_start
def test_stdin_is_empty_and_the_folder_and_the_import_path_are_the_parents(
    start_method, make_engine, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "imported"))
    (found,) = values(make_engine(start_method, workers=1).run([[0], surroundings]))
    assert found == ("", b"", str(tmp_path), sys.path)


@SLOW
@pytest.mark.parametrize("workers", [None, 2])
def test_any_worker_may_run_a_stage_that_does_not_say(make_engine, meeting_point, workers):
    def meet_the_other(names):
        return meet(meeting_point, *names)

    engine = make_engine("forkserver", workers=2)
    assert values(engine.run([["ab", "ba"], stage(meet_the_other, workers=workers)])) == ["a", "b"]


def test_no_more_items_wait_before_a_stage_than_its_buffer_holds(engine):
    members = [stages.keep, stage(stages.double, workers=1, buffer=3), stage(stages.keep, buffer=2)]
    with engine.iter([itertools.count(), *members]) as results:
        for _ in itertools.islice(results, 300):
            books = results.snapshot().stages
            assert [book.buffer for book in books[1:]] == [3, 2]
            assert all(book.queued <= book.buffer for book in books[1:])


def test_a_stage_with_batch_gets_lists_and_gives_as_many_results(engine):
    def with_sizes(items):
        assert isinstance(items, list)
        return [(item, len(items)) for item in items]

    found = values(engine.run([range(100), stage(with_sizes, batch=8)]))
    assert [item for item, _ in found] == list(range(100))
    assert {size for _, size in found} <= set(range(1, 9))
    assert 8 in {size for _, size in found}


def test_a_batch_with_too_few_results_has_failed(engine):
    result = engine.run([range(10), stage(lambda items: items[1:], batch=4)])
    assert isinstance(result.cause, StageError)


@pytest.mark.parametrize("where", ["thread", "async"])
def test_stages_beside_the_coordinator_pickle_nothing(kind, make_engine, where):
    lock = threading.Lock()

    def through(item):
        assert item is lock
        return item, os.getpid()

    async def through_async(item):
        return through(item)

    member = stage(through if where == "thread" else through_async, kind=where)
    assert values(make_engine(kind).run([[lock, lock], member])) == [(lock, os.getpid())] * 2


@SLOW
def test_stages_of_a_process_run_in_worker_processes(make_engine):
    assert os.getpid() not in values(make_engine("forkserver").run([range(5), stage(stages.pid_of, kind="process")]))


@pytest.mark.parametrize("retries", [0, 3])
def test_retries_are_so_many_attempts_more(engine, retries):
    result = engine.run([[0, 1], stage(fail, retries=retries, on_error="drop")])
    assert [error.attempts for error in result.report.errors] == [1 + retries] * 2
    assert result.report.snapshot.stages[0].retried == 2 * retries


def test_a_retry_waits_its_backoff_and_is_made_for_the_errors_it_names(kind, make_engine):
    def note_and_fail(item, state):
        state.values.setdefault("at", []).append(time.monotonic())
        if len(state.get("at")) < 3:
            raise OSError("again")
        if item == 1:
            raise KeyError("not worth it")
        return tuple(state.get("at"))

    patient = stage(note_and_fail, retries=Retry(2, backoff_s=0.02, factor=2.0, on=(OSError,)), on_error="drop")
    result = make_engine(kind, workers=1).run([range(2), patient])
    first, second, third = values(result)[0]
    assert second - first >= 0.02
    assert third - second >= 0.04
    assert [(type(error.error), error.attempts) for error in result.report.errors] == [(KeyError, 1)]


def hang_on_three(item):
    while item == 3:
        signal.pause()  # here it hangs
    return item, os.getpid()


@SLOW
def test_a_function_that_does_not_come_back_is_ended_with_its_worker_and_tells_where_it_hung(make_engine):
    slow = stage(hang_on_three, timeout=0.6, retries=1, on_error="drop")
    result = make_engine("forkserver", workers=1).run([range(6), slow])
    assert [item for item, _ in values(result)] == [0, 1, 2, 4, 5]
    assert len({pid for _, pid in values(result)}) >= 2
    (error,) = result.report.errors
    assert isinstance(error.error, ItemTimeoutError)
    assert (error.index, error.attempts) == (3, 2)
    assert "hang_on_three" in error.traceback
    assert "test_promises.py" in error.traceback
    assert result.report.snapshot.stages[0].timed_out == 1


@SLOW
def test_an_item_of_a_stage_that_is_not_idempotent_is_never_run_twice(make_engine, tmp_path):
    runs = tmp_path / "runs"

    def note_and_die(item):
        with runs.open("a") as file:
            file.write(f"{item}\n")
        if item == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    once = stage(note_and_die, idempotent=False, on_error="drop")
    result = make_engine("forkserver", workers=1, crash_retries=3).run([range(5), once])
    noted = runs.read_text().split()
    assert len(noted) == len(set(noted))
    assert {error.index for error in result.report.errors} >= {2}
    assert {type(error.error) for error in result.report.errors} == {WorkerDiedError}
    assert len(values(result)) + len(result.report.errors) == 5


def test_a_worker_has_one_item_of_a_stage_that_is_run_singly(make_engine, tmp_path):
    gate, passed = tmp_path / "gate", tmp_path / "passed"
    os.mkfifo(gate)

    def wait_for_all_others(item):  # quick ones first, so that batches would have grown by the time of the slow one
        if item == 400:
            gate.open().close()
        if item > 400:
            with passed.open("a") as file:
                file.write("x")
            if passed.stat().st_size == 99:
                gate.open("w").close()
        return item

    result = make_engine("forkserver", workers=2).run([range(500), stage(wait_for_all_others, singly=True)])

    assert values(result) == list(range(500))


# ---------------------------------------------------------------------- mixes


def test_a_mix_gives_a_list_in_the_order_of_its_functions(engine):
    assert values(engine.run([range(4), mix(stages.double, stages.increment, str)])) == [
        [2 * x, x + 1, str(x)] for x in range(4)
    ]


def test_merge_makes_what_goes_on_of_the_list(engine):
    assert values(engine.run([range(4), mix(stages.double, stages.increment, merge=sum), stages.increment])) == [
        2 * x + x + 1 + 1 for x in range(4)
    ]


def test_mix_decorates_a_function_that_returns_functions(engine):
    @mix(merge=max)
    def larger():
        return [stages.double, stages.increment]

    assert values(engine.run([range(4), larger])) == [1, 2, 4, 6]


def test_a_failing_branch_fails_the_item(engine):
    mixed = mix(stages.double, stages.fail_on_three, on_error="drop")
    result = engine.run([range(5), mixed])
    assert values(result) == [[2 * x, x] for x in (0, 1, 2, 4)]
    assert [(error.stage, error.index) for error in result.report.errors] == [("fail_on_three", 3)]
    assert not engine.run([range(5), mix(stages.double, stages.fail_on_three)]).is_ok


@SLOW
def test_an_item_is_in_every_function_of_a_mix_at_the_same_time(make_engine, meeting_point):
    def one(item):
        return meet(meeting_point, "a", "b")

    def other(item):
        return meet(meeting_point, "b", "a")

    assert values(make_engine("forkserver", workers=2).run([[0], mix(one, other)])) == [["a", "b"]]


# ---------------------------------------------------------------------- error policies


def fail_in_three_ways(item):
    if item == 1:
        raise ValueError("raised")
    if item == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    while item == 3:
        signal.pause()
    return SKIP if item == 4 else item


@SLOW
@pytest.mark.parametrize("policy", ["drop", "emit", "side"])
def test_an_exception_a_dead_worker_and_a_timeout_fail_an_item_alike_and_everything_is_accounted_for(
    make_engine, policy
):
    handled = []
    options = {"error_handler": handled.append} if policy == "side" else {}
    member = stage(fail_in_three_ways, timeout=0.6, retries=1, on_error=policy, **options)
    result = make_engine("forkserver").run([range(60), stages.keep, member, stages.keep])
    out = values(result)
    assert [value for value in out if not isinstance(value, ItemError)] == [0, *range(5, 60)]
    emitted = [value for value in out if isinstance(value, ItemError)]
    told = {"drop": result.report.errors, "emit": emitted, "side": handled}[policy]
    expected = [(1, ValueError), (2, WorkerDiedError), (3, ItemTimeoutError)]
    assert sorted((error.index, type(error.error)) for error in told) == expected
    assert out[1:4] == emitted if policy == "emit" else not emitted
    snapshot = result.report.snapshot
    assert all(book.processed == book.succeeded + book.failed + book.skipped for book in snapshot.stages)
    book = snapshot.stages[1]
    assert (book.processed, book.succeeded, book.failed, book.skipped) == (60, 56, 3, 1)
    assert (book.crashed, book.timed_out, book.dropped + book.emitted_errors) == (1, 1, 3)
    assert (snapshot.source_items, snapshot.delivered, snapshot.filtered) == (60, len(out), 1)
    assert snapshot.delivered + snapshot.dropped + snapshot.filtered == 60


@pytest.mark.parametrize("on_error", [None, "raise", ErrorPolicy.RAISE])
def test_raise_cancels_the_run_with_the_original_exception_as_cause(engine, on_error):
    result = engine.run([itertools.count(), stage(stages.fail_on_three, on_error=on_error)])
    assert isinstance(result, Err)
    assert (type(result.cause), result.cause.args) == (ValueError, ("no 3",))
    assert "no 3" in result.reason


def failed_at(stage_number, index):
    failure = Failure(0, 0, "ValueError: no", ValueError("no"), "'x'", "", 1, "raised")
    return ReportFailure(stage=stage_number, index=index, failure=failure, policy=ErrorPolicy.DROP, worker_id=0)


def test_drop_logs_a_line_a_stage_and_second_and_says_how_many_were_held_back(caplog):
    scribe = Scribe()
    failures = Failures(["first", "second"], scribe)
    with caplog.at_level(logging.WARNING, "mpengine"):
        for at in (10.0, 10.1, 10.9, 11.0, 11.5):
            failures.add(failed_at(0, int(10 * at)), at)
        failures.add(failed_at(1, 0), 11.5)
        failures.tell_held_back()
        scribe.close()
    assert [record.getMessage() for record in caplog.records] == [
        "stage 'first': item 100 failed: ValueError: no",
        "stage 'first': item 110 failed: ValueError: no (2 more since the last line)",
        "stage 'second': item 0 failed: ValueError: no",
        "stage 'first': 1 more item failed",
    ]


def test_emit_puts_an_item_error_in_the_items_place_and_later_stages_pass_it_on(engine):
    def no_error(item):
        assert not isinstance(item, ItemError)
        return item + 1

    result = engine.run([range(6), stage(stages.fail_on_three, on_error="emit"), no_error, stage(no_error, workers=1)])
    found = values(result)
    assert [value for value in found if type(value) is int] == [2, 3, 4, 6, 7]
    assert isinstance(found[3], ItemError)
    assert (found[3].stage, found[3].index, type(found[3].error)) == ("fail_on_three", 3, ValueError)
    first, second, third = result.report.snapshot.stages
    assert (first.failed, first.emitted_errors, first.dropped) == (1, 1, 0)
    assert second.failed == third.failed == 0


def test_side_calls_the_handler_in_the_parent_and_goes_on_as_drop(engine):
    handled = []

    def handler(error):
        handled.append((os.getpid(), error.index, type(error.error)))

    result = engine.run([range(6), stage(stages.fail_on_three, on_error="side", error_handler=handler)])
    assert values(result) == [0, 1, 2, 4, 5]
    assert handled == [(os.getpid(), 3, ValueError)]
    assert [error.index for error in result.report.errors] == [3]
    assert result.report.snapshot.stages[0].dropped == 1


def test_a_handler_that_raises_ends_the_run_with_its_exception(engine):
    def handler(error):
        raise LookupError("no such shelf")

    member = stage(stages.fail_on_three, on_error="side", error_handler=handler)
    result = engine.run([itertools.count(), member])
    assert isinstance(result, Err)
    assert isinstance(result.cause, LookupError)


# ---------------------------------------------------------------------- pipelines


def test_a_pipeline_runs_with_stages_and_callables_however_it_was_put_together(engine):
    for pipeline in (
        Pipeline([1, 2]) >> stages.double >> stage(stages.increment),
        Pipeline([1, 2]).stage(stages.double).stage(stage(stages.increment)),
        Pipeline([1, 2], [stages.double, stages.increment]),
    ):
        assert values(engine.run(pipeline)) == [3, 5]


@SLOW
def test_a_pipeline_brings_an_engine_of_its_own_where_it_is_given_none():
    pipeline = Pipeline(range(3)) >> stages.pid_of
    assert os.getpid() not in values(pipeline.run())
    assert os.getpid() not in set(pipeline.iter())


# ---------------------------------------------------------------------- the engine


def test_results_come_in_input_order_though_they_are_ready_in_another(make_engine, meeting_point):
    def first_waits(item):
        if item == 0:
            os.close(os.open(meeting_point / "a", os.O_RDONLY))
        return item

    def release_the_first(item):
        if item == 1:
            os.close(os.open(meeting_point / "a", os.O_WRONLY))
        return item

    members = [first_waits, stage(release_the_first, kind="thread", workers=1)]
    assert values(make_engine("fork", workers=2).run([range(4), *members])) == [0, 1, 2, 3]


def test_without_order_results_come_as_they_are_ready(make_engine, meeting_point):
    def first_waits(item):
        if item == 0:
            os.close(os.open(meeting_point / "a", os.O_RDONLY))
        return item

    with make_engine("fork", workers=2, ordered=False).iter([range(4), first_waits]) as results:
        assert next(results) != 0  # with order nothing could come before it
        os.close(os.open(meeting_point / "a", os.O_WRONLY))
        assert len(list(results)) == 3


@SLOW
def test_a_worker_is_replaced_after_so_many_items(make_engine):
    engine = make_engine("forkserver", workers=1, max_items_per_worker=3)
    pids = values(engine.run([range(10), stages.pid_of]))
    assert len(pids) == 10
    assert max(pids.count(pid) for pid in pids) <= 3


def test_what_items_and_workers_do_is_never_raised_by_run(engine):
    for error in (ValueError, KeyError, StopIteration, MemoryError, RecursionError, BaseException, GeneratorExit):

        def raise_it(item, error=error):
            raise error("from a stage")

        result = engine.run([[0], raise_it])
        assert isinstance(result, Err)
        assert type(result.cause) is error


def test_what_cannot_run_is_refused_with_a_pipeline_error(engine):
    for wrong in ([range(3)], [range(3), 5], 7, [3, stages.double]):
        with pytest.raises(PipelineError):
            engine.run(wrong)
    with pytest.raises(PipelineError, match="error_handler"):
        engine.run([range(3), stage(stages.double, on_error="side")])


def test_run_takes_a_pipeline_or_a_list_with_a_source_or_without(engine):
    for arguments in (
        (Pipeline([1, 2]) >> stages.double,),
        ([[1, 2], stages.double],),
        ([stages.double], [1, 2]),
        (Pipeline([9]) >> stages.double, [1, 2]),
    ):
        assert values(engine.run(*arguments)) == [2, 4]


@pytest.mark.parametrize("how", ["map", "iter"])
def test_results_come_while_the_source_goes_on(engine, how):
    results = (
        engine.map(stages.double, itertools.count())
        if how == "map"
        else engine.iter([itertools.count(), stages.double])
    )
    with contextlib.closing(results):
        assert list(itertools.islice(results, 5)) == [0, 2, 4, 6, 8]


def test_cancel_may_be_called_in_a_signal_handler_and_the_first_reason_wins(engine):
    def handler(signum, frame):
        engine.cancel("from the handler")
        engine.cancel("once more")

    def source():
        yield from range(10)
        os.kill(os.getpid(), signal.SIGUSR1)
        yield from itertools.count()

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        result = engine.run([source, stages.keep])
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (result.reason, result.cause) == ("from the handler", None)


def test_a_cancel_without_a_reason_has_one(engine):
    def source():
        yield 0
        engine.cancel()
        yield from itertools.count()

    assert engine.run([source, stages.keep]).reason == "cancelled"


def test_snapshots_and_pids_may_be_asked_for_in_any_thread(kind, make_engine):
    engine = make_engine(kind, workers=2)
    found = []

    def ask():
        found.append((engine.snapshot(), engine.pids()))

    with engine.iter([itertools.count(), stages.keep]) as results:
        next(results)
        asker = threading.Thread(target=ask)
        asker.start()
        asker.join()
        ((snapshot, pids),) = found
        assert snapshot.state == "running"
        assert all(psutil.Process(pid).ppid() for pid in pids)
        assert len(pids) == (0 if kind == "inline" else 2)


def test_an_engine_is_closed_by_its_with_block(engine):
    with engine as entered:
        assert entered is engine
        assert values(engine.run([[1], stages.double])) == [2]
    assert engine.pids() == []
    with pytest.raises(Exception, match="closed"):
        engine.run([[1], stages.double])


# ---------------------------------------------------------------------- results


def test_a_report_tells_how_the_run_went(engine):
    result = engine.run([range(5), stage(stages.fail_on_three, on_error="drop")])
    match result:
        case Ok(report):
            assert (report.ok, report.values, len(report.errors)) == (True, [0, 1, 2, 4], 1)
            assert report.snapshot.state == "finished"
            assert report.duration_s >= report.snapshot.elapsed_s > 0
        case Err():
            pytest.fail("dropped items do not fail a run")
    failed = engine.run([range(5), stages.fail_on_three])
    match failed:
        case Err(reason, ValueError() as cause, Report(ok=False) as report):
            assert "no 3" in reason
            assert failed.report is report
            assert failed.cause is cause
        case _:
            pytest.fail("no match")


def test_the_figures_of_a_run_can_be_written_as_json(engine):
    engine.run([range(50), stages.skip_odd, stages.double])
    figures = json.loads(json.dumps(engine.snapshot().as_dict()))
    assert figures == engine.snapshot().as_dict()
    assert [book["skipped"] for book in figures["stages"]] == [25, 0]
    assert (figures["state"], figures["reason"], figures["source_items"], figures["delivered"]) == (
        "finished",
        None,
        50,
        25,
    )
    assert figures["workers"][0]["worker_id"] == 0


def test_figures_tell_of_each_stage_and_worker_in_order(kind, make_engine):
    report = make_engine(kind, workers=2).run([range(500), stages.double, stage(stages.keep, workers=1)]).unwrap()
    snapshot = report.snapshot
    assert isinstance(snapshot.stages, tuple)
    assert isinstance(snapshot.workers, tuple)
    assert [book.name for book in snapshot.stages] == ["double", "keep"]
    assert [worker.worker_id for worker in snapshot.workers] == [0, 1]
    for book in snapshot.stages:
        assert (book.queued, book.in_flight, book.processed) == (0, 0, 500)
        assert book.busy_s > 0
        assert book.items_per_s == pytest.approx(500 / snapshot.elapsed_s)
    assert sum(worker.items for worker in snapshot.workers) >= 1000


def test_the_reason_of_a_cancelled_run_stands_in_its_figures(engine):
    with engine.iter([itertools.count(), stages.keep]) as results:
        next(results)
        engine.cancel("lunch")
    assert engine.snapshot().reason == "lunch"


# ---------------------------------------------------------------------- asyncio


def test_asyncio_callers_get_the_same(engine):
    async def main():
        result = await engine.arun([range(4), stages.double])
        return values(result), [value async for value in engine.aiter([range(4), stages.double])]

    assert asyncio.run(main()) == ([0, 2, 4, 6],) * 2


def test_partials_and_instances_may_be_named_stages(engine):
    member = stage(functools.partial(pow, 2), name="power", on_error=ErrorPolicy.DROP)
    result = engine.run([range(4), member])
    assert values(result) == [1, 2, 4, 8]
    assert result.report.snapshot.stages[0].name == "power"


def test_an_engine_by_default_raises():
    result = Engine(1, backend="inline").run([[3], stages.fail_on_three])
    assert isinstance(result.cause, ValueError)


def test_the_inline_backend_runs_everything_in_the_callers_thread():
    def where(item):
        return os.getpid(), threading.get_ident()

    members = [where, stage(lambda place: (place, where(0)), kind="thread")]
    (found,) = values(Engine(2, backend="inline").run([[0], *members]))
    assert found == (where(0), where(0))


def test_a_stage_without_a_buffer_has_the_engines(kind, make_engine):
    engine = make_engine(kind, buffer=7)
    report = engine.run([range(20), stage(stages.keep, workers=1), stage(stages.keep, workers=1, buffer=3)]).unwrap()
    assert [book.buffer for book in report.snapshot.stages] == [7, 3]


def test_every_dropped_item_is_told_or_counted_in_the_log(kind, make_engine, caplog):
    with caplog.at_level(logging.WARNING, "mpengine"):
        result = make_engine(kind, on_error="drop").run([range(700), fail])
    assert result.report.snapshot.dropped == 700
    told = [record.getMessage() for record in caplog.records if record.name == "mpengine"]
    own = sum(": item " in line for line in told)
    held_back = sum(int(count) for line in told for count in re.findall(r"(\d+) more", line))
    assert own + held_back == 700
    lines_at = [record.created for record in caplog.records if ": item " in record.getMessage()]
    assert all(later - earlier > 0.9 for earlier, later in itertools.pairwise(lines_at))
    assert len(told) <= own + 1
