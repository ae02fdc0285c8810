"""Observers of a run: what they are told, and that nothing they do is felt by the run."""

import threading
import time

import pytest

from mpengine import Engine, ErrorPolicy, stage
from mpengine.coordinator import tape, telling
from mpengine.metrics import BOUNDS_S
from mpengine.monitor import observing


class Recorder:
    """Keeps all that it is told."""

    def __init__(self):
        self.records = []
        self.threads = set()

    def observe(self, records):
        self.threads.add(threading.current_thread().name)
        self.records += records

    def of(self, kind):
        return [record for record in self.records if type(record) is kind]


@stage(on_error="drop")
def refuse_sevens(number):
    if number % 10 == 7:
        raise ValueError(number)
    return number


def double(number):
    return 2 * number


def test_an_observer_is_told_of_a_run_from_its_beginning_to_its_end(caplog):
    recorder = Recorder()

    result = Engine(2, observers=[recorder], backend="inline").run([range(100), refuse_sevens, double])

    began, ended = recorder.records[0], recorder.records[-1]
    assert type(began) is observing.RunBegan
    assert [outline.name for outline in began.stages] == ["refuse_sevens", "double"]
    assert [outline.policy for outline in began.stages] == ["drop", "raise"]
    assert began.length == 100
    assert type(ended) is observing.RunEnded
    assert ended.result.report.snapshot == result.report.snapshot
    assert recorder.threads == {"mpengine-teller"}

    sent, reported = recorder.of(observing.BatchSent), recorder.of(observing.BatchReported)
    assert {record.batch_id for record in sent} == {record.batch_id for record in reported}
    assert sum(record.items for record in reported) == 100
    assert min(record.first_index for record in sent) == 0
    assert max(record.last_index for record in sent) == 99
    for stage_number, book in enumerate(result.report.snapshot.stages):
        tallies = [record.tallies[stage_number] for record in reported]
        assert sum(tally.succeeded for tally in tallies) == book.succeeded
        assert sum(tally.failed for tally in tallies) == book.failed
        assert sum(tally.busy_s for tally in tallies) == pytest.approx(book.busy_s)
    assert sorted(record.index for record in recorder.of(observing.ItemFailed)) == list(range(7, 100, 10))
    assert {record.summary for record in recorder.of(observing.ItemFailed)} >= {"ValueError: 7"}


def test_an_observer_that_raises_is_named_once_and_told_nothing_more(caplog):
    class Broken:
        calls = 0

        def observe(self, records):
            self.calls += 1
            raise SystemExit("enough")

    broken, recorder = Broken(), Recorder()
    result = Engine(1, observers=[broken, recorder], backend="inline").run([range(10), double])

    assert result.is_ok
    assert broken.calls == 1
    assert type(recorder.records[-1]) is observing.RunEnded
    assert [text for text in caplog.messages if "Broken" in text] == [
        "observer Broken is told nothing more of this run: SystemExit: enough"
    ]


def test_an_observer_that_does_not_come_back_is_left_to_itself(monkeypatch, caplog):
    monkeypatch.setattr(telling, "END_S", 0.01)
    held, released = threading.Event(), threading.Event()

    class Stuck:
        def observe(self, records):
            held.set()
            released.wait(30)

    result = Engine(1, observers=[Stuck()], backend="inline").run([range(10), double])

    assert result.is_ok
    assert "observer Stuck does not come back; it is left to itself" in caplog.messages
    assert held.wait(30)
    (left,) = [thread for thread in threading.enumerate() if thread.name == "mpengine-teller"]
    released.set()
    left.join(30)
    assert not left.is_alive()


def test_what_a_slow_observer_cannot_take_is_dropped_and_counted(monkeypatch):
    monkeypatch.setattr(tape, "MAX_ENTRIES", 10)
    monkeypatch.setattr(telling, "TURN_S", 30.0)  # all that happens waits for the end
    recorder = Recorder()

    dropping = stage(refuse_sevens.fn, on_error=ErrorPolicy.DROP, batch=None)
    Engine(1, observers=[recorder], backend="inline").run([[7] * 40, dropping])

    (dropped,) = recorder.of(observing.RecordsDropped)
    kept = len(recorder.records) - 3  # beside beginning, end and this one
    assert kept <= 10
    assert dropped.count + kept >= 40
    assert type(recorder.records[-1]) is observing.RunEnded


def test_samples_come_when_they_are_asked_for(monkeypatch):
    class Sampling(Recorder):
        sample_s = 0.001
        wants_rss = True

    sampling, recorder = Sampling(), Recorder()
    Engine(1, observers=[sampling], backend="inline").run([range(10), double])
    Engine(1, observers=[recorder], backend="inline").run([range(10), double])

    last = sampling.of(observing.Sampled)[-1]
    assert last.snapshot.delivered == 10
    assert last.own_rss > 1_000_000
    assert recorder.of(observing.Sampled) == []


