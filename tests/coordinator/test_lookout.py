"""What others get to see of a run and may ask of it: staged with a board that is a desk in this very process."""

import os
import threading
import time

import pytest

from mpengine.coordinator import publishing
from mpengine.coordinator.lookout import Lookout, own_stacks
from mpengine.coordinator.publishing import HEED_S, Publisher
from mpengine.metrics import Snapshot, StageMetrics
from mpengine.monitor.board import BoardAddress
from mpengine.monitor.desk import Desk
from mpengine.monitor.sights import Sights, WorkerSight
from mpengine.runs import KEPT_S, KnownRun, known_runs

PATIENCE_S = 20.0
WHERE = BoardAddress("\0nowhere", b"key")
RUNNING = Snapshot((StageMetrics("parse", failed=2),), state="running", elapsed_s=3.0, delivered=5)


class Sightings:
    total = 12
    fans_out = False

    def __init__(self):
        self.asked = 0
        self.found = Sights(workers=(WorkerSight(worker_id=0, stage=0, item=7),), bottleneck="parse is the bottleneck")

    def ask(self, timeout_s):
        self.asked += 1
        return self.found


class Run:
    def __init__(self):
        self.sightings = Sightings()
        self.done = []

    def cancel(self, reason):
        self.done.append(reason)

    def hurry(self):
        self.done.append("hurry")


class Scribe:
    def __init__(self):
        self.lines = []

    def note(self, level, text, *args):
        self.lines.append(text % args)


