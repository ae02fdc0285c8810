"""A folder of runs of its own for each test, and what an entry may say."""

import os

import pytest

from mpengine.monitor.entries import RunEntry, RunFigures
from mpengine.processes.identity import ProcessIdentity, machine_mark


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """Where runs are listed meanwhile; nothing is there yet."""
    place = tmp_path / "listed"
    monkeypatch.setenv("MPENGINE_RUNTIME_DIR", str(place))
    return place


@pytest.fixture
def make_entry():
    """Make the entry of a run of this process, changed as asked."""

    def make(**changes):
        own = ProcessIdentity.of(os.getpid())
        values = {
            "run_id": "", "pid": own.pid, "start": own.start, "machine": machine_mark(), "command": "python job.py",
            "folder": "here", "stages": ("parse", "pack"), "workers": 2, "total": None, "fans_out": False,
            "interval_s": 0.5, "began_at": 1000.0, "address": "\0nowhere", "authkey": b"key", "version": "0",
        }  # fmt: skip
        return RunEntry(**{**values, **changes})

    return make


@pytest.fixture
def figures():
    return RunFigures(state="running", elapsed_s=1.5, source_items=7, delivered=5, failed=1, noted_at=1001.5)
