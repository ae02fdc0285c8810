"""Collected, closed, stopped, forked or shared when it suits least: a run still ends, and gives what it should."""

import contextlib
import gc
import itertools
import os
import signal
import sys
import threading
from pathlib import Path

import engine_stages as stages
import psutil
import pytest

from mpengine import EngineClosedError, EngineError, Err, stage
from mpengine.coordinator.loop import Coordinator
from mpengine.coordinator.run import Run

PATIENCE_S = 20.0
OWN_THREADS = ["mpengine-coordinator", "mpengine-pull_items", "mpengine-pack_items", "mpengine-pack_slices"]


class Visitor:
    """Does something once, on one of a run's own threads, once it has been let in.

    The source runs on one of them, the pickling of an item on another; the loop's runs nobody's code, so there a step
    of it is followed by the visit.  Until then the second item is held back, so that everything is still to come: a run
    begins with several batches of one item each.
    """

    def __init__(self, thread_name, act):
        self._thread_name, self._act = thread_name, act
        self.may_come, self.came = threading.Event(), threading.Event()

    def visit(self):
        if threading.current_thread().name == self._thread_name and self.may_come.is_set() and not self.came.is_set():
            self._act()
            self.came.set()

    def source(self):
        if self._thread_name == "mpengine-pack_slices":
            return [Visited(self, number, held=number == 1) for number in range(20_000)]
        return map(self._give, itertools.count())

    def _give(self, number):
        self.hold(number == 1)
        self.visit()
        return Visited(self, number)

    def hold(self, held):
        assert not held or self.may_come.wait(PATIENCE_S)


class Visited:
    def __init__(self, visitor, number, held=False):
        self._visitor, self._number, self._held = visitor, number, held

    def __reduce__(self):
        self._visitor.hold(self._held)
        self._visitor.visit()
        return int, (self._number,)


@pytest.fixture
def make_visitor(monkeypatch):
    def make(thread_name, act):
        visitor = Visitor(thread_name, act)
        step = Coordinator.step

        def step_and_visit(coordinator):
            step(coordinator)
            visitor.visit()

        monkeypatch.setattr(Coordinator, "step", step_and_visit)
        return visitor

    return make


@pytest.fixture
def _by_hand():
    """The collector comes when it is called, and not before."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def begin_and_drop(engine, source):
    """Begin to iterate, and leave the iterator to the collector; returns its run."""
    results = engine.iter([source, stages.keep])
    assert next(results) == 0
    knot = [results]
    knot.append(knot)
    return results._run


def join(run):
    run._thread.join(PATIENCE_S)
    assert not run._thread.is_alive()


# ---------------------------------------------------------------------- an iterator that is collected


@pytest.mark.usefixtures("_by_hand")
@pytest.mark.parametrize("thread_name", OWN_THREADS)
def test_an_iterator_collected_on_a_thread_of_its_own_run_ends_that_run(make_engine, make_visitor, thread_name, caplog):
    engine = make_engine("fork")
    visitor = make_visitor(thread_name, gc.collect)
    run = begin_and_drop(engine, visitor.source())
    visitor.may_come.set()
    assert visitor.came.wait(PATIENCE_S)
    join(run)
    assert run.result.reason == "the results were not wanted any more"
    assert caplog.messages == []  # nobody was waited for in vain
    assert engine.run([[1], stages.double]).unwrap().values == [2]


@pytest.mark.usefixtures("_by_hand")
def test_an_iterator_collected_on_its_own_thread_may_be_closed_by_somebody_else(make_engine, make_visitor, monkeypatch):
    """Who closes waits for the loop's thread, which must not wait for its turn to do the same."""
    engine = make_engine("fork")
    visitor = make_visitor("mpengine-coordinator", gc.collect)
    closing = threading.Event()
    see_off, await_end = Coordinator.see_off, Run._await_end

    def see_off_when_somebody_closes(coordinator, **options):
        assert closing.wait(PATIENCE_S)
        see_off(coordinator, **options)

    def await_end_and_say_so(run):
        closing.set()
        await_end(run)

    monkeypatch.setattr(Coordinator, "see_off", see_off_when_somebody_closes)
    monkeypatch.setattr(Run, "_await_end", await_end_and_say_so)
    run = begin_and_drop(engine, visitor.source())
    visitor.may_come.set()
    assert visitor.came.wait(PATIENCE_S)
    engine.close()
    assert run.result.reason == "the results were not wanted any more"
    join(run)


