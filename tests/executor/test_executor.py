"""The executor: what it gives, what it refuses, what a call may do, and what it may not do to others."""

import concurrent.futures
import itertools
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_sharer
from pathlib import Path

import executor_calls as calls
import numpy as np
import pytest

import mpengine
from mpengine import Executor
from mpengine.worker import calls as frames_of_calls

pytestmark = pytest.mark.slow
PATIENCE_S = calls.PATIENCE_S


def test_a_call_gives_what_it_gives_here(make_executor, start_method):
    executor = make_executor(start_method=start_method)
    assert executor.submit(calls.add, 2, b=3).result(PATIENCE_S) == 5
    assert executor.submit(calls.capture, 1, self=2, fn=3).result(PATIENCE_S) == ((1,), {"self": 2, "fn": 3})
    assert executor.submit(calls.pid).result(PATIENCE_S) != os.getpid()
    assert isinstance(executor, concurrent.futures.Executor)


def test_whatever_pickle_refuses_goes_by_value(make_executor):
    executor, step = make_executor(1), 5
    assert executor.submit(lambda x: x + step, 1).result(PATIENCE_S) == 6
    assert executor.submit(lambda: lambda: 7).result(PATIENCE_S)() == 7
    main = {"__name__": "__main__"}
    exec("base = 10\ndef helper(x): return x + base\ndef function(x): return helper(x)", main)
    assert executor.submit(main["function"], 1).result(PATIENCE_S) == 11
    assert executor.submit(main["function"], 2).result(PATIENCE_S) == 12
    main["base"] = 20
    assert executor.submit(main["function"], 2).result(PATIENCE_S) == 22


def test_a_call_is_what_it_was_when_it_was_submitted(make_executor):
    executor, items = make_executor(1), [1]
    future = executor.submit(calls.append, items, 2)
    items.append(3)
    assert future.result(PATIENCE_S) == [1, 2]
    assert executor.submit(calls.append, items, 4).result(PATIENCE_S) == [1, 3, 4]  # nor what another call has made


@pytest.mark.parametrize("size", [10, 100_000, 3_000_000])
def test_arrays_and_bytes_of_any_size_come_back_as_they_went_and_may_be_written_to(make_executor, size):
    executor = make_executor(1)
    array = np.arange(size, dtype=np.uint8)
    came = executor.submit(calls.echo, [array, array[::2], array.tobytes()]).result(PATIENCE_S)
    assert np.array_equal(came[0], array)
    assert np.array_equal(came[1], array[::2])
    assert came[2] == array.tobytes()
    came[0][0] = 7


def test_hundreds_of_large_buffers_travel_with_one_call(make_executor):
    arrays = [np.full(40_000, number % 250, dtype=np.uint8) for number in range(300)]
    came = make_executor(1).submit(calls.echo, arrays).result(PATIENCE_S)
    assert [int(array[0]) for array in came] == [number % 250 for number in range(300)]


def test_what_has_a_meaning_in_pipelines_has_none_here(make_executor):
    executor = make_executor(1)
    assert executor.submit(calls.skip).result(PATIENCE_S) is mpengine.SKIP
    assert executor.submit(calls.switch).result(PATIENCE_S).reason == "why"
    with pytest.raises(mpengine.KillSwitch, match="why"):
        executor.submit(calls.raise_switch).result(PATIENCE_S)
    assert executor.submit(calls.add, 1).result(PATIENCE_S) == 1


@pytest.mark.parametrize(
    ("call", "error"),
    [(calls.fail, ValueError), (calls.exit_politely, SystemExit), (calls.interrupt, KeyboardInterrupt)],
)
def test_what_a_call_raises_comes_with_the_workers_traceback(make_executor, call, error):
    executor = make_executor(1)
    worker = executor.submit(calls.pid).result(PATIENCE_S)
    raised = executor.submit(call).exception(PATIENCE_S)
    assert type(raised) is error
    assert type(raised.__cause__).__name__ == "_RemoteTraceback"
    assert call.__name__ in str(raised.__cause__)
    assert executor.submit(calls.pid).result(PATIENCE_S) == worker


def test_an_exception_that_does_not_travel_is_stood_in_for(make_executor):
    executor = make_executor(1)
    for call, told in (
        (calls.raise_picky, "PickyError: 1 and 2"),
        (calls.raise_with_lock, "RuntimeError: with a lock"),
    ):
        raised = executor.submit(call).exception(PATIENCE_S)
        assert isinstance(raised, mpengine.StageError)
        assert told in str(raised)
        assert call.__name__ in str(raised.__cause__)


