"""Engines where programs begin, fork, nest and end: an interpreter on its way out, workers' own children, threads."""

import contextlib
import gc
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import engine_stages as stages
import psutil
import pytest

from mpengine import Engine, EngineError

pytestmark = pytest.mark.slow

PATIENCE_S = 20
ROOT = Path(__file__).parents[2]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


# ---------------------------------------------------------------------- the interpreter ends

HEAD = """
    import atexit, itertools, sys, threading, weakref
    from mpengine import Engine

    engine = Engine(1, metrics_interval_s=0)

    def run():
        try:
            print(engine.run([range(3), abs]).unwrap().values, engine.pids())
        except Exception as error:
            print(type(error).__name__, error, engine.pids())
"""
AT_EXIT = {
    "atexit": """
    atexit.register(run)
    """,
    "finalize": """
    class Holder:
        pass

    holder = Holder()
    weakref.finalize(holder, run)
    """,
    "warm atexit": """
    engine.__enter__()
    assert engine.run([range(3), abs]).is_ok

    @atexit.register
    def run_and_close():
        run()
        engine.close()
    """,
}


def check(done, expected, status=0):
    assert (done.stdout.strip(), done.stderr, done.returncode) == (expected, "", status)


@pytest.mark.parametrize("how", AT_EXIT)
def test_a_run_may_begin_while_what_is_registered_for_the_exit_is_called(run_program, how):
    done = run_program(HEAD + AT_EXIT[how])
    if sys.version_info[:2] == (3, 12):  # which starts no thread at that time
        assert done.stdout.startswith("EngineError a run needs threads, and none can be started: ")
        assert "can't create new thread" in done.stdout
        assert (done.stderr, done.returncode) == ("", 0)
    else:
        pids = done.stdout.partition("]")[2].strip()
        check(done, f"[0, 1, 2] {pids}")
        assert how == "warm atexit" or pids == "[]"


def test_a_run_that_begins_when_the_interpreter_is_being_taken_apart_is_refused_in_words(run_program):
    """No thread that is started then ever runs."""
    done = run_program(
        HEAD
        + """
    class Late:
        def __del__(self, engine=engine, Exception=Exception, print=print, type=type, abs=abs, range=range):
            for begin in (engine.run, engine.iter):
                try:
                    begin([range(3), abs])
                except Exception as error:
                    print(type(error).__name__, error)

    assert engine.run([range(3), abs]).is_ok
    late = Late()
    """
    )
    (first, second) = done.stdout.splitlines()
    assert first == second
    assert first.startswith("EngineError the interpreter is shutting down")
    assert (done.stderr, done.returncode) == ("", 0)


UNFINISHED = {
    "daemon thread": (
        """
    begun = threading.Event()

    def source():
        yield 0
        begun.set()
        yield from itertools.count()

    threading.Thread(target=engine.run, args=([source, abs],), kwargs={"collect": False}, daemon=True).start()
    begun.wait()
    print("main is over")
    """,
        "main is over",
    ),
    "thread": (
        """
    begun = threading.Event()

    def take():
        results = engine.iter([range(3000), abs])
        next(results)
        begun.set()
        print(1 + sum(1 for _ in results), results.result.is_ok)

    threading.Thread(target=take).start()
    begun.wait()
    """,
        "3000 True",
    ),
    "main thread": (
        """
    for value in engine.iter([itertools.count(), abs]):
        print(value)
        sys.exit(5)
    """,
        "0",
    ),
    "warm": (
        """
    engine.__enter__()
    print(engine.run([range(3), abs]).unwrap().values)
    """,
        "[0, 1, 2]",
    ),
}


@pytest.mark.parametrize("where", UNFINISHED)
def test_a_program_that_ends_before_its_run_leaves_nothing(run_program, where):
    """The fixture that looks for processes knows these by their environment."""
    text, expected = UNFINISHED[where]
    check(run_program(HEAD + text), expected, 5 if where == "main thread" else 0)


# ---------------------------------------------------------------------- children of workers


def start_child(x):
    """Start a process and leave it; multiprocessing would wait for it, should the worker live to see its end."""
    multiprocessing.get_context("fork").Process(target=stages.block, daemon=True).start()
    subprocess.Popen(["sleep", "60"])
    return x


