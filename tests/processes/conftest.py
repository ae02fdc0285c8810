"""A registry of each kind, and a channel for each worker."""

import os
import select
import sys
import time
from pathlib import Path

import pytest

from mpengine.processes import spawning
from mpengine.processes.registry import START_METHODS, Exited, ProcessRegistry, Started
from mpengine.worker.boot import WorkerBoot

HERE = str(Path(__file__).parent)
PATIENCE_S = 20.0


class Nest:
    """A registry, and the coordinator's ends of its workers' channels."""

    def __init__(self, start_method, **options):
        self.start_method = start_method
        self.registry = ProcessRegistry(start_method, **options)
        self.notices = []
        self.outboxes = {}
        self.lifelines = {}
        self._cancel_r, self._cancel_w = os.pipe()
        self._control = spawning.memory_file(b"")
        for fd in (self._cancel_w, self._cancel_r, self._control):
            spawning.close_in_forked_children(fd)

    def start(self, entry, worker_id=0, generation=0, **options):
        inbox_r, inbox_w = os.pipe()
        outbox_r, outbox_w = os.pipe()
        lifeline_r, lifeline_w = os.pipe()
        for fd in (inbox_w, outbox_r, lifeline_w):
            spawning.close_in_forked_children(fd)
        path = entry if ":" in entry else f"entries:{entry}"
        boot = WorkerBoot(
            worker_id, generation, 1, inbox_r, outbox_w, lifeline_r, self._cancel_r, self._control, path, options
        )
        self._close(worker_id)
        self.outboxes[worker_id] = outbox_r
        self.lifelines[worker_id] = (lifeline_w, inbox_w)
        try:
            self.registry.start(boot)
        finally:
            for fd in (inbox_r, outbox_w, lifeline_r):
                os.close(fd)

    def read(self, worker_id=0):
        """What the worker writes, to its end or to a pause in it."""
        content = b""
        while True:
            readable, _, _ = select.select([self.outboxes[worker_id]], [], [], PATIENCE_S)
            assert readable, "the worker has nothing to say"
            chunk = os.read(self.outboxes[worker_id], 65536)
            content += chunk
            if len(chunk) < 4096:
                return content

    def wait_notice(self, kind, worker_id=0, after=0):
        deadline_at = time.monotonic() + PATIENCE_S
        while True:
            found = [one for one in self.notices[after:] if isinstance(one, kind) and one.worker_id == worker_id]
            if found:
                return found[0]
            left_s = deadline_at - time.monotonic()
            assert left_s > 0, f"no {kind.__name__} of {worker_id} among {self.notices}"
            select.select([self.registry.fileno()], [], [], left_s)
            self.notices += self.registry.collect()

    def wait_exit(self, worker_id=0):
        self.wait_notice(Started, worker_id)
        return self.wait_notice(Exited, worker_id)

    def of_kind(self, kind):
        return [one for one in self.notices if isinstance(one, kind)]

    def _close(self, worker_id):
        if worker_id in self.outboxes:
            for fd in (self.outboxes.pop(worker_id), *self.lifelines.pop(worker_id)):
                spawning.close_parent_only(fd)

    def close(self):
        self.registry.close()
        for worker_id in list(self.outboxes):
            self._close(worker_id)
        for fd in (self._cancel_w, self._cancel_r, self._control):
            spawning.close_parent_only(fd)


@pytest.fixture(autouse=True)
def _entries_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    yield
    sys.modules.pop("entries", None)


@pytest.fixture(params=START_METHODS)
def start_method(request):
    return request.param


@pytest.fixture
def make_nest():
    nests = []

    def make(start_method, **options):
        nests.append(Nest(start_method, **options))
        return nests[-1]

    yield make
    for nest in nests:
        nest.close()


@pytest.fixture
def nest(make_nest, start_method):
    return make_nest(start_method)
