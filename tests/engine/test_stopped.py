"""Processes that somebody stops with a signal: the run goes on, and nothing is run twice for it."""

import os
import signal

import engine_stages as stages
import psutil
import pytest


def stop_once(marker, number):
    """Stop this very process the first time that it comes to item 3; note each time that an item is run."""
    with marker.open("a") as file:
        file.write(f"{number}\n")
    if number == 3 and marker.read_text().split().count("3") == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return number


@pytest.mark.slow
def test_a_worker_that_was_stopped_goes_on_with_what_it_was_at(make_engine, tmp_path, caplog):
    marker = tmp_path / "run"
    engine = make_engine(metrics_interval_s=0)

    values = engine.run([range(6), lambda number: stop_once(marker, number)]).unwrap().values

    assert values == list(range(6))
    assert sorted(marker.read_text().split()) == list("012345")
    assert [record.getMessage() for record in caplog.records if "was stopped" in record.getMessage()]


@pytest.mark.slow
def test_a_fork_server_that_was_stopped_goes_on_and_a_death_is_told(make_engine, caplog):
    engine = make_engine(metrics_interval_s=0, crash_retries=5)

    def source():
        yield 0
        while len(engine.pids()) < 2:
            pass  # the other comes a moment later
        (server,) = [child for child in psutil.Process().children() if child.pid not in engine.pids()]
        server.suspend()
        while server.status() != psutil.STATUS_STOPPED:
            pass  # a stop takes a moment
        for pid in engine.pids():
            os.kill(pid, signal.SIGKILL)
        yield from range(1, 6)

    assert engine.run([source, stages.keep]).unwrap().values == list(range(6))
    assert [record.getMessage() for record in caplog.records if "fork server" in record.getMessage()]