# ---------------------------------------------------------------------- an engine that is closed


def test_a_stage_may_close_its_own_engine(make_engine):
    engine = make_engine("inline")

    def close_at_three(x):
        if x == 3:
            engine.close()
        return x

    result = engine.run([range(10), close_at_three])
    assert (result.reason, result.cause) == ("the engine was closed", None)
    assert result.report.values == list(range(len(result.report.values)))
    with pytest.raises(EngineClosedError):
        engine.run([[1], stages.keep])


def test_a_stage_that_closes_its_engine_is_not_torn_down_before_it_has_returned(make_engine):
    engine = make_engine("inline", workers=1)
    told = []

    def close_at_three(x, state):
        if x == 3:
            engine.close()
            told.append("returns")
        return x

    with pytest.raises(EngineError, match="closed"):
        list(engine.iter([range(10), stage(close_at_three, teardown=lambda state: told.append("torn down"))]))
    assert told == ["returns", "torn down"]


def test_a_source_may_close_its_own_engine(kind, make_engine, caplog):
    engine = make_engine(kind)

    def source():
        yield from range(3000)
        engine.close()
        yield from itertools.count(3000)

    result = engine.run([source, stages.keep])
    assert (result.reason, result.cause) == ("the engine was closed", None)
    assert result.report.values == list(range(len(result.report.values)))
    assert [message for message in caplog.messages if "closed" not in message] == []
    assert engine.pids() == []


@pytest.mark.parametrize("thread_name", OWN_THREADS)
def test_what_a_runs_own_threads_collect_may_close_the_engine(make_engine, make_visitor, thread_name):
    """The clean-up of some object of the user's closes its engine, whichever thread it happens on."""
    engine = make_engine("fork")
    visitor = make_visitor(thread_name, engine.close)
    results = engine.iter([visitor.source(), stages.keep])
    assert next(results) == 0
    visitor.may_come.set()
    with pytest.raises(EngineError, match="closed"):
        list(results)
    assert visitor.came.is_set()
    assert (results.result.reason, results.result.cause) == ("the engine was closed", None)
    assert engine.pids() == []


@contextlib.contextmanager
def handler(act):
    before = signal.signal(signal.SIGUSR1, lambda *_: act())
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def interrupt():
    """Have the handler run, here and now."""
    signal.raise_signal(signal.SIGUSR1)


def test_a_signal_handler_may_close_the_engine_while_results_are_awaited(kind, make_engine):
    engine = make_engine(kind)

    def source():
        yield from range(100)
        os.kill(os.getpid(), signal.SIGUSR1)
        yield from itertools.count(100)

    with handler(engine.close):
        result = engine.run([source, stages.keep])
    assert (result.reason, result.cause) == ("the engine was closed", None)
    assert engine.pids() == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_signal_handler_may_close_the_engine_while_the_run_is_being_started(kind, make_engine, monkeypatch, when):
    engine = make_engine(kind)
    start = Coordinator.start

    def interrupted_start(coordinator, *feeds):
        if when == "before":
            interrupt()
        start(coordinator, *feeds)
        if when == "after":
            interrupt()

    monkeypatch.setattr(Coordinator, "start", interrupted_start)
    with handler(engine.close):
        result = engine.run([itertools.count(), stages.keep])
    assert (result.reason, result.cause) == ("the engine was closed", None)
    assert engine.pids() == []


