"""Every way to fail, at every place where user code runs: that item fails, its mates are delivered, the engine lives.

Each test is a row: one place, all ways, one warm engine, which has to be whole after each.  Left out are the cells that
cannot be anybody's to mend: what ends the process it runs in (``os._exit``, a signal) where that is the caller's own
(functions and items are pickled there, results and errors unpickled, handlers called), and what hangs in the caller's
own thread.  The row of the call itself is ``test_deaths.py::test_an_item_that_kills_fails_alone``; hanging there is
what ``timeout=`` ends (``test_timeouts.py``), hanging anywhere else lasts until somebody cancels, as here.
"""

import contextlib
import functools
import os
import threading

import engine_stages as stages
import pytest
import trap_stages as traps

from mpengine import Engine, Err, PipelineError, StageError, WorkerDiedError, stage

pytestmark = pytest.mark.slow

DEATHS = {
    "sys.exit": "exit code 4",
    "exit 0": "exit code 0",
    "exit 3": "exit code 3",
    "SIGSEGV": "SIGSEGV",
    "SIGKILL": "SIGKILL",
}
BAD, COUNT = 7, 12
MATES = [x for x in range(COUNT) if x != BAD]


@pytest.fixture
def engine():
    with Engine(2, start_method="fork", on_error="drop", grace_s=0.3, metrics_interval_s=0) as engine:
        check_whole(engine)
        yield engine


def check_whole(engine):
    assert engine.run([range(40), stages.double]).unwrap().values == [2 * x for x in range(40)]


def check_books(result):
    for book in result.report.snapshot.stages:
        assert book.processed == book.succeeded + book.failed + book.skipped
    counts = result.report.snapshot
    assert counts.source_items == counts.delivered + counts.filtered + counts.dropped + counts.failed + counts.cancelled


def check_lone_failure(engine, cell, result, kind, text):
    assert result.is_ok, (cell, result)
    assert result.report.values == MATES, cell
    assert [error.index for error in result.report.errors] == [BAD], cell
    (error,) = result.report.errors
    assert type(error.error) is kind, (cell, error)
    assert text in str(error.error), cell
    check_books(result)
    check_whole(engine)


def expected(how):
    return (RuntimeError, "sprung") if how == "raise" else (WorkerDiedError, DEATHS[how])


def at_bad(make):
    return lambda x: make() if x == BAD else x


def with_bad(item):
    return [item if x == BAD else x for x in range(COUNT)]


def raising(make):
    def fail(x):
        if x == BAD:
            raise make()
        return x

    return fail


# ---------------------------------------------------------------------- rows of a worker


def test_a_result_that_ends_its_worker_when_it_is_pickled_fails_alone(engine):
    for how in ("raise", *DEATHS):
        result = engine.run([range(COUNT), at_bad(functools.partial(traps.WhenPickled, how))])
        check_lone_failure(engine, how, result, *expected(how))


def test_an_exception_that_ends_its_worker_when_it_is_pickled_costs_that_item_alone(engine):
    for how in ("raise", "sys.exit", "exit 3", "SIGKILL"):
        result = engine.run([range(COUNT), raising(functools.partial(traps.PicklesBadlyError, how))])
        kind, text = (StageError, "PicklesBadlyError: sprung") if how == "raise" else expected(how)
        check_lone_failure(engine, how, result, kind, text)


@pytest.mark.parametrize("how", ["raise", "sys.exit"])
def test_what_is_raised_in_unpickling_an_item_costs_that_item_alone(engine, how):
    item = traps.WhenUnpickled(traps.act_elsewhere, how, "", os.getpid())
    kind, text = (RuntimeError, "sprung") if how == "raise" else (SystemExit, "4")
    for source in (with_bad(item), iter(with_bad(item))):
        check_lone_failure(engine, how, engine.run([source, stages.keep]), kind, text)


