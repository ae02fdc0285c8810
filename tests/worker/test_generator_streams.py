"""A generator on its way: what it gives goes out once, however often it is begun; its time is its own."""

import pytest
from job_sites import Slot, site

from mpengine import SKIP, KillSwitch, stage
from mpengine.worker import streams
from mpengine.worker.chain import Chain, Killed, Stopped
from mpengine.worker.reports import Report, Tally
from mpengine.worker.streams import Stream

FOR_EVER = float("inf")


def stream_of(function, item=0, *, slot=None, skip=0, attempts=0, **options):
    (step,) = Chain([stage(function, **options)], 0).steps
    return Stream(step, item, site(slot), skip=skip, attempts=attempts)


def fill(stream, budget=100, until=FOR_EVER):
    report = Report([Tally()])
    return stream.fill(report, 3, 0, until, budget), report


def three(x):
    yield from (1, 2, 3)


def test_it_gives_what_is_asked_for_and_stands_still():
    stream = stream_of(three)
    ended, report = fill(stream, budget=2)
    assert (ended, report.results, report.positions, stream.emitted) == (False, [1, 2], [3, 3], 2)
    ended, report = fill(stream)
    assert (ended, report.results, stream.emitted) == (True, [3], 3)
    assert report.tallies[0].succeeded == 1


def test_the_time_for_a_report_ends_it_too():
    ended, report = fill(stream_of(three), until=0.0)
    assert (ended, report.results) == (False, [1])


def test_what_was_sent_before_is_not_sent_again():
    stream = stream_of(three, skip=2)
    assert stream.emitted == 2
    assert fill(stream)[1].results == [3]


def test_skipped_values_are_left_out():
    def give(x):
        yield from (1, SKIP, 2)

    assert fill(stream_of(give))[1].results == [1, 2]


def flaky(failures):
    tries = []

    def give(x):
        tries.append(x)
        yield 1
        yield 2
        if len(tries) <= failures:
            raise OSError(len(tries))
        yield 3

    return give


def test_another_attempt_gives_only_what_is_new():
    ended, report = fill(stream_of(flaky(1), retries=1))
    assert (ended, report.results, report.tallies[0].retried) == (True, [1, 2, 3], 1)


def test_an_error_too_many_is_told_behind_what_was_given():
    ended, report = fill(stream_of(flaky(2), retries=1))
    assert (ended, report.results) == (True, [1, 2])
    (failure,) = report.failures
    assert (failure[0], failure[2], failure[6]) == (3, "OSError: 2", 2)
    assert (report.tallies[0].failed, report.tallies[0].succeeded) == (1, 0)


def test_attempts_with_dead_workers_count():
    _, report = fill(stream_of(flaky(5), retries=2, attempts=2))
    assert report.failures[0][6] == 3


@pytest.mark.parametrize("how", ["yielded", "raised"])
def test_a_kill_switch_is_no_value(how):
    def give(x):
        yield 1
        if how == "raised":
            raise KillSwitch("enough")
        yield KillSwitch("enough")

    with pytest.raises(Killed):
        fill(stream_of(give, retries=3))


def test_only_the_time_in_which_it_runs_counts(monkeypatch):
    now = 100.0
    monkeypatch.setattr(streams.time, "perf_counter", lambda: now)

    def give(x):
        nonlocal now
        for number in range(3):
            now += 1.0
            yield number

    slot = Slot()
    stream = stream_of(give, slot=slot, timeout=5)
    for _ in range(3):
        assert fill(stream, budget=1)[0] is False
        now += 400.0  # it lies aside
    assert [attempt for attempt in slot.attempts if attempt] == [(0, 1, 5.0), (0, 1, 4.0), (0, 1, 3.0)]


def test_another_attempt_has_its_time_afresh(monkeypatch):
    now = 100.0
    monkeypatch.setattr(streams.time, "perf_counter", lambda: now)

    def give(x):
        nonlocal now
        now += 3.0
        yield 1
        raise OSError

    slot = Slot()
    stream = stream_of(give, slot=slot, timeout=5, retries=1)
    assert fill(stream, budget=1)[0] is False
    assert fill(stream)[0] is True
    assert [attempt for attempt in slot.attempts if attempt] == [(0, 1, 5.0), (0, 1, 2.0), (0, 2, 5.0)]


def test_a_late_stream_is_closed_and_fails(monkeypatch):
    closed = []

    def give(x):
        try:
            yield 1
            yield 2
        finally:
            closed.append(x)

    slot = Slot()
    slot.end_attempt = lambda: True
    ended, report = fill(stream_of(give, slot=slot, timeout=5), budget=1)
    assert (ended, closed) == (True, [0])
    assert report.failures[0][7] == "timed out"


def test_a_late_stream_of_a_watched_process_waits_for_its_end():
    slot = Slot()
    slot.end_attempt = lambda: True
    (step,) = Chain([stage(three, timeout=5, retries=3)], 0).steps
    waited = []
    where = site(slot, pause=lambda seconds: waited.append(seconds) or True)
    watched = type(where)(slot, where.is_cancelled, where.pause, where.cancel_fd, is_watched=True)
    report = Report([Tally()])
    with pytest.raises(Stopped):
        Stream(step, 0, watched, skip=0, attempts=0).fill(report, 3, 0, FOR_EVER, 100)
    assert waited == [None]
    assert report.failures == []


def test_an_async_generator_is_drained_on_the_stages_loop():
    async def give(x):
        yield x
        yield x + 1

    chain = Chain([stage(give)], 0)
    stream = Stream(chain.steps[0], 5, site(), skip=0, attempts=0)
    assert fill(stream, budget=1)[1].results == [5]
    assert fill(stream)[1].results == [6]
    stream.close()
    assert chain.close() == []
