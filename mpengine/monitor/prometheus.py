"""Figures of a run for Prometheus, over HTTP, made when somebody asks for them.

    Prometheus --- GET /metrics ---> this server's thread ---> snapshot() of the run that goes on, or of the last one

X1. A run that nobody scrapes pays for no figure but the histograms, whose times workers keep; without them it pays
    nothing.
X2. One thread serves one request after the other, and gives no client longer than ``CLIENT_S``.
X3. ``close`` ends the thread and closes the port.  What asks for nothing can keep it waiting for ``CLIENT_S``.
X4. The registry is the exporter's own: nothing of the program's is told here, and nothing of the run there.
"""

from __future__ import annotations

import contextlib
import functools
import os
import selectors
import socketserver
import threading
from typing import TYPE_CHECKING, Any, Final, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from mpengine.errors import EngineError
from mpengine.metrics import BOUNDS_S, Snapshot
from mpengine.monitor.observing import BatchReported, RunBegan, RunEnded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mpengine.monitor.observing import Record

LOOPBACK: Final = "127.0.0.1"
CLIENT_S: Final = 2.0
_BUCKETS: Final = tuple(range(6, len(BOUNDS_S), 2))
"""The bins whose upper bounds are told: 1, 2 and 5 of each power of ten, from a microsecond on."""


class PrometheusExporter:
    """An observer that serves ``/metrics``; as a context manager it closes its port in the end.

    Args:
        port: where to listen; 0: a free one, which ``port`` then tells; None: nowhere, for who serves ``registry``.
        host: the address to listen at.
        histograms: whether to tell how long items take, for which workers keep their times.

    Attributes:
        port: the port; None without one.
        registry: a ``prometheus_client.CollectorRegistry`` of its own.

    Raises:
        EngineError: ``prometheus_client`` is not installed, or the port cannot be had; says so.
    """

    def __init__(self, port: int | None = 0, host: str = LOOPBACK, *, histograms: bool = True) -> None:
        """Open the port; there are figures once a run has begun."""
        try:
            import prometheus_client
        except ImportError as error:
            msg = "metrics for Prometheus need a package that is not installed: pip install 'mpengine[prometheus]'"
            raise EngineError(msg) from error
        self.wants_times = histograms
        self.registry: Any = prometheus_client.CollectorRegistry()
        self.registry.register(self)
        self._lock = threading.Lock()
        # Under the lock:
        self._take: Callable[[], Snapshot] | None = None
        self._bins: list[list[int]] = []
        self._server: _Server | None = None
        self.port: int | None = None
        if port is not None:
            self._serve(host, port, prometheus_client.make_wsgi_app(self.registry))

    def _serve(self, host: str, port: int, app: Any) -> None:
        try:
            self._server = _Server(host, port, app)
        except (OSError, OverflowError) as error:
            told = getattr(error, "strerror", None) or error
            msg = f"metrics cannot be served at {host}:{port}: {told}"
            raise EngineError(msg) from error
        self.port = self._server.port

    def close(self) -> None:
        """Close the port; idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def __enter__(self) -> Self:
        """Go on."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the port."""
        self.close()

    # ------------------------------------------------------------------ the teller's thread

    def observe(self, records: Sequence[Record]) -> None:
        """Know which run goes on, and count the times of items."""
        with self._lock:
            for record in records:
                match record:
                    case RunBegan():
                        self._take = record.snapshot
                        self._bins = [[0] * (len(BOUNDS_S) + 1) for _ in record.stages]
                    case BatchReported():
                        for tally in record.tallies:
                            for place, items in tally.times:
                                self._bins[tally.stage][place] += items
                    case RunEnded(_, result):
                        self._take = functools.partial(_same, result.report.snapshot)  # the run itself is let go
                    case _:
                        pass

    # ------------------------------------------------------------------ the server's thread

    def collect(self) -> Iterator[Any]:
        """Yield the figures of this moment, as ``prometheus_client`` wants them."""
        with self._lock:
            take, bins = self._take, [list(counts) for counts in self._bins]
        if take is not None:
            snapshot = take()
            yield from _of_stages(snapshot)
            yield from _of_run(snapshot)
            if self.wants_times:
                yield _of_times(snapshot, bins)

    def describe(self) -> list[Any]:
        """Tell nothing beforehand: what there is depends on the run."""
        return []


def _same(snapshot: Snapshot) -> Snapshot:
    return snapshot


