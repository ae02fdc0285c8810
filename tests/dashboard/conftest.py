"""Runs to look at, and what looks at them."""

import contextlib
import http.client
import json
import shutil
import threading
from urllib.parse import urlsplit

import pytest

from mpengine import Engine
from mpengine.dashboard import Dashboard

PATIENCE_S = 30.0
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

# The browser's tests are tests only where there is one; tests/conftest.py says which it is.
collect_ignore = [] if CHROMIUM else ["test_page.py"]


class Watched:
    """An engine that runs a pipeline in a thread of its own, and its dashboard."""

    def __init__(self, stages, engine_options):
        self.dashboard = Dashboard()
        self.url = urlsplit(self.dashboard.url)
        self.token = self.url.fragment
        self.result = None
        self._stages = stages
        self._options = {"workers": 2, "on_error": "drop", **engine_options}
        self._has_begun = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def observe(self, records):
        self._has_begun.set()

    def _run(self):
        with self.dashboard, Engine(observers=[self.dashboard, self], **self._options) as engine:
            self.result = engine.run(self._stages, collect=False)

    def start(self):
        self._thread.start()
        assert self._has_begun.wait(PATIENCE_S)

    def wait(self):
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        return self.result

    def ask(self, path, method="GET", body=None, token=None):
        """Return the status of an answer."""
        with contextlib.closing(self.connection()) as connection:
            connection.request(method, path, body, {"authorization": f"Bearer {token or self.token}"})
            return connection.getresponse().status

    def connection(self):
        return http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=PATIENCE_S)

    def looks(self):
        """Yield what a page is told, until the end."""
        with contextlib.closing(self.connection()) as connection:
            connection.request("GET", f"/events?token={self.token}")
            stream = connection.getresponse()
            assert stream.status == 200
            while line := stream.readline():
                if line.startswith(b"event: "):
                    kind, content = line[7:].strip(), json.loads(stream.readline()[5:])
                    if kind == b"end":
                        return
                    yield content


@pytest.fixture(scope="session")
def chromium():
    """Where the browser is."""
    return CHROMIUM


@pytest.fixture(scope="session")
def watch():
    """Return what runs a pipeline that is watched; see ``Watched``."""
    return Watched


@pytest.fixture
def watched():
    """Start runs that are watched; ``release`` lets their gates go when the test is over."""
    with contextlib.ExitStack() as stack:

        def start(*stages, release=lambda: None, **engine_options):
            run = Watched(list(stages), engine_options)
            run.start()
            stack.callback(run.wait)
            stack.callback(release)
            return run

        yield start
