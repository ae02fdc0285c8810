"""Time: the wall clock may jump, and what has no limit of its own ends with its run."""

import itertools
import logging
import os
import re
import time
from pathlib import Path

import engine_stages as stages
import psutil
import pytest

import mpengine
from mpengine import ItemTimeoutError, Retry, stage
from mpengine.processes.identity import ProcessIdentity

PACKAGE = Path(mpengine.__file__).parent
HOUR_S = 3600.0


@pytest.fixture
def _jumping_clock(monkeypatch):
    """Each look at the wall clock finds it an hour ahead of the last one, or behind it; forked workers have it too."""
    now, jumps = time.time, itertools.cycle([HOUR_S, 0.0, -HOUR_S, 0.0])
    monkeypatch.setattr(time, "time", lambda: now() + next(jumps))


@pytest.mark.slow
@pytest.mark.usefixtures("_jumping_clock")
def test_a_wall_clock_that_jumps_by_hours_changes_nothing(make_engine, tmp_path):
    """Not the timeout of a call, nor a back-off, nor what was to be replaced or published meanwhile."""

    def fail_once(x):
        if x % 20 == 7 and not (tmp_path / str(x)).exists():
            (tmp_path / str(x)).touch()
            raise ValueError(x)
        if x == 33:
            stages.block()
        return x

    engine = make_engine("fork", max_items_per_worker=40, metrics_interval_s=0.05, memory_limit=1 << 40)
    retried = stage(fail_once, timeout=0.5, retries=Retry(1, backoff_s=0.01, on=(ValueError,)), on_error="drop")
    report = engine.run([range(100), retried]).unwrap()
    assert report.values == [x for x in range(100) if x != 33]
    (error,) = report.errors
    assert (error.index, type(error.error)) == (33, ItemTimeoutError)
    assert 0 < report.duration_s < HOUR_S / 2
    assert 0 < report.snapshot.elapsed_s < HOUR_S / 2


def test_the_package_asks_the_wall_clock_only_to_say_when_something_was():
    """What is logged, noted for other programs or kept in a file has a date, and so its age; nothing is timed by it."""
    asking = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if re.search(r"\btime\.time(_ns)?\b|\bdatetime\b|\bCLOCK_REALTIME\b", path.read_text())
    }
    assert asking == {
        "cli/jobrun.py",  # a job log's second column
        "cli/rundown.py",  # how old a note is
        "cli/surroundings.py",  # doctor's look at the clock itself
        "coordinator/lookout.py",
        "coordinator/scribe.py",
        "coordinator/telling.py",
        "journal/book.py",
        "journal/keys.py",  # items that are dates
        "journal/writer.py",
        "programs/jobs.py",
        "runs.py",
        "testing.py",
    }


def test_a_process_is_the_same_one_when_the_wall_clock_has_jumped(monkeypatch):
    """psutil tells when a process was created by the wall clock, which goes with the kernel's time of the boot."""
    identity = ProcessIdentity.of(os.getpid())
    boot_time = psutil._pslinux.boot_time
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: boot_time() + HOUR_S)
    assert psutil.Process().create_time() == pytest.approx(identity.create_time + HOUR_S)
    assert identity.is_alive()


# ---------------------------------------------------------------------- what has no limit of its own


@pytest.mark.slow
@pytest.mark.parametrize("timeout", [None, 0.1])
def test_a_setup_that_never_returns_ends_when_the_run_is_cancelled(make_engine, timeout):
    """A timeout is for calls with an item, and counts no set-up."""
    engine = make_engine("fork", workers=1, grace_s=0.2)
    hanging_r, hanging_w = os.pipe()

    def source():
        yield 0
        assert os.read(hanging_r, 1)
        engine.cancel("enough")

    def set_up(state):
        os.write(hanging_w, b"x")
        stages.block()

    result = engine.run([source, stage(stages.keep, setup=set_up, timeout=timeout)])
    assert (result.reason, result.report.values) == ("enough", [])
    assert engine.pids() == []
    os.close(hanging_r)
    os.close(hanging_w)


@pytest.mark.slow
@pytest.mark.parametrize("is_warm", [False, True])
def test_a_teardown_that_never_returns_gets_the_grace_and_spoils_no_result(make_engine, caplog, is_warm):
    engine = make_engine("fork", workers=1, grace_s=0.2)
    if is_warm:
        engine.__enter__()
    with caplog.at_level(logging.WARNING):
        result = engine.run([range(5), stage(stages.keep, teardown=lambda state: stages.block())])
    assert result.unwrap().values == list(range(5))
    assert engine.pids() == []
    assert caplog.messages == ["worker 0: tear-down took over 0.2 s; killed"]
