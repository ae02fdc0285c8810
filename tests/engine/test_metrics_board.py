"""The metrics board: a Manager's dict that other processes may read, and that no run depends on."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import AuthenticationError
from multiprocessing.managers import DictProxy
from pathlib import Path

import psutil
import pytest
from engine_stages import double, keep

from mpengine import Engine
from mpengine.coordinator import publishing
from mpengine.coordinator.publishing import UNASKED, Publisher
from mpengine.coordinator.run import Run
from mpengine.coordinator.scribe import Scribe
from mpengine.metrics import Snapshot
from mpengine.monitor import board as board_module
from mpengine.monitor.board import attach
from mpengine.processes.boardprocess import BoardProcess

PATIENCE_S = 30.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
INTERVAL_S = 0.02

UNREACHABLE = (ConnectionError, TimeoutError, BlockingIOError)  # all of them an OSError

slow = pytest.mark.slow


@pytest.fixture
def make_watched(make_engine):
    def make(kind="forkserver", **options):
        return make_engine(kind, metrics_interval_s=INTERVAL_S, **options)

    return make


def go_on_until(results, condition):
    """Consume a run until something is so, slowly: a board comes sooner where the run leaves it a processor."""
    deadline_at = time.monotonic() + PATIENCE_S
    for _ in results:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline_at
        time.sleep(0.001)
    raise AssertionError("the run is over")


def board_process(engine):
    return psutil.Process(engine._publisher._process.identity.pid)


def endless(engine):
    return engine.iter([itertools.count(), double])


# ---------------------------------------------------------------------- what is on it


@slow
@pytest.mark.parametrize("kind", ["forkserver", "spawn", "fork"])
def test_a_run_that_lasts_gets_a_board_and_its_snapshots_are_on_it(kind, make_watched):
    engine = make_watched(kind)
    assert engine.metrics() is None
    assert engine.metrics_address is None
    with endless(engine) as results:
        board = go_on_until(results, engine.metrics)
        first = go_on_until(results, board.copy)
        later = go_on_until(results, lambda: (now := board.copy())["delivered"] > first["delivered"] and now)

        assert isinstance(board, DictProxy)
        assert later.keys() == Snapshot().as_dict().keys()
        assert later["state"] == "running"
        assert [stage["name"] for stage in later["stages"]] == ["double"]
        assert json.loads(json.dumps(later)) == later
        assert board_process(engine).pid not in engine.pids()
        assert os.getpgid(board_process(engine).pid) == board_process(engine).pid
    assert engine.metrics() is None


@slow
def test_the_last_snapshot_of_a_run_is_on_the_board_when_it_is_over(make_watched):
    with make_watched() as engine:
        with endless(engine) as results:
            go_on_until(results, engine.metrics)
        board = engine.metrics()
        assert board.copy() == results.result.report.snapshot.as_dict()
        assert board["state"] == "finished"

        report = engine.run([range(10), keep]).unwrap()  # too short for a board, but there is one
        assert board.copy() == report.snapshot.as_dict()


@slow
def test_warm_runs_share_a_board(make_watched):
    with make_watched() as engine:
        pids = set()
        for _ in range(2):
            with endless(engine) as results:
                go_on_until(results, engine.metrics)
                pids.add(board_process(engine).pid)

    assert len(pids) == 1


@slow
def test_it_is_a_dict_in_every_way_that_matters(make_watched):
    engine = make_watched()
    with endless(engine) as results:
        board = go_on_until(results, lambda: (found := engine.metrics()) and found.copy() and found)

        assert set(board) == set(board.keys()) == board.copy().keys()
        assert len(board) == len(board.items())
        assert "state" in board
        assert board.get("nothing") is None
        with pytest.raises(KeyError):
            board["nothing"]
        assert "running" in str(board)
        assert vars(board._tls) == {}  # no connection stays open between calls (B2)


# ---------------------------------------------------------------------- who pays for it


def test_a_run_that_is_over_soon_pays_for_no_manager(run_program):
    program = run_program("""
        import sys
        from mpengine import Engine
        with Engine(2, metrics_interval_s=600) as engine:
            for _ in range(3):
                assert engine.run([range(10), abs]).is_ok
            print("multiprocessing.managers" in sys.modules, engine.metrics())
    """)

    assert (program.stdout, program.stderr) == ("False None\n", "")


@pytest.mark.parametrize("ask", [lambda one: one.board, lambda one: one.address])
def test_a1_a_board_that_nobody_asks_for_comes_later(ask):
    publisher = Publisher(1000.0, Scribe())

    def due_s():
        return round(publisher._due_at - publisher._began_at)

    publisher.begin(Snapshot)
    assert due_s() == UNASKED * 1000
    assert ask(publisher) is None
    assert due_s() == 1000
    publisher.end(Snapshot())
    publisher.begin(Snapshot)
    assert due_s() == 1000  # who has asked once will look again
    publisher.close()


@pytest.mark.parametrize("interval_s", [0, 0.0])
def test_no_interval_is_no_board_and_no_thread(interval_s):
    publisher = Publisher(interval_s, Scribe())
    before = threading.enumerate()
    publisher.begin(Snapshot)

    assert threading.enumerate() == before
    publisher.end(Snapshot())
    publisher.close()


@pytest.mark.parametrize("interval_s", [1e-9, 1_000_000.0])
def test_any_interval_will_do(interval_s, make_engine):
    engine = make_engine("inline", metrics_interval_s=interval_s)

    assert engine.run([range(3), keep]).is_ok
    publisher = Publisher(interval_s, Scribe())
    publisher.begin(Snapshot)
    publisher.close()


def test_inline_runs_have_one_thread_and_no_board(make_engine):
    engine = make_engine("inline", metrics_interval_s=1e-9)
    with engine.iter([range(100), keep]) as results:
        assert {(engine.metrics(), threading.active_count()) for _ in results} == {(None, threading.active_count())}


# ---------------------------------------------------------------------- other processes

ATTACH = """
import sys
from mpengine.monitor.board import attach
board = attach("\\0" + sys.argv[1], bytes.fromhex(sys.argv[2]))
print(board.copy()["state"], type(board).__name__)
"""


@slow
def test_another_process_reads_the_board(make_watched):
    engine = make_watched()
    with endless(engine) as results:
        go_on_until(results, lambda: (board := engine.metrics()) and board.copy())
        address, key = engine.metrics_address
        command = [sys.executable, "-c", ATTACH, address[1:], key.hex()]
        program = subprocess.run(
            command, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE_S, check=True
        )

    assert program.stdout == "running BoardProxy\n"


@slow
def test_a_board_opens_to_nobody_without_its_key(make_watched):
    engine = make_watched()
    with endless(engine) as results:
        go_on_until(results, engine.metrics)
        address, _ = engine.metrics_address
        with pytest.raises((AuthenticationError, OSError)):
            attach(address, b"wrong")


@slow
def test_a_board_that_is_no_more_is_an_os_error(make_watched):
    engine = make_watched()
    with endless(engine) as results:
        board = go_on_until(results, engine.metrics)
        where = engine.metrics_address

    with pytest.raises(UNREACHABLE):
        board.copy()
    with pytest.raises(UNREACHABLE):
        attach(*where)


@slow
def test_a_board_goes_with_a_killed_coordinator_even_if_that_has_forked(start_program):
    program = start_program("""
        import itertools, os, time
        from mpengine import Engine
        engine = Engine(2, metrics_interval_s=0.02)
        results = engine.iter([itertools.count(), abs])
        while engine.metrics() is None:
            next(results)
        board_pid = engine._publisher._process.identity.pid
        child = os.fork()
        if child == 0:
            time.sleep(600)
        print(board_pid, child, flush=True)
        for _ in results:
            pass
    """)
    board_pid, child = program.read_pids()
    found = psutil.Process(board_pid)
    program.send(signal.SIGKILL)
    program.process.wait(PATIENCE_S)
    try:
        found.wait(PATIENCE_S)
    finally:
        os.kill(child, signal.SIGKILL)  # only now, and it holds the program's stdout


# ---------------------------------------------------------------------- a board that dies or stops


@slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_board_disturbs_nothing_and_the_next_run_has_another(signum, make_watched, caplog):
    with make_watched() as engine:
        with endless(engine) as results:
            go_on_until(results, engine.metrics)
            first = board_process(engine)
            first.send_signal(signum)
            go_on_until(results, lambda: engine.metrics() is None)
            values = list(itertools.islice(results, 100))
        assert values == list(range(values[0], values[0] + 200, 2))
        assert [record for record in caplog.records if "without a metrics board" in record.message]
        assert not psutil.pid_exists(first.pid)

        with endless(engine) as results:
            go_on_until(results, engine.metrics)
            assert board_process(engine).pid != first.pid


@slow
@pytest.mark.parametrize("is_warm", [False, True])
def test_a_stopped_board_holds_up_nobody(is_warm, make_watched, monkeypatch):
    """Its socket still takes connections; nobody answers on them."""
    monkeypatch.setattr(publishing, "END_S", 0.1)
    engine = make_watched()
    if is_warm:
        engine.__enter__()
    with endless(engine) as results:
        board = go_on_until(results, engine.metrics)
        monkeypatch.setattr(board_module, "PATIENCE_S", 0.1)  # only now: a board that is not stopped may be slow
        stopped = board_process(engine)
        stopped.send_signal(signal.SIGSTOP)
        with pytest.raises(UNREACHABLE):
            board.copy()
        values = list(itertools.islice(results, 1_000))
    engine.close()

    assert values == list(range(values[0], values[0] + 2_000, 2))
    assert not psutil.pid_exists(stopped.pid)


@slow
def test_a_board_that_was_stopped_and_goes_on_is_written_again(make_watched, monkeypatch):
    engine = make_watched()
    with endless(engine) as results:
        board = go_on_until(results, lambda: (found := engine.metrics()) and found.copy() and found)
        process = board_process(engine)
        process.send_signal(signal.SIGSTOP)
        with monkeypatch.context() as patch:
            patch.setattr(board_module, "PATIENCE_S", 0.05)
            with pytest.raises(UNREACHABLE):
                board.copy()
        process.send_signal(signal.SIGCONT)
        before = board.copy()["delivered"]
        assert go_on_until(results, lambda: board.copy()["delivered"] > before)


@slow
def test_a_board_killed_before_it_is_ready_is_given_up(make_watched, monkeypatch, caplog):
    start = BoardProcess.start

    def start_dead():
        process = start()
        os.kill(process.identity.pid, signal.SIGKILL)
        return process

    monkeypatch.setattr(BoardProcess, "start", start_dead)
    engine = make_watched()
    with endless(engine) as results:
        go_on_until(results, lambda: [record for record in caplog.records if "did not start" in record.message])
        assert engine.metrics() is None


def test_a_board_that_cannot_be_started_is_given_up(make_watched, monkeypatch, caplog):
    def fail():
        raise OSError("no more processes")

    monkeypatch.setattr(BoardProcess, "start", fail)
    engine = make_watched()
    with endless(engine) as results:
        assert go_on_until(results, lambda: [r for r in caplog.records if "no more processes" in r.message])
    assert sum("no more processes" in record.message for record in caplog.records) == 1


@slow
def test_closing_while_the_board_starts_leaves_nothing(make_watched, monkeypatch):
    start = BoardProcess.start
    has_started = threading.Event()

    def start_and_tell():
        process = start()
        has_started.set()
        return process

    monkeypatch.setattr(BoardProcess, "start", start_and_tell)
    engine = make_watched()
    with endless(engine) as results:
        go_on_until(results, has_started.is_set)


@slow
def test_user_code_that_collects_every_child_harms_no_burial(make_watched, monkeypatch):
    collected = []
    bury = BoardProcess.bury

    def collect_and_bury(process):
        if not collected:
            collected.append(os.waitpid(process.identity.pid, 0)[0])
        return bury(process)

    monkeypatch.setattr(BoardProcess, "bury", collect_and_bury)
    engine = make_watched()
    with endless(engine) as results:
        go_on_until(results, engine.metrics)
        process = board_process(engine)
        process.kill()
        go_on_until(results, lambda: engine.metrics() is None)
    assert collected == [process.pid]


@slow
def test_a_forked_child_of_the_parent_knows_no_board(make_watched):
    engine = make_watched()
    with endless(engine) as results:
        go_on_until(results, engine.metrics)
        pid = os.fork()
        if pid == 0:
            os._exit(engine.metrics() is not None or engine.metrics_address is not None)
        assert os.waitpid(pid, 0)[1] == 0


# ---------------------------------------------------------------------- the publisher alone


class Board:
    """Takes updates, or does not come back."""

    def __init__(self):
        self.updates = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def update(self, figures):
        self.entered.set()
        self.gate.wait(PATIENCE_S)
        self.updates.append(figures["delivered"])


def test_an_end_waits_for_a_stuck_board_no_longer_than_its_bound(monkeypatch):
    monkeypatch.setattr(publishing, "END_S", 0.01)
    publisher = Publisher(INTERVAL_S, Scribe())
    publisher._board = board = Board()
    board.gate.clear()
    publisher.begin(lambda: Snapshot(delivered=1))
    assert board.entered.wait(PATIENCE_S)
    publisher.end(Snapshot(delivered=2))
    assert board.updates == []

    board.gate.set()
    assert publisher._is_told.wait(PATIENCE_S)
    publisher.close()


def test_the_last_snapshot_is_the_last_one_published():
    publisher = Publisher(INTERVAL_S, Scribe())
    publisher._board = board = Board()
    publisher.begin(lambda: Snapshot(delivered=1))
    assert board.entered.wait(PATIENCE_S)
    publisher.end(Snapshot(delivered=2))
    publisher.close()

    assert board.updates[-1] == 2


def test_a_board_that_is_ready_when_everything_is_over_is_nobodys(monkeypatch):
    class Process:
        where = board_module.BoardAddress("nowhere", b"")
        buried = threading.Event()

        def wait_ready(self, timeout_s):
            return True

        def bury(self):
            self.buried.set()
            return True

    def attach_late(*where):
        publisher.close()
        return Board()

    monkeypatch.setattr(BoardProcess, "start", Process)
    monkeypatch.setattr(board_module, "attach", attach_late)
    publisher = Publisher(INTERVAL_S, Scribe())
    publisher.begin(Snapshot)
    thread = publisher._thread
    assert Process.buried.wait(PATIENCE_S)
    thread.join(PATIENCE_S)

    assert (publisher.board, publisher.address) == (None, None)


def test_importing_the_engine_loads_no_manager():
    program = f"import sys; from mpengine import {Engine.__name__}; print('multiprocessing.managers' in sys.modules)"
    command = [sys.executable, "-c", program]

    assert subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout == "False\n"


@slow
def test_an_engine_that_is_closed_while_a_run_starts_publishes_nothing(make_watched, monkeypatch):
    start = Run.start
    engine = make_watched()

    def start_and_close(run):
        start(run)
        closer = threading.Thread(target=engine.close)
        closer.start()
        closer.join(PATIENCE_S)

    monkeypatch.setattr(Run, "start", start_and_close)
    engine.run([range(3), keep])

    assert not [thread for thread in threading.enumerate() if thread.name == "mpengine-publisher"]
