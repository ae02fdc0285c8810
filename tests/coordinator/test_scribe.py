"""The scribe: handlers on a thread of their own, bounded in what waits for them and in what waits for it (Y1 to Y5)."""

import contextlib
import logging
import threading

import pytest

from mpengine.coordinator import scribe as module
from mpengine.coordinator.scribe import Scribe
from mpengine.ipc.messages import Logged

PATIENCE_S = 20.0


def logged(text, **others):
    fields = {
        "name": "user", "level": 30, "level_name": "WARNING", "message": text, "exc_text": None, "stack": None,
        "path": "/a/b.py", "line": 3, "function": "f", "created": 1.25, "thread": 7, "thread_name": "MainThread",
        "process": 99, "process_name": "worker", "stage": "parse", "extra": (),
    }  # fmt: skip
    return Logged(**{**fields, **others})


class Collector(logging.Handler):
    """Keeps records, and may be told to do worse; opens its gate at the end of the test."""

    def __init__(self):
        super().__init__()
        self.records = []
        self.threads = set()
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.error = None

    def emit(self, record):
        self.entered.set()
        self.gate.wait(PATIENCE_S)
        self.threads.add(threading.current_thread().name)
        self.records.append(record)
        if self.error is not None:
            raise self.error

    @property
    def texts(self):
        return [record.getMessage() for record in self.records]


@pytest.fixture
def collector():
    handler = Collector()
    logging.getLogger().addHandler(handler)
    yield handler
    handler.gate.set()
    logging.getLogger().removeHandler(handler)


@pytest.fixture
def scribe(collector):
    made = Scribe()
    yield made
    collector.gate.set()
    collector.error = None
    made._is_stuck = False
    made.close()


def test_nothing_is_started_for_a_run_of_which_nothing_is_logged(scribe):
    before = threading.enumerate()

    assert scribe.flush()
    scribe.close()
    assert threading.enumerate() == before


def test_handlers_run_on_the_scribes_thread(scribe, collector):
    scribe.note(logging.WARNING, "%s of %d", "one", 2, stage="parse", worker_id=1)
    scribe.hand_on(logged("from a worker"), 1, 5)

    assert scribe.flush()
    assert collector.texts == ["one of 2", "from a worker"]
    assert collector.threads == {"mpengine-scribe"}
    assert [(r.stage, r.worker_id, r.run_id) for r in collector.records] == [("parse", 1, None), ("parse", 1, 5)]


def test_a_record_from_a_worker_is_what_it_was_there(scribe, collector):
    scribe.hand_on(logged("text", exc_text="Traceback ...", extra=(("order", 5),)), 1, 5)
    scribe.flush()
    (record,) = collector.records

    assert (record.name, record.levelname, record.levelno) == ("user", "WARNING", 30)
    assert (record.pathname, record.filename, record.module, record.lineno, record.funcName) == (
        "/a/b.py", "b.py", "b", 3, "f",
    )  # fmt: skip
    assert (record.created, record.msecs) == (1.25, 250.0)
    assert (record.process, record.processName, record.threadName) == (99, "worker", "MainThread")
    assert record.order == 5
    assert logging.Formatter("%(message)s").format(record) == "text\nTraceback ..."


def test_a_worker_cannot_make_a_record_something_else(scribe, collector):
    extra = (("getMessage", "no method"), ("msg", "other"), ("levelno", 50), ("worker_id", 9), ("run_id", 9))
    scribe.hand_on(logged("text", extra=extra), 1, 5)
    scribe.flush()
    (record,) = collector.records

    assert record.getMessage() == "text"
    assert (record.levelno, record.worker_id, record.run_id) == (30, 1, 5)


def test_lines_that_nobody_wants_are_not_written(scribe, collector):
    scribe.note(logging.DEBUG, "no")
    scribe.flush()

    assert collector.texts == []


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(3), KeyboardInterrupt()])
def test_a_handler_that_raises_is_told_about_once_and_gets_the_next_record_all_the_same(
    scribe, collector, error, capsys
):
    collector.error = error
    for text in "abc":
        scribe.note(logging.WARNING, text)

    assert scribe.flush()
    assert collector.texts == ["a", "b", "c"]
    assert capsys.readouterr().err.count("Traceback") == 1