class Counting(Desk):
    """A desk that knows how often it was called."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def publish(self, *args):
        self.calls += 1
        return super().publish(*args)


@pytest.fixture
def listed(tmp_path, monkeypatch):
    monkeypatch.setenv("MPENGINE_RUNTIME_DIR", str(tmp_path / "listed"))
    return tmp_path / "listed"


@pytest.fixture
def desk():
    return Counting()


@pytest.fixture
def run():
    return Run()


@pytest.fixture
def scribe():
    return Scribe()


@pytest.fixture
def lookout(run, scribe, listed):
    return Lookout(run, 0.5, scribe)


def publish(lookout, desk, *, is_due=True):
    lookout.publish(desk, WHERE, lambda: RUNNING, is_due=is_due)
    return known_runs()[0].run_id if known_runs() else ""


def test_v1_and_k3_a_run_that_nobody_watches_makes_one_call_and_looks_at_no_worker(lookout, desk, run):
    for _ in range(3):
        publish(lookout, desk)
    assert (desk.calls, run.sightings.asked) == (3, 0)
    assert desk == RUNNING.as_dict()


def test_k3_who_has_just_come_is_shown_the_workers_at_once(lookout, desk, run):
    publish(lookout, desk)
    assert desk.look()["sights"] is None
    publish(lookout, desk, is_due=False)
    assert Sights.from_dict(desk.look()["sights"]) == run.sightings.found


def test_a_loop_that_has_no_time_is_no_reason_to_publish_nothing(lookout, desk, run):
    run.sightings.found = None
    desk.look()
    publish(lookout, desk)
    assert (desk.look()["sights"], desk["state"]) == (None, "running")


def test_a_run_is_listed_with_its_first_snapshot_and_taken_off_with_its_last(lookout, desk, listed):
    publish(lookout, desk)
    (known,) = known_runs()
    assert isinstance(known, KnownRun)
    assert (known.entry.stages, known.entry.total, known.entry.address) == (("parse",), 12, WHERE.address)
    assert (known.figures.failed, known.figures.delivered, known.is_alive) == (2, 5, True)
    lookout.end(RUNNING)
    lookout.remove()
    assert not listed.exists()


def test_who_is_listed_forgets_those_that_were_killed_long_ago(lookout, desk, listed):
    listed.mkdir(mode=0o700)
    for name, age_s in (("kd4q.run", KEPT_S + 60), ("kd7x.run", 60)):
        (listed / name).write_bytes(b"of a coordinator that was killed")
        os.utime(listed / name, (time.time() - age_s,) * 2)
    name = publish(lookout, desk)
    assert {path.name for path in listed.iterdir()} == {"kd7x.run", f"{name}.run"}
    lookout.remove()


def test_k1_a_run_whose_end_was_never_told_is_taken_off_all_the_same(lookout, desk, listed):
    lookout.remove()
    publish(lookout, desk)
    lookout.remove()
    assert not listed.exists()
    publish(lookout, desk)  # the publisher's thread was at it meanwhile
    assert not listed.exists()


def test_k1_a_run_that_ends_while_it_is_being_listed_for_the_first_time_is_not(lookout, desk, listed, monkeypatch):
    enter = lookout._enter

    def enter_late(*args):
        lookout.remove()  # by another thread, which finds nothing to take off the list
        return enter(*args)

    monkeypatch.setattr(lookout, "_enter", enter_late)
    publish(lookout, desk)
    assert not listed.exists()


def test_k2_a_folder_that_cannot_be_written_to_is_one_line(lookout, desk, scribe, listed):
    listed.write_text("no folder")
    for _ in range(3):
        assert publish(lookout, desk) == ""
    assert len(scribe.lines) == 1
    assert scribe.lines[0].startswith("the run goes on, and is in no list of runs: NotADirectoryError: ")
    lookout.remove()


def test_k4_what_is_asked_is_done_and_answered(lookout, desk, run):
    name = publish(lookout, desk)
    numbers = [desk.ask(name, "cancel", "enough"), desk.ask(name, "cancel at once", "now"), desk.ask(name, "stacks")]
    publish(lookout, desk, is_due=False)
    assert run.done == ["enough", "now", "hurry"]
    answers = [desk.fetch(number) for number in numbers]
    assert answers[:2] == ["cancelled", "cancelled"]
    assert "test_k4_what_is_asked" in answers[2]


def test_k4_what_makes_no_sense_is_let_be(lookout, desk, run):
    name = publish(lookout, desk)
    for ask in [(1, name, "explode", ""), (1, name), ("x", name, "cancel", "y"), (1, name, "cancel", None), None, 7]:
        desk._asks[1] = ask if isinstance(ask, tuple) and len(ask) > 1 else (ask, name)
        publish(lookout, desk)
    assert run.done == []


def test_who_has_changed_something_sees_it_at_once(lookout, desk, run):
    name = publish(lookout, desk)
    desk.ask(name, "cancel", "enough")
    before = desk.look()["number"]
    publish(lookout, desk, is_due=False)
    assert desk.look()["number"] > before


def test_where_threads_are_is_told_the_main_one_first():
    gate = threading.Event()
    other = threading.Thread(target=gate.wait, name="the other one", daemon=True)
    other.start()
    told = own_stacks()
    gate.set()
    other.join(PATIENCE_S)
    assert told.startswith("thread MainThread\n")
    assert told.index("thread the other one") > told.index("test_where_threads_are")


# ---------------------------------------------------------------------- with the publisher


class Process:
    where = WHERE

    def bury(self):
        return True


@pytest.fixture
def publisher(monkeypatch, desk, scribe, listed):
    monkeypatch.setattr(publishing, "END_S", PATIENCE_S)
    made = Publisher(0.001, scribe)
    made._board, made._process = desk, Process()
    yield made
    made.close()


def wait_until(condition):
    deadline_at = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline_at
        time.sleep(0.001)
    return found


def test_each_run_of_an_engine_has_a_name_of_its_own_and_hears_what_is_asked_of_it(publisher, desk):
    names = []
    for reason in ("first", "second"):
        run = Run()
        publisher.begin(lambda: RUNNING, run)
        (known,) = wait_until(known_runs)
        names.append(known.run_id)
        desk.ask(known.run_id, "cancel", reason)
        wait_until(lambda run=run: run.done)
        publisher.end(RUNNING)
        assert known_runs() == ()
        assert run.done == [reason]
    assert names[0] != names[1]


def test_a_last_snapshot_that_comes_late_takes_its_own_run_off_the_list_and_not_the_next_one(publisher, monkeypatch):
    monkeypatch.setattr(publishing, "END_S", 0.0)
    publisher.begin(lambda: RUNNING, Run())
    (first,) = wait_until(known_runs)
    publisher._take_turn = lambda: None  # the thread has no time
    publisher.end(RUNNING)
    publisher.begin(lambda: RUNNING, second := Run())
    del publisher._take_turn
    publisher._wake.set()
    wait_until(lambda: len(known_runs()) == 1 and known_runs()[0].run_id != first.run_id)
    assert second.done == []


def test_what_is_asked_is_looked_for_between_two_snapshots_that_are_far_apart(desk, scribe, listed):
    publisher = Publisher(1000.0, scribe)
    publisher._board, publisher._process = desk, Process()
    run = Run()
    publisher.begin(lambda: RUNNING, run)
    publisher._due_at = 0.0
    publisher._take_turn()
    assert publisher._due_at - time.monotonic() <= HEED_S
    name = known_runs()[0].run_id
    desk.ask(name, "cancel", "enough")
    publisher._due_at = 0.0
    publisher._take_turn()
    assert run.done == ["enough"]
    assert desk._number == 2  # the second, since something had changed
    publisher.close()
    assert known_runs() == ()
