"""Workers that die: what breaks, what is made again, and what goes on."""

import contextlib
import os
import random
import signal
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import executor_calls as calls
import psutil
import pytest

from mpengine import MemoryLimitError, WorkerDiedError
from mpengine.executor.lanes import Lane
from mpengine.executor.packing import CallPacker
from mpengine.worker import calls as frames_of_calls
from mpengine.worker.turns import Turn, serve

pytestmark = pytest.mark.slow
PATIENCE_S = calls.PATIENCE_S


def await_pid(path):
    return int(calls.await_file(path))


def test_a_death_breaks_the_executor_and_all_that_waits(make_executor, tmp_path, start_method):
    executor = make_executor(2, start_method=start_method)
    begun = executor.submit(calls.tell_and_await, tmp_path / "begun", tmp_path / "never")
    await_pid(tmp_path / "begun")
    deadly = executor.submit(calls.die)
    waiting = [executor.submit(calls.tell_and_await, tmp_path / "more", tmp_path / "never") for _ in range(5)]
    for future in (begun, deadly, *waiting):
        error = future.exception(PATIENCE_S)
        assert isinstance(error, BrokenProcessPool)
        assert "SIGKILL" in str(error)
    executor.shutdown()
    with pytest.raises(BrokenProcessPool, match="a worker died: SIGKILL"):
        executor.submit(calls.add, 1)


def test_an_idle_worker_that_dies_breaks_the_executor_too(make_executor):
    executor = make_executor(1)
    worker = executor.submit(calls.pid).result(PATIENCE_S)
    os.kill(worker, signal.SIGKILL)
    executor.shutdown()  # which waits until it has broken
    with pytest.raises(BrokenProcessPool):
        executor.submit(calls.add, 1)


def test_a_worker_that_leaves_by_itself_has_died(make_executor):
    error = make_executor(1).submit(calls.leave, 0).exception(PATIENCE_S)
    assert isinstance(error, BrokenProcessPool)
    assert "exit code 0" in str(error)


def test_with_retry_the_call_is_made_again_and_the_others_go_on(make_executor, tmp_path, start_method):
    executor = make_executor(2, start_method=start_method, on_worker_death="retry")
    futures = [executor.submit(calls.die_once, tmp_path / str(number)) for number in range(4)]
    others = [executor.submit(calls.add, number) for number in range(50)]
    assert [future.result(PATIENCE_S) for future in futures] == ["survived"] * 4
    assert [future.result(PATIENCE_S) for future in others] == [*range(50)]


@pytest.mark.parametrize("crash_retries", [0, 2])
def test_a_call_that_always_kills_fails_alone_after_its_retries(make_executor, crash_retries, tmp_path):
    executor = make_executor(2, on_worker_death="retry", crash_retries=crash_retries)
    deadly = executor.submit(note_and_die, tmp_path)
    others = [executor.submit(calls.add, number) for number in range(20)]
    error = deadly.exception(PATIENCE_S)
    assert isinstance(error, WorkerDiedError)
    assert error.how == "SIGKILL"
    assert len([*tmp_path.iterdir()]) == 1 + crash_retries
    assert [future.result(PATIENCE_S) for future in others] == [*range(20)]


def note_and_die(folder):
    (Path(folder) / str(os.getpid())).touch()
    calls.die()


def test_an_idle_worker_that_dies_is_replaced_and_costs_no_call_a_try(make_executor):
    executor = make_executor(1, on_worker_death="retry", crash_retries=0)
    workers = set()
    for _ in range(4):
        worker = executor.submit(calls.pid).result(PATIENCE_S)
        workers.add(worker)
        os.kill(worker, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(worker)] if psutil.pid_exists(worker) else [], PATIENCE_S)
    assert len(workers) == 4


