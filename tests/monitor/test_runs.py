"""The runs of this machine as others find them: the living, the dead, and those that nobody here can see."""

import os
import time

import pytest

from mpengine import runs
from mpengine.metrics import Snapshot, StageMetrics, WorkerMetrics
from mpengine.monitor.entries import RunFigures, pack
from mpengine.monitor.folder import Folder
from mpengine.processes.identity import machine_mark
from mpengine.runs import GoneError, NoSuchRunError, attach, clear_dead, find_run, known_runs, snapshot_of


@pytest.fixture
def put(listed, make_entry):
    """Put an entry on the list."""

    def put_one(run_id, figures=None, **changes):
        entry = make_entry(run_id=run_id, **changes)
        with Folder(str(listed), make=True) as opened:
            opened.make(f"{run_id}.run", pack(entry, figures or RunFigures(state="running")))
        return entry

    return put_one


def names():
    return [run.run_id for run in known_runs()]


def age(listed, name, seconds):
    at = time.time() - seconds
    os.utime(listed / name, (at, at))


def test_runs_are_known_the_oldest_first(put):
    put("late", began_at=20.0)
    put("soon", began_at=10.0)
    assert names() == ["soon", "late"]


def test_n3_a_number_that_another_process_has_now_is_a_dead_run(put, make_entry):
    put("this")
    put("past", start=make_entry().start + 1)
    put("gone", pid=2**22 + 1)
    assert {run.run_id: run.is_alive for run in known_runs()} == {"this": True, "past": False, "gone": False}


def test_n3_what_ran_before_the_machine_was_started_anew_is_dead_and_what_a_container_has_nobody_knows(put):
    boot, _, numbering = machine_mark().partition(" ")
    put("past", machine=f"another {numbering}")
    put("away", machine=f"{boot} 1")
    assert {run.run_id: run.is_alive for run in known_runs()} == {"past": False, "away": None}


def test_what_cannot_be_read_is_no_run(put, listed):
    put("good")
    (listed / "half.run").write_bytes(b"00000000 {")
    (listed / "note.txt").write_text("not ours")
    (listed / "link.run").symlink_to(listed / "good.run")
    assert names() == ["good"]


def test_a_run_is_found_by_its_name_its_beginning_and_its_process(put):
    put("kd4q", pid=2**22 + 1)
    put("kd7x")
    assert find_run("kd4q").run_id == "kd4q"
    assert find_run("kd4").run_id == "kd4q"
    assert find_run(str(os.getpid())).run_id == "kd7x"
    assert find_run().run_id == "kd7x"  # the other one is dead


@pytest.mark.parametrize("wanted", ["kd", None])
def test_where_several_could_be_meant_they_are_named(wanted, put):
    put("kd4q")
    put("kd7x")
    with pytest.raises(NoSuchRunError, match="more than one") as caught:
        find_run(wanted)
    assert [run.run_id for run in caught.value.candidates] == ["kd4q", "kd7x"]


@pytest.mark.parametrize("wanted", ["x", "", None])
def test_where_none_is_meant_that_is_said(wanted, put):
    put("dead", start=0.0)
    with pytest.raises(NoSuchRunError, match=r"there is no run|no run goes on"):
        find_run(wanted)


def test_the_dead_are_kept_for_a_day_or_until_they_are_cleared_away(put, listed):
    put("live")
    put("dead", start=0.0)
    put("aged", start=0.0)
    for name in ("live.run", "aged.run"):
        age(listed, name, runs.KEPT_S + 60)
    assert clear_dead(runs.KEPT_S) == 1
    assert set(names()) == {"live", "dead"}
    assert clear_dead() == 1
    assert names() == ["live"]


def test_what_is_about_to_be_written_is_not_cleared_away(listed):
    with Folder(str(listed), make=True) as opened:
        opened.make("new.run", b"")
        opened.make("old.run", b"")
    (listed / "note.txt").write_text("not ours")
    age(listed, "old.run", 60)
    assert clear_dead() == 1
    assert {path.name for path in listed.iterdir()} == {"new.run", "note.txt"}


def test_a_folder_with_nothing_but_the_dead_goes_with_them(put, listed):
    put("dead", start=0.0)
    clear_dead()
    assert not listed.exists()
    assert clear_dead() == 0
    assert known_runs() == ()


def test_a_run_that_is_over_by_now_cannot_be_attached_to(put, listed):
    put("over")
    run = find_run()
    (listed / "over.run").unlink()
    with pytest.raises(GoneError, match="run over is over"):
        attach(run)


def test_n2_a_board_that_is_not_there_is_told_and_the_last_note_is_still_read(put):
    put("lone", RunFigures(state="cancelling", reason="enough", delivered=3))
    with attach(find_run()) as watch:
        with pytest.raises(GoneError, match="run lone does not answer: ConnectionRefusedError"):
            watch.look()
        assert watch.noted().reason == "enough"
        assert watch.is_alive()
    watch.close()
    with pytest.raises(GoneError, match="cannot be read"):
        watch.noted()


class Board:
    """Answers when it is told to."""

    def __init__(self, answers, *, is_waiting=True):
        self.answers = answers
        self.is_waiting = is_waiting
        self.asked = []

    def look(self, seen, wait_s):
        run_id, state = self.answers.pop(0)
        return {"run_id": run_id, "number": seen + 1, "age_s": 0.0, "figures": {"state": state}, "sights": None}

    def ask(self, run_id, kind, text):
        self.asked.append((run_id, kind, text))
        return 1

    def fetch(self, number, wait_s):
        return self.answers.pop(0) if self.answers else None

    def withdraw(self, number):
        return self.is_waiting


@pytest.fixture
def watch(put):
    put("kd4q")
    with attach(find_run()) as watch:
        yield watch


def test_what_the_run_before_has_left_on_the_board_is_not_taken_for_this_one(watch):
    watch._board = Board([("", "idle"), ("kd3x", "finished"), ("kd4q", "running")])
    assert watch.look().snapshot.state == "running"


def test_a_run_that_says_nothing_of_itself_is_given_up(watch, monkeypatch):
    monkeypatch.setattr(runs, "ANSWER_S", -1.0)
    watch._board = Board([("kd3x", "finished")])
    with pytest.raises(GoneError, match="has told nothing yet"):
        watch.look()


def test_who_asks_waits_until_the_run_has_heard(watch):
    watch._board = board = Board([None, None, "cancelled"])
    assert watch.cancel("enough")
    assert watch.cancel("now", at_once=True, patience_s=0) is False
    assert board.asked == [("kd4q", "cancel", "enough"), ("kd4q", "cancel at once", "now")]


def test_a_wish_that_nobody_hears_is_taken_back(watch):
    watch._board = Board([])
    assert watch.cancel("enough", patience_s=0) is False
    assert watch.parent_stacks(patience_s=0) is None


def test_a_wish_that_is_being_heard_when_patience_ends_is_waited_for(watch):
    watch._board = Board([None, None, "cancelled"], is_waiting=False)
    assert watch.cancel("enough", patience_s=0)


def test_a_snapshot_is_the_same_when_it_has_been_plain():
    snapshot = Snapshot((StageMetrics("parse", processed=3),), (WorkerMetrics(0, 12, "busy"),), "running", None, 1.5)
    assert snapshot_of({**snapshot.as_dict(), "what a later version has": 1}) == snapshot
    assert snapshot_of({}) == Snapshot()
