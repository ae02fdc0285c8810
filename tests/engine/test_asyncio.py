"""Runs for asyncio callers: the loop is never held up, and however a run is left, nothing of it is."""

import asyncio
import contextvars
import gc
import itertools
import signal
import threading
import types

import engine_stages as stages
import psutil
import pytest

from mpengine import EngineClosedError, EngineError, Err, Pipeline, PipelineError, Snapshot, cancelled
from mpengine.coordinator import awaiting

PATIENCE_S = 20.0
CANCELLED = "the awaiting task was cancelled"
NOT_WANTED = "the results were not wanted any more"


class Gate:
    """Opened by one side, passed by the other; a closed one is an error, not a hang."""

    def __init__(self):
        self._event = threading.Event()

    def open(self):
        self._event.set()

    def pass_through(self):
        assert self._event.wait(PATIENCE_S)

    async def reached(self):
        assert await asyncio.to_thread(self._event.wait, PATIENCE_S)


def check_nothing_is_left(engine):
    assert engine.pids() == []
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("mpengine-")] == []


def endless(reached, at=5):
    """A source without end that opens a gate when it has given so many items."""
    for number in itertools.count():
        if number == at:
            reached.open()
        yield number


# ---------------------------------------------------------------------- arun


def test_arun_gives_what_run_gives(every_kind, make_engine):
    engine = make_engine(every_kind)

    async def main():
        result = await engine.arun([range(1000), stages.increment, stages.skip_odd])
        check_nothing_is_left(engine)
        return result

    assert asyncio.run(main()).unwrap().values == list(range(2, 1001, 2))


def test_arun_takes_a_source_apart_and_keeps_no_values_if_told_so(engine):
    report = asyncio.run(engine.arun([stages.double], range(100), collect=False)).unwrap()
    assert (report.values, report.snapshot.delivered) == ([], 100)


def test_arun_of_a_failing_pipeline_is_an_err(engine):
    match asyncio.run(engine.arun([range(10), stages.fail_on_three])):
        case Err(reason, cause, report):
            assert "fail_on_three" in reason
            assert isinstance(cause, ValueError)
            assert report.values == [0, 1, 2][: len(report.values)]
        case _:
            pytest.fail("it is no Err")


def test_a_pipeline_can_be_awaited_itself(engine):
    pipeline = Pipeline(range(3)) >> stages.double

    async def main():
        assert (await pipeline.arun(engine)).unwrap().values == [0, 2, 4]
        assert (await pipeline.arun(engine, collect=False)).unwrap().values == []
        return [x async for x in pipeline.aiter(engine)]

    assert asyncio.run(main()) == [0, 2, 4]


def test_a_cancelled_pipeline_is_an_err_at_once(engine, monkeypatch):
    pipeline = Pipeline(range(3)) >> stages.double
    pipeline.cancel("not today")
    monkeypatch.setattr(threading.Thread, "start", lambda _: pytest.fail("nothing is to be started"))

    async def main():
        assert (await engine.arun(pipeline)).reason == "not today"
        with pytest.raises(EngineError, match="not today"):
            engine.aiter(pipeline)

    asyncio.run(main())


def test_what_cannot_run_is_refused_by_both(engine):
    async def main():
        with pytest.raises(PipelineError):
            await engine.arun([])
        with pytest.raises(PipelineError):
            engine.aiter("no pipeline")
        with pytest.raises(PipelineError):
            engine.aiter([range(3), 5])
        engine.close()
        with pytest.raises(EngineClosedError):
            await engine.arun([range(3), stages.keep])
        with pytest.raises(EngineClosedError):
            await anext(engine.aiter([range(3), stages.keep]))

    asyncio.run(main())


def test_the_loop_goes_on_while_a_run_does(kind, make_engine):
    """Each item of the source comes only when the loop has gone round a hundred times since the one before."""
    engine = make_engine(kind)
    asked = threading.Semaphore(0)
    given = threading.Semaphore(0)

    def source():
        for number in range(5):
            asked.release()
            assert given.acquire(timeout=PATIENCE_S)
            yield number

    async def beat():
        while True:
            if asked.acquire(blocking=False):
                for _ in range(100):
                    await asyncio.sleep(0)
                given.release()
            await asyncio.sleep(0)

    async def main(consume):
        heart = asyncio.create_task(beat())
        try:
            return await consume()
        finally:
            heart.cancel()

    async def listed():
        return [x async for x in engine.aiter([source, stages.double])]

    assert asyncio.run(main(lambda: engine.arun([source, stages.double]))).unwrap().values == [0, 2, 4, 6, 8]
    assert asyncio.run(main(listed)) == [0, 2, 4, 6, 8]


