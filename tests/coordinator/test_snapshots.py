"""A snapshot is of one moment, whatever the writer is doing and whoever asks (V1 to V4 of coordinator/snapshots.py)."""

import signal
import threading

import pytest

from mpengine import Engine, Pipeline, stage
from mpengine.coordinator import snapshots
from mpengine.coordinator.snapshots import Snapshots
from mpengine.plan import make_plan
from mpengine.policies import ErrorPolicy
from mpengine.scheduler import events
from mpengine.scheduler.scheduler import Scheduler, Settings

PATIENCE_S = 20.0


@stage
def keep(x):
    return x


@stage(on_error="drop")
def fail_on_sevens(x):
    if x % 7 == 0:
        raise ValueError(x)
    return x


@pytest.fixture
def scheduler():
    plan = make_plan(Pipeline([]).stage(keep).stages, default_buffer=100, default_policy=ErrorPolicy.RAISE)
    return Scheduler(plan, Settings(workers=2))


@pytest.fixture
def desk(scheduler):
    return Snapshots(scheduler, lambda worker_id: None)


@pytest.fixture
def elsewhere():
    """Call a function in another thread; returns what it returns."""

    def call(function):
        found = []
        thread = threading.Thread(target=lambda: found.append(function()))
        thread.start()
        thread.join(PATIENCE_S)
        return found[0]

    return call


def test_what_was_read_while_the_books_were_written_is_thrown_away(scheduler, desk, elsewhere, monkeypatch):
    monkeypatch.setattr(snapshots, "ASK_S", 0.001)
    scheduler.ledger.source_items = 5
    whole = elsewhere(desk.take)
    scheduler.version += 1  # the writer begins, and is never done
    scheduler.ledger.source_items = 6

    assert whole.source_items == 5
    assert elsewhere(desk.take) == whole


def test_a_reading_that_was_overtaken_is_read_again(scheduler, monkeypatch):
    readings = []

    def pid_of(worker_id):  # called in the middle of a reading
        readings.append(worker_id)
        if len(readings) == 3:  # the first two are of the snapshot that there is from the beginning
            scheduler.version += 2
            scheduler.ledger.source_items = 9

    desk = Snapshots(scheduler, pid_of)

    assert desk.take().source_items == 9
    assert len(readings) == 6


def test_a_reader_gets_a_copy_from_the_writer_between_two_events(scheduler, desk, elsewhere, monkeypatch):
    monkeypatch.setattr(snapshots, "ASK_S", PATIENCE_S)
    scheduler.version += 1
    found = []
    reader = threading.Thread(target=lambda: found.append(desk.take()))
    has_asked = threading.Event()

    class Requests(snapshots.deque):
        def append(self, request):
            super().append(request)
            get = request.answer.get
            request.answer = type("Answer", (), {"put": request.answer.put, "get": None})()
            request.answer.get = lambda timeout: has_asked.set() or get(timeout=timeout)

    desk._requests = Requests()
    reader.start()
    assert has_asked.wait(PATIENCE_S)  # it has found the books in the middle of being written, twice

    scheduler.ledger.source_items = 7
    scheduler.version += 1
    desk.answer()
    scheduler.version += 1  # the next event, so that nothing but the copy is whole
    reader.join(PATIENCE_S)

    assert [snapshot.source_items for snapshot in found] == [7]


def test_nobody_who_has_stopped_waiting_costs_the_writer_a_copy(scheduler, desk, elsewhere, monkeypatch):
    monkeypatch.setattr(snapshots, "ASK_S", 0.0)
    scheduler.version += 1
    elsewhere(desk.take)
    (request,) = desk._requests
    scheduler.version += 1
    desk.answer()

    assert request.answer.empty()
    assert not desk._requests


def test_the_writer_itself_gets_the_youngest_whole_snapshot_at_once(scheduler, desk, monkeypatch):
    monkeypatch.setattr(snapshots, "ASK_S", PATIENCE_S)
    desk.writes_here()
    scheduler.ledger.source_items = 3
    before = desk.take()
    scheduler.version += 1
    scheduler.ledger.source_items = 4

    assert desk.take() == before


def test_an_older_reading_does_not_take_the_place_of_a_younger_one(scheduler, desk):
    older = desk._read_whole()
    scheduler.version += 2
    younger = desk.take()
    desk._read_whole = lambda: older

    assert desk.take() is older.snapshot
    assert desk._youngest.snapshot is younger


