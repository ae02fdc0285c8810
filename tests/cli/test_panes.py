"""A run of another terminal as tables: what is shown of it, and what is not where there is no room."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from mpengine.cli.gauge import Gauge
from mpengine.cli.panes import Busyness, Scene, scene
from mpengine.metrics import Snapshot, StageMetrics, WorkerMetrics
from mpengine.monitor.sights import Sights, WorkerSight
from mpengine.processes.usage import Use
from mpengine.runs import View

RUN = SimpleNamespace(run_id="kd4q", entry=SimpleNamespace(pid=12, command="python job.py", interval_s=0.5))


def view(elapsed_s=10.0, busy_s=4.0, sights=(), workers=2, stages=1, **fields):
    snapshot = Snapshot(
        tuple(StageMetrics(f"stage {number}", 64, 3, 1, 40, busy_s=busy_s) for number in range(stages)),
        tuple(WorkerMetrics(number, 100 + number, "busy") for number in range(workers)),
        "running",
        elapsed_s=elapsed_s,
        **fields,
    )
    return View(snapshot, Sights(workers=tuple(sights), bottleneck="[stage] is it") if sights else None, 0.1, 1)


def shown(view, columns=100, lines=None, uses=None, remark=""):
    reading = Gauge().read(view.snapshot)
    console = Console(width=columns, record=True, file=io.StringIO())
    for thing in scene(Scene(RUN, view, reading, Busyness().read(view), uses or {}, remark), columns, lines):
        console.print(thing)
    return console.export_text().splitlines()


def sight(worker_id=0, **fields):
    return WorkerSight(worker_id=worker_id, **{"stage": 0, **fields})


def test_stages_workers_and_the_bottleneck_are_shown():
    told = "\n".join(shown(view(sights=[sight(item=1234, since_s=2.54)]), uses={100: Use(52_000_000, 0.97)}))
    for text in (
        "run kd4q, pid 12, running, for 0:10: python job.py", "4.0/s", "3/64", "20%", "[stage] is it",
        "stage 0: item 1,234", "2.5 s", "52 MB", "97%",
    ):  # fmt: skip
        assert text in told


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"in_setup": True}, "stage 0: setting up"),
        ({"first": 5, "last": 1999}, "stage 0: items 5 to 1,999"),
        ({"item": 3, "attempt": 2, "text": "'a\nb'"}, "stage 0: item 3, attempt 2, 'a b'"),
        ({"since_s": 61.0}, "1:01"),
        ({"stage": None, "since_s": 77.0}, "busy"),
        ({"stage": 99}, "busy"),
    ],
)
def test_what_a_worker_is_at_is_told_in_words(fields, text):
    assert text in "\n".join(shown(view(sights=[sight(**fields)])))


def test_before_the_run_has_noticed_that_it_is_watched_the_rest_is_shown():
    told = shown(view())
    assert any("100  busy" in line for line in told)
    assert not any("bottleneck" in line for line in told)


@pytest.mark.parametrize("columns", [20, 50, 75])
def test_a_narrow_terminal_is_shown_less_and_no_line_is_wrapped(columns):
    told = shown(view(sights=[sight(item=1, text="x" * 200)]), columns, 24)
    assert max(map(len, told)) <= columns
    assert len(told) <= 24
    assert not any("rss" in line for line in told)


def test_where_not_all_workers_fit_those_that_have_been_at_something_the_longest_are_shown():
    sights = [sight(number, item=number, since_s=float(number == 77) + 0.1) for number in range(100)]
    told = shown(view(sights=sights, workers=100, stages=30), lines=20)
    assert len(told) <= 20
    assert any("item 77" in line for line in told)
    assert "... 26 more stages" in "\n".join(told)
    assert any("more workers" in line for line in told)


def test_figures_that_are_old_are_told_to_be():
    old = view()
    old = View(old.snapshot, None, 75.0, 1)
    assert shown(old)[-1].strip() == "these figures are 1:15 old"
    assert shown(old, remark="run kd4q does not answer")[-1].strip() == "run kd4q does not answer"


def test_how_busy_a_stage_was_is_told_of_the_run_first_and_then_of_the_last_seconds():
    busyness = Busyness()
    assert busyness.read(view(10.0, 4.0)) == (0.2,)
    assert busyness.read(view(20.0, 20.0)) == (0.8,)
    assert busyness.read(view(30.0, 20.0)) == (0.4,)
    assert busyness.read(view(40.0, 20.0)) == (0.0,)


def test_an_item_that_takes_longer_than_anybody_watches_counts_before_it_is_reported():
    busyness = Busyness()
    busyness.read(view(100.0, 0.0, [sight(unreported_s=100.0)]))
    assert busyness.read(view(110.0, 0.0, [sight(unreported_s=110.0)])) == (0.5,)
    assert busyness.read(view(120.0, 120.0, [sight(stage=None)])) == (0.5,)


def test_a_gauge_that_joins_late_looks_back_no_further_than_to_its_first_reading():
    gauge = Gauge(joins_late=True)
    assert gauge.read(view(1000.0, delivered=1000).snapshot).per_s == 1.0
    assert gauge.read(view(1001.0, delivered=1100).snapshot).per_s == 100.0
    assert gauge.read(view(1002.0, delivered=1200).snapshot).per_s == 100.0