def test_two_engines_run_in_one_loop_at_the_same_time(kind, make_engine):
    """Either source waits for the other one to have begun."""
    one, other = make_engine(kind), make_engine(kind)
    gates = Gate(), Gate()

    def source(mine, others):
        mine.open()
        others.pass_through()
        yield from range(100)

    async def main():
        return await asyncio.gather(
            one.arun([lambda: source(*gates), stages.double]),
            other.arun([lambda: source(*reversed(gates)), stages.increment]),
        )

    first, second = asyncio.run(main())
    assert first.unwrap().values == [2 * x for x in range(100)]
    assert second.unwrap().values == [x + 1 for x in range(100)]


def test_a_second_arun_at_the_same_moment_is_refused(engine):
    begun, go_on = Gate(), Gate()

    def source():
        begun.open()
        go_on.pass_through()
        yield from range(3)

    async def main():
        first = asyncio.create_task(engine.arun([source, stages.double]))
        await begun.reached()
        with pytest.raises(EngineError, match="runs a pipeline already"):
            await engine.arun([range(3), stages.double])
        with pytest.raises(EngineError, match="runs a pipeline already"):
            await anext(engine.aiter([range(3), stages.double]))
        go_on.open()
        return await first

    assert asyncio.run(main()).unwrap().values == [0, 2, 4]


