"""The publisher's thread against the end of a run: staged with a board that waits."""

import threading

import pytest

from mpengine.coordinator import publishing
from mpengine.coordinator.publishing import Publisher
from mpengine.metrics import Snapshot

PATIENCE_S = 20.0


@pytest.fixture
def publisher(monkeypatch):
    monkeypatch.setattr(publishing, "END_S", PATIENCE_S)
    publisher = Publisher(0.001, None)
    yield publisher
    publisher.close()


def test_a_run_that_ends_while_a_snapshot_is_written_waits_for_its_last_one(publisher):
    is_writing, is_over = threading.Event(), threading.Event()
    seen = []

    class Board:
        def update(self, values):
            if values["state"] == "running":
                is_writing.set()
                while publisher._last is None:  # until the run has ended meanwhile
                    pass
            else:
                is_over.wait(0.2)  # an end that does not wait is over now
            seen.append(values["state"])

    publisher._board = Board()
    publisher.begin(lambda: Snapshot(state="running"))
    assert is_writing.wait(PATIENCE_S)
    publisher.end(Snapshot(state="finished"))
    is_over.set()

    assert seen == ["running", "finished"]
