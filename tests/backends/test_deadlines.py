"""Who looks at whose clock when: with fakes for workers and time, so that no test waits (D1 to D3)."""

from types import SimpleNamespace

import pytest

from mpengine.backends.deadlines import DUMP_S, Deadlines
from mpengine.ipc.lastwords import DUMP


class Fleet:
    """Workers whose slots say what a test makes them say; notes what is done to them."""

    def __init__(self, *worker_ids):
        self.links = {number: self.link(number) for number in worker_ids}
        self.done = []

    @staticmethod
    def link(number, generation=0):
        return SimpleNamespace(worker_id=number, generation=generation, slot=SimpleNamespace(deadline_at=0.0))

    def send_signal(self, link, signum):
        self.done.append(("signal", link.worker_id, signum))

    def kill(self, link):
        self.done.append(("kill", link.worker_id))

    def is_due(self, number, at):
        self.links[number].slot.deadline_at = at


@pytest.fixture
def deadlines():
    return Deadlines()


def test_nobody_is_looked_at_while_nothing_is_timed(deadlines):
    assert deadlines.wait_s(5.0) is None


def test_a_worker_is_looked_at_one_timeout_after_it_was_sent_its_batch(deadlines):
    deadlines.watch(0, 7, 2.0, 10.0)
    assert deadlines.wait_s(10.5) == 1.5
    assert deadlines.wait_s(13.0) == 0.0


def test_one_that_is_in_a_later_call_by_then_is_looked_at_when_that_is_due(deadlines):
    fleet = Fleet(0)
    deadlines.watch(0, 7, 2.0, 10.0)
    fleet.is_due(0, 13.5)
    deadlines.enforce(fleet, 12.0)
    assert (fleet.done, deadlines.wait_s(12.0)) == ([], 1.5)


def test_one_that_is_in_no_call_is_looked_at_a_timeout_later(deadlines):
    """What has begun meanwhile cannot be due before."""
    fleet = Fleet(0)
    deadlines.watch(0, 7, 2.0, 10.0)
    deadlines.enforce(fleet, 12.0)
    assert (fleet.done, deadlines.wait_s(12.0)) == ([], 2.0)


def test_nobody_is_looked_at_before_the_time(deadlines):
    fleet = Fleet(0)
    fleet.is_due(0, 10.5)
    deadlines.watch(0, 7, 2.0, 10.0)
    deadlines.enforce(fleet, 11.9)
    assert fleet.done == []


def test_an_overdue_worker_is_asked_for_its_frames_and_then_killed(deadlines):
    fleet = Fleet(0)
    deadlines.watch(0, 7, 2.0, 10.0)
    fleet.is_due(0, 12.0)
    deadlines.enforce(fleet, 12.0)
    assert fleet.done == [("signal", 0, DUMP)]
    assert deadlines.wait_s(12.0) == pytest.approx(DUMP_S)
    deadlines.enforce(fleet, 12.0 + DUMP_S / 2)
    assert len(fleet.done) == 1
    deadlines.enforce(fleet, 12.0 + DUMP_S)
    assert fleet.done[1:] == [("kill", 0)]
    assert deadlines.bury(0, 0)
    assert deadlines.wait_s(12.5) is None


def test_one_whose_call_has_ended_in_the_last_moment_is_spared(deadlines):
    fleet = Fleet(0)
    deadlines.watch(0, 7, 2.0, 10.0)
    fleet.is_due(0, 12.0)
    deadlines.enforce(fleet, 12.0)
    for ends, look_s in ((0.0, 2.0), (13.0, 1.0 - DUMP_S)):
        fleet.is_due(0, ends)
        deadlines.enforce(fleet, 12.0 + DUMP_S)
        assert fleet.done == [("signal", 0, DUMP)]
        if ends == 0.0:
            assert deadlines.wait_s(12.0 + DUMP_S) == look_s
    assert not deadlines.bury(0, 0)


def test_another_call_that_is_overdue_is_asked_for_its_own_frames_first(deadlines):
    fleet = Fleet(0)
    deadlines.watch(0, 7, 0.01, 10.0)
    fleet.is_due(0, 10.01)
    deadlines.enforce(fleet, 10.01)
    fleet.is_due(0, 10.05)
    deadlines.enforce(fleet, 10.2)
    assert fleet.done == [("signal", 0, DUMP)] * 2


def test_the_shortest_timeout_of_what_a_worker_has_counts(deadlines):
    fleet = Fleet(0)
    deadlines.watch(0, 7, 60.0, 10.0)
    deadlines.watch(0, 8, 1.0, 10.0)
    assert deadlines.wait_s(10.0) == 1.0
    deadlines.enforce(fleet, 11.0)
    assert deadlines.wait_s(11.0) == 1.0
    deadlines.forget(0, 8)
    deadlines.enforce(fleet, 12.0)
    assert deadlines.wait_s(12.0) == 60.0


def test_a_worker_that_is_done_with_all_that_was_timed_is_forgotten(deadlines):
    deadlines.watch(0, 7, 1.0, 10.0)
    deadlines.watch(1, 8, 5.0, 10.0)
    deadlines.forget(0, 7)
    deadlines.forget(0, 7)
    assert deadlines.wait_s(10.0) == 5.0


def test_each_worker_is_ended_for_itself(deadlines):
    fleet = Fleet(0, 1)
    deadlines.watch(0, 7, 1.0, 10.0)
    deadlines.watch(1, 8, 1.0, 10.0)
    fleet.is_due(0, 10.5)
    fleet.is_due(1, 20.0)
    deadlines.enforce(fleet, 11.0)
    deadlines.enforce(fleet, 11.0 + DUMP_S)
    assert fleet.done == [("signal", 0, DUMP), ("kill", 0)]
    assert (deadlines.bury(0, 0), deadlines.bury(1, 0)) == (True, False)


def test_a_kill_counts_for_that_process_and_not_for_its_successor(deadlines):
    fleet = Fleet(0)
    deadlines.watch(0, 7, 1.0, 10.0)
    fleet.is_due(0, 10.5)
    deadlines.enforce(fleet, 11.0)
    deadlines.enforce(fleet, 11.0 + DUMP_S)
    assert not deadlines.bury(0, 1)
    assert deadlines.bury(0, 0)
    assert not deadlines.bury(0, 0)
