"""What watches a run from the command line: files and ports, and each wrong one told in a line."""

import json

import pytest


def test_a_trace_and_a_report_are_written(jobs, command):
    outcome = command("run", "jobs:small", "-q", "--backend", "inline", "--trace", "t.json", "--report", "r.html")

    assert outcome.status == 0
    assert outcome.values == [2, 4, 6]
    assert json.loads((jobs / "t.json").read_text())[-1]["name"] == "ended"
    assert "double" in (jobs / "r.html").read_text()


def test_figures_for_prometheus_are_served_while_a_run_goes_on(command, monkeypatch):
    from mpengine.monitor.prometheus import PrometheusExporter

    closed = []
    real = PrometheusExporter.close
    monkeypatch.setattr(PrometheusExporter, "close", lambda self: (closed.append(self.port), real(self)))

    outcome = command("run", "jobs:small", "-q", "--backend", "inline", "--metrics-port", "127.0.0.1:0")

    assert outcome.status == 0
    assert len(closed) == 1


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--trace", "nowhere/t.json"], "cannot write nowhere/t.json: No such file or directory"),
        (["--report", "nowhere/r.html"], "cannot write nowhere/r.html: No such file or directory"),
        (["--trace", "x", "--report", "x"], "x cannot be --trace and --report at once"),
        (["--input", "lines.txt", "--trace", "lines.txt"], "lines.txt cannot be --input and --trace at once"),
        (["--output", "x", "--report", "./x"], "x cannot be --output and --report at once"),
        (["--trace", "-"], "--trace needs a file: standard output is for values"),
        (["--metrics-port", "host:"], "Invalid value for '--metrics-port': 'host:' is no [HOST:]PORT."),
        (["--metrics-port", "70000"], "Invalid value for '--metrics-port': '70000' is no [HOST:]PORT."),
    ],
)
def test_what_cannot_be_written_or_served_is_wrong_usage_in_one_line(command, args, told):
    outcome = command("run", "jobs:small", "-q", *args)

    assert outcome.status == 2
    assert outcome.told == [f"mpengine: {told}"]