def _of_stages(snapshot: Snapshot) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    labels = ["stage", "position"]
    items = CounterMetricFamily(
        "mpengine_items", "Items that have left a stage, by what became of them.", labels=[*labels, "outcome"]
    )
    counters = {
        "retried": CounterMetricFamily("mpengine_item_retries", "Further attempts at items.", labels=labels),
        "timed_out": CounterMetricFamily("mpengine_item_timeouts", "Items that ran into a timeout.", labels=labels),
        "crashed": CounterMetricFamily("mpengine_item_crashes", "Items whose worker died of them.", labels=labels),
        "dropped": CounterMetricFamily("mpengine_items_dropped", "Failed items that were dropped.", labels=labels),
        "busy_s": CounterMetricFamily(
            "mpengine_stage_busy_seconds", "Seconds that workers spent in a stage's function.", labels=labels
        ),
    }
    gauges = {
        "queued": GaugeMetricFamily("mpengine_queue_items", "Items that wait before a stage.", labels=labels),
        "buffer": GaugeMetricFamily("mpengine_queue_limit_items", "Items that may wait there.", labels=labels),
        "in_flight": GaugeMetricFamily("mpengine_in_flight_items", "Items that workers hold.", labels=labels),
    }
    for position, book in enumerate(snapshot.stages):
        where = [book.name, str(position)]
        for outcome in ("succeeded", "failed", "skipped"):
            items.add_metric([*where, outcome], getattr(book, outcome))
        for name, family in (*counters.items(), *gauges.items()):
            family.add_metric(where, getattr(book, name))
    yield items
    yield from counters.values()
    yield from gauges.values()


def _of_run(snapshot: Snapshot) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    yield CounterMetricFamily("mpengine_source_items", "Items pulled from the source.", value=snapshot.source_items)
    yield CounterMetricFamily("mpengine_results", "Values handed to the consumer.", value=snapshot.delivered)
    deaths = sum(worker.deaths for worker in snapshot.workers)
    yield CounterMetricFamily("mpengine_worker_deaths", "Workers that died.", value=deaths)
    workers = GaugeMetricFamily("mpengine_workers", "Workers, by state.", labels=["state"])
    states = [worker.state for worker in snapshot.workers]
    for state in sorted({"absent", "starting", "idle", "busy", "leaving", *states}):
        workers.add_metric([state], states.count(state))
    yield workers
    run = GaugeMetricFamily("mpengine_run_state", "1 for the state that the run is in.", labels=["state"])
    for state in ("running", "cancelling", "finished"):
        run.add_metric([state], float(snapshot.state == state))
    yield run
    yield GaugeMetricFamily("mpengine_run_seconds", "Seconds since the run began.", value=snapshot.elapsed_s)


def _of_times(snapshot: Snapshot, bins: Sequence[Sequence[int]]) -> Any:
    from prometheus_client.core import HistogramMetricFamily

    text = "Seconds that items took in a stage; quick ones count with the mean of those they ran with."
    family = HistogramMetricFamily("mpengine_item_seconds", text, labels=["stage", "position"])
    for position, (book, counts) in enumerate(zip(snapshot.stages, bins, strict=False)):
        buckets = [(str(BOUNDS_S[place]), sum(counts[: place + 1])) for place in _BUCKETS]
        buckets.append(("+Inf", sum(counts)))
        family.add_metric([book.name, str(position)], buckets, book.busy_s)
    return family


class _Handler(WSGIRequestHandler):
    """Serves one request, and says nothing about it."""

    timeout = CLIENT_S  # X2

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class _Server(WSGIServer):
    """A server on a thread of its own."""

    allow_reuse_port = False

    def __init__(self, host: str, port: int, app: Any) -> None:
        """Listen, and start the thread.

        Raises:
            OSError: the port cannot be had.
        """
        self.address_family = _family(host)
        super().__init__((host, port), _Handler)
        self.set_app(app)
        self._wake_r, self._wake_w = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._serve_all, name="mpengine-metrics", daemon=True)
        self._thread.start()

    def server_bind(self) -> None:
        """Bind, and ask no name server who we are."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    @property
    def port(self) -> int:
        """The port that it listens at."""
        return self.server_port

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that has gone away, or sends what is no request, is its own affair."""

    def _serve_all(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self.fileno(), selectors.EVENT_READ)
            selector.register(self._wake_r, selectors.EVENT_READ)
            while all(key.fd != self._wake_r for key, _ in selector.select()):
                with contextlib.suppress(OSError):  # the client has thought better of it
                    self.handle_request()

    def close(self) -> None:
        """End the thread and close the port (X3)."""
        os.close(self._wake_w)
        self._thread.join()
        os.close(self._wake_r)
        self.server_close()


def _family(host: str) -> Any:
    import socket

    return socket.AF_INET6 if ":" in host else socket.AF_INET