def test_what_cannot_be_pickled_fails_alone(make_executor, on_worker_death):
    executor = make_executor(1, on_worker_death=on_worker_death)
    good = executor.submit(calls.add, 1)
    bad = executor.submit(calls.echo, calls.NoPickle())
    worse = executor.submit(calls.echo, calls.ExitAtPickle())
    made_there = executor.submit(calls.make, calls.NoPickle)
    assert good.result(PATIENCE_S) == 1
    for future in (bad, worse, made_there):
        assert isinstance(future.exception(PATIENCE_S), pickle.PicklingError)
    assert executor.submit(calls.add, 2).result(PATIENCE_S) == 2


def test_what_cannot_be_unpickled_breaks_the_executor_or_fails_alone(make_executor):
    executor = make_executor(1, on_worker_death="retry")
    for future in (executor.submit(calls.echo, calls.NoUnpickle()), executor.submit(calls.make, calls.NoUnpickle)):
        assert isinstance(future.exception(PATIENCE_S), ValueError)
    assert executor.submit(calls.add, 1).result(PATIENCE_S) == 1
    for call, thing in ((calls.echo, calls.NoUnpickle()), (calls.make, calls.NoUnpickle)):
        executor = make_executor(1)
        assert isinstance(executor.submit(call, thing).exception(PATIENCE_S), BrokenProcessPool)


def test_calls_that_wait_for_each_other_all_run(make_executor, tmp_path):
    executor = make_executor(3)
    for _ in range(200):
        executor.submit(calls.add, 1)  # quick ones, after which nobody may take these for quick
    files = [str(tmp_path / str(number)) for number in range(4)]
    chain = [executor.submit(calls.tell_and_await, files[number], files[number + 1]) for number in range(3)]
    assert chain[2].running() or not chain[2].done()
    calls.tell(tmp_path / "3", "done")
    assert chain[2].result(PATIENCE_S) == "done"
    assert chain[0].result(PATIENCE_S).isdigit()


def test_a_quick_call_waits_for_no_long_one_while_a_worker_is_free(make_executor, tmp_path):
    executor = make_executor(2)
    long = executor.submit(calls.await_file, tmp_path / "end")
    assert [executor.submit(calls.add, n).result(PATIENCE_S) for n in range(100)] == [*range(100)]
    assert not long.done()
    calls.tell(tmp_path / "end", "over")
    assert long.result(PATIENCE_S) == "over"


def test_what_waits_can_be_cancelled_and_what_has_begun_cannot(make_executor, tmp_path):
    executor = make_executor(1)
    executor.submit(calls.add, 1).result(PATIENCE_S)
    first = executor.submit(calls.tell_and_await, tmp_path / "begun", tmp_path / "end")
    second = executor.submit(calls.add, 2)
    third = executor.submit(calls.add, 3)
    assert first.running()
    assert not first.cancel()
    assert not second.running()
    assert second.cancel()
    calls.tell(tmp_path / "end", "over")
    assert third.result(PATIENCE_S) == 3
    assert first.result(PATIENCE_S) == "over"
    assert concurrent.futures.wait([second], PATIENCE_S).done == {second}


def test_done_callbacks_may_submit_and_wait_for_nothing(make_executor):
    executor, done, seen = make_executor(1), threading.Event(), []

    def go_on(future):
        seen.append(future.result())
        if len(seen) < 20:
            executor.submit(calls.add, seen[-1], 1).add_done_callback(go_on)
        else:
            executor.shutdown()  # would wait for this very thread
            done.set()

    executor.submit(calls.add, 0).add_done_callback(go_on)
    assert done.wait(PATIENCE_S)
    assert seen == [*range(20)]


def test_a_callback_that_raises_ends_nothing(make_executor, caplog):
    executor = make_executor(1)

    def leave(_):
        raise SystemExit("from a callback")

    executor.submit(calls.add, 1).add_done_callback(leave)
    assert executor.submit(calls.add, 2).result(PATIENCE_S) == 2
    assert "exception calling callback" in caplog.text


def test_eight_threads_may_submit(make_executor):
    executor, answers = make_executor(2), {}

    def submit(number):
        futures = [executor.submit(calls.add, number * 1000, n) for n in range(100)]
        answers[number] = [future.result(PATIENCE_S) for future in futures]

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: [number * 1000 + n for n in range(100)] for number in range(8)}


def test_each_worker_is_set_up_once_and_before_its_first_call(make_executor, start_method):
    executor = make_executor(2, start_method=start_method, initializer=calls.set_up, initargs=("ready",))
    assert set(executor.map(calls.state, range(20))) == {"ready"}


HANDS_OVER = """
import multiprocessing, sys
sys.path.insert(0, sys.argv[2])
import executor_calls as calls
from mpengine import Executor
context = multiprocessing.get_context(sys.argv[1])
gate, queue = context.Semaphore(0), context.SimpleQueue()
with Executor(1, context, calls.set_up, (gate,)) as executor:
    future = executor.submit(calls.acquire_kept)
    gate.release()
    print(future.result(calls.PATIENCE_S))
with Executor(2, context, calls.set_up, (queue,)) as executor:
    executor.submit(calls.put_in_kept, "through a pipe").result(calls.PATIENCE_S)
    print(queue.get())
"""