@pytest.mark.slow
def test_a_signal_handler_may_close_the_engine_at_any_line_of_the_conclusion(kind, make_engine, monkeypatch):
    """Interrupted at each line of what concludes a run, in turn; the books are closed once."""
    closed_books, close_books = [], Run._close_books

    def close_books_and_note(run):
        closed_books.append(run)
        return close_books(run)

    monkeypatch.setattr(Run, "_close_books", close_books_and_note)
    watched = {Run.conclude.__code__, Run._conclude.__code__, Run._settle_up.__code__}
    for line in itertools.count(1):
        engine, seen = make_engine(kind, workers=1), []

        def trace(frame, event, arg, engine=engine, seen=seen, line=line):
            if frame.f_code not in watched:
                return None
            if event == "line":
                seen.append(frame.f_lineno)
                if len(seen) == line:
                    interrupt()
            return trace

        results = engine.iter([range(10), stages.keep])
        assert next(results) == 0
        before = sys.gettrace()
        with handler(engine.close):
            sys.settrace(trace)
            try:
                results.close()
            finally:
                sys.settrace(before)
        assert results.result.reason in {None, "the results were not wanted any more"}
        assert engine.pids() == []
        assert len(closed_books) == line
        if len(seen) < line:
            break
    assert line > 12


# ---------------------------------------------------------------------- a fork server that is stopped


def stop_fork_server(engine):
    """Stop the one child that is no worker; returns it.  (An engine without a metrics board has no other.)"""
    (server,) = [child for child in psutil.Process().children() if child.pid not in engine.pids()]
    server.suspend()
    while server.status() != psutil.STATUS_STOPPED:
        pass  # a stop takes a moment
    return server


@pytest.mark.slow
def test_a_stopped_fork_server_holds_no_cancelled_run_up(make_engine):
    engine = make_engine("forkserver", grace_s=0.2, metrics_interval_s=0)
    with engine.iter([itertools.count(), stages.keep]) as results:
        assert next(results) == 0
        server = stop_fork_server(engine)
    assert results.result.reason == "the results were not wanted any more"
    assert engine.pids() == []
    assert not server.is_running()


@pytest.mark.slow
def test_a_stopped_fork_server_holds_no_run_up_that_ends_by_itself(make_engine):
    engine = make_engine("forkserver", grace_s=0.2, metrics_interval_s=0)

    def source():
        yield 0
        while len(engine.pids()) < 2:
            pass  # the others come a moment later
        stop_fork_server(engine)
        yield 1

    assert engine.run([source, stages.keep]).unwrap().values == [0, 1]
    assert engine.pids() == []


@pytest.mark.slow
def test_a_stopped_fork_server_does_not_keep_a_warm_engine_from_being_closed(make_engine):
    with make_engine("forkserver", grace_s=0.2, metrics_interval_s=0) as engine:
        assert engine.run([range(10), stages.keep]).is_ok
        server = stop_fork_server(engine)
    assert not server.is_running()


# ---------------------------------------------------------------------- SIGPIPE

SIGPIPE_AT_DEFAULT = """
    import itertools, os, signal
    import psutil
    from mpengine import Engine

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)

    def kill_workers_unnoticed(engine):
        # With its teller stopped, nobody hears of a death; so what is written next meets a pipe without a reader.
        (server,) = [child for child in psutil.Process().children() if child.pid not in engine.pids()]
        server.suspend()
        for worker in [psutil.Process(pid) for pid in engine.pids()]:
            worker.kill()
            while worker.status() != psutil.STATUS_ZOMBIE:
                pass
        return server
"""


def check_survives(run_program, text, expected):
    done = run_program(SIGPIPE_AT_DEFAULT + text)
    assert (done.stdout.strip(), done.stderr, done.returncode) == (expected, "", 0)


@pytest.mark.slow
def test_a_worker_that_dies_before_a_run_costs_no_program_that_has_sigpipe_at_its_default(run_program):
    check_survives(
        run_program,
        """
    with Engine(2, grace_s=1, metrics_interval_s=0) as engine:
        engine.run([range(10), abs]).unwrap()
        server = kill_workers_unnoticed(engine)

        def source():
            server.resume()
            yield from range(10)

        print(engine.run([source, abs]).unwrap().values == list(range(10)), signal.getsignal(signal.SIGPIPE).name)
    """,
        "True SIG_DFL",
    )


