"""What stages log reaches the handlers of the parent, once, and neither of them can harm the run."""

import contextlib
import logging
import os
import re
import threading

import logging_stages as stages
import pytest
from engine_stages import fail_on_three, keep

from mpengine import stage
from mpengine.coordinator import scribe as scribe_module
from mpengine.coordinator.scribe import Scribe

PATIENCE_S = 20.0


@pytest.fixture(
    params=[
        pytest.param("forkserver", marks=pytest.mark.slow),
        *(pytest.param(name, marks=[pytest.mark.slow, pytest.mark.long]) for name in ("spawn", "fork")),
    ]
)
def start_method(request):
    return request.param


class Collector(logging.Handler):
    """Keeps the records of loggers whose names begin alike."""

    def __init__(self, prefix):
        super().__init__()
        self.prefix = prefix
        self.records = []

    def emit(self, record):
        if record.name.startswith(self.prefix):
            self.records.append(record)

    @property
    def texts(self):
        return [record.getMessage() for record in self.records]


@contextlib.contextmanager
def handled_by(handler):
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield handler
    finally:
        root.removeHandler(handler)


@contextlib.contextmanager
def handled_by_nobody_else(handler):
    """What is long and comes often is not kept for a report as well."""
    root = logging.getLogger()
    before, root.handlers = root.handlers, [handler]
    try:
        yield
    finally:
        root.handlers = before


@pytest.fixture
def collected():
    with handled_by(Collector("user")) as collector:
        yield collector


@pytest.fixture
def own():
    with handled_by(Collector("mpengine")) as collector:
        yield collector


@pytest.fixture
def level_of():
    """Set levels of loggers for one test."""
    before = {}

    def set_level(name, level):
        logger = logging.getLogger(name)
        before.setdefault(logger, logger.level)
        logger.setLevel(level)

    yield set_level
    for logger, level in before.items():
        logger.setLevel(level)


# ---------------------------------------------------------------------- what arrives


def test_records_arrive_once_and_say_where_they_are_from(start_method, make_engine, collected, tmp_path):
    path = tmp_path / "lines"
    with contextlib.closing(logging.FileHandler(path)) as file, handled_by(file):
        engine = make_engine(start_method)
        report = engine.run([range(20), stages.say, keep, stages.say_more]).unwrap()

    assert report.values == list(range(20))
    assert sorted(collected.texts) == sorted(
        [*(f"item {n}" for n in range(20)), *(f"more of {n}" for n in range(20))]
    )  # not one of them twice
    assert len(path.read_text().splitlines()) == 40
    assert {record.stage for record in collected.records if record.getMessage().startswith("item")} == {"say it"}
    assert {record.stage for record in collected.records if record.getMessage().startswith("more")} == {"say more"}
    assert {record.worker_id for record in collected.records} <= {0, 1}
    assert len({record.run_id for record in collected.records}) == 1
    assert {record.process for record in collected.records}.isdisjoint({os.getpid()})
    assert {record.item for record in collected.records if hasattr(record, "item")} == set(range(20))
    assert all(record.getMessage().endswith(str(record.item_index)) for record in collected.records)
    assert {record.filename for record in collected.records} == {"logging_stages.py"}


def test_the_parents_levels_hold_in_workers(start_method, make_engine, collected, level_of):
    level_of("user", logging.INFO)
    level_of("user.loud", logging.DEBUG)
    make_engine(start_method, workers=1).run([[1], stages.all_levels])

    assert collected.texts == ["info", "error", "loud"]


@pytest.mark.slow
def test_warm_workers_are_told_of_new_levels(make_engine, collected, level_of):
    with make_engine(workers=1) as engine:
        level_of("user", logging.ERROR)
        engine.run([[1], stages.all_levels])
        level_of("user", logging.NOTSET)
        level_of("user.stages", logging.DEBUG)
        engine.run([[1], stages.all_levels])

    assert collected.texts == ["error", "debug", "info", "error"]
    first, *others = [record.run_id for record in collected.records]
    assert {run_id - first for run_id in others} == {1}


@pytest.mark.slow
def test_records_that_nobody_wants_are_not_sent(make_engine, monkeypatch, level_of):
    level_of("user", logging.CRITICAL)
    sent = []
    monkeypatch.setattr(Scribe, "hand_on", lambda self, *record: sent.append(record))
    make_engine().run([range(10), stages.say, stages.unspeakable])

    assert sent == []


