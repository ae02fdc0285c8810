"""Executor.map: order, chunks, bounds, timeouts, and what becomes of results that nobody wants."""

import gc
import itertools
import threading
import weakref

import executor_calls as calls
import pytest

from mpengine import Executor

pytestmark = pytest.mark.slow
PATIENCE_S = calls.PATIENCE_S


@pytest.mark.parametrize("chunksize", [1, 7, 1000])
@pytest.mark.parametrize("buffersize", [None, 1, 3])
def test_results_come_in_order(make_executor, chunksize, buffersize):
    results = make_executor(2).map(calls.add, range(50), range(100), chunksize=chunksize, buffersize=buffersize)
    assert list(results) == [2 * number for number in range(50)]


def test_a_function_by_value_may_be_mapped(make_executor):
    assert list(make_executor(1).map(lambda x, y: x * y, [1, 2, 3], [4, 5, 6])) == [4, 10, 18]


def test_a_call_that_raises_ends_the_results_where_it_stands(make_executor):
    results = make_executor(1).map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
    assert next(results) == (0, 1)
    assert next(results) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


def test_only_so_much_of_an_endless_source_is_read(make_executor):
    read = []

    def numbers():
        for number in itertools.count():
            read.append(number)
            yield number

    results = make_executor(2).map(calls.echo, numbers(), chunksize=2, buffersize=3)
    assert len(read) == 6
    assert [next(results) for _ in range(4)] == [0, 1, 2, 3]
    assert len(read) == 10
    results.close()


def test_an_executor_that_is_gone_reads_no_further():
    executor = Executor(1)
    results = executor.map(calls.echo, itertools.count(), buffersize=2)
    session = executor._session
    del executor
    gc.collect()
    assert list(results) == [0, 1]
    session.join()  # or its workers would be ending while the next test begins


def test_results_that_are_not_there_in_time_are_an_error(make_executor, tmp_path):
    executor = make_executor(2)
    results = executor.map(calls.await_file, [tmp_path / "end"], timeout=0.01)
    with pytest.raises(TimeoutError):
        next(results)
    calls.tell(tmp_path / "end", "")


def test_dropping_the_results_cancels_what_nobody_has_begun_with(make_executor, tmp_path):
    executor, began = make_executor(1), threading.Event()
    executor.submit(calls.add, 1).add_done_callback(lambda _: began.set())
    assert began.wait(PATIENCE_S)
    first = executor.submit(calls.tell_and_await, tmp_path / "begun", tmp_path / "end")
    calls.await_file(tmp_path / "begun")
    results = executor.map(calls.die, [1, 2])
    results.close()
    calls.tell(tmp_path / "end", "over")
    assert first.result(PATIENCE_S) == "over"
    assert executor.submit(calls.add, 1).result(PATIENCE_S) == 1


def test_results_are_held_no_longer_than_they_are_wanted(make_executor):
    for thing in make_executor(1).map(calls.make, [calls.Thing] * 3):
        gone = weakref.ref(thing)
        del thing
        assert gone() is None


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"chunksize": 0}, ValueError, "chunksize must be >= 1"),
        ({"chunksize": "1"}, TypeError, "chunksize must be an integer"),
        ({"buffersize": 0}, ValueError, "buffersize must be None or > 0"),
        ({"buffersize": 1.5}, TypeError, "buffersize must be an integer or None"),
    ],
)
def test_a_size_that_cannot_be_is_refused(make_executor, options, error, told):
    with pytest.raises(error, match=told):
        make_executor().map(calls.echo, [1], **options)
