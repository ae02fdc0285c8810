"""What the page is told of a run: enough, and never more than so much."""

import json

import pytest

from mpengine.dashboard import history
from mpengine.dashboard.history import History, cut, trouble
from mpengine.metrics import Snapshot, StageMetrics, WorkerMetrics

OUTLINE = [{"chain": 0, "after": []}]


def snapshot(at, done=0, failed=0, states=("busy",), deaths=(0,), state="running"):
    return Snapshot(
        stages=(StageMetrics("work", buffer=8, queued=3, processed=done + failed, failed=failed, busy_s=at / 2),),
        workers=tuple(
            WorkerMetrics(number, 100 + number, worker_state, items=done, busy_s=at / 2, deaths=died)
            for number, (worker_state, died) in enumerate(zip(states, deaths, strict=True))
        ),
        state=state,
        elapsed_s=at,
        source_items=done + failed,
        delivered=done,
    )


def fields(**changes):
    return {
        "kind": "item", "at_s": 0.0, "stage": 0, "worker_id": 0, "index": 7, "summary": "ValueError: no", "item": "7",
        "traceback": "Traceback", "attempts": 1, **changes,
    }  # fmt: skip


@pytest.fixture
def told():
    told = History()
    told.begin(1, OUTLINE)
    return told


class Page:
    """What a page makes of what it is told, as ``page/`` does."""

    def __init__(self):
        self.points, self.columns, self.troubles = [], [], []

    def take(self, told):
        chart = told["chart"]
        self.points = chart["points"] if chart["anew"] else self.points + chart["points"]
        self.columns = (told["columns"] if told["full"] else self.columns + told["columns"])[-history.COLUMNS :]
        self.troubles = (told["troubles"] if told["full"] else self.troubles + told["troubles"])[-history.TROUBLES :]

    def knows(self):
        return self.points, self.columns, self.troubles


def test_before_the_first_run_there_is_nothing_to_tell():
    assert History().step() == {
        "full": True, "run": 0, "state": "idle", "ending": None, "stages": [], "workers": [],
        "chart": {"anew": True, "points": []}, "columns": [], "troubles": [],
    }  # fmt: skip


def test_a_page_that_follows_every_step_knows_what_one_knows_that_is_told_everything(told):
    follower = Page()
    for second in range(1, 3 * history.POINTS):
        told.see(snapshot(float(second), done=10 * second), {}, {})
        if second % 7 == 0:
            told.add_troubles([trouble(fields(index=second))])
        if second % 3 == 0:
            follower.take(told.step())
    follower.take(told.step())
    late = Page()
    late.take(told.full())

    assert follower.knows() == late.knows()


def test_however_long_a_run_is_what_is_told_of_it_stays_as_large_as_it_was(told):
    told.begin(1, OUTLINE * 1000)
    sizes = []
    for second in range(1, 1000):
        shot = snapshot(float(second), done=1000 * second, states=("busy",) * 70, deaths=(0,) * 70)
        told.see(shot, {}, {})
        told.add_troubles([trouble(fields(traceback="x" * 100_000, summary="y" * 10_000, item="z" * 10_000))])
        if second > 500 and second % 100 == 0:
            sizes.append(len(json.dumps(told.full())))
    full = told.full()

    assert max(sizes) < 1.05 * min(sizes)
    assert len(full["chart"]["points"]) <= history.POINTS
    assert len(full["columns"]) == history.COLUMNS
    assert len(full["troubles"]) == history.TROUBLES
    assert (len(full["workers"]), full["workers_in_all"]) == (history.ROWS, 70)
    assert len(full["outline"]) == history.STAGES


def test_points_that_are_merged_tell_the_same_throughput_over_twice_the_time(told):
    for second in range(1, history.POINTS + 1):
        told.see(snapshot(float(second), done=30 * second, failed=2 * second), {}, {})
    points = told.full()["chart"]["points"]

    assert [point[0] for point in points] == [float(at) for at in range(2, history.POINTS + 1, 2)]
    assert {tuple(point[1:]) for point in points} == {(32.0, 30.0, 2.0)}


def test_rates_are_those_of_the_last_seconds(told):
    for second in range(1, 11):
        told.see(snapshot(float(second), done=1000 if second < 6 else 1000 + 10 * (second - 5)), {}, {})
    present = told.step()

    assert present["per_s"] == present["stages"][0]["per_s"] == 10.0
    assert present["stages"][0]["busy"] == 0.5


def test_a_column_tells_of_each_worker_where_it_was_and_how_long_it_was_at_work(told):
    for quarter, first in enumerate(("busy", "busy", "idle", "idle"), 1):
        states = (first, "busy", "starting", "absent", "leaving", "idle")
        told.see(snapshot(quarter / 4, states=states, deaths=(0, 0, 0, 0, 0, quarter // 4)), {}, {0: 1, 1: 2})

    assert told.step()["columns"] == [("49salx", "120000")]


def test_another_run_is_told_from_its_beginning(told):
    told.see(snapshot(5.0, done=100), {}, {})
    told.add_troubles([trouble(fields())])
    told.end({"is_ok": True, "cause": None, "advice": "none"})
    told.step()
    told.begin(2, OUTLINE)
    told.see(snapshot(1.0, done=1), {}, {})
    step = told.step()

    assert (step["full"], step["run"], step["delivered"]) == (True, 2, 1)
    assert (step["troubles"], step["ending"], len(step["chart"]["points"])) == ([], None, 1)
    assert not told.step()["full"]


def test_a_text_is_cut_and_a_traceback_keeps_its_end():
    told = trouble(fields(summary="s" * 10_000, item=None, traceback="begin" + "x" * 10_000 + "the end"))

    assert len(told["summary"]) == history.TEXT_LENGTH
    assert told["item"] is None
    assert told["traceback"].startswith("[...]\n")
    assert told["traceback"].endswith("the end")
    assert len(told["traceback"]) < history.TRACEBACK_LENGTH + 10
    assert cut("short", 10) == "short"