def test_locks_and_queues_may_be_handed_to_the_initializer(start_method):
    # In an interpreter of its own, for the tracker that the standard library starts for each named lock.
    command = [sys.executable, "-c", HANDS_OVER, start_method, str(Path(calls.__file__).parent)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.split("\n") == ["True", "through a pipe", ""]


def test_a_pipe_may_be_an_argument(make_executor):
    near, far = multiprocessing.Pipe()
    with near, far:
        make_executor(1).submit(calls.send, far, "hello").result(PATIENCE_S)
        assert near.recv() == "hello"
    resource_sharer.stop(PATIENCE_S)


def test_an_initializer_may_be_a_lambda(make_executor):
    executor = make_executor(1, initializer=lambda: calls.set_up("by value"))
    assert executor.submit(calls.state).result(PATIENCE_S) == "by value"


def test_a_socket_is_no_argument_for_an_initializer(make_executor):
    near, far = multiprocessing.Pipe()
    with near, far:
        executor = make_executor(1, start_method="spawn", initializer=calls.set_up, initargs=(near,))
        with pytest.raises(TypeError, match="may hold pipes alone"):
            executor.submit(calls.state)


def test_an_initializer_that_raises_breaks_the_executor(make_executor, on_worker_death, caplog):
    executor = make_executor(1, initializer=calls.set_up_badly, on_worker_death=on_worker_death)
    broken = executor.submit(calls.add, 1).exception(PATIENCE_S)
    assert isinstance(broken, BrokenProcessPool)
    assert "cannot be set up" in str(broken)
    executor.shutdown()
    with pytest.raises(BrokenProcessPool, match="cannot be set up"):
        executor.submit(calls.add, 1)
    assert "Exception in initializer:" in caplog.text


def test_a_worker_is_replaced_after_as_many_calls_as_it_may_make(make_executor):
    executor = make_executor(1, max_tasks_per_child=3)
    pids = [executor.submit(calls.pid).result(PATIENCE_S) for _ in range(7)]
    assert [len(set(group)) for group in (pids[:3], pids[3:6], pids[6:])] == [1, 1, 1]
    assert len(set(pids)) == 3


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
        ({"max_workers": 1.5}, ValueError, "max_workers must be a whole number"),
        ({"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child must be a whole number"),
        ({"max_tasks_per_child": 1, "start_method": "fork"}, ValueError, "not for the start method 'fork'"),
        ({"on_worker_death": "ignore"}, ValueError, "on_worker_death must be one of 'break', 'retry'"),
        ({"start_method": "thread"}, ValueError, "start_method must be one of"),
        ({"crash_retries": -1}, ValueError, "crash_retries must be a whole number"),
        ({"memory_limit": 0}, ValueError, "memory_limit must be a whole number"),
        ({"initializer": 3}, TypeError, "initializer must be a callable"),
        ({"mp_context": multiprocessing.get_context("spawn"), "start_method": "fork"}, ValueError, "mp_context says"),
    ],
)
def test_an_option_that_cannot_be_is_refused_by_name(options, error, told):
    with pytest.raises(error, match=told):
        Executor(**options)


def test_nothing_is_started_before_the_first_call(make_executor):
    before = threading.active_count()
    executor = make_executor()
    executor.shutdown()
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(calls.add, 1)


def test_functions_by_value_are_pickled_once(make_executor):
    executor = make_executor(1)
    main = {"__name__": "__main__"}
    exec("calls = 0\ndef count():\n    global calls\n    calls += 1\n    return calls", main)
    assert [executor.submit(main["count"]).result(PATIENCE_S) for _ in range(3)] == [1, 2, 3]


def test_frames_are_read_whatever_the_pieces_they_come_in():
    frames = [frames_of_calls.frame_of(kind, kind, [bytes([kind]) * size]) for kind, size in ((1, 0), (2, 9), (3, 999))]
    stream = b"".join(bytes(piece) for frame in frames for piece in frame)
    for cut in itertools.chain(range(1, 40), (len(stream),)):
        read_fd, write_fd = os.pipe()
        reader, seen = frames_of_calls.FrameReader(read_fd), []
        for start in range(0, len(stream), cut):
            os.write(write_fd, stream[start : start + cut])
            os.set_blocking(read_fd, False)
            try:
                while True:
                    frame = reader.read()
                    if frame is not None:
                        seen.append((frame.kind, frame.number, [bytes(part) for part in frame.parts]))
            except BlockingIOError:
                pass
        os.close(read_fd)
        os.close(write_fd)
        assert seen == [(1, 1, [b""]), (2, 2, [b"\2" * 9]), (3, 3, [b"\3" * 999])]
