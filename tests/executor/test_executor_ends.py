"""However an executor ends, what was asked of it is done, and nothing of it is left."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import executor_calls as calls
import pytest

from mpengine import Executor

pytestmark = pytest.mark.slow
PATIENCE_S = calls.PATIENCE_S
HERE = str(Path(calls.__file__).parent)


def run_program(text, *args):
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {HERE!r})\n{text}", *args]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def executor_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("mpengine-")]


def test_a_shutdown_waits_for_all_that_was_asked():
    with Executor(2) as executor:
        futures = [executor.submit(calls.add, number) for number in range(50)]
    assert all(future.done() for future in futures)
    assert executor_threads() == []


def test_a_shutdown_that_does_not_wait_leaves_calls_to_be_made(make_executor, tmp_path):
    executor = make_executor(1)
    future = executor.submit(calls.await_file, tmp_path / "end")
    later = executor.submit(calls.add, 1)
    executor.shutdown(wait=False)
    executor.shutdown(wait=False)
    assert not future.done()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(calls.add, 1)
    calls.tell(tmp_path / "end", "made")
    assert future.result(PATIENCE_S) == "made"
    assert later.result(PATIENCE_S) == 1


def test_a_shutdown_may_cancel_what_nobody_has_begun_with(make_executor, tmp_path):
    executor = make_executor(1)
    begun = executor.submit(calls.tell_and_await, tmp_path / "begun", tmp_path / "end")
    calls.await_file(tmp_path / "begun")
    waiting = [executor.submit(calls.add, number) for number in range(5)]
    executor.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in waiting)
    calls.tell(tmp_path / "end", "made")
    assert begun.result(PATIENCE_S) == "made"


def test_one_that_nobody_holds_any_more_lets_its_workers_go(tmp_path):
    executor = Executor(1)
    future = executor.submit(calls.await_file, tmp_path / "end")
    gone = weakref.ref(executor)
    session = executor._session
    del executor
    gc.collect()
    assert gone() is None
    calls.tell(tmp_path / "end", "made")
    assert future.result(PATIENCE_S) == "made"
    session.join()
    assert executor_threads() == []


def test_a_program_ends_when_all_is_done_though_nobody_shuts_down(start_method):
    done = run_program(
        """
import executor_calls as calls, mpengine, sys
if __name__ == "__main__":
    executor = mpengine.Executor(2, start_method=sys.argv[1])
    for number in range(3):
        executor.submit(calls.add, number).add_done_callback(lambda future: print(future.result()))
""",
        start_method,
    )
    assert sorted(done.stdout.split()) == ["0", "1", "2"], done.stderr
    assert done.returncode == 0
    assert done.stderr == ""


def test_a_program_that_is_interrupted_waits_for_no_call():
    program = """
import executor_calls as calls, mpengine, os, signal, threading
with mpengine.Executor(1) as executor:
    executor.submit(calls.add, 1).result()
    future = executor.submit(calls.await_file, "/nowhere/at/all")
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    future.result()
"""
    done = run_program(program)
    assert done.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in done.stderr


def test_a_forked_child_has_no_part_in_its_parents_executor(make_executor):
    executor = make_executor(1)
    assert executor.submit(calls.add, 1).result(PATIENCE_S) == 1
    child = os.fork()
    if child == 0:
        status = 1
        try:
            executor.submit(calls.add, 1)
        except RuntimeError as error:
            executor.shutdown()
            executor.kill_workers()
            status = 0 if "forked" in str(error) else 2
        finally:
            del executor
            gc.collect()
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert executor.submit(calls.add, 2).result(PATIENCE_S) == 2


def test_an_executor_may_be_used_in_a_call_of_another(make_executor):
    assert make_executor(1).submit(nested).result(PATIENCE_S) == [1, 2, 3]


def nested():
    with Executor(2) as executor:
        return list(executor.map(calls.add, [1, 2, 3]))


def test_one_that_cannot_begin_says_why_and_may_be_asked_again(make_executor, monkeypatch):
    executor = make_executor(1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(Exception, match="needs threads"):
            executor.submit(calls.add, 1)
    assert executor.submit(calls.add, 1).result(PATIENCE_S) == 1


def refuse(_):
    raise RuntimeError("can't start new thread")


def test_run_in_executor_takes_it(make_executor):
    executor = make_executor(2)

    async def main():
        loop = asyncio.get_running_loop()
        results = await asyncio.gather(*[loop.run_in_executor(executor, calls.add, n, n) for n in range(20)])
        with pytest.raises(ValueError, match="no"):
            await loop.run_in_executor(executor, calls.fail)
        return results

    assert asyncio.run(main()) == [2 * n for n in range(20)]


def test_a_cancelled_task_cancels_its_call_if_nobody_has_begun_with_it(make_executor, tmp_path):
    executor = make_executor(1)

    async def main():
        loop = asyncio.get_running_loop()
        first = loop.run_in_executor(executor, calls.await_file, tmp_path / "end")
        second = loop.run_in_executor(executor, calls.die)
        second.cancel()
        calls.tell(tmp_path / "end", "over")
        return await first

    assert asyncio.run(main()) == "over"
    assert executor.submit(calls.add, 1).result(PATIENCE_S) == 1
