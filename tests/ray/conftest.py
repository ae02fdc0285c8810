"""One Ray for all of these tests, and suites of other backends that are run on it.

To start Ray takes seconds, and so does every actor.  So they share one connection, and backends are handed from
test to test with their actors warm, unless a test has cancelled or broken something.  How things start and end is
tested apart, in interpreters of their own (``test_ray_ends``).
"""

import contextlib
import gc
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import psutil
import pytest

from mpengine import Engine

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

PATIENCE_S = 10.0


@pytest.fixture(scope="session")
def cluster():
    """Ray, on this machine; tests of other things come before these."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    from mpengine.backends.ray.cluster import shut_down

    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    before = signal.getsignal(signal.SIGTERM)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray leaves the log files of what it starts to the collector
        ray.init(
            address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
            object_store_memory=200_000_000, _temp_dir=folder,
        )  # fmt: skip
        signal.signal(signal.SIGTERM, before)
        gc.collect()
    yield ray
    _Kept.close_all()
    shut_down(ray)
    shutil.rmtree(folder, ignore_errors=True)


class _Kept:
    """Backends that wait, with warm actors, for the next test that wants such a one."""

    waiting = {}  # noqa: RUF012 - one for the session
    started = 0

    @classmethod
    def take(cls, options, chosen):
        key = repr((options, sorted(chosen.items())))
        if key in cls.waiting:
            return cls.waiting.pop(key)
        if len(cls.waiting) >= 2:
            cls.close_all()  # there is no room for all
        cls.started += 1
        return _made(key, options, chosen)

    @classmethod
    def close_all(cls):
        while cls.waiting:
            cls.waiting.popitem()[1].end()


def _made(key, options, chosen):
    from mpengine.backends.ray import backend

    class KeptBackend(backend.RayBackend):
        is_spoilt = False

        def cancel(self):
            self.is_spoilt = True
            super().cancel()

        def finish(self, *, keep, grace_s):
            problems = super().finish(keep=keep or not self.is_spoilt, grace_s=grace_s)
            is_whole = all(link.is_ready for link in self._links.values())  # else one is still on its way up
            self.is_spoilt = self.is_spoilt or bool(problems) or not is_whole
            return problems

        def close(self):
            if self.is_spoilt or not self._links or key in _Kept.waiting:  # a test may have had two
                super().close()
            else:
                _Kept.waiting[key] = self

        def end(self):
            super().close()

    return KeptBackend(options, chosen)


@pytest.fixture
def _kept_backends(cluster, monkeypatch):
    from mpengine.backends.ray import backend

    made = backend.RayBackend

    class Taken(made):
        def __new__(cls, options, chosen):
            monkeypatch.setattr(backend, "RayBackend", made)
            try:
                return _Kept.take(options, chosen)
            finally:
                monkeypatch.setattr(backend, "RayBackend", Taken)

        def __init__(self, options, chosen):
            pass

    monkeypatch.setattr(backend, "RayBackend", Taken)


@pytest.fixture(params=["ray"])
def kind(request):
    """Ray alone: the suites that ask for this run on the other kinds elsewhere."""
    return request.param


@pytest.fixture(params=["ray"])
def every_kind(request):
    """As ``kind``."""
    return request.param


@pytest.fixture
def make_engine(_kept_backends):
    """Make engines that are closed when the test is over."""
    with contextlib.ExitStack() as stack:

        def make(kind="ray", workers=2, **options):
            options.setdefault("grace_s", 5.0)
            options.setdefault("ray_options", {"num_cpus": 0.01})  # those that wait take nobody's place
            engine = Engine(workers, backend="ray", **options)
            stack.callback(engine.close)
            return engine

        yield make


@pytest.fixture
def engine(kind, make_engine):
    """An engine with two workers."""
    return make_engine(kind)


@pytest.fixture(autouse=True)
def _nothing_is_left(_runs_beside_what_it_may):
    """Nothing of ours outlives a test but what waits for the next one; Ray's own connections and idle workers may."""
    before = set(threading.enumerate())
    folders = set(_folders())
    yield
    gc.collect()
    deadline_at = time.monotonic() + PATIENCE_S
    allowed = {pid for backend in _Kept.waiting.values() for pid in backend.pids()}
    while (left := _actors() - allowed) and time.monotonic() < deadline_at:
        time.sleep(0.05)
    threads = [
        t.name for t in set(threading.enumerate()) - before if not t.name.startswith("mpengine-") and t.is_alive()
    ]
    mine = [t.name for t in threading.enumerate() if t.name.startswith("mpengine-")]
    expected = sum(len(backend._links) + len(backend._wardens) for backend in _Kept.waiting.values())
    assert not left, "actors are left behind"
    assert not [name for name in threads if not name.startswith("ray")], threads
    assert len(mine) <= expected, mine
    assert set(_folders()) <= folders


def _actors():
    """The processes of workers' actors."""
    found = set()
    for process in psutil.process_iter(["pid", "cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if command.startswith("ray::RayWorker"):
            with contextlib.suppress(psutil.Error):
                if process.environ().get("MPENGINE_TEST_SESSION") == os.environ["MPENGINE_TEST_SESSION"]:
                    found.add(process.info["pid"])
    return found


def _folders():
    return [path.name for path in Path(tempfile.gettempdir()).iterdir() if path.name.startswith("mpengine")]
