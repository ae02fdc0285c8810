"""Workers die in every way there is: that item fails alone, the others are delivered, once and in order."""

import contextlib
import os
import random
import select
import signal
import threading
import time

import engine_stages as stages
import psutil
import pytest

from mpengine import Err, WorkerDiedError, stage

pytestmark = pytest.mark.slow

HOWS = ["SIGKILL", "SIGSEGV", "SIGABRT", "exit 0", "exit 3", "sys.exit"]


def die_at(*numbers, how="SIGKILL"):
    def die_here(x):
        if x in numbers:
            stages.die(how)
        return x

    return die_here


def check_lone_deaths(result, numbers, length):
    assert result.is_ok, result
    assert result.report.values == [x for x in range(length) if x not in numbers]
    errors = sorted(result.report.errors, key=lambda error: error.index)
    assert [error.index for error in errors] == sorted(numbers)
    assert all(type(error.error) is WorkerDiedError for error in errors)
    for book in result.report.snapshot.stages:
        assert book.processed == book.succeeded + book.failed + book.skipped
    assert result.report.snapshot.dropped == len(numbers)


@pytest.mark.parametrize("how", HOWS)
def test_an_item_that_kills_fails_alone(make_engine, how):
    engine = make_engine("fork", on_error="drop")
    result = engine.run([range(60), stages.keep, stage(die_at(31, how=how), name="deadly"), stages.keep])
    check_lone_deaths(result, {31}, 60)
    (error,) = result.report.errors
    assert (error.stage, error.attempts) == ("deadly", 2)
    named = {"exit 0": "exit code 0", "exit 3": "exit code 3", "sys.exit": "exit code 4"}.get(how, how)
    assert named in str(error.error)
    assert error.error.how == named
    assert error.error.peak_rss > 1 << 20
    assert f"{error.error.peak_rss:,} bytes of memory" in error.error.__notes__[0]
    assert error.item == "31"
    assert result.report.snapshot.stages[1].crashed == 1


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_deaths_are_noticed_whatever_the_start_method(make_engine, start_method):
    result = make_engine(start_method, on_error="drop").run([range(20), die_at(7)])
    check_lone_deaths(result, {7}, 20)


@pytest.mark.parametrize(("numbers", "is_list"), [({0}, True), ({1999}, False), ({0, 1999}, True), ({5, 6, 7}, False)])
def test_poison_anywhere_fails_alone_among_thousands(make_engine, numbers, is_list):
    engine = make_engine("fork", on_error="drop", workers=2)
    source = list(range(2000)) if is_list else iter(range(2000))
    check_lone_deaths(engine.run([source, die_at(*numbers)]), numbers, 2000)


def test_a_death_without_drop_ends_the_run_with_its_error(make_engine):
    result = make_engine("fork", crash_retries=0).run([range(100), die_at(40)])
    assert isinstance(result, Err)
    assert isinstance(result.cause, WorkerDiedError)
    assert "failed on item 40" in result.reason


@pytest.mark.parametrize("crash_retries", [0, 3])
def test_crash_retries_are_counted(make_engine, tmp_path, crash_retries):
    def note_and_die(x):
        if x == 3:
            with (tmp_path / "notes").open("a") as notes:
                notes.write("x")
            os._exit(1)
        return x

    engine = make_engine("fork", on_error="drop", crash_retries=crash_retries)
    check_lone_deaths(engine.run([range(10), note_and_die]), {3}, 10)
    # One death more where quick items were run without naming them: it tells only which batch is to be run with care.
    assert len((tmp_path / "notes").read_text()) - crash_retries in (1, 2)


def test_an_item_that_kills_only_once_is_delivered(make_engine, tmp_path):
    def die_once(x):
        mark = tmp_path / f"seen {x}"
        if x % 100 == 17 and not mark.exists():
            mark.touch()
            stages.die("SIGKILL")
        return x

    result = make_engine("fork").run([range(300), die_once])
    assert result.unwrap().values == list(range(300))


@pytest.mark.parametrize("seed", [1, 2])
def test_workers_killed_at_random_lose_nothing_and_double_nothing(make_engine, seed):
    """Killed from outside by the consumer itself, at random moments of a run of short items."""
    engine = make_engine("fork", workers=2, crash_retries=50)
    chosen = random.Random(seed)
    with engine.iter([range(4000), stages.keep, stage(stages.double, workers=1, buffer=64)]) as results:
        values, kills = [], 0
        for value in results:
            values.append(value)
            if kills < 8 and chosen.random() < 0.004:
                pids = engine.pids()
                kills += stages.kill(chosen.sample(pids, k=min(len(pids), chosen.choice([1, 2]))))
    assert values == [2 * x for x in range(4000)]
    assert kills >= 3
    report = results.result.report
    assert all(book.processed == book.succeeded == 4000 for book in report.snapshot.stages)


def kill_and_wait(pids):
    """Kill processes, and wait until they are dead; they are buried by others."""
    with contextlib.ExitStack() as stack:
        pidfds = [os.pidfd_open(pid) for pid in pids]
        for pid, pidfd in zip(pids, pidfds, strict=True):
            stack.callback(os.close, pidfd)
            os.kill(pid, signal.SIGKILL)
        for pidfd in pidfds:
            assert select.select([pidfd], [], [], 20)[0]