@pytest.mark.slow
def test_a_worker_that_dies_is_told_with_what_it_held():
    recorder = Recorder()

    @stage(on_error="drop")
    def die(number):
        if number == 3:
            import os

            os._exit(9)
        return number

    Engine(1, observers=[recorder], crash_retries=0).run([range(5), die])

    started, (first, *_) = recorder.of(observing.WorkerStarted), recorder.of(observing.WorkerEnded)
    assert first.how == "exit code 9"
    assert first.pid == started[0].pid
    assert set(first.batches) <= {record.batch_id for record in recorder.of(observing.BatchSent)}
    assert first.batches
    (failed,) = recorder.of(observing.ItemFailed)
    assert (failed.index, failed.how) == (3, "crashed")


def test_records_are_told_in_the_order_of_what_happened():
    recorder = Recorder()

    Engine(2, observers=[recorder], backend="inline").run([range(1000), double])

    out = set()
    for record in recorder.records:
        if type(record) is observing.BatchSent:
            out.add(record.batch_id)
        elif type(record) is observing.BatchReported:
            assert record.batch_id in out
            assert record.begun_at <= record.ended_at <= record.at <= time.monotonic()


def test_what_is_no_observer_is_refused():
    for wrong in ("observe", [object()], 7):
        with pytest.raises(ValueError, match=r"observers must be a sequence of objects with a method observe"):
            Engine(1, observers=wrong)


def test_a_cancelled_run_tells_why():
    recorder = Recorder()

    def stop(number):
        engine.cancel("seen enough")
        return number

    engine = Engine(1, observers=[recorder], backend="inline")
    engine.run([range(10), stop])

    assert [record.reason for record in recorder.of(observing.RunCancelled)] == ["seen enough"]
    assert recorder.records[-1].result.reason == "seen enough"


def test_item_times_are_kept_for_those_who_want_them():
    class Timing(Recorder):
        wants_times = True

    def wait(number):
        time.sleep(0.002 if number == 5 else 0.0002)
        return number

    timing, recorder = Timing(), Recorder()
    for observer in (timing, recorder):
        Engine(1, observers=[observer], backend="inline").run([range(20), wait])

    reported = timing.of(observing.BatchReported)
    bins = [bin_ for record in reported for bin_ in record.tallies[0].times]
    assert sum(items for _, items in bins) == 20
    assert all(BOUNDS_S[place] >= 0.0002 for place, _ in bins)
    slowest = max((seconds, index) for record in reported for index, seconds in record.tallies[0].slowest)
    assert slowest[0] >= 0.0002
    assert {index for record in reported for index, _ in record.tallies[0].slowest} == set(range(20))
    assert all(record.tallies[0].times == () for record in recorder.of(observing.BatchReported))


@pytest.mark.slow
def test_every_kind_of_stage_tells_the_times_of_all_its_items():
    class Timing(Recorder):
        wants_times = True

    @stage(batch=7)
    def in_lists(numbers):
        return numbers

    @stage(kind="thread")
    def in_threads(number):
        return number

    @stage(concurrency=3)
    async def side_by_side(number):
        return number

    def many(number):
        yield from [number] * 3

    def quick(number):
        return number

    timing = Timing()
    stages = [in_lists, side_by_side, in_threads, quick, many]
    result = Engine(2, observers=[timing]).run([range(300), *stages])

    counted = dict.fromkeys(range(5), 0)
    for record in timing.of(observing.BatchReported):
        for tally in record.tallies:
            counted[tally.stage] += sum(items for _, items in tally.times)
    assert counted == {number: book.processed for number, book in enumerate(result.report.snapshot.stages)}


def test_what_a_worker_says_of_times_is_checked():
    good = ((((3, 1),), ((0, 0.25),)),)
    told = [
        tape.checked_timing(timing, at=10.0, origin=[40, 41])
        for timing in [
            (1.0, 2.0, good), (), (2.0, 1.0, good), (1.0, 99.0, good), (1.0, 2.0, ((((3, 1),), ((7, 0.25),)),)),
            (1.0, 2.0, 5), ("a", 2.0, good), (1.0, 2.0, (((("x", 1),), ()),)),
            (1.0, 2.0, ((((3, float("inf")),), ()),)), (float("nan"), 2.0, good),
        ]
    ]  # fmt: skip

    nothing = (0.0, 0.0, ())
    assert told == [(1.0, 2.0, ((((3, 1),), ((40, 0.25),)),)), *[nothing] * 9]
