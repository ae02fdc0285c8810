"""Sources, consumers and tear-downs that fail or hang: the run ends, what was delivered stays, the engine lives."""

import asyncio
import gc
import sys
import threading

import engine_stages as stages
import pytest

from mpengine import Err, stage

PATIENCE_S = 20.0


@pytest.fixture(params=["inline", pytest.param("fork", marks=pytest.mark.slow)])
def kind(request):
    return request.param


@pytest.fixture
def engine(kind, make_engine):
    return make_engine(kind, grace_s=0.3, metrics_interval_s=0)


def check_whole(engine):
    assert engine.run([range(10), stages.double]).unwrap().values == [2 * x for x in range(10)]


def refuse(*_):
    raise OSError("will not be closed")


def leave(*_):
    sys.exit(3)


class Endless:
    """A source without an end, that counts, and does something when it is closed."""

    def __init__(self, at_close, wrap=int):
        self._at_close, self._wrap = at_close, wrap
        self.given = self.closed = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.given += 1
        return self._wrap(self.given)

    def close(self):
        self.closed += 1
        self._at_close()


# ---------------------------------------------------------------------- sources


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("at_close", [refuse, leave])
@pytest.mark.parametrize("how", ["dropped", "closed"])
def test_whatever_a_source_does_when_it_is_closed_early_the_engine_lives(engine, at_close, how):
    source = Endless(at_close)
    results = engine.iter([source, stages.keep])
    assert next(results) == 1
    if how == "closed":
        results.close()
    del results
    gc.collect()
    assert source.closed == 1
    check_whole(engine)


@pytest.mark.parametrize("at_close", [refuse, leave])
def test_a_source_that_cannot_be_closed_at_its_end_has_failed_and_costs_no_result(engine, at_close):
    class Short(Endless):
        def __next__(self):
            if self.given == 5:
                raise StopIteration
            return super().__next__()

    result = engine.run([Short(at_close), stages.keep])
    assert isinstance(result, Err)
    assert isinstance(result.cause, OSError if at_close is refuse else SystemExit)
    assert result.reason.startswith("the source failed: ")
    check_whole(engine)


def test_what_an_async_source_raises_is_its_runs_error_and_in_its_end_no_matter(engine):
    async def fails():
        yield 1
        raise OSError("no more")

    async def fails_in_its_end():
        try:
            for number in range(10**9):
                yield number
        finally:
            refuse()

    result = engine.run([fails, stages.keep])
    assert result.reason == "the source failed: OSError: no more"
    with engine.iter([fails_in_its_end, stages.keep]) as results:
        assert next(results) == 0
    assert results.result.reason == "the results were not wanted any more"
    check_whole(engine)


@pytest.mark.slow
def test_an_async_source_that_hangs_in_its_end_is_left_to_its_thread(make_engine, caplog):
    gate = threading.Event()

    async def hangs_in_its_end():
        try:
            for number in range(10**9):
                yield number
        finally:
            while not gate.is_set():  # noqa: ASYNC110 - an event of another loop's thread
                await asyncio.sleep(0.01)

    engine = make_engine("fork", grace_s=0.1, metrics_interval_s=0)
    with engine.iter([hangs_in_its_end, stages.keep]) as results:
        assert next(results) == 0
    assert "the source does not give control back; its thread is left to itself" in caplog.text
    check_whole(engine)
    gate.set()
    for thread in threading.enumerate():
        if thread.name.startswith("mpengine-"):
            thread.join(PATIENCE_S)


@pytest.mark.slow
def test_an_async_source_that_hangs_in_its_end_does_not_keep_its_callers_loop(make_engine):
    async def hangs_in_its_end():
        try:
            for number in range(10**9):
                yield number
        finally:
            await asyncio.Event().wait()

    async def main(engine):
        async with engine.aiter([hangs_in_its_end, stages.keep]) as results:
            return await anext(results)

    engine = make_engine("fork", grace_s=0.1, metrics_interval_s=0)
    assert asyncio.run(main(engine)) == 0
    for thread in threading.enumerate():
        if thread.name.startswith("mpengine-"):
            thread.join(PATIENCE_S)
    check_whole(engine)


# ---------------------------------------------------------------------- full queues, and who empties them


@pytest.mark.parametrize("bad", [stages.BadToPickle, stages.BadToUnpickle])
def test_items_that_will_not_travel_take_no_room_in_full_buffers(kind, make_engine, bad):
    """Every second one fails; the consumer takes one result at a time, and the source is never far ahead."""
    engine = make_engine(kind, buffer=4, on_error="drop", metrics_interval_s=0)
    source = Endless(lambda: None, lambda number: number if number % 2 or kind == "inline" else bad())
    with engine.iter([source, stages.keep, stage(stages.keep, buffer=2)]) as results:
        taken = []
        for value in results:
            taken.append(value)
            assert source.given - value <= engine.snapshot().lead_bound
            if len(taken) == 100:
                break
    assert taken == list(range(1, 101) if kind == "inline" else range(1, 200, 2))
    assert source.closed == 1
    counts = results.result.report.snapshot
    assert counts.source_items == counts.delivered + counts.dropped + counts.cancelled


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_consumer_that_fails_ends_its_run_and_meets_its_own_error(engine, error):
    source = Endless(lambda: None)
    results = engine.iter([source, stages.keep])

    def consume():
        with results:
            for value in results:
                if value == 3:
                    raise error("disk full")

    with pytest.raises(error, match="disk full"):
        consume()
    assert source.closed == 1
    assert results.result.reason == "the results were not wanted any more"
    check_whole(engine)


# ---------------------------------------------------------------------- tear-downs


class LeavesWhenClosed:
    def __call__(self, x):
        return x

    def close(self):
        leave()


def never_ends(x):
    try:
        while True:
            yield x
    finally:
        leave()


def test_an_exit_in_a_tear_down_is_told_and_costs_no_result(engine, caplog):
    for member in (stage(stages.keep, teardown=leave, name="trap"), stage(LeavesWhenClosed, name="trap")):
        caplog.clear()
        assert engine.run([range(5), member]).unwrap().values == list(range(5))
        assert "stage 'trap': tear-down failed: SystemExit: 3" in caplog.text
        check_whole(engine)


def test_an_exit_in_the_end_of_a_generator_that_nobody_needs_any_more_is_no_matter(engine):
    with engine.iter([range(5), never_ends]) as results:
        assert next(results) == 0
    assert results.result.reason == "the results were not wanted any more"
    check_whole(engine)