@pytest.mark.slow
def test_a_worker_that_dies_in_a_run_costs_no_program_that_has_sigpipe_at_its_default(run_program):
    check_survives(
        run_program,
        """
    engine = Engine(2, grace_s=1, metrics_interval_s=0)

    def source():
        yield 0
        while len(engine.pids()) < 2 or engine.snapshot().delivered < 1:
            pass
        server = kill_workers_unnoticed(engine)
        yield from range(1, 10)
        while not engine.snapshot().stages[0].in_flight:
            pass
        server.resume()

    print(engine.run([source, abs]).unwrap().values == list(range(10)))
    """,
        "True",
    )


@pytest.mark.slow
def test_a_worker_that_dies_before_the_engine_is_closed_costs_no_program_that_has_sigpipe_at_its_default(run_program):
    check_survives(
        run_program,
        """
    with Engine(2, grace_s=1, metrics_interval_s=0) as engine:
        engine.run([range(10), abs]).unwrap()
        kill_workers_unnoticed(engine)
    print("closed", engine.pids())
    """,
        "closed []",
    )


@pytest.mark.slow
def test_a_bell_that_nobody_hears_any_more_costs_no_program_that_has_sigpipe_at_its_default(run_program):
    """Somebody rings just when the engine is being closed, in a thread of their own."""
    check_survives(
        run_program,
        """
    from mpengine.backends.base import BackendOptions
    from mpengine.backends.process import ProcessBackend

    backend = ProcessBackend(BackendOptions(1, "fork", ()))
    backend._bell_r.close()
    backend.wake()
    backend.close()
    print("closed")
    """,
        "closed",
    )


# ---------------------------------------------------------------------- a child that is forked


def in_forked_child(act):
    """Call ``act`` in a child of this process; returns what it returned, as text, or how the child ended."""
    told_r, told_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(20)
            os.write(told_w, str(act()).encode())
            os._exit(0)
        except BaseException as error:
            os.write(told_w, repr(error).encode())
        finally:
            os._exit(1)
    os.close(told_w)
    with os.fdopen(told_r, encoding="utf-8") as told:
        text = told.read()
    _, status = os.waitpid(pid, 0)
    return text if status == 0 else f"{text} (exit code {os.waitstatus_to_exitcode(status)})"


def take_every_free_number():
    """Open so many files that no number is left over of what is closed in a forked child; returns the fds."""
    return [os.open(os.devnull, os.O_RDONLY) for _ in range(64)]


def count_open(fds):
    """Return how many are still what they were."""
    links = [Path(f"/proc/self/fd/{fd}") for fd in fds]
    return sum(link.is_symlink() and str(link.readlink()) == os.devnull for link in links)


class Closable:
    """A source, and who has closed it."""

    def __init__(self, items):
        self._items, self.closed_by = iter(items), []

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._items)

    def close(self):
        self.closed_by.append(os.getpid())


def test_what_a_forked_child_drops_and_closes_is_its_parents_all_the_same(kind, make_engine):
    engine = make_engine(kind)
    source = Closable(range(50_000))
    torn_down = []
    held = [engine.iter([source, stage(stages.keep, teardown=torn_down.append if kind == "inline" else None)])]
    assert next(held[0]) == 0
    pids = engine.pids()

    def drop_and_close():
        fds = take_every_free_number()
        held[0].close()
        held.clear()  # the last reference
        gc.collect()
        engine.close()
        return source.closed_by, torn_down, count_open(fds)

    assert in_forked_child(drop_and_close) == "([], [], 64)"
    assert engine.pids() == pids
    (results,) = held
    assert list(results) == list(range(1, 50_000))
    assert results.result.is_ok
    assert source.closed_by == [os.getpid()]


@pytest.mark.slow
def test_a_warm_engine_that_a_forked_child_closes_is_its_parents_all_the_same(make_engine):
    def close():
        fds = take_every_free_number()
        engine.close()
        return count_open(fds)

    with make_engine("forkserver") as engine:
        assert engine.run([range(10), stages.keep]).is_ok
        pids = set(engine.pids())
        assert in_forked_child(close) == "64"
        assert set(engine.run([range(10), stages.pid_of]).unwrap().values) <= pids