def test_what_stages_have_started_goes_with_their_workers(make_engine):
    """The fixture that looks for processes knows these too."""
    assert make_engine("forkserver").run([range(4), start_child]).unwrap().values == list(range(4))


def use_pool(x):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return sum(pool.map(abs, range(-x, 0)))


def test_a_stage_may_have_a_pool_of_its_own(make_engine):
    assert make_engine("forkserver").run([range(4), use_pool]).unwrap().values == [0, 1, 3, 6]


# ---------------------------------------------------------------------- engines in workers of engines


def nest(x, depth=3):
    """Return the sum of what engines below give, each with a worker of its own."""
    if depth == 0:
        return x
    with Engine(1, metrics_interval_s=0) as engine:
        return sum(engine.map(lambda y: nest(y, depth - 1), [x])) + 1


def test_engines_nest_three_deep(make_engine):
    assert make_engine("forkserver", workers=1).run([[1], nest]).unwrap().values == [4]


NESTED = """
    import itertools, os, sys
    from mpengine import Engine

    def nest(x, depth=3):
        if depth == 0:
            os.write(1, b"%d\\n" % os.getpid())
            import time
            time.sleep(60)
        os.write(1, b"%d\\n" % os.getpid())
        with Engine(1, start_method="fork", metrics_interval_s=0, crash_retries=0) as engine:
            return sum(engine.map(lambda y: nest(y, depth - 1), [x]))

    try:
        nest(1)
    except Exception as error:
        print(type(error).__name__, flush=True)
"""