def test_a_handler_that_blocks_is_waited_for_once(scribe, collector, monkeypatch):
    collector.gate.clear()
    scribe.note(logging.WARNING, "a")
    assert collector.entered.wait(PATIENCE_S)

    assert not scribe.flush(0.01)
    assert not scribe.flush(10 * PATIENCE_S)  # would not come back in time
    monkeypatch.setattr(module, "FLUSH_S", 10 * PATIENCE_S)
    scribe.close()


def test_who_comes_back_is_waited_for_again(scribe, collector):
    collector.gate.clear()
    scribe.note(logging.WARNING, "a")
    assert collector.entered.wait(PATIENCE_S)
    scribe.flush(0.0)
    collector.gate.set()
    scribe._thread.join(0)
    with scribe._changed:
        assert scribe._changed.wait_for(lambda: not scribe._is_writing, PATIENCE_S)
    scribe.note(logging.WARNING, "b")

    assert scribe.flush()
    assert collector.texts == ["a", "b"]


def test_what_waits_is_bounded_the_oldest_are_dropped_and_counted(scribe, collector, monkeypatch):
    monkeypatch.setattr(module, "MAX_RECORDS", 3)
    collector.gate.clear()
    scribe.note(logging.WARNING, "first")
    assert collector.entered.wait(PATIENCE_S)
    for number in range(10):
        scribe.hand_on(logged(str(number)), 0, 1)
    collector.gate.set()

    assert scribe.flush()
    assert collector.texts == ["first", "7 log records were dropped: handlers do not keep up", "7", "8", "9"]


def test_what_waits_is_bounded_in_characters(scribe, collector, monkeypatch):
    monkeypatch.setattr(module, "MAX_CHARS", 100)
    collector.gate.clear()
    scribe.note(logging.WARNING, "first")
    assert collector.entered.wait(PATIENCE_S)
    for letter in "abc":
        scribe.hand_on(logged(letter * 60), 0, 1)
    collector.gate.set()

    assert scribe.flush()
    assert collector.texts[2:] == ["c" * 60]


def test_drops_are_told_once_a_second_at_most_and_at_the_end(scribe, monkeypatch):
    monkeypatch.setattr(scribe, "_start", lambda: None)
    at = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: at[0])

    def drop_and_take():
        scribe._dropped += 1
        return scribe._take()

    for number in range(3):
        scribe.note(logging.WARNING, str(number))
    first, second = drop_and_take(), drop_and_take()
    at[0] += module.TELL_EVERY_S
    third, fourth, last = drop_and_take(), drop_and_take(), drop_and_take()

    assert [entry.args[:1] or entry.text for entry in (first, second, third)] == [(1,), "0", (2,)]
    assert [entry.text for entry in (fourth, last)] == ["1", "2"]
    assert scribe._take().args[0] == 2  # there is nothing else to be written: the rest is told


def test_close_drops_what_a_stuck_handler_keeps_from_being_written(scribe, collector, monkeypatch):
    monkeypatch.setattr(module, "FLUSH_S", 0.01)
    collector.gate.clear()
    scribe.note(logging.WARNING, "a")
    assert collector.entered.wait(PATIENCE_S)
    scribe.note(logging.WARNING, "b")
    scribe.close()
    thread = scribe._thread
    collector.gate.set()
    thread.join(PATIENCE_S)

    assert not thread.is_alive()
    assert collector.texts == ["a", "1 log record was dropped: handlers do not keep up"]


def test_a_closed_scribe_starts_again(scribe, collector):
    scribe.note(logging.WARNING, "a")
    scribe.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "mpengine-scribe"]
    scribe.note(logging.WARNING, "b")
    scribe.flush()

    assert collector.texts == ["a", "b"]


def test_a_handler_that_ends_a_run_does_not_wait_for_itself(scribe, collector):
    class Ender(logging.Handler):
        def emit(self, record):
            flushed.append(scribe.flush(10 * PATIENCE_S))

    flushed = []
    ender = Ender()
    logging.getLogger().addHandler(ender)
    with contextlib.closing(ender):
        scribe.note(logging.WARNING, "a")
        assert scribe.flush()
    logging.getLogger().removeHandler(ender)

    assert flushed == [False]


def test_where_no_thread_can_be_started_any_more_the_flush_writes(scribe, collector, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread at interpreter shutdown")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        scribe.note(logging.WARNING, "a")
        assert collector.texts == []
        assert scribe.flush()

    assert collector.texts == ["a"]
