"""Traces: what the Chrome trace format asks for, checked line by line, since the viewers themselves are far away."""

import itertools
import json
import os
import signal
import subprocess
import sys
from collections import defaultdict

import pytest

from mpengine import Engine, Ok, Report, Snapshot, stage
from mpengine.monitor.observing import BatchReported, RunBegan, RunEnded, StageOutline, StageTally
from mpengine.monitor.tracing import TraceFile

PHASES = {"M", "X", "C", "i"}


@stage(on_error="drop")
def refuse_sevens(number):
    if number % 50 == 7:
        raise ValueError(f"no <{number}>")
    return number


def double(number):
    return 2 * number


@stage(workers=1)
def alone(number):
    return number


def check(events):
    """Hold events against the description of the format: fields by phase, tracks, times, nesting."""
    named, slices = set(), defaultdict(list)
    for event in events:
        assert event["ph"] in PHASES
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert isinstance(event["args"], dict)
        if event["ph"] == "M":
            named.add((event["pid"], event["tid"], event["name"]))
            continue
        assert event["ts"] > 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
            slices[event["pid"], event["tid"]].append(event)
        elif event["ph"] == "i":
            assert event["s"] in {"t", "p", "g"}
        else:
            assert all(isinstance(value, int | float) for value in event["args"].values())
    assert len({pid for pid, _, _ in named}) == 1
    for (pid, tid), track in slices.items():
        assert (pid, tid, "thread_name") in named
        assert [event["ts"] for event in track] == sorted(event["ts"] for event in track)
        batches = [event for event in track if event["cat"] == "batch"]
        for before, after in itertools.pairwise(batches):
            assert before["ts"] + before["dur"] <= after["ts"] + 0.0015
        around = iter(batches)
        batch = None
        for event in track:
            if event["cat"] == "batch":
                batch = next(around)
            else:
                assert batch is not None
                assert batch["ts"] <= event["ts"]
                assert event["ts"] + event["dur"] <= batch["ts"] + batch["dur"] + 0.0015
    return slices


def test_a_trace_has_a_slice_for_every_batch_and_stage(tmp_path):
    path = tmp_path / "run.json"

    result = Engine(2, observers=[TraceFile(path)], backend="inline").run([range(200), refuse_sevens, double, alone])

    events = json.loads(path.read_text())
    slices = [event for track in check(events).values() for event in track]
    for name in ("refuse_sevens", "double", "alone"):
        (book,) = [book for book in result.report.snapshot.stages if book.name == name]
        figures = [event["args"] for event in slices if event["name"] == name]
        assert sum(args["succeeded"] for args in figures) == book.succeeded
        assert sum(args["failed"] for args in figures) == book.failed
    batches = [event for event in slices if event["name"] == "refuse_sevens + double"]
    assert sum(event["args"]["items"] for event in batches) == 200
    failures = [event for event in events if event["name"].endswith("failed")]
    assert [event["args"]["error"] for event in failures] == [f"ValueError: no <{n}>" for n in (7, 57, 107, 157)]
    counters = {event["name"] for event in events if event["ph"] == "C"}
    assert {"queue of refuse_sevens", "in flight in alone", "memory of coordinator"} <= counters


def test_slices_of_stages_lie_within_that_of_their_batch_whatever_the_clocks_say(tmp_path):
    path = tmp_path / "run.json"
    stages = tuple(StageOutline(name, 0, "process", None, 1, "raise", ()) for name in "ab")
    tallies = (StageTally(0, 1, busy_s=0.09), StageTally(1, 1, busy_s=0.06))
    trace = TraceFile(path)
    trace.observe([RunBegan(1.0, 1.0, 1, 7, stages, 1, None, Snapshot, str)])
    trace.observe([BatchReported(2.2, 0, 1, (0, 2), "done", 1, 1, 2.0, 2.1, tallies)])
    trace.observe([RunEnded(3.0, Ok(Report()))])

    slices = [event for track in check(json.loads(path.read_text())).values() for event in track]

    assert [(event["name"], event["ts"], event["dur"]) for event in slices] == [
        ("a + b", 2_000_000, 100_000), ("a", 2_000_000, 60_000), ("b", 2_060_000, 40_000),
    ]  # fmt: skip


def test_runs_of_one_trace_stand_one_behind_the_other(tmp_path):
    path = tmp_path / "run.json"
    path.write_text("what was there before")
    trace = TraceFile(path)
    assert path.read_text() == "what was there before"

    with Engine(1, observers=[trace], backend="inline") as engine:
        engine.run([range(10), double])
        first = json.loads(path.read_text())
        engine.run([range(10), double])

    both = json.loads(path.read_text())
    assert both[: len(first)] == first
    assert [event["name"] for event in both if event["ph"] == "i" and event["s"] == "p"] == ["began", "ended"] * 2


def test_a_trace_that_cannot_be_written_is_refused_at_once(tmp_path):
    with pytest.raises(FileNotFoundError):
        TraceFile(tmp_path / "nowhere" / "run.json")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device or address"):
        TraceFile(tmp_path / "pipe")


def test_a_disk_that_fills_up_costs_the_trace_and_not_the_run(caplog):
    result = Engine(1, observers=[TraceFile("/dev/full")], backend="inline").run([range(10), double])

    assert result.is_ok
    (told,) = [text for text in caplog.messages if "TraceFile" in text]
    assert "No space left on device" in told


@pytest.mark.slow
def test_a_worker_that_dies_and_its_heir_stand_on_one_track(tmp_path):
    path = tmp_path / "run.json"

    @stage(on_error="drop")
    def die(number):
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    Engine(1, observers=[TraceFile(path)], crash_retries=0).run([range(5), die])

    events = json.loads(path.read_text())
    check(events)
    told = [(event["name"], event["args"].get("how")) for event in events if event["ph"] == "i" and event["s"] == "t"]
    assert ("died", "SIGKILL") in told
    assert [name for name, _ in told].count("started") >= 2


KILLED = """
import itertools, os, sys, time
from mpengine import Engine
from mpengine.coordinator import telling
from mpengine.monitor.tracing import TraceFile

class Writing(TraceFile):
    def observe(self, records):
        super().observe(records)
        print(os.path.getsize(self.path), flush=True)

def wait(number):
    time.sleep(0.001)
    return number

Engine(1, observers=[Writing(sys.argv[1])]).run([itertools.count(), wait], collect=False)
"""


@pytest.mark.slow
def test_the_trace_of_a_killed_coordinator_lacks_nothing_but_its_end(tmp_path):
    path = tmp_path / "run.json"
    command = [sys.executable, "-c", KILLED, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        sizes = [int(program.stdout.readline()) for _ in range(5)]
        program.kill()

    text = path.read_text()
    assert len(text) >= sizes[-1]
    whole, _, half = text.rpartition("\n")
    try:
        json.loads(half)
    except ValueError:  # the last line may be cut in two
        text = whole
    events = json.loads(text.rstrip().rstrip(",") + "]")
    assert sum(len(track) for track in check(events).values()) >= 1
