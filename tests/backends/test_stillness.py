"""Who is found stopped, and what follows: with fakes for workers and what the kernel tells (V1 to V5)."""

import os
import signal
import subprocess
from types import SimpleNamespace

import pytest

from mpengine.backends.stillness import LOOK_S, MOST_STOPS, Stillness, is_stopped_now

WORKER, SERVER = 4000, 5000


class Fleet:
    """One worker and a fork server, which a test stops; notes what is done to them."""

    def __init__(self):
        self.link = SimpleNamespace(worker_id=0, slot=SimpleNamespace(heartbeat_at=1.0))
        self.links = {0: self.link}
        self.stopped = set()
        self.done = []
        self.warnings = []
        self.at = 0.0
        self.pid = WORKER
        self.stillness = Stillness(self.warnings.append, self.stopped.__contains__)
        self.stillness.look(self, self.at)

    def pid_of(self, worker_id):
        assert worker_id == 0
        return self.pid

    def helpers(self):
        return [SimpleNamespace(pid=SERVER, send_signal=lambda signum: self.done.append(("server", signum)))]

    def send_signal(self, link, signum):
        assert link is self.link
        self.done.append(("worker", signum))

    def kill(self, link):
        assert link is self.link
        self.done.append(("worker", "killed"))

    def look(self, after_s=LOOK_S):
        self.at += after_s
        done, self.done = self.done, []
        self.stillness.look(self, self.at)
        done, self.done = self.done, done
        return done


@pytest.fixture
def fleet():
    fleet = Fleet()
    fleet.look()  # the heartbeat is known now
    return fleet


def test_looks_come_an_interval_apart_and_the_first_not_at_once():
    stillness = Stillness(print, lambda pid: pytest.fail(f"{pid} was looked at"))
    assert stillness.wait_s(5.0) == LOOK_S
    assert stillness.wait_s(5.0 + LOOK_S / 2) == pytest.approx(LOOK_S / 2)
    stillness.look(Fleet(), 5.0 + LOOK_S / 2)


def test_one_at_a_long_item_is_left_alone_v1(fleet):
    assert [fleet.look() for _ in range(5)] == [[]] * 5
    assert fleet.warnings == []


def test_one_that_gives_signs_of_life_is_not_even_asked_for_v1(fleet):
    fleet.stopped.add(WORKER)
    for number in range(5):
        fleet.link.slot.heartbeat_at = 10.0 + number
        assert fleet.look() == []


def test_one_that_is_stopped_at_two_looks_is_told_to_go_on_v2(fleet):
    fleet.stopped.add(WORKER)
    assert fleet.look() == []
    assert fleet.look() == [("worker", signal.SIGCONT)]
    assert fleet.warnings == ["worker 0 (process 4000) was stopped by a signal: it is told to go on"]


def test_one_that_goes_on_by_itself_in_between_is_left_alone_v2(fleet):
    for _ in range(3):
        fleet.stopped.add(WORKER)
        assert fleet.look() == []
        fleet.stopped.clear()
        assert fleet.look() == []


def test_a_look_that_comes_late_counts_as_the_first_v2(fleet):
    fleet.stopped.add(WORKER)
    assert fleet.look() == []
    assert fleet.look(after_s=100.0) == []
    assert fleet.look() == [("worker", signal.SIGCONT)]


def test_one_that_is_stopped_again_and_again_is_killed_v3(fleet):
    fleet.stopped.add(WORKER)
    done = [what for _ in range(2 * MOST_STOPS + 2) for what in fleet.look()]
    assert done == [*[("worker", signal.SIGCONT)] * MOST_STOPS, ("worker", "killed")]
    assert "it is replaced" in fleet.warnings[-1]


def test_what_a_process_did_is_not_held_against_the_next_in_its_slot_v3(fleet):
    fleet.stopped.update({WORKER, WORKER + 1})
    for _ in range(2 * MOST_STOPS):
        fleet.look()
    fleet.pid = WORKER + 1
    fleet.look()
    done = [what for _ in range(3) for what in fleet.look()]
    assert done == [("worker", signal.SIGCONT)]


def test_the_fork_server_is_always_told_to_go_on_v4(fleet):
    fleet.stopped.add(SERVER)
    done = [what for _ in range(20) for what in fleet.look()]
    assert done == [("server", signal.SIGCONT)] * 10


def test_a_worker_without_a_process_is_passed_over(fleet):
    fleet.pid = None
    fleet.stopped.add(None)
    assert fleet.look() == fleet.look() == []


def test_the_kernel_is_asked():
    with subprocess.Popen(["sleep", "60"]) as process:
        assert not is_stopped_now(process.pid)
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        assert is_stopped_now(process.pid)
        process.kill()
    assert not is_stopped_now(process.pid)
