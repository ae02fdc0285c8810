"""Who is looked at when, and what follows from what is seen: with fakes for workers and their memory (M1 to M5)."""

from types import SimpleNamespace

import psutil
import pytest

from mpengine.backends.memory import LOOK_S, MemoryGuard, resident_bytes
from mpengine.scheduler.events import Excess, StartFailed, WorkerBloated

LIMIT = 1000


class Fleet:
    """One worker that is what a test makes it; notes whether it was killed."""

    def __init__(self):
        self.record = SimpleNamespace(batch_id=1, position=0, batches=0)
        slot = SimpleNamespace(read=lambda: self.record)
        self.link = SimpleNamespace(worker_id=0, generation=0, slot=slot, greeted=True, items=0)
        self.links = {0: self.link}
        self.rss = 100
        self.payloads = 0
        self.kills = 0
        self.at = 0.0
        self.guard = MemoryGuard(LIMIT, lambda _pid: self.rss)

    def pid_of(self, worker_id):
        return 4000 + worker_id

    def payload_bytes(self, link):
        assert link is self.link
        return self.payloads

    def kill(self, link):
        assert link is self.link
        self.kills += 1

    def is_at(self, position, batch_id=1):
        self.record.batch_id, self.record.position = batch_id, position

    def look(self, rss):
        self.rss = rss
        self.at += LOOK_S
        return self.guard.look(self, self.at)


@pytest.fixture
def fleet():
    return Fleet()


def test_payloads_in_the_arena_do_not_count(fleet):
    fleet.payloads = 5 * LIMIT
    assert fleet.look(6 * LIMIT) == []
    fleet.payloads = 0
    assert fleet.look(6 * LIMIT) != []


def test_nobody_is_looked_at_without_a_limit(fleet):
    guard = MemoryGuard(None, lambda pid: pytest.fail(f"{pid} was measured"))
    assert guard.wait_s(5.0) is None
    assert guard.look(fleet, 5.0) == []


def test_the_next_look_comes_an_interval_later_and_no_sooner(fleet):
    assert fleet.guard.wait_s(5.0) == 0.0
    fleet.guard.look(fleet, 5.0)
    assert fleet.guard.wait_s(5.0) == pytest.approx(LOOK_S)
    fleet.rss = LIMIT + 1
    assert fleet.guard.look(fleet, 5.0 + LOOK_S / 2) == []


def test_one_that_is_over_is_told_once(fleet):
    fleet.link.items = 5
    assert fleet.look(LIMIT) == []
    fleet.is_at(1)
    assert fleet.look(LIMIT + 1) == [WorkerBloated(fleet.at, 0)]
    fleet.is_at(2)
    assert fleet.look(LIMIT + 1) == []
    fleet.link.generation += 1
    assert fleet.look(LIMIT + 1) == [WorkerBloated(fleet.at, 0)]
    assert fleet.kills == 0


def test_one_whose_first_item_stays_over_is_killed_at_the_second_look(fleet):
    assert fleet.look(100) == []
    assert fleet.look(LIMIT + 1) == [WorkerBloated(fleet.at, 0)]
    assert fleet.kills == 0
    assert fleet.look(LIMIT + 2) == []
    assert fleet.kills == 1
    assert fleet.look(LIMIT + 3) == []
    assert fleet.kills == 1
    assert fleet.guard.bury(0, 0) == Excess(LIMIT + 2, LIMIT, is_fresh=True)
    assert fleet.guard.bury(0, 0) is None


def test_an_item_that_has_ended_by_the_second_look_is_let_go(fleet):
    fleet.look(LIMIT + 1)
    fleet.is_at(1)
    fleet.look(LIMIT + 1)
    fleet.is_at(1, batch_id=2)
    fleet.look(LIMIT + 1)
    assert fleet.kills == 0


@pytest.mark.parametrize(("before", "kills"), [(LIMIT // 2, 1), (LIMIT // 2 + 2, 0)])
def test_in_a_process_that_has_done_other_items_the_item_must_have_caused_it(fleet, before, kills):
    fleet.link.items = 5
    fleet.look(before)
    fleet.is_at(1)
    fleet.look(LIMIT + 1)
    fleet.look(LIMIT + 1)
    assert fleet.kills == kills


def test_what_the_item_found_when_it_came_is_remembered_while_it_grows(fleet):
    fleet.link.items = 5
    fleet.look(100)
    fleet.is_at(1)
    for rss in (400, 700, LIMIT, LIMIT + 1, LIMIT + 2):
        fleet.look(rss)
    assert fleet.kills == 1


def test_one_that_was_given_nothing_and_is_over_ends_the_run(fleet):
    fleet.record.batch_id = None
    (event,) = fleet.look(LIMIT + 1)
    assert isinstance(event, StartFailed)
    assert "1,001 bytes of memory before its first item, over memory_limit, 1,000" in event.summary
    assert fleet.kills == 0


def test_one_that_has_done_something_and_rests_is_replaced(fleet):
    fleet.record.batch_id = None
    fleet.link.items = 3
    assert fleet.look(LIMIT + 1) == [WorkerBloated(fleet.at, 0)]
    assert fleet.look(LIMIT + 1) == []


def test_a_record_that_is_torn_convicts_nobody(fleet):
    fleet.record = None
    assert fleet.look(LIMIT + 1) == [WorkerBloated(fleet.at, 0)]
    assert fleet.look(LIMIT + 1) == []
    assert fleet.kills == 0


def test_one_that_has_not_said_hello_or_is_gone_is_passed_over(fleet):
    fleet.link.greeted = False
    assert fleet.look(LIMIT + 1) == []
    fleet.link.greeted = True

    def measure(pid):
        raise psutil.NoSuchProcess(pid)

    assert MemoryGuard(LIMIT, measure).look(fleet, 1.0) == []


def test_resident_memory_is_that_of_the_process():
    held = b"z" * (32 << 20)
    assert resident_bytes(psutil.Process().pid) > len(held)