def test_of_two_aruns_begun_together_one_is_refused(engine):
    go_on = Gate()

    def source():
        go_on.pass_through()
        yield from range(3)

    async def main():
        runs = [asyncio.create_task(engine.arun([source, stages.double])) for _ in range(2)]
        (refused,), (other,) = await asyncio.wait(runs, return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(EngineError, match="one at a time"):
            refused.result()
        go_on.open()
        return await other

    assert asyncio.run(main()).unwrap().values == [0, 2, 4]


def test_inline_stages_see_the_callers_context(make_engine):
    variable = contextvars.ContextVar("variable", default="unset")

    async def main():
        variable.set("the caller's")
        return await make_engine("inline").arun([range(1), lambda _: variable.get()])

    assert asyncio.run(main()).unwrap().values == ["the caller's"]


# ---------------------------------------------------------------------- cancellation


def test_cancelling_the_awaiting_task_cancels_the_run_and_outlasts_it(every_kind, make_engine):
    engine = make_engine(every_kind)
    reached = Gate()

    async def main():
        task = asyncio.create_task(engine.arun([endless(reached), stages.keep], collect=False))
        await reached.reached()
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await task
        check_nothing_is_left(engine)
        assert engine.snapshot().reason == "enough"
        return await engine.arun([range(3), stages.double])

    assert asyncio.run(main()).unwrap().values == [0, 2, 4]


@pytest.mark.parametrize(("why", "reason"), [((), CANCELLED), (("",), CANCELLED), ((3,), CANCELLED), (("why",), "why")])
def test_what_a_task_is_cancelled_for_is_the_reason_of_its_run(engine, why, reason):
    reached = Gate()

    async def take():
        async for _ in engine.aiter([endless(reached), stages.keep]):
            pass

    async def main():
        task = asyncio.create_task(take())
        await reached.reached()
        task.cancel(*why)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert engine.snapshot().reason == reason

    asyncio.run(main())


def test_the_loop_goes_on_in_the_middle_of_a_list_of_results(monkeypatch):
    """By a clock that goes on by 2 ms with each look at it, so that the loop's turn comes after a few results."""
    clock = itertools.count(0, 0.002)
    monkeypatch.setattr(awaiting, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    lists, turns = [[*range(300)], None], []

    class Consumer:
        async def next_batch(self):
            return lists.pop(0)

        async def result(self):
            return None

        def leave(self, _):
            pass

    async def begin():
        return Consumer()

    async def count_turns():
        while lists:
            turns.append(None)
            await asyncio.sleep(0)

    async def main():
        counting = asyncio.create_task(count_turns())
        values = [value async for value in awaiting.AsyncResultStream(begin)]
        await counting
        return values

    assert asyncio.run(main()) == [*range(300)]
    assert len(turns) >= 100


def test_cancelling_before_the_run_has_begun_leaves_nothing(engine):
    async def main():
        task = asyncio.create_task(engine.arun([itertools.count(), stages.keep], collect=False))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        check_nothing_is_left(engine)

    asyncio.run(main())


def test_the_loop_goes_on_while_a_cancelled_run_is_waited_for(make_engine):
    """The stage leaves only when the loop, which has cancelled it, has gone round a hundred times more."""
    engine = make_engine("inline", grace_s=PATIENCE_S)
    begun, go_on = Gate(), Gate()

    def stubborn(x):
        begun.open()
        go_on.pass_through()
        assert cancelled()
        return x

    async def main():
        task = asyncio.create_task(engine.arun([range(1), stubborn]))
        await begun.reached()
        for _ in range(100):
            task.cancel()  # impatience changes nothing
            await asyncio.sleep(0)
        assert not task.done()
        go_on.open()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    check_nothing_is_left(engine)


def test_timeouts_work_around_both(kind, make_engine):
    engine = make_engine(kind)

    async def blocked():
        yield 0
        await asyncio.Event().wait()

    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await engine.arun([blocked, stages.keep])
        check_nothing_is_left(engine)
        with pytest.raises(TimeoutError):  # noqa: PT012 - the whole loop is under the deadline
            async with asyncio.timeout(0.05):
                async for _ in engine.aiter([blocked, stages.keep]):
                    pass
        check_nothing_is_left(engine)
        assert engine.snapshot().reason == CANCELLED

    asyncio.run(main())


def test_engine_cancel_ends_an_awaited_run(engine):
    reached = Gate()

    async def main():
        task = asyncio.create_task(engine.arun([endless(reached), stages.keep], collect=False))
        await reached.reached()
        engine.cancel("from the loop")
        return await task

    assert asyncio.run(main()).reason == "from the loop"


def test_a_failing_mate_in_a_task_group_ends_the_run(engine):
    reached = Gate()

    async def fail():
        await reached.reached()
        raise ValueError("the mate's")

    async def main():
        async with asyncio.TaskGroup() as group:
            group.create_task(engine.arun([endless(reached), stages.keep], collect=False))
            group.create_task(fail())

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(main())
    assert caught.group_contains(ValueError, match="the mate's")
    check_nothing_is_left(engine)


# ---------------------------------------------------------------------- aiter


def test_aiter_gives_results_and_then_the_end(every_kind, make_engine):
    async def main():
        results = make_engine(every_kind).aiter([range(3000), stages.double])
        assert (results.result, results.snapshot()) == (None, Snapshot())
        assert [x async for x in results] == [2 * x for x in range(3000)]
        assert results.result.is_ok
        assert results.snapshot().delivered == 3000
        assert [x async for x in results] == []
        with pytest.raises(StopAsyncIteration):
            await anext(results)

    asyncio.run(main())


def test_aiter_gives_what_came_first_and_then_raises_the_cause_once(kind, make_engine):
    async def main():
        engine = make_engine(kind)
        results = engine.aiter([range(10), stages.fail_on_three])
        values = []
        with pytest.raises(ValueError, match="no 3"):  # noqa: PT012 - the loop is what raises
            async for value in results:
                values.append(value)  # noqa: PERF401 - those before the error are what is looked at
        assert values == [0, 1, 2][: len(values)]
        assert [x async for x in results] == []
        check_nothing_is_left(engine)

    asyncio.run(main())


@pytest.mark.parametrize("how", ["break", "aclose", "with", "drop", "exception"])
def test_leaving_the_results_early_cancels_the_run(kind, make_engine, how):
    engine = make_engine(kind)
    source = Closing()

    async def main():
        results = engine.aiter([source, stages.keep])
        if how == "break":
            async for value in engine.aiter([source, stages.keep]):
                if value == 5:
                    break
        elif how == "exception":
            with pytest.raises(ZeroDivisionError):
                async with results:
                    assert await anext(results) / 0
        else:
            assert [await anext(results) for _ in range(3)] == [0, 1, 2]
            if how == "with":
                async with results:
                    pass
            elif how == "aclose":
                await asyncio.gather(results.aclose(), results.aclose())
                await results.aclose()
            if how == "drop":
                del results
            else:
                assert [x async for x in results] == []
        if how not in ("break", "drop"):  # nobody can wait in these
            check_nothing_is_left(engine)
        # The next one waits for what is on its way out.
        assert (await engine.arun([range(2), stages.keep])).unwrap().values == [0, 1]
        assert source.closed == 1

    asyncio.run(main())
    check_nothing_is_left(engine)


class Closing:
    """Numbers without end, that tell how often they were closed."""

    def __init__(self):
        self.given = self.closed = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.given += 1
        return self.given - 1

    def close(self):
        self.closed += 1


def test_results_that_were_never_asked_for_are_no_run(engine):
    async def main():
        results = engine.aiter([Closing(), stages.keep])
        await results.aclose()
        assert [x async for x in results] == []
        async with engine.aiter([Closing(), stages.keep]):
            pass
        return await engine.arun([range(2), stages.keep])

    assert asyncio.run(main()).unwrap().values == [0, 1]


def test_no_more_is_pulled_than_is_taken(kind, make_engine):
    engine = make_engine(kind, buffer=8)
    source = Closing()

    async def main():
        async with engine.aiter([source, stages.keep]) as results:
            taken = 0
            async for _ in results:
                taken += 1
                assert source.given - taken <= engine.snapshot().lead_bound
                if taken == 500:
                    break

    asyncio.run(main())


def test_one_list_of_results_is_taken_at_a_time(make_engine, monkeypatch):
    from mpengine.coordinator.run import Run

    lists = []
    next_batch = Run.next_batch
    monkeypatch.setattr(Run, "next_batch", lambda run: lists.append(next_batch(run)) or lists[-1])

    async def main():
        async with make_engine("inline", buffer=4).aiter([Closing(), stages.keep]) as results:
            for taken in range(1, 200):
                await anext(results)
                assert sum(map(len, lists[:-1])) < taken

    asyncio.run(main())


def test_two_tasks_may_share_the_results(kind, make_engine):
    async def main():
        results = make_engine(kind).aiter([range(2000), stages.double])

        async def take():
            return [x async for x in results]

        return await asyncio.gather(take(), take())

    shares = asyncio.run(main())
    assert sorted(itertools.chain(*shares)) == [2 * x for x in range(2000)]


def test_closing_from_another_task_ends_a_wait(engine):
    source = Numbers(0)

    async def main():
        results = engine.aiter([source, stages.keep])
        waiting = asyncio.create_task(anext(results, "the end"))
        await source.waits.reached()
        await results.aclose()
        return await waiting

    assert asyncio.run(main()) == "the end"
    check_nothing_is_left(engine)


def test_cancelling_a_task_that_waits_for_a_result_cancels_the_run(engine):
    source = Numbers(0)

    async def main():
        results = engine.aiter([source, stages.keep])
        waiting = asyncio.create_task(anext(results))
        await source.waits.reached()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        check_nothing_is_left(engine)
        assert results.result.reason == CANCELLED
        with pytest.raises(EngineError, match=CANCELLED):
            await anext(results)

    asyncio.run(main())


# ---------------------------------------------------------------------- the end of the loop


def test_asyncio_run_waits_for_a_run_that_nobody_waits_for(kind, make_engine):
    """The results are dropped by the very last thing that the main task does."""
    engine = make_engine(kind)
    source = Closing()

    async def main():
        async for value in engine.aiter([source, stages.keep]):
            if value == 5:
                break

    asyncio.run(main())
    assert source.closed == 1
    check_nothing_is_left(engine)


def test_asyncio_run_ends_a_run_that_is_still_held(kind, make_engine):
    engine = make_engine(kind)
    source = Closing()
    held = []

    async def main():
        held.append(engine.aiter([source, stages.keep]))
        assert await anext(held[0]) == 0

    asyncio.run(main())
    assert source.closed == 1
    check_nothing_is_left(engine)
    assert held[0].result.reason == CANCELLED


@pytest.mark.parametrize("form", ["arun", "aiter"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_is_closed_takes_its_run_along(kind, make_engine, form):
    engine = make_engine(kind)
    source = Closing()
    loop = asyncio.new_event_loop()
    reached = Gate()

    async def body():
        if form == "arun":
            await engine.arun([endless(reached), stages.keep], collect=False)
        else:
            async for _ in engine.aiter([source, stages.keep]):
                reached.open()
                await asyncio.Event().wait()

    async def main():
        task = asyncio.create_task(body())
        await reached.reached()
        return task

    task = loop.run_until_complete(main())
    task._log_destroy_pending = False
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    for thread in threading.enumerate():
        if thread.name.startswith("mpengine-"):
            thread.join(PATIENCE_S)
    check_nothing_is_left(engine)
    del task
    gc.collect()
    assert engine.run([range(2), stages.keep]).unwrap().values == [0, 1]


INTERRUPTED = """
    import asyncio, itertools, threading
    from mpengine import Engine

    engine = Engine(2)

    def source():
        yield from range(100)
        print(*engine.pids(), flush=True)
        yield from itertools.count()

    async def main():
        {body}

    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
        print("interrupted", engine.snapshot().reason, engine.pids(), threads)
"""
AWAITED = "await engine.arun([source, abs], collect=False)"
ITERATED = """async for _ in engine.aiter([source, abs]):
            pass"""
BETWEEN = """async for n in engine.aiter([source, abs]):
            await asyncio.sleep(60 if n > 99 else 0)"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "reason"),
    [(AWAITED, CANCELLED), (ITERATED, CANCELLED), (BETWEEN, NOT_WANTED)],
    ids=["arun", "aiter", "between"],
)
def test_ctrl_c_in_asyncio_run_leaves_nothing(start_program, body, reason):
    program = start_program(INTERRUPTED.replace("{body}", body))
    pids = program.read_pids()
    assert pids
    program.send(signal.SIGINT)
    written, errors, status = program.end()
    assert (errors, status) == ("", 0)
    assert written in [f"interrupted {reason} [] []", f"interrupted {CANCELLED} [] []"]
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=5)
    assert alive == []


# ---------------------------------------------------------------------- async sources


class Numbers:
    """An async source that stops for ever at some item, and tells how often it was closed and on which loop."""

    def __init__(self, stop_at):
        self._stop_at = stop_at
        self.given = 0
        self.waits = Gate()
        self.was_let_wait = False
        self.closed = []
        self.loops = set()

    def __aiter__(self):
        return self

    async def __anext__(self):
        self.loops.add(asyncio.get_running_loop())
        if self.given == self._stop_at:
            self.waits.open()
            await asyncio.sleep(PATIENCE_S / 2)
            self.was_let_wait = True
        self.given += 1
        return self.given - 1

    async def aclose(self):
        self.loops.add(asyncio.get_running_loop())
        self.closed.append(self.given)


@pytest.mark.parametrize("form", ["object", "generator", "function"])
def test_an_async_source_that_waits_for_ever_ends_at_cancel(kind, make_engine, form, caplog):
    """Without any patience: nobody is waited for in vain."""
    engine = make_engine(kind)
    numbers = Numbers(3)
    closed = []

    async def generate():
        try:
            async for number in numbers:
                yield number
        finally:
            await asyncio.sleep(0)  # it may still wait, now that it has been cancelled
            closed.append("generator")

    source = {"object": numbers, "generator": generate(), "function": generate}[form]

    def cancel():
        numbers.waits.pass_through()
        engine.cancel("enough")

    canceller = threading.Thread(target=cancel)
    canceller.start()
    result = engine.run([source, stages.keep])
    canceller.join()
    assert result.reason == "enough"
    assert not numbers.was_let_wait
    check_nothing_is_left(engine)
    assert (numbers.closed, closed) == (([3], []) if form == "object" else ([], ["generator"]))
    assert caplog.messages == []


def test_an_async_source_is_closed_at_its_end(kind, make_engine):
    class Few(Numbers):
        async def __anext__(self):
            if self.given == 3:
                raise StopAsyncIteration
            return await super().__anext__()

    source = Few(None)
    assert make_engine(kind).run([source, stages.keep]).unwrap().values == [0, 1, 2]
    assert source.closed == [3]


def test_an_async_source_that_waits_for_its_turn_is_closed_at_cancel(engine):
    source = Numbers(None)
    with engine.iter([source, stages.keep]) as results:
        assert next(results) == 0
    assert len(source.closed) == 1


def test_an_async_source_that_is_cancelled_by_others_has_failed(engine):
    async def source():
        yield 0
        raise asyncio.CancelledError

    result = engine.run([source, stages.keep])
    assert isinstance(result.cause, EngineError)
    assert "cancelled, and not by its run" in result.reason


def test_functions_may_return_iterables_of_both_kinds(kind, make_engine):
    async def arange():
        for number in range(3):
            yield number

    class Async:
        def __aiter__(self):
            return arange()

    engine = make_engine(kind)
    for source in (arange, Async, lambda: range(3), lambda: iter([0, 1, 2]), Closing3):
        assert engine.run([source, stages.double]).unwrap().values == [0, 2, 4]
        assert asyncio.run(engine.arun([source, stages.double])).unwrap().values == [0, 2, 4]


class Closing3:
    def __iter__(self):
        yield from range(3)


def test_a_function_that_returns_a_coroutine_is_refused_in_words(engine):
    async def no_source():
        return [1, 2]

    result = engine.run([no_source, stages.keep])
    assert "must be or return an iterable" in result.reason


def test_an_awaited_runs_async_source_lives_on_the_callers_loop(kind, make_engine):
    engine = make_engine(kind, buffer=8)

    async def main():
        source = Numbers(None)
        async with engine.aiter([source, stages.keep]) as results:
            assert [await anext(results) for _ in range(3)] == [0, 1, 2]
        assert source.loops == {asyncio.get_running_loop()}
        assert len(source.closed) == 1

        items = asyncio.Queue(1)  # belongs to the loop on which it was first waited for

        async def put():
            for number in (*range(20), None):
                await items.put(number)

        async def get():
            while (item := await items.get()) is not None:
                yield item

        producer = asyncio.create_task(put())
        result = await engine.arun([get, stages.double])
        await producer
        return result

    assert asyncio.run(main()).unwrap().values == [2 * x for x in range(20)]


def test_cancelling_ends_an_async_source_on_the_callers_loop(kind, make_engine):
    engine = make_engine(kind)

    async def main():
        source = Numbers(3)
        task = asyncio.create_task(engine.arun([source, stages.keep]))
        await source.waits.reached()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        check_nothing_is_left(engine)
        assert source.closed == [3]

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_is_closed_ends_its_async_source(kind, make_engine):
    engine = make_engine(kind)
    source = Numbers(3)
    loop = asyncio.new_event_loop()

    async def main():
        task = asyncio.create_task(engine.arun([source, stages.keep]))
        await source.waits.reached()
        return task

    task = loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())
    for pending in asyncio.all_tasks(loop):
        pending._log_destroy_pending = False
    loop.close()
    for thread in threading.enumerate():
        if thread.name.startswith("mpengine-"):
            thread.join(PATIENCE_S)
    check_nothing_is_left(engine)
    del task, pending
    gc.collect()


def test_a_source_whose_loop_has_gone_has_failed_and_not_ended():
    from mpengine.coordinator.opening import on_loop, open_source

    loop = asyncio.new_event_loop()
    loop.close()
    source = open_source(on_loop(Numbers(None), loop))
    with pytest.raises(EngineError, match="does not run any more"):
        next(source)
    source.close()
    assert next(source, "the end") == "the end"


@pytest.mark.slow
def test_ctrl_c_inline_interrupts_an_async_source(start_program):
    program = start_program("""
        import asyncio
        from mpengine import Engine

        async def source():
            try:
                yield 0
                print("waits", flush=True)
                await asyncio.Event().wait()
            finally:
                print("closed", flush=True)

        result = Engine(2, backend="inline").run([source, abs])
        print(result.reason, type(result.cause).__name__)
    """)
    assert program.read_line() == "waits"
    program.send(signal.SIGINT)
    assert program.end() == ("closed\nSIGINT KeyboardInterrupt", "", 0)
