"""Where in its life a worker dies: while it starts, reads, writes, is replaced, leaves; nothing is lost or doubled.

With ``fork`` a worker is a copy of this process, so what is put into its place here is what it runs: that is how a
death comes between two lines of the package.
"""

import contextlib
import os
import signal

import engine_stages as stages
import psutil
import pytest

from mpengine import WorkerDiedError, stage
from mpengine.backends.fleet import Fleet
from mpengine.ipc import messages
from mpengine.worker import main
from mpengine.worker.outbox import Outbox

pytestmark = pytest.mark.slow

LARGE_BYTES = 6_000_000


def deaths(result):
    return sum(worker.deaths for worker in result.report.snapshot.workers)


def first_time(path):
    """Whether nobody has come here before, in any process."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def die_at_message(monkeypatch, tmp_path):
    """Have the first ``times`` workers that come to send such a message die instead of it, or right after it."""

    def arrange(kind, when, times=1):
        put = Outbox.put

        def put_or_die(outbox, message):
            is_it = isinstance(message, kind)
            is_it = is_it and any(first_time(tmp_path / f"{kind.__name__} {number}") for number in range(times))
            if is_it and when == "before":
                die()
            put(outbox, message)
            if is_it:
                die()

        monkeypatch.setattr(Outbox, "put", put_or_die)

    return arrange


# ---------------------------------------------------------------------- in the middle of something large


def test_a_worker_that_dies_half_way_through_a_large_result_is_replaced_and_its_item_run_again(
    make_engine, monkeypatch
):
    """Killed when the first part of its message has been read: the pipe is full, and it is in the middle of a write."""
    hear, killed = Fleet._hear, []

    def hear_and_kill(fleet, link, happened):
        more = hear(fleet, link, happened)
        if link.outbox._large is not None and not killed:
            killed.append(fleet.pid_of(link.worker_id))
            os.kill(killed[0], signal.SIGKILL)
        return more

    monkeypatch.setattr(Fleet, "_hear", hear_and_kill)
    engine = make_engine("fork", max_bytes=LARGE_BYTES)  # so that there is no room for it in the arena
    result = engine.run([range(4), lambda x: (x, bytes(LARGE_BYTES))])
    assert [(x, len(large)) for x, large in result.unwrap().values] == [(x, LARGE_BYTES) for x in range(4)]
    assert killed
    assert deaths(result) == 1
    assert result.report.snapshot.stages[0].succeeded == 4


def test_a_worker_that_dies_half_way_through_reading_a_large_item_costs_nothing(make_engine, monkeypatch):
    """Killed when a part of its batch is in the pipe and the rest is still to be written."""
    watch_inbox, killed = Fleet._watch_inbox, []

    def watch_and_kill(fleet, link):
        watch_inbox(fleet, link)
        pid = fleet.pid_of(link.worker_id)
        if link.inbox._begun and link.greeted and pid is not None and not killed:
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    monkeypatch.setattr(Fleet, "_watch_inbox", watch_and_kill)
    source = ((x, bytes(LARGE_BYTES)) for x in range(4))
    engine = make_engine("fork", max_bytes=LARGE_BYTES)
    result = engine.run([source, lambda item: (item[0], len(item[1]))])
    assert result.unwrap().values == [(x, LARGE_BYTES) for x in range(4)]
    assert killed
    assert deaths(result) == 1


# ---------------------------------------------------------------------- at the beginning and the end of its life


def test_a_worker_that_dies_before_it_says_hello_is_replaced(make_engine, monkeypatch, tmp_path):
    run_worker = main.run_worker

    def die_first(boot):
        if first_time(tmp_path / "born"):
            die()
        run_worker(boot)

    monkeypatch.setattr(main, "run_worker", die_first)
    result = make_engine("fork").run([range(60), stages.double])
    assert result.unwrap().values == [2 * x for x in range(60)]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", [messages.RunEnded, messages.Goodbye])
def test_a_worker_that_dies_as_it_leaves_takes_nothing_along(make_engine, die_at_message, kind, when):
    """Its results have been told, so neither the run nor the engine is the worse for it."""
    die_at_message(kind, when)
    engine = make_engine("fork")
    result = engine.run([range(60), stages.double])
    assert result.unwrap().values == [2 * x for x in range(60)]
    assert engine.pids() == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_warm_worker_that_dies_at_the_end_of_a_run_is_replaced_in_the_next(make_engine, die_at_message, when):
    die_at_message(messages.RunEnded, when)
    with make_engine("fork") as engine:
        for _ in range(3):
            assert engine.run([range(60), stages.double]).unwrap().values == [2 * x for x in range(60)]


@pytest.mark.parametrize("is_warm", [False, True])
def test_a_worker_that_dies_while_it_tears_down_takes_nothing_along(make_engine, tmp_path, is_warm):
    def tear_down(state):
        if first_time(tmp_path / "torn down"):
            die()

    engine = make_engine("fork")
    with engine if is_warm else contextlib.nullcontext():
        for _ in range(2):
            result = engine.run([range(60), stage(stages.double, teardown=tear_down)])
            assert result.unwrap().values == [2 * x for x in range(60)]


@pytest.mark.parametrize("kind", [messages.RunEnded, messages.Goodbye])
def test_workers_that_die_while_they_are_replaced_for_their_age_cost_nothing(make_engine, die_at_message, kind):
    die_at_message(kind, "before", times=3)
    result = make_engine("fork", max_items_per_worker=10, crash_retries=5).run([range(60), stages.double])
    assert result.unwrap().values == [2 * x for x in range(60)]


def test_an_idle_warm_worker_that_is_killed_between_two_runs_is_replaced(make_engine):
    with make_engine("fork") as engine:
        assert engine.run([range(10), stages.keep]).is_ok
        killed = engine.pids()
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        pids = engine.run([range(60), stages.pid_of]).unwrap().values
    assert not set(pids) & set(killed)


# ---------------------------------------------------------------------- killing each other


def test_workers_that_kill_each_other_lose_and_double_nothing(make_engine, tmp_path):
    def kill_a_sibling(x):
        if x % 25 == 10 and first_time(tmp_path / str(x)):
            me = psutil.Process()
            for sibling in me.parent().children():
                if sibling.pid != me.pid:
                    with contextlib.suppress(psutil.NoSuchProcess):  # another one was faster
                        sibling.kill()
        return x

    result = make_engine("fork", workers=3, crash_retries=20).run([range(150), kill_a_sibling])
    assert result.unwrap().values == list(range(150))
    assert deaths(result) >= 2


def test_a_poison_item_that_kills_every_worker_it_meets_costs_none_of_the_many_under_way(make_engine):
    def poison(x):
        if x == 5:
            die()
        return x

    engine = make_engine("fork", workers=3, on_error="drop", crash_retries=3)
    result = engine.run([range(3000), poison, stage(stages.keep, workers=1)])
    assert result.unwrap().values == [x for x in range(3000) if x != 5]
    (error,) = result.report.errors
    assert (error.index, type(error.error), error.attempts) == (5, WorkerDiedError, 4)
    assert "4 times with this item" in str(error.error)
