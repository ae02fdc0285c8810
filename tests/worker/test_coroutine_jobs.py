"""The items of one job that are under way at once: begun as others end, reported in order, ended by a cancel."""

import asyncio
import os

import pytest
from job_sites import Slot, site

from mpengine import stage
from mpengine.worker.chain import Chain, Killed, KillSwitch, Stopped
from mpengine.worker.coroutines import PATIENCE, Coroutines

FOR_EVER = float("inf")


class Bench:
    """A stage and its coroutines, with gates that a test opens."""

    def __init__(self, function, slot=None, *, is_alone=False, cancel_fd=None, **options):
        self.chain = Chain([stage(function, **options)], 0)
        self.at = site(slot, cancel_fd=cancel_fd)
        self.coroutines = Coroutines(self.chain.steps[0], self.at, is_alone=is_alone)

    def go_on(self, items, first=0, until=FOR_EVER):
        return [
            (value, type(error).__name__ if error else None, tries)
            for value, error, tries in self.coroutines.go_on(items, first, until)
        ]

    def close(self):
        self.coroutines.close()
        assert self.chain.close() == []


@pytest.fixture
def bench():
    made = []

    def make(*args, **options):
        made.append(Bench(*args, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def waiting(*items, attempts=0):
    return iter([(place, item, attempts) for place, item in enumerate(items)])


async def double(x):
    await asyncio.sleep(0)
    return 2 * x


@pytest.mark.parametrize("concurrency", [1, 2, 10])
def test_all_are_run_and_reported_in_order(bench, concurrency):
    outcomes = bench(double, concurrency=concurrency).go_on(waiting(1, 2, 3))
    assert outcomes == [(2, None, 1), (4, None, 1), (6, None, 1)]


def test_no_more_than_concurrency_are_begun(bench):
    present, most = 0, 0

    async def count(x):
        nonlocal present, most
        present += 1
        most = max(most, present)
        await asyncio.sleep(0)
        present -= 1

    bench(count, concurrency=3).go_on(waiting(*range(20)))
    assert most == 3


def test_one_that_is_finished_waits_for_what_came_before_it(bench):
    """At the report's time the second is finished and the first is not: nothing is reported until it is."""
    gate = []

    async def wait(x):
        if x == 0:
            await gate[0].wait()
        else:
            gate[0].set()
        return x

    def make(state):
        gate.append(asyncio.Event())

    assert bench(wait, concurrency=2, setup=make).go_on(waiting(0, 1), until=0.0)[0] == (0, None, 1)


def test_when_it_is_time_to_report_what_is_under_way_stands_still(bench):
    """The first is finished; the second goes on with the next call, where it left off."""
    steps = []

    async def walk(x):
        if x == 1:
            for number in range(50):
                steps.append(number)
                await asyncio.sleep(0)
        return x

    made = bench(walk, concurrency=2)
    assert made.go_on(waiting(0, 1), until=0.0) == [(0, None, 1)]
    assert len(steps) < 50
    assert made.go_on(waiting(), first=1) == [(1, None, 1)]
    assert steps == list(range(50))


def test_a_careful_job_runs_one_at_a_time(bench):
    begun = []

    async def note(x):
        begun.append(x)

    made = bench(note, concurrency=10, is_alone=True)
    items = waiting(5, 6)
    made.go_on(items)
    assert begun == [5]
    made.go_on(items, first=1)
    assert begun == [5, 6]


def test_errors_and_attempts_are_told(bench):
    async def fail(x):
        raise ValueError(x)

    assert bench(fail, retries=2).go_on(waiting(1)) == [(None, "ValueError", 3)]
    assert bench(fail, retries=2).go_on(waiting(1, attempts=2)) == [(None, "ValueError", 3)]


def test_a_kill_switch_ends_it(bench):
    async def kill(x):
        return KillSwitch("enough")

    with pytest.raises(Killed, match="enough"):
        bench(kill, concurrency=3).go_on(waiting(1, 2, 3))


def test_the_cancel_pipe_interrupts_a_wait_and_coroutines_may_clean_up(bench):
    read_fd, write_fd = os.pipe()
    cleaned = []

    async def wait(x):
        if x == 1:
            os.write(write_fd, b"!")
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            cleaned.append(x)
            raise

    made = bench(wait, concurrency=2, cancel_fd=read_fd, retries=5)
    with pytest.raises(Stopped):
        made.go_on(waiting(0, 1, 2))
    assert cleaned == []
    made.coroutines.close()
    assert sorted(cleaned) == [0, 1]
    os.close(read_fd)
    os.close(write_fd)


def test_the_slot_tells_when_the_oldest_call_is_to_be_ended(bench):
    slot = Slot()
    bench(double, slot, concurrency=2, timeout=10, is_alone=True).go_on(waiting(1, attempts=3))
    (begun,) = {(stage, attempt) for entry in slot.attempts if entry for stage, attempt, _ in [entry]}
    assert begun == (0, 4)
    assert all(0 < entry[2] <= PATIENCE * 10 for entry in slot.attempts if entry)
    assert slot.attempts[-1] is None


def test_nothing_is_timed_while_an_item_waits_for_its_next_attempt(bench):
    slot, seen = Slot(), []

    async def fail(x):
        asyncio.get_running_loop().call_soon(lambda: seen.append(slot.attempts[-1]))
        raise OSError(x)

    from mpengine import Retry

    bench(fail, slot, timeout=10, retries=Retry(1, backoff_s=0.01)).go_on(waiting(1))
    assert seen == [None, None]


def test_a_watched_process_that_is_to_be_ended_begins_nothing_more(bench):
    slot, waited = Slot(), []
    made = bench(double, slot, timeout=10)
    where = made.at
    made.coroutines._site = type(where)(
        slot, where.is_cancelled, lambda seconds: waited.append(seconds) or True, where.cancel_fd, is_watched=True
    )
    slot.end_attempt = lambda: bool(slot.attempts)
    with pytest.raises(Stopped):
        made.go_on(waiting(1, 2))
    assert waited == [None]
    slot.end_attempt = lambda: False


def test_closing_what_has_ended_is_nothing(bench):
    made = bench(double)
    made.go_on(waiting(1))
    made.coroutines.close()
    made.coroutines.close()