def test_what_does_not_format_or_pickle_harms_nobody(start_method, make_engine, collected):
    result = make_engine(start_method).run([range(3), stages.unspeakable])

    assert result.unwrap().values == [0, 1, 2]
    assert len(collected.texts) == 6
    assert sum("does not format" in text for text in collected.texts) == 3


@pytest.mark.slow
def test_threads_of_a_stage_may_log(make_engine, collected):
    assert make_engine().run([range(50), stages.from_a_thread]).unwrap().values == list(range(50))
    assert sorted(collected.texts) == sorted(f"item {n}" for n in range(50))
    assert {record.stage for record in collected.records} == {"from_a_thread"}


@pytest.mark.slow
def test_a_signal_handler_may_log_while_something_is_half_written(make_engine, collected, monkeypatch):
    flush = Scribe.flush
    monkeypatch.setattr(Scribe, "flush", lambda scribe: flush(scribe, PATIENCE_S))  # however slow the machine is
    result = make_engine().run([range(8), stages.from_a_signal_handler])

    assert result.unwrap().values == list(range(8))
    assert sum(worker.deaths for worker in result.report.snapshot.workers) == 0
    assert collected.texts.count("body") == 8 * stages.BODIES
    assert set(collected.texts) == {"body", "handler"}


@pytest.mark.slow
def test_a_signal_handler_that_raises_while_a_record_is_sent_breaks_nothing(make_engine, collected):
    with handled_by_nobody_else(collected):
        result = make_engine().run([range(24), stage(stages.within_a_time_limit, name="limited")])

    assert result.unwrap().values == list(range(24))
    assert sum(worker.deaths for worker in result.report.snapshot.workers) == 0
    assert {text.strip("'")[:4] for text in collected.texts} == {"body"}  # or "'body %s' (does not format: ..."


@pytest.mark.slow
def test_a_child_that_a_stage_forks_does_not_use_the_workers_outbox(make_engine, collected):
    result = make_engine().run([range(5), stages.in_a_forked_child])

    assert result.unwrap().values == list(range(5))
    assert set(collected.texts) == {"parent"}


def test_the_last_records_of_a_worker_arrive(start_method, make_engine, collected):
    make_engine(start_method, workers=1).run([[1], stage(keep, teardown=stages.tear_down)])

    assert collected.texts == ["torn down"]


@pytest.mark.slow
def test_a_record_of_a_worker_that_is_terminated_arrives(make_engine, collected, monkeypatch):
    read_fd, write_fd = os.pipe()
    os.set_inheritable(write_fd, True)
    monkeypatch.setenv("LOGGING_STAGES_FD", str(write_fd))
    engine = make_engine("fork", workers=1, grace_s=0.1)
    canceller = threading.Thread(target=lambda: (os.read(read_fd, 1), engine.cancel()))
    canceller.start()
    try:
        engine.run([[1], stages.log_when_terminated])
    finally:
        canceller.join(PATIENCE_S)
        os.close(read_fd)
        os.close(write_fd)

    assert collected.texts == ["terminated"]