def test_all_workers_killed_at_once_are_replaced(make_engine):
    engine = make_engine("fork", workers=3, crash_retries=5)
    are_dead = threading.Event()

    def source():
        yield from range(10_000)
        assert are_dead.wait(20)  # a run that was at its end by now would not hear of all of them
        yield from range(10_000, 20_000)

    with engine.iter([source, stages.keep]) as results:
        first = next(results)
        before = engine.pids()
        kill_and_wait(before)
        are_dead.set()
        assert [first, *results] == list(range(20_000))
    assert sum(worker.deaths for worker in results.result.report.snapshot.workers) == len(before)


def test_a_dead_workers_suspended_generator_gives_nothing_twice(make_engine):
    engine = make_engine("fork", workers=2, buffer=20, crash_retries=10)
    with engine.iter([[3000, 3000], stages.count_up, stage(stages.keep, workers=1)]) as results:
        values = []
        for value in results:
            values.append(value)
            if len(values) in (500, 1500, 4000):
                stages.kill(engine.pids())
    assert values == [*range(3000), *range(3000)]


def test_a_generator_that_kills_half_way_has_given_its_first_half_once(make_engine):
    def die_half_way(x):
        for number in range(10):
            if x == 2 and number == 5:
                time.sleep(0.06)  # what came before has been reported, or is given by the next attempt
                stages.die("exit 3")
            yield 10 * x + number

    result = make_engine("fork", on_error="drop", workers=1).run([range(4), die_half_way])
    given = result.unwrap().values
    assert [value for value in given if value // 10 != 2] == [*range(20), *range(30, 40)]
    assert [value for value in given if value // 10 == 2] == list(range(20, 25))[: len(given) - 30]


@pytest.mark.parametrize("member", ["close all fds", "write garbage", "write half a message", "close its outbox"])
def test_a_worker_that_wrecks_its_channel_dies_alone(make_engine, member):
    """K9: what does not parse is the death of that worker, not of the run."""

    def wreck(x):
        if x == 13:
            pipes = [fd for fd in range(3, 256) if is_pipe(fd)]
            for fd in pipes:
                wreck_fd(fd, member)
            if member == "write half a message":
                os._exit(0)
            elif member != "write garbage":
                time.sleep(30)
        return x

    # Without a board: a worker that is forked while another thread starts a program has that one's pipes as well.
    engine = make_engine("fork", on_error="drop", grace_s=1.0, metrics_interval_s=0)
    check_lone_deaths(engine.run([range(40), wreck]), {13}, 40)


def is_pipe(fd):
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:")  # noqa: PTH115 - a light worker
    except OSError:
        return False


def wreck_fd(fd, how):
    try:
        if how in ("close all fds", "close its outbox"):
            os.close(fd)
        elif how == "write garbage":
            os.write(fd, b"\xff" * 100)
        else:
            os.write(fd, b"mpe1\xff")
    except OSError:
        pass  # the read end of another pipe


@pytest.mark.parametrize("where", ["setup", "class", "import"])
@pytest.mark.parametrize("how", ["exit 3", "sys.exit"])
def test_a_worker_that_dies_while_it_sets_up_is_one_clear_error(make_engine, where, how):
    """Not a loop of crashes: the next worker would die of it too."""
    engine = make_engine("fork", on_error="drop")
    result = engine.run([range(100), deadly_stage(where, how)])
    assert isinstance(result, Err)
    assert sum(worker.deaths for worker in result.report.snapshot.workers) < 20
    assert "died" in result.reason or "set up" in result.reason


def deadly_stage(where, how):
    class Deadly:
        def __init__(self):
            stages.die(how)

        def __call__(self, x):
            return x

    class DiesWhenLoaded:
        def __reduce__(self):
            return stages.die, (how,)

        def __call__(self, x):
            return x

    if where == "setup":
        return stage(stages.keep, setup=lambda state: stages.die(how))
    return Deadly if where == "class" else DiesWhenLoaded()


@pytest.mark.parametrize("bad", [stages.DiesWhenUnpickled(), stages.DiesWhenPickled])
def test_an_item_that_kills_whoever_unpickles_it_ends_in_no_loop(make_engine, bad):
    if isinstance(bad, type):
        source, member = range(30), lambda x: bad() if x == 13 else x
    else:
        source, member = [bad if x == 13 else x for x in range(30)], stages.keep
    result = make_engine("fork", on_error="drop").run([source, member])
    deaths = sum(worker.deaths for worker in result.report.snapshot.workers)
    assert 2 <= deaths < 40
    if isinstance(bad, type):
        check_lone_deaths(result, {13}, 30)
    else:
        assert 13 not in result.report.values


def test_results_that_kill_when_they_are_packed_fail_alone_in_a_large_batch(make_engine):
    """Packed with a thousand mates, whichever was run last is not to blame."""
    engine = make_engine("fork", workers=1, on_error="drop")
    result = engine.run([range(3000), lambda x: stages.DiesWhenPickled() if x == 1500 else x])
    check_lone_deaths(result, {1500}, 3000)


COORDINATOR = """
    import ctypes, os, signal, sys, time
    from mpengine import Engine

    def hold(x):
        os.write({fd}, b"%d\\n" % os.getpid())
        ctypes.PyDLL(None).sleep(60)  # PyDLL keeps the interpreter's lock

    Engine(3, start_method="{method}").run([range(6), hold])
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_workers_in_c_code_go_with_a_killed_coordinator(start_program, method):
    program = start_program(COORDINATOR.replace("{fd}", "1").replace("{method}", method))
    pids = [int(program.read_line()) for _ in range(3)]
    workers = [psutil.Process(pid) for pid in pids]
    program.send(signal.SIGKILL)
    _, alive = psutil.wait_procs(workers, timeout=1.0)
    assert not [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    program.end()
