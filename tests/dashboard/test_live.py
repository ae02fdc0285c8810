"""The dashboard beside a run: started when it is wanted, and nothing to the run whatever becomes of it."""

import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading

import psutil
import pytest

from mpengine import Engine, stage
from mpengine.dashboard import Dashboard, live
from mpengine.dashboard.told import Told
from mpengine.errors import EngineError
from mpengine.metrics import Snapshot, StageMetrics
from mpengine.monitor.observing import RunBegan, StageOutline

PATIENCE_S = 30.0


@pytest.fixture
def gate():
    return threading.Event()


def held(gate, **options):
    return stage(lambda item: gate.wait(PATIENCE_S) and item, kind="thread", name="held", **options)


def web_server():
    """Return the process of the web server; None while there is none."""
    for child in psutil.Process().children():
        try:
            # Its program is told in its arguments.
            if "mpengine.dashboard.host" in " ".join(child.cmdline()):
                return child
        except psutil.Error:
            continue
    return None


@pytest.mark.slow
def test_a_run_that_nobody_looks_at_has_no_web_server(watched, gate):
    run = watched(range(3), held(gate), release=gate.set)
    before = web_server()
    status = run.ask("/")
    after = web_server()
    gate.set()

    assert run.wait().is_ok
    assert (before, status) == (None, 200)
    assert after is not None
    assert not after.is_running()


@pytest.mark.slow
def test_what_happens_is_told_while_it_happens_and_how_it_ended_last(watched, gate):
    def odd(item):
        if item == 5:
            raise ValueError("five <is> odd")
        return item

    run = watched(range(8), stage(odd, name="odd"), held(gate), release=gate.set)
    looks = run.looks()
    first = next(looks)
    while not first["stages"][0]["failed"]:
        first = next(looks)
    gate.set()
    *_, last = looks

    assert (first["state"], first["ahead"]["total"]) == ("running", 8)
    assert [stage["name"] for stage in first["stages"]] == ["odd", "held"]
    assert (last["state"], last["delivered"], last["dropped"]) == ("finished", 7, 1)
    assert last["ending"]["is_ok"]
    assert last["ending"]["advice"]


@pytest.mark.slow
def test_a_late_viewer_is_told_of_errors_with_their_tracebacks(watched, gate):
    def odd(item):
        if item == 5:
            raise ValueError("five <is> odd")
        return item

    run = watched([5, 6], stage(odd, name="odd"), held(gate), release=gate.set)
    next(look for look in run.looks() if look["troubles"])
    (told,) = next(look for look in run.looks() if look["troubles"])["troubles"]

    assert (told["kind"], told["stage"], told["index"], told["item"]) == ("item", 0, 0, "5")
    assert told["summary"] == "ValueError: five <is> odd"
    assert "in odd" in told["traceback"]


@pytest.mark.slow
def test_a_run_is_cancelled_by_who_knows_the_token_and_by_nobody_else(watched, gate):
    run = watched(range(100), held(gate), release=gate.set)
    refused = run.ask("/cancel", "POST", '{"reason": "not me"}', token="another")
    state = next(run.looks())["state"]
    accepted = run.ask("/cancel", "POST", '{"reason": "seen enough"}')
    looks = [look for look in run.looks() if look["state"] != "running" or gate.set()]

    result = run.wait()
    assert (refused, state, accepted) == (403, "running", 202)
    assert result.reason == "seen enough"
    assert looks[-1]["reason"] == "seen enough"


@pytest.mark.slow
def test_a_web_server_that_is_killed_is_started_anew_and_knows_the_past_l3(watched, gate):
    run = watched(range(10), stage(lambda item: item, name="first"), held(gate), release=gate.set)
    assert run.ask("/check") == 204
    kill(web_server())
    status = run.ask("/check")
    look = next(run.looks())
    gate.set()

    assert status == 204
    assert look["run"] == 1 or look["full"]
    assert run.wait().is_ok


@pytest.mark.slow
def test_a_web_server_that_dies_too_often_is_done_without_l3(watched, gate, monkeypatch, caplog):
    monkeypatch.setattr(live, "STARTS", 1)
    run = watched(range(10), held(gate), release=gate.set)
    assert run.ask("/check") == 204
    kill(web_server())
    with pytest.raises(OSError, match=r"."):
        run.ask("/check")
    gate.set()

    assert run.wait().is_ok
    assert "the dashboard is closed: its web server has died too often" in caplog.text


@pytest.mark.slow
def test_a_web_server_that_is_stopped_holds_nothing_up_l4(watched, gate, monkeypatch):
    monkeypatch.setattr(live, "END_S", 0.05)
    run = watched(range(10), held(gate), release=gate.set)
    assert run.ask("/check") == 204
    stopped = web_server()
    stopped.send_signal(signal.SIGSTOP)
    gate.set()

    assert run.wait().is_ok
    assert not stopped.is_running()