def test_the_end_never_makes_a_run_shorter(scheduler, desk):
    scheduler.handle(events.RunStarted(1.0))
    running = desk.take()
    desk.ended_at = 1.5  # measured before that snapshot was taken, stored after

    assert desk.take().elapsed_s >= running.elapsed_s


# ---------------------------------------------------------------------- whole runs

COUNTERS = ("source_items", "delivered", "filtered", "dropped", "failed", "cancelled", "elapsed_s")
STAGE_COUNTERS = ("processed", "succeeded", "failed", "skipped", "dropped", "retried", "crashed", "busy_s")
WORKER_COUNTERS = ("batches", "items", "busy_s", "deaths")


def impossibilities(snapshot, before):
    """Say what can't be in a snapshot of a run that does not fan out, by itself or after an earlier one of that run."""
    return [*_at_one_moment(snapshot), *(_backwards(before, snapshot) if before is not None else ())]


def _at_one_moment(snapshot):
    settled = snapshot.delivered + snapshot.filtered + snapshot.dropped + snapshot.failed + snapshot.cancelled
    if settled > snapshot.source_items:
        yield f"{settled} settled of {snapshot.source_items}"
    entering = snapshot.source_items
    for book in snapshot.stages:
        if book.processed != book.succeeded + book.failed + book.skipped:
            yield f"{book} is not in balance"
        if min(book.queued, book.in_flight) < 0:
            yield f"{book} has less than nothing"
        if book.processed > entering:
            yield f"{book} has processed more than came"
        entering = book.succeeded
    if snapshot.delivered > entering:
        yield f"{snapshot.delivered} delivered of {entering}"


def _backwards(before, after):
    pairs = [(before, after, COUNTERS)]
    pairs += [(old, new, STAGE_COUNTERS) for old, new in zip(before.stages, after.stages, strict=True)]
    pairs += [(old, new, WORKER_COUNTERS) for old, new in zip(before.workers, after.workers, strict=True)]
    for old, new, names in pairs:
        for name in names:
            if getattr(new, name) < getattr(old, name):
                yield f"{name} went back from {getattr(old, name)} to {getattr(new, name)}"


class Watcher:
    """Takes snapshots of a run as fast as it can, in a thread of its own."""

    def __init__(self, take):
        self._take = take
        self._is_over = threading.Event()
        self.found = []
        self.count = 0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self):
        before = None
        while not self._is_over.is_set() and not self.found:
            snapshot = self._take()
            self.found += impossibilities(snapshot, before)
            before = snapshot
            self.count += 1

    def end(self):
        self._is_over.set()
        self._thread.join(PATIENCE_S)


@pytest.mark.parametrize("kind", ["inline", "process"])
@pytest.mark.slow
def test_snapshots_taken_as_fast_as_can_be_are_all_possible(kind):
    engine = Engine(2, backend=kind, buffer=64)
    run = engine.iter([range(6_000), keep, stage(fail_on_sevens.fn, workers=1, on_error="drop"), keep])
    watchers = [Watcher(run.snapshot) for _ in range(2)]
    try:
        count = sum(1 for _ in run)
    finally:
        for watcher in watchers:
            watcher.end()

    assert count == 6_000 - len(range(0, 6_000, 7))
    assert [watcher.found for watcher in watchers] == [[], []]
    assert all(watcher.count for watcher in watchers)
    assert impossibilities(run.result.report.snapshot, None) == []


@pytest.mark.slow
def test_a_signal_handler_of_the_loops_own_thread_sees_nothing_impossible():
    """Inline, where the handler comes in between any two instructions of the scheduler."""
    engine = Engine(2, backend="inline", buffer=16)
    run = engine.iter([range(20_000), keep, stage(fail_on_sevens.fn, workers=1, on_error="drop"), keep])
    found, seen, looking = [], [], threading.Lock()

    def look(*_):
        if not looking.acquire(blocking=False):
            return  # this handler came in between itself
        snapshot = run.snapshot()
        found.extend(impossibilities(snapshot, seen[-1] if seen else None))
        seen.append(snapshot)
        looking.release()

    handler = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for _ in run:
            pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)

    assert found == []
    assert len(seen) > 1


def test_a_stage_may_ask_inline():
    engine = Engine(2, backend="inline")
    asked = []

    @stage
    def ask(x):
        asked.append(engine.snapshot())
        return x

    assert engine.run([range(50), ask]).is_ok
    assert [impossibilities(*pair) for pair in zip(asked[1:], asked, strict=False)] == [[]] * 49