def test_what_a_worker_has_answered_before_it_died_counts(make_executor, tmp_path):
    executor = make_executor(1, on_worker_death="retry", crash_retries=0)
    assert executor.submit(calls.pid).result(PATIENCE_S)
    held, free = threading.Event(), threading.Event()

    def hold(future):
        held.set()
        free.wait(PATIENCE_S)

    executor.submit(calls.add, 1).add_done_callback(hold)  # the clerk hears nothing meanwhile
    assert held.wait(PATIENCE_S)
    answered = executor.submit(calls.tell_and_await, tmp_path / "begun", tmp_path / "end")
    worker = await_pid(tmp_path / "begun")
    calls.tell(tmp_path / "end", "answered")
    process = psutil.Process(worker)
    give_up_at = time.monotonic() + PATIENCE_S
    while process.status() != psutil.STATUS_SLEEPING and time.monotonic() < give_up_at:
        time.sleep(0.01)
    os.kill(worker, signal.SIGKILL)
    free.set()
    assert answered.exception(PATIENCE_S) is None or isinstance(answered.exception(), WorkerDiedError)


@pytest.mark.parametrize("seed", [1, 2])
def test_workers_killed_at_random_lose_and_double_nothing_that_can_be_told(make_executor, seed):
    executor, rng = make_executor(2, on_worker_death="retry", crash_retries=1000), random.Random(seed)
    futures = [executor.submit(calls.add, number) for number in range(300)]
    for _ in range(6):
        futures[rng.randrange(300)].result(PATIENCE_S)
        with contextlib.suppress(ProcessLookupError, IndexError):
            os.kill(rng.choice(executor._session.pids()), signal.SIGKILL)
    assert [future.result(PATIENCE_S) for future in futures] == [*range(300)]


def test_one_that_takes_too_much_memory_is_ended(make_executor):
    executor = make_executor(1, on_worker_death="retry", crash_retries=0, memory_limit=200_000_000)
    assert executor.submit(calls.add, 1).result(PATIENCE_S) == 1
    error = executor.submit(calls.grow, 400_000_000).exception(PATIENCE_S)
    assert isinstance(error, MemoryLimitError)
    assert executor.submit(calls.add, 2).result(PATIENCE_S) == 2


def test_one_that_has_grown_makes_no_further_call(request):
    """Here and now, without an engine that might look at the wrong moment: whatever this process has is too much."""
    lane = Lane(7)
    request.addfinalizer(lane.close)
    packer = CallPacker(main_by_value=True)
    for number in (-1, -2):
        lane.send(packer.pack(abs, (number,), {}))
    turn = Turn(7, os.getpid(), lane.calls_end, lane.results_end, most_bytes=1)
    assert serve(turn) == 7
    frames = [lane.reader.read() for _ in range(2)]
    assert [frame.kind for frame in frames] == [frames_of_calls.READY, frames_of_calls.VALUE | frames_of_calls.LAST]
    assert frames_of_calls.load(frames[1].parts) == 1


def test_a_turn_that_was_over_before_it_began_is_let_be(request):
    lane, other = Lane(7), Lane(8)
    request.addfinalizer(other.close)
    fd, inode = lane.calls_end
    turn = Turn(7, os.getpid(), (other.calls_end[0], inode), other.results_end)
    lane.close()
    assert serve(turn) == 7
    assert other.calls_end[0] != fd


def test_killing_the_workers_fails_what_has_begun_and_cancels_the_rest(make_executor, tmp_path, on_worker_death):
    for end in ("kill_workers", "terminate_workers"):
        executor = make_executor(1, on_worker_death=on_worker_death)
        begun = executor.submit(calls.tell_and_await, tmp_path / end, tmp_path / "never")
        worker = await_pid(tmp_path / end)
        waiting = executor.submit(calls.add, 1)
        getattr(executor, end)()
        assert isinstance(begun.exception(PATIENCE_S), BrokenProcessPool)
        assert waiting.cancelled()
        executor.shutdown()
        assert not psutil.pid_exists(worker)
        with pytest.raises(RuntimeError):
            executor.submit(calls.add, 1)