@pytest.mark.parametrize("how", [how for how in DEATHS if how != "sys.exit"])
def test_an_item_whose_unpickling_ends_the_process_may_take_those_in_its_pickle_along_and_nothing_else(engine, how):
    """Nobody can tell which item of a pickle it is: each is blamed in turn, and every one of them is accounted for."""
    item = traps.WhenUnpickled(traps.act_elsewhere, how, "", os.getpid())
    result = engine.run([with_bad(item), stages.keep])
    failed = sorted(error.index for error in result.report.errors)
    assert result.is_ok
    assert BAD in failed
    assert sorted([*failed, *result.report.values]) == list(range(COUNT))
    for error in result.report.errors:
        assert type(error.error) is WorkerDiedError
        assert DEATHS[how] in str(error.error)
    check_books(result)
    check_whole(engine)


@pytest.mark.parametrize("how", ["raise", "exit 0", "SIGSEGV"])
@pytest.mark.parametrize("where", ["setup", "enter"])
def test_a_stage_that_cannot_be_set_up_is_one_error_and_the_engine_lives(engine, where, how):
    """Other ways and places: ``test_deaths.py::test_a_worker_that_dies_while_it_sets_up_is_one_clear_error``."""
    setup = stage(stages.keep, setup=lambda state: traps.act(how), name="trap")
    result = engine.run([range(COUNT), setup if where == "setup" else class_stage("entered", how)])
    assert isinstance(result, Err)
    assert result.reason.startswith("stage 'trap' could not be set up: ")
    assert ("RuntimeError: sprung" if how == "raise" else DEATHS[how]) in result.reason
    check_books(result)
    check_whole(engine)


def class_stage(where, how):
    class Trap(traps.Built):
        def __init__(self):
            super().__init__(where, how)

    return stage(Trap, name="trap")


def test_a_stage_that_fails_in_tear_down_takes_no_result_along(engine, caplog):
    for how in ("raise", *DEATHS):
        caplog.clear()
        teardown = stage(stages.keep, teardown=lambda state, how=how: traps.act(how), name="trap")
        result = engine.run([range(COUNT), teardown if how in ("raise", "exit 3") else class_stage("left", how)])
        assert result.unwrap().values == list(range(COUNT)), how
        told = {"raise": "tear-down failed: RuntimeError: sprung", "sys.exit": "tear-down failed: SystemExit: 4"}
        assert told.get(how, "") in caplog.text
        check_books(result)
        check_whole(engine)


def test_an_item_that_ends_its_worker_when_it_is_forgotten_has_been_delivered():
    """From a fork server: a worker forked here would have copies of this process's own items, to forget as well."""
    home = os.getpid()
    with Engine(2, grace_s=0.3, metrics_interval_s=0) as engine:
        for how in ("raise", "sys.exit", "exit 3", "SIGKILL"):
            result = engine.run([[traps.WhenForgotten(how, home) for _ in range(4)], lambda item: 1])
            assert result.unwrap().values == [1] * 4, how
            check_books(result)
            check_whole(engine)


# ---------------------------------------------------------------------- rows of the caller's process


def test_a_function_that_will_not_be_pickled_is_refused_and_the_engine_lives(engine):
    class Trap:
        def __init__(self, how):
            self.how = how

        def __reduce__(self):
            traps.act(self.how)

        def __call__(self, x):
            return x

    with pytest.raises(PipelineError, match="stage 'Trap' cannot be sent to a worker: RuntimeError: sprung"):
        engine.run([range(COUNT), Trap("raise")])
    check_whole(engine)
    with pytest.raises(SystemExit):  # in the caller's own thread: it may leave
        engine.run([range(COUNT), Trap("sys.exit")])
    check_whole(engine)


@pytest.mark.parametrize("wrap", [list, iter])
def test_what_is_raised_in_pickling_an_item_costs_that_item_alone(engine, wrap):
    for how, kind, text in (("raise", RuntimeError, "sprung"), ("sys.exit", SystemExit, "4")):
        source = wrap(with_bad(traps.WhenPickled(how)))
        check_lone_failure(engine, how, engine.run([source, stages.keep]), kind, text)