def test_what_goes_wrong_in_the_dashboard_costs_the_dashboard_alone_w1(monkeypatch, caplog):
    dashboard = Dashboard(ahead=lambda snapshot: 1 / 0)
    with dashboard, Engine(backend="inline", observers=[dashboard]) as engine:
        assert engine.run([range(3), abs]).unwrap().values == [0, 1, 2]

    assert "the run goes on without a dashboard: ZeroDivisionError: division by zero" in caplog.text


def test_a_dashboard_without_a_run_is_closed_and_closed_again():
    with Dashboard() as dashboard:
        pass
    dashboard.close()
    Dashboard().close()

    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(dashboard.url.rpartition("/")[0].rpartition(":")[2])), 1)


@pytest.mark.parametrize(("fans_out", "share"), [(False, 0.3), (True, 0.5)])
def test_what_is_done_is_counted_where_items_are_counted(fans_out, share):
    outline = StageOutline("only", 0, "process", None, 8, "raise", (), fans_out)
    told = Told(RunBegan(0.0, 0.0, 1, 1, (outline,), 1, 10, Snapshot, str))
    snapshot = Snapshot((StageMetrics("only", processed=5),), state="running", elapsed_s=3.0, delivered=2, dropped=1)

    ahead = told.ahead(snapshot)
    assert (ahead["total"], ahead["share"]) == (10, share)
    assert ahead["left_s"] == pytest.approx(3.0 / share - 3.0)


def test_what_another_run_had_settled_tells_nothing_of_how_long_the_rest_takes():
    told = Told(RunBegan(0.0, 0.0, 1, 1, (), 1, 1000, Snapshot, str))
    stages = (StageMetrics("only", processed=10),)
    snapshot = Snapshot(stages, state="running", elapsed_s=2.0, delivered=10, resumed=900)

    assert told.ahead(snapshot) == {"total": 1000, "share": 0.91, "left_s": pytest.approx(18.0)}
    assert told.ahead(Snapshot(stages, state="running", elapsed_s=2.0, resumed=900))["left_s"] is None


def test_a_run_that_is_cancelled_before_it_has_begun_is_cancelled_as_soon_as_it_has():
    reasons = []
    dashboard = Dashboard()
    dashboard._told.cancel("never mind")
    dashboard.observe([RunBegan(0.0, 0.0, 1, 1, (), 1, None, Snapshot, reasons.append)])
    dashboard._look()
    dashboard._look()
    dashboard.close()

    assert reasons == ["never mind"]


def test_every_dashboard_has_a_token_of_its_own():
    with Dashboard() as one, Dashboard() as other:
        tokens = {dashboard.url.partition("#")[2] for dashboard in (one, other)}

    assert len(tokens) == 2
    assert all(len(token) >= 32 for token in tokens)


def test_the_extra_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(live.importlib.util, "find_spec", lambda name: None if name == "uvicorn" else name)

    with pytest.raises(EngineError, match=r"the dashboard needs uvicorn: pip install 'mpengine\[dashboard\]'"):
        Dashboard()


def test_a_look_that_takes_long_is_followed_by_a_long_rest_w4(monkeypatch):
    dashboard = Dashboard()
    clock = iter([100.0, 100.5])
    monkeypatch.setattr(live.time, "monotonic", lambda: next(clock))
    dashboard._look()
    dashboard._hasten()
    monkeypatch.undo()
    dashboard.close()

    assert dashboard._due_at == 100.5 + 0.5 * live.SHARE


@pytest.mark.slow
def test_a_program_that_is_killed_takes_its_web_server_with_it_even_one_that_is_stopped_w2():
    program = textwrap.dedent("""
        import http.client, sys, time
        from urllib.parse import urlsplit
        from mpengine import Engine, stage
        from mpengine.dashboard import Dashboard
        import psutil, threading

        gate = threading.Event()
        with Dashboard() as dashboard, Engine(1, observers=[dashboard], start_method="fork") as engine:
            results = engine.iter([range(3), stage(lambda item: gate.wait(60), kind="thread")])
            url = urlsplit(dashboard.url)
            connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
            connection.request("GET", "/")
            assert connection.getresponse().status == 200
            hosts = [child.pid for child in psutil.Process().children() if "dashboard.host" in str(child.cmdline())]
            print(*hosts, url.port, flush=True)
            gate.wait(60)
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        *pids, port = map(int, process.stdout.readline().split())
        pidfds = [os.pidfd_open(pid) for pid in pids]
        for pid in pids:  # so that only the kernel can end them
            os.kill(pid, signal.SIGSTOP)
        process.kill()
    try:
        assert pids
        for pidfd in pidfds:
            assert is_over(pidfd)
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), 1)
    finally:
        for pidfd in pidfds:
            os.close(pidfd)


def kill(process):
    """Kill it, and wait until it has gone; whose child it is buries it."""
    pidfd = os.pidfd_open(process.pid)
    try:
        process.kill()
        assert is_over(pidfd)
    finally:
        os.close(pidfd)


def is_over(pidfd):
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(PATIENCE_S * 1000))
