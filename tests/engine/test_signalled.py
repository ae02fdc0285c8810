"""Signals to workers, to the program and to its whole process group, and what stops and goes on again."""

import itertools
import os
import signal
import subprocess

import engine_stages as stages
import psutil
import pytest

from mpengine.backends.process import ProcessBackend
from mpengine.coordinator import signals
from mpengine.coordinator.loop import Coordinator
from mpengine.coordinator.run import Run
from mpengine.coordinator.signals import graceful_signals, signals_held

pytestmark = pytest.mark.slow

PATIENCE_S = 20


def deaths(result):
    return sum(worker.deaths for worker in result.report.snapshot.workers)


# ---------------------------------------------------------------------- to a worker


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGKILL", "SIGINT"])
def test_a_signal_to_a_worker_costs_no_item_whatever_it_is(make_engine, name):
    """SIGINT is ignored there: Ctrl-C is the parent's affair."""
    engine = make_engine("fork", crash_retries=5)
    signum = getattr(signal, name)
    results = engine.iter([range(3000), stages.keep])
    values = [next(results)]
    pids = engine.pids()
    for pid in pids:
        os.kill(pid, signum)
    values += results
    assert values == list(range(3000))
    if name == "SIGINT":
        assert deaths(results.result) == 0


def test_a_worker_that_is_stopped_and_goes_on_changes_nothing(make_engine):
    engine = make_engine("fork")
    with engine.iter([range(3000), stages.keep]) as results:
        values = [next(results)]
        workers = [psutil.Process(pid) for pid in engine.pids()]
        for worker in workers:
            worker.suspend()
        while any(worker.status() != psutil.STATUS_STOPPED for worker in workers):
            pass  # a stop takes a moment
        for worker in workers:
            worker.resume()
        values += results
    assert values == list(range(3000))
    assert deaths(results.result) == 0


# ---------------------------------------------------------------------- to the program

PROGRAM = """
    import itertools, os, resource, signal, sys, time
    from mpengine import Engine, stage

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.setpgid(0, 0)  # else the whole group would be the test's
    engine = Engine(2, metrics_interval_s=0.05)

    def source():
        yield 0
        while len(engine.pids()) < 2 or engine.metrics() is None:
            pass
        print(*engine.pids(), flush=True)
        yield from itertools.count(1)

    result = engine.run([source, abs], collect=False)
    print(result.reason, type(result.cause).__name__, engine.pids(), flush=True)
"""


def all_of(program):
    """Return the processes that a program has started, whosever children they are by now."""
    return psutil.Process(program.process.pid).children(recursive=True)


def check_gone(processes):
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE_S)
    assert [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize(
    ("name", "is_for_all"), [("SIGHUP", False), ("SIGHUP", True), ("SIGQUIT", False), ("SIGUSR1", True)]
)
def test_a_signal_that_ends_the_program_leaves_neither_workers_nor_board(start_program, name, is_for_all):
    """Nobody handles these, so the kernel ends the program, and then the workers."""
    program = start_program(PROGRAM)
    assert len(program.read_pids()) == 2
    processes = all_of(program)
    assert len(processes) >= 3
    signum = getattr(signal, name)
    if is_for_all:
        os.killpg(program.process.pid, signum)
    else:
        program.send(signum)
    assert program.end()[1:] == ("", -signum)
    check_gone(processes)


def test_ctrl_c_for_the_whole_process_group_cancels_in_order(start_program):
    """As a terminal sends it; workers are in groups of their own."""
    program = start_program(PROGRAM)
    program.read_pids()
    processes = all_of(program)
    os.killpg(program.process.pid, signal.SIGINT)
    assert program.end() == ("SIGINT KeyboardInterrupt []", "", 0)
    check_gone(processes)


def test_a_program_that_is_stopped_and_goes_on_has_the_same_results_and_no_timeouts(start_program):
    """While it stands still, every timeout passes on its clock; its workers go on, and have kept to theirs."""
    program = start_program("""
        import os, time
        from mpengine import Engine, stage

        engine = Engine(2, grace_s=0.3, memory_limit=1 << 40)

        def keep(x):
            if x == 0:
                print("begun", flush=True)
            time.sleep(0.001)
            return x

        result = engine.run([range(400), stage(keep, timeout=0.2, retries=0)])
        book = result.unwrap().snapshot.stages[0]
        print(result.report.values == list(range(400)), book.timed_out, book.crashed, engine.pids())
    """)
    assert program.read_line() == "begun"
    coordinator = psutil.Process(program.process.pid)
    coordinator.suspend()
    while coordinator.status() != psutil.STATUS_STOPPED:
        pass
    with pytest.raises(subprocess.TimeoutExpired):
        program.process.wait(0.6)  # longer than timeout and grace
    coordinator.resume()
    assert program.end() == ("True 0 0 []", "", 0)


def test_a_signal_that_hits_the_programs_own_resource_tracker_changes_nothing(run_program):
    done = run_program("""
        import os, signal
        from multiprocessing import resource_tracker
        from mpengine import Engine

        resource_tracker.ensure_running()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            os.kill(resource_tracker._resource_tracker._pid, signum)
        print(Engine(2).run([range(100), abs]).unwrap().values == list(range(100)))
    """)
    assert (done.stdout, done.stderr, done.returncode) == ("True\n", "", 0)


# ---------------------------------------------------------------------- signals that come too late


def test_a_signal_that_is_too_late_to_cancel_anything_is_an_err_with_all_the_values(make_engine, monkeypatch):
    """It comes when everything has been delivered; the program would go on as if nobody had pressed Ctrl-C."""
    engine = make_engine("fork")
    settle_mail = Coordinator.settle_mail

    def settle_and_interrupt(coordinator):
        settle_mail(coordinator)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Coordinator, "settle_mail", settle_and_interrupt)
    result = engine.run([range(5), stages.keep])
    assert (result.reason, type(result.cause)) == ("SIGINT", KeyboardInterrupt)
    assert (result.report.values, result.report.ok) == (list(range(5)), False)
    with pytest.raises(KeyboardInterrupt):
        result.unwrap()