def test_a_forked_child_cannot_use_its_parents_engine(kind, make_engine):
    engine = make_engine(kind)
    results = engine.iter([range(50_000), stages.keep])
    assert next(results) == 0

    def use(attempt):
        try:
            attempt()
        except EngineError as error:
            return error
        return "nothing was raised"

    for attempt in (
        lambda: engine.run([[1], stages.keep]),
        lambda: engine.iter([[1], stages.keep]),
        lambda: sum(1 for _ in results),
    ):
        assert "forked from" in in_forked_child(lambda attempt=attempt: use(attempt))
    assert sum(1 for _ in results) == 49_999


@pytest.mark.slow
def test_a_forked_child_that_ends_like_any_program_leaves_the_run_of_its_parent_alone(kind, run_program):
    done = run_program(f"""
        import os, sys
        from mpengine import Engine, stage

        def say_so(state):
            print("torn down", flush=True)

        engine = Engine(1, backend={"inline" if kind == "inline" else "process"!r})
        results = engine.iter([range(20_000), stage(abs, teardown=say_so)])
        next(results)
        pid = os.fork()
        if pid == 0:
            sys.exit(3)  # by way of everything that is registered to happen at exit
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        print(sum(1 for _ in results), results.result.is_ok)
    """)
    assert done.stdout.splitlines() == ["3", "torn down", "19999 True"], done.stderr
    assert done.returncode == 0


# ---------------------------------------------------------------------- an iterator that is shared


@pytest.fixture
def _busy_switching():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(count, act):
    found, errors = [[] for _ in range(count)], []

    def body(number):
        try:
            act(found[number])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert errors == []
    return sorted(itertools.chain.from_iterable(found))


@pytest.mark.usefixtures("_busy_switching")
@pytest.mark.parametrize("how", ["for", "next"])
def test_threads_that_share_an_iterator_get_every_value_once(kind, make_engine, how):
    results = make_engine(kind).iter([range(30_000), stages.keep])

    def take(found):
        if how == "for":
            found.extend(results)
        else:
            found.extend(iter(lambda: next(results, None), None))

    assert in_threads(4, take) == list(range(30_000))
    assert results.result.is_ok


def test_threads_that_wait_for_the_same_list_of_results_get_every_value_once(make_engine, monkeypatch):
    """All of them have found the last list used up, and wait for the next; what follows must not be forgotten."""
    waiting = threading.Barrier(3)
    results = make_engine("inline").iter([range(100), stages.keep])
    batches, taking = results._batches, results._batches._taking

    class Gate:
        """All come in before any may go on."""

        def __enter__(self):
            with contextlib.suppress(threading.BrokenBarrierError):
                waiting.wait(PATIENCE_S)
            waiting.abort()
            taking.acquire()

        def __exit__(self, *_):
            taking.release()

    monkeypatch.setattr(batches, "_taking", Gate())
    assert in_threads(3, lambda found: found.extend(iter(lambda: next(results, None), None))) == list(range(100))


def test_a_failure_is_raised_to_one_of_the_threads_and_ends_the_others(make_engine):
    results = make_engine("inline").iter([range(10), stages.fail_on_three])
    raised = []

    def take(found):
        try:
            found.extend(results)
        except ValueError as error:
            raised.append(error)

    in_threads(3, take)
    assert len(raised) == 1
    assert isinstance(results.result, Err)


def test_an_engine_that_was_closed_in_one_thread_ends_the_waits_of_all(make_engine):
    engine = make_engine("fork", workers=1)
    gate = threading.Event()

    def source():
        yield 1
        gate.wait(PATIENCE_S)

    results = engine.iter([source, stages.keep])
    assert next(results) == 1
    closer = threading.Thread(target=engine.close)

    def take(found):
        with contextlib.suppress(EngineError):
            found.extend(results)

    closer.start()
    gate.set()
    assert in_threads(3, take) == []
    closer.join()