@pytest.mark.parametrize("level", range(4))
def test_a_nested_engine_that_is_killed_takes_all_below_it_along_and_is_told_above(start_program, level):
    program = start_program(NESTED)
    pids = [int(program.read_line()) for _ in range(4)]
    processes = psutil.Process(pids[0]).children(recursive=True)
    os.kill(pids[level], signal.SIGKILL)
    written, _, status = program.end()
    assert (written, status) == (("", -signal.SIGKILL) if level == 0 else ("WorkerDiedError", 0))
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE_S)
    assert [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []


# ---------------------------------------------------------------------- threads


def test_engines_run_in_threads_at_the_same_time_among_many_others(make_engine):
    let_go = threading.Event()
    others = [threading.Thread(target=let_go.wait) for _ in range(50)]
    for thread in others:
        thread.start()
    results = {}

    def run(kind):
        results[kind] = make_engine(kind).run([range(500), stages.double]).unwrap().values

    runners = [threading.Thread(target=run, args=(kind,)) for kind in ("forkserver", "spawn", "inline")]
    for thread in runners:
        thread.start()
    for thread in runners:
        thread.join(PATIENCE_S)
    let_go.set()
    for thread in others:
        thread.join()
    expected = [2 * x for x in range(500)]
    assert results == {"forkserver": expected, "spawn": expected, "inline": expected}


@pytest.mark.parametrize("warm", [False, True])
def test_a_run_for_which_no_thread_can_be_started_is_refused_in_words_and_leaves_nothing(
    make_engine, monkeypatch, warm
):
    engine = make_engine("fork")
    if warm:
        assert engine.__enter__().run([range(3), stages.keep]).is_ok
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "mpengine-coordinator":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(EngineError, match="none can be started: RuntimeError: can't start new thread"):
            engine.run([range(3), stages.keep])
    assert engine.run([range(3), stages.keep]).unwrap().values == [0, 1, 2]


@pytest.mark.parametrize("how", ["off", "often"])
def test_the_collector_may_be_off_or_come_all_the_time(kind, make_engine, how):
    before = gc.get_threshold()
    try:
        if how == "off":
            gc.disable()
        else:
            gc.set_threshold(1)
        assert make_engine(kind).run([range(200), stages.double]).unwrap().values == [2 * x for x in range(200)]
    finally:
        gc.enable()
        gc.set_threshold(*before)


# ---------------------------------------------------------------------- children that the program forks


def end_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fork_in_thread():
    pids = []
    thread = threading.Thread(target=lambda: pids.append(os.fork() or os._exit(7)))
    thread.start()
    thread.join()
    return pids[0]


def fork_and_exec():
    return os.fork() or os.execv(sys.executable, [sys.executable, "-c", "raise SystemExit(7)"])


def fork_with_locks(engine, results):
    """Fork while a thread holds the lock of the logging handlers and those of this engine; the child closes all."""
    held, let_go = threading.Event(), threading.Event()
    locks = [logging._lock, engine._starting, engine._scribe._changed, engine._publisher._lock]
    locks.append(results._run._concluding)

    def hold():
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            held.set()
            let_go.wait(PATIENCE_S)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(PATIENCE_S)
    logging._lock = threading.RLock()  # the standard library takes it around each fork, and would wait for the holder
    try:
        pid = os.fork()
    finally:
        logging._lock = locks[0]
    if pid == 0:
        signal.alarm(10)
        results.close()
        engine.cancel()
        engine.close()
        os._exit(7 if engine.metrics() is None else 1)
    let_go.set()
    holder.join()
    return pid


@pytest.mark.parametrize("how", ["in a thread", "exec", "with locks held"])
def test_a_child_that_the_program_forks_in_a_run_changes_nothing_of_it(make_engine, how):
    engine = make_engine("forkserver")
    results = engine.iter([range(20_000), stages.keep])
    assert next(results) == 0
    if how == "with locks held":
        pid = fork_with_locks(engine, results)
    else:
        pid = {"in a thread": fork_in_thread, "exec": fork_and_exec}[how]()
    assert end_of(pid) == 7
    assert sum(1 for _ in results) == 19_999
    assert results.result.is_ok


# ---------------------------------------------------------------------- how the program came to run

PLAIN = """
from mpengine import Engine

class Pair:
    def __init__(self, left):
        self.left = left

SCALE = 10
print([pair.left for pair in Engine(1).run([range(3), lambda x: Pair(x * SCALE)]).unwrap().values], flush=True)
"""
WAYS = {
    "runpy": "import runpy; runpy.run_path('plain.py', run_name='__main__')",
    "exec with globals of its own": "exec(open('plain.py').read(), {'__name__': '__main__'})",
    "no __main__": "import sys; del sys.modules['__main__']\nexec(open('plain.py').read(), {'__name__': 'cell'})",
    "exec like a notebook": "import types; cell = types.ModuleType('cell'); exec(open('plain.py').read(), vars(cell))",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_program_runs_however_it_came_to_be_run(run_program, tmp_path, way):
    (tmp_path / "plain.py").write_text(PLAIN)
    check(run_program(WAYS[way]), "[0, 10, 20]")


FLAGS = [["-m", "plain"], ["-O", "plain.py"], ["-W", "error", "plain.py"], ["-i", "plain.py"]]


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_a_program_runs_whatever_the_flags(tmp_path, flags):
    (tmp_path / "plain.py").write_text(PLAIN)
    done = subprocess.run(
        [sys.executable, *flags], env=environment(), cwd=tmp_path, input="",
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert (done.stdout.strip(), done.returncode) == ("[0, 10, 20]", 0)
    assert done.stderr.strip(" >\n") == ""


def test_developers_mode_and_the_programs_own_faulthandler_stay_as_they_were(tmp_path):
    (tmp_path / "plain.py").write_text(f"import faulthandler\n{PLAIN}\nprint(faulthandler.is_enabled())")
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "plain.py"], env=environment(), cwd=tmp_path,
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    check(done, "[0, 10, 20]\nTrue")


def test_an_isolated_interpreter_runs_it_too(tmp_path):
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{PLAIN}"
    done = subprocess.run(
        [sys.executable, "-I", "-"], input=program, cwd=tmp_path,
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    check(done, "[0, 10, 20]")


def test_closing_after_a_cancel_and_cancelling_after_a_close_are_both_fine(kind, make_engine):
    engine = make_engine(kind)
    results = engine.iter([range(20_000), stages.keep])
    assert next(results) == 0
    engine.cancel("enough")
    engine.close()
    engine.cancel("again")
    with pytest.raises(EngineError, match="enough"):
        list(results)
    assert results.result.reason == "enough"
    assert engine.pids() == []
