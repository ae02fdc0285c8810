"""Figures for Prometheus: read over HTTP, by the library's own parser."""

import builtins
import socket
import threading
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mpengine import Engine, EngineError, stage
from mpengine.monitor import prometheus
from mpengine.monitor.prometheus import PrometheusExporter


@stage(on_error="drop", retries=1)
def refuse_sevens(number):
    if number % 50 == 7:
        raise ValueError(number)
    return number


def double(number):
    return 2 * number


def scrape(exporter):
    with urllib.request.urlopen(f"http://127.0.0.1:{exporter.port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(samples, name, **labels):
    return samples[(name, *sorted(labels.items()))]


def test_the_figures_of_a_run_are_served():
    with PrometheusExporter() as exporter:
        assert scrape(exporter) == {}
        result = Engine(2, observers=[exporter], backend="inline").run([range(200), refuse_sevens, double])
        samples = scrape(exporter)

    for position, book in enumerate(result.report.snapshot.stages):
        where = {"stage": book.name, "position": str(position)}
        for outcome in ("succeeded", "failed", "skipped"):
            assert of(samples, "mpengine_items_total", outcome=outcome, **where) == getattr(book, outcome)
        assert of(samples, "mpengine_item_retries_total", **where) == book.retried
        assert of(samples, "mpengine_items_dropped_total", **where) == book.dropped
        assert of(samples, "mpengine_queue_limit_items", **where) == book.buffer
        assert of(samples, "mpengine_queue_items", **where) == 0
        assert of(samples, "mpengine_stage_busy_seconds_total", **where) == pytest.approx(book.busy_s)
        assert of(samples, "mpengine_item_seconds_count", **where) == book.processed
        assert of(samples, "mpengine_item_seconds_bucket", le="+Inf", **where) == book.processed
        assert of(samples, "mpengine_item_seconds_sum", **where) == pytest.approx(book.busy_s)
    assert of(samples, "mpengine_source_items_total") == 200
    assert of(samples, "mpengine_results_total") == 196
    assert of(samples, "mpengine_run_state", state="finished") == 1
    assert of(samples, "mpengine_workers", state="idle") == 2


def test_figures_change_while_a_run_goes_on():
    with PrometheusExporter() as exporter:
        seen, told = [], Told(exporter)

        def look(number):
            assert told.of_the_beginning.wait(30)
            seen.append(scrape(exporter))
            return number

        Engine(1, observers=[told], backend="inline").run([range(3), stage(look, batch=1)])

    assert [of(samples, "mpengine_run_state", state="running") for samples in seen] == [1, 1, 1]
    assert of(seen[-1], "mpengine_items_total", stage="look", position="0", outcome="succeeded") == 2


class Told:
    """Hands on what it is told, and knows when that has begun."""

    def __init__(self, observer):
        self.observer = observer
        self.of_the_beginning = threading.Event()

    def observe(self, records):
        self.observer.observe(records)
        self.of_the_beginning.set()


def test_the_port_is_closed_in_the_end_and_its_thread_ended():
    exporter = PrometheusExporter()
    port = exporter.port

    exporter.close()
    exporter.close()

    assert not [thread for thread in threading.enumerate() if thread.name == "mpengine-metrics"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_a_port_that_is_taken_is_told_in_one_line():
    with PrometheusExporter() as first:
        with pytest.raises(EngineError) as told:
            PrometheusExporter(first.port)
        assert str(told.value) == f"metrics cannot be served at 127.0.0.1:{first.port}: Address already in use"


def test_a_client_that_says_nothing_does_not_keep_others_waiting_for_ever(monkeypatch):
    monkeypatch.setattr(prometheus._Handler, "timeout", 0.05)
    with (
        PrometheusExporter() as exporter,
        socket.create_connection(("127.0.0.1", exporter.port)),
        socket.create_connection(("127.0.0.1", exporter.port)) as rude,
    ):
        rude.sendall(b"\0\0\n\n")
        assert scrape(exporter) == {}


def test_without_a_port_there_is_a_registry_for_a_server_of_ones_own():
    exporter = PrometheusExporter(None, histograms=False)

    assert exporter.port is None
    assert not exporter.wants_times
    Engine(1, observers=[exporter], backend="inline").run([range(5), double])
    names = {family.name for family in exporter.registry.collect()}
    assert "mpengine_items" in names
    assert "mpengine_item_seconds" not in names


def test_without_the_package_one_line_names_the_extra(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **options):
        if name.startswith("prometheus_client"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(EngineError, match=r"pip install 'mpengine\[prometheus\]'"):
        PrometheusExporter()