@pytest.mark.parametrize("how", ["to its end", "closed early", "engine closed"])
def test_a_signal_that_comes_while_a_run_is_seen_off_is_raised_when_that_is_done(kind, make_engine, monkeypatch, how):
    engine = make_engine(kind)
    see_off = Coordinator.see_off

    def see_off_interrupted(coordinator, **options):
        os.kill(os.getpid(), signal.SIGINT)
        see_off(coordinator, **options)

    monkeypatch.setattr(Coordinator, "see_off", see_off_interrupted)
    results = engine.iter([range(5) if how == "to its end" else itertools.count(), stages.keep])
    next(results)
    end = {"to its end": lambda: list(results), "closed early": results.close, "engine closed": engine.close}[how]
    with pytest.raises(KeyboardInterrupt):
        end()
    assert results.result is not None
    assert engine.pids() == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_just_behind_the_cancel_leaves_no_run_that_nobody_concludes(make_engine, monkeypatch):
    engine = make_engine("fork")
    cancel = Run.cancel

    def cancel_interrupted(run, *args):
        cancel(run, *args)
        signal.raise_signal(signal.SIGINT)

    results = engine.iter([itertools.count(), stages.keep])
    next(results)
    monkeypatch.setattr(Run, "cancel", cancel_interrupted)
    with pytest.raises(KeyboardInterrupt):
        results.close()
    assert results.result.reason == "the results were not wanted any more"
    assert engine.pids() == []


def test_a_signal_that_comes_while_warm_workers_are_let_go_is_raised_when_they_are_gone(make_engine, monkeypatch):
    engine = make_engine("fork").__enter__()
    assert engine.run([range(5), stages.keep]).is_ok
    pids = engine.pids()
    let_go = ProcessBackend._let_go

    def let_go_interrupted(*args):
        signal.raise_signal(signal.SIGINT)
        let_go(*args)

    monkeypatch.setattr(ProcessBackend, "_let_go", let_go_interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.close()
    assert pids
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_the_signal_that_was_taken_over_first_is_given_back_last(monkeypatch):
    """Ctrl-C raises as soon as it is given back; nothing is left to be given back then."""
    set_signal, order = signal.signal, []

    def note(signum, handler):
        order.append(signal.Signals(signum).name)
        return set_signal(signum, handler)

    monkeypatch.setattr(signals.signal, "signal", note)
    with graceful_signals(lambda *_: None, lambda: None):
        pass
    assert order == ["SIGINT", "SIGTERM", "SIGTERM", "SIGINT"]


def test_what_ends_with_an_error_of_its_own_does_not_hide_the_signal():
    hurried = []

    def fail_in_haste():
        with signals_held(lambda: hurried.append(1)):
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            raise ValueError("something else")

    with pytest.raises(SystemExit) as caught:
        fail_in_haste()
    assert (caught.value.code, hurried) == (143, [1, 1])
    assert type(caught.value.__context__) is ValueError