def test_what_is_raised_in_unpickling_a_result_costs_that_item_alone(engine):
    home = os.getpid()
    for how, kind, text in (("raise", RuntimeError, "sprung"), ("sys.exit", SystemExit, "4")):
        member = at_bad(functools.partial(traps.WhenUnpickled, traps.act_at_home, how, "", home))
        check_lone_failure(engine, how, engine.run([range(COUNT), member]), kind, text)


def test_an_exception_that_fails_to_be_unpickled_is_named_by_a_stand_in(engine):
    home = os.getpid()
    for how in ("raise", "sys.exit"):
        member = raising(functools.partial(traps.UnpicklesBadlyError, how, "", home))
        check_lone_failure(engine, how, engine.run([range(COUNT), member]), StageError, "UnpicklesBadlyError: sprung")


@pytest.mark.parametrize("how", ["raises", "exits", "runs another engine", "runs its own engine"])
def test_whatever_an_error_handler_does_the_run_has_an_end_and_the_engine_lives(engine, how):
    given = []

    def handle(item_error):
        if how == "raises":
            raise OSError("disk full")
        if how == "exits":
            traps.leave(3)
        chosen = engine if how == "runs its own engine" else Engine(1, start_method="fork")
        given.append(chosen.run([range(5), stages.double]).unwrap().values)

    result = engine.run([range(COUNT), stage(raising(ValueError), on_error="side", error_handler=handle, name="picky")])
    if how == "runs another engine":
        assert result.unwrap().values == MATES
        assert given == [[0, 2, 4, 6, 8]]
    else:
        assert isinstance(result, Err)
        assert f"the error handler of stage 'picky' failed on item {BAD}: " in result.reason
        told = {"raises": "disk full", "exits": "SystemExit: 3", "runs its own engine": "it runs one at a time"}[how]
        assert told in result.reason
    check_books(result)
    check_whole(engine)


# ---------------------------------------------------------------------- hanging


@contextlib.contextmanager
def cancelled_when_it_hangs(engine, bell):
    os.mkfifo(bell)

    def cancel():
        with bell.open("rb") as file:
            file.read(1)
        engine.cancel("it hangs")

    canceller = threading.Thread(target=cancel)
    canceller.start()
    yield
    canceller.join()


HANGS = {
    "set-up": lambda bell: [range(COUNT), stage(stages.keep, setup=lambda state: traps.act("hang", bell))],
    "unpickling an item": lambda bell: [
        with_bad(traps.WhenUnpickled(traps.act_elsewhere, "hang", bell, os.getpid())),
        stages.keep,
    ],
    "pickling a result": lambda bell: [range(COUNT), at_bad(lambda: traps.WhenPickled("hang", bell))],
    "pickling an exception": lambda bell: [range(COUNT), raising(lambda: traps.PicklesBadlyError("hang", bell))],
}


@pytest.mark.parametrize("where", HANGS)
def test_what_hangs_outside_of_a_call_ends_when_the_run_is_cancelled(engine, tmp_path, where):
    """``timeout=`` is for calls; these have none, and nobody but the user knows how long they may take."""
    bell = tmp_path / "bell"
    with cancelled_when_it_hangs(engine, bell):
        result = engine.run(HANGS[where](str(bell)))
    assert isinstance(result, Err)
    assert result.reason == "it hangs"
    assert result.report.values == list(range(COUNT))[: len(result.report.values)]
    check_books(result)
    check_whole(engine)


def test_a_tear_down_that_hangs_is_ended_after_the_grace_and_costs_no_result(engine, tmp_path, caplog):
    bell = tmp_path / "bell"
    with cancelled_when_it_hangs(engine, bell):
        result = engine.run([range(COUNT), stage(stages.keep, teardown=lambda state: traps.act("hang", str(bell)))])
    assert result.report.values == list(range(COUNT))
    assert "tear-down took over 0.3 s; killed" in caplog.text
    check_books(result)
    check_whole(engine)