@pytest.mark.slow
def test_handlers_of_a_preloaded_module_do_not_fire_in_workers(make_engine, collected, tmp_path, monkeypatch):
    module = tmp_path / "logs_at_import.py"
    module.write_text(f"import logging\nlogging.basicConfig(filename={str(tmp_path / 'lines')!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    make_engine(preload=["logs_at_import"]).run([range(5), stages.say])

    assert len(collected.texts) == 5
    assert (tmp_path / "lines").read_text() == ""


# ---------------------------------------------------------------------- handlers that misbehave


class Bad(logging.Handler):
    def emit(self, record):
        raise RuntimeError("a bad handler")


class Stuck(logging.Handler):
    def __init__(self):
        super().__init__()
        self.gate = threading.Event()

    def handle(self, record):  # without the handler's lock, which pytest's own teardown would wait for
        self.gate.wait(PATIENCE_S)


@pytest.mark.parametrize("kind", ["inline", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_a_handler_that_raises_changes_nothing(kind, make_engine, capsys):
    with handled_by(Bad()):
        result = make_engine(kind).run([range(6), stage(fail_on_three, on_error="drop")])

    assert result.unwrap().values == [0, 1, 2, 4, 5]
    assert "a bad handler" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["inline", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_a_handler_that_blocks_holds_a_run_up_no_longer_than_the_flush(kind, make_engine, monkeypatch):
    monkeypatch.setattr(scribe_module, "FLUSH_S", 0.05)
    monkeypatch.setattr(Scribe.flush, "__defaults__", (0.05,))
    stuck = Stuck()
    logging.getLogger("mpengine").addHandler(stuck)
    try:
        result = make_engine(kind).run([range(6), stage(fail_on_three, on_error="drop")])
        assert result.unwrap().values == [0, 1, 2, 4, 5]
        assert not stuck.gate.is_set()
    finally:
        stuck.gate.set()
        logging.getLogger("mpengine").removeHandler(stuck)


@pytest.mark.slow
def test_a_flood_is_bounded_in_the_parent(make_engine, own, monkeypatch):
    """The handler does not come back before the run is over, and the parent keeps a bounded number of records."""
    monkeypatch.setattr(scribe_module, "MAX_RECORDS", 100)
    monkeypatch.setattr(Scribe.flush, "__defaults__", (0.05,))
    most = []
    hand_on = Scribe.hand_on
    monkeypatch.setattr(
        Scribe, "hand_on", lambda self, *record: (hand_on(self, *record), most.append(len(self._entries)))
    )
    stuck = Stuck()
    logging.getLogger("user").addHandler(stuck)
    try:
        result = make_engine().run([[20_000] * 2, stages.flood, stages.nothing])
        assert result.unwrap().values == []
    finally:
        stuck.gate.set()
        logging.getLogger("user").removeHandler(stuck)
    scribe_thread = [thread for thread in threading.enumerate() if thread.name == "mpengine-scribe"]
    for thread in scribe_thread:
        thread.join(PATIENCE_S)

    assert len(most) == 40_000
    assert max(most) <= 100
    assert [text for text in own.texts if "were dropped" in text]


# ---------------------------------------------------------------------- the engine's own lines


def test_dropped_items_are_told_one_line_a_stage_and_second_and_the_rest_at_the_end(kind, make_engine, own):
    @stage(on_error="drop", name="picky")
    def fail(x):
        raise ValueError(x)

    make_engine(kind).run([range(500), fail])
    lines = [text for text in own.texts if text.startswith("stage 'picky'")]

    told = sum(1 for line in lines if " failed: ValueError" in line)
    held_back = sum(int(found) for line in lines for found in re.findall(r"(\d+) more", line))
    assert told + held_back == 500
    assert told <= 10
    assert {record.stage for record in own.records} == {"picky"}


def test_a_failed_run_is_told(kind, make_engine, own):
    make_engine(kind).run([range(6), fail_on_three])

    assert own.texts == ["the run has failed: stage 'fail_on_three' failed on item 3: ValueError: no 3"]


def test_no_handler_ever_runs_on_the_loops_thread(kind, make_engine):
    threads = set()

    class Spy(logging.Handler):
        def emit(self, record):
            threads.add(threading.current_thread().name)

    with handled_by(Spy()):
        make_engine(kind).run([range(6), stage(fail_on_three, on_error="drop")])

    assert threads == {"mpengine-scribe"}


@pytest.mark.slow
def test_a_record_names_the_item_that_was_under_way(make_engine, collected):
    chains = [
        [stages.drop_and_say], [keep, stages.drop_and_say, stages.say_hundreds], [stages.double, stages.say_and_give],
    ]  # fmt: skip
    for chain in chains:
        make_engine(workers=1).run([range(3000), *chain], collect=False)

    said = [record for record in collected.records if record.name == "user.stages"]
    assert len(said) > 20
    assert {record.stage for record in said} == {"drop_and_say", "say_hundreds", "say_and_give"}
    assert {record.levelname for record in said if record.stage == "say_hundreds"} == {"ERROR"}
    assert {record.stage for record in said if record.levelname == "ERROR"} == {"say_hundreds"}
    assert [record.item_index for record in said] == [int(record.getMessage()) for record in said]


@pytest.mark.slow
def test_the_engines_own_lines_name_run_and_item(make_engine, caplog):
    make_engine(workers=1).run([[1, 2, 0], stages.invert])

    (record,) = [record for record in caplog.records if record.name == "mpengine"]
    assert (record.stage, record.item_index, record.worker_id) == ("invert", 2, 0)
    assert record.run_id >= 1
