"""Records of a worker as messages: plain, whatever was logged; and only those that somebody wants (R1 to R4)."""

import logging
import os
import threading

import pytest
from job_sites import site

from mpengine import stage
from mpengine.ipc.messages import SetLevels, decode, encode
from mpengine.worker import courier
from mpengine.worker.chain import Chain, attempt
from mpengine.worker.courier import Courier, to_message

PATIENCE_S = 10.0


class Box:
    """An outbox that keeps what it is given."""

    def __init__(self):
        self.messages = []
        self.dropped = 0

    def put_record(self, message):
        self.messages.append(decode(b"".join(map(bytes, encode(message)))))


@pytest.fixture
def box():
    return Box()


@pytest.fixture
def logger(box):
    made = logging.Logger("test.courier", logging.DEBUG)  # noqa: LOG001 - known to nobody else, pytest included
    made.addHandler(Courier(box))
    return made


@pytest.fixture(autouse=True)
def _levels_stay_as_they_are():
    before = dict(courier.levels())
    yield
    logging.disable(0)
    for name, _ in courier.levels():
        logging.getLogger(name or None).setLevel(before.get(name, 0))
    courier._levelled.clear()


def test_a_record_is_formatted_where_it_was_logged(logger, box):
    logger.info("%d of %s", 1, ["a"], extra={"order": 5, "good": True})
    (message,) = box.messages

    assert (message.name, message.level, message.level_name) == ("test.courier", 20, "INFO")
    assert message.message == "1 of ['a']"
    assert message.extra == (("order", 5), ("good", True))
    assert (message.path, message.function) == (__file__, "test_a_record_is_formatted_where_it_was_logged")
    assert (message.process, message.exc_text, message.stack) == (os.getpid(), None, None)


def test_a_traceback_travels_as_text(logger, box):
    try:
        int("bad")
    except ValueError:
        logger.exception("failed", stack_info=True)
    (message,) = box.messages

    assert message.message == "failed"
    assert message.exc_text.endswith("ValueError: invalid literal for int() with base 10: 'bad'")
    assert message.stack.startswith("Stack (most recent call last)")


class Unprintable:
    def __repr__(self):
        raise ValueError("no")

    __str__ = __repr__


@pytest.mark.parametrize("args", [("%d", "x"), ("%s %s", 1), ("%s", Unprintable()), (Unprintable(),)])
def test_what_does_not_format_says_so_and_harms_nobody(logger, box, args):
    logger.warning(*args)

    assert "does not format" in box.messages[0].message


class Lock(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "value", [object(), [1], b"1", threading.Lock(), Lock("sub"), 1j, Unprintable()], ids=lambda v: type(v).__name__
)
def test_extra_fields_that_are_not_plain_become_text(logger, box, value):
    logger.warning("x", extra={"thing": value})
    ((name, sent),) = box.messages[0].extra

    assert (name, type(sent)) == ("thing", str)


def test_everything_is_cut_to_a_bound(logger, box):
    try:
        {}["x" * 1_000_000]
    except KeyError:
        logger.exception("y" * 1_000_000, extra={f"z{n}": "z" * 1_000_000 for n in range(1_000)})
    (message,) = box.messages

    assert max(len(message.message), len(message.exc_text)) <= courier.MAX_TEXT
    assert len(message.extra) <= courier.MAX_EXTRA
    assert sum(len(value) for _, value in message.extra) <= courier.MAX_EXTRA * courier.MAX_EXTRA_TEXT


def test_a_record_that_cannot_be_sent_at_all_is_told_on_stderr(logger, box, capsys):
    record = logger.makeRecord("x", 20, "", "no line", "text", (), None)
    logger.handle(record)

    assert box.messages == []
    assert "no line" in capsys.readouterr().err


def test_what_the_outbox_had_to_drop_is_told_in_the_next_record(logger, box):
    box.dropped = 3
    logger.warning("a")
    logger.warning("b")

    assert [m.message for m in box.messages] == ["a", "3 log records of this worker were dropped so far", "b"]


def test_a_forked_process_does_not_use_its_parents_outbox(logger, box, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: -1)
    logger.warning("a")

    assert box.messages == []


# ---------------------------------------------------------------------- levels


def test_the_levels_of_all_loggers_are_told_the_root_first():
    logging.getLogger("test.a").setLevel(5)
    logging.getLogger("test.b.c").setLevel(0)

    told = courier.levels()
    assert told[0] == ("", logging.getLogger().level)
    assert ("test.a", 5) in told
    assert not {"test.b", "test.b.c"} & dict(told).keys()


def test_levels_are_taken_over_and_given_back():
    courier.set_levels(SetLevels(0, (("", 40), ("test.a", 10))))
    assert logging.getLogger("test.a.b").getEffectiveLevel() == 10
    assert logging.getLogger("test.c").getEffectiveLevel() == 40

    courier.set_levels(SetLevels(0, (("", 20),)))
    assert logging.getLogger("test.a").getEffectiveLevel() == 20

    courier.set_levels(SetLevels(20, (("", 20),)))
    assert not logging.getLogger("test.a").isEnabledFor(20)


def test_handlers_that_came_with_a_fork_are_taken_off(box):
    root, inner = logging.getLogger(), logging.getLogger("test.inner")
    before, inner.handlers, inner.propagate = root.handlers, [logging.NullHandler()], False
    root.handlers = [logging.NullHandler()]
    try:
        courier.install(box)
        inner.warning("a")

        assert [type(handler) for handler in root.handlers] == [Courier]
        assert [message.message for message in box.messages] == ["a"]
    finally:
        root.handlers, inner.handlers = before, []


# ---------------------------------------------------------------------- stages


def test_a_record_names_the_stage_that_is_under_way(logger, box):
    @stage(name="first")
    def log(x):
        logger.warning("x")
        in_thread = threading.Thread(target=logger.warning, args=("x",))
        in_thread.start()
        in_thread.join(PATIENCE_S)
        return x

    class Built:
        def __init__(self):
            logger.warning("built")

        def __call__(self, x):
            return x

    chain = Chain([log, stage(Built, name="second", setup=lambda state: logger.warning("set up"))], 0)
    attempt(chain.steps[0], 1, site())
    logger.warning("outside")

    assert [message.stage for message in box.messages] == ["second", "second", "first", "first", None]


def test_looking_for_the_stage_asks_no_item(logger, box):
    class Touchy:
        def __getattribute__(self, name):
            raise AssertionError(name)

    chain = Chain([stage(lambda x: logger.warning("x"), name="only")], 0)
    attempt(chain.steps[0], Touchy(), site())

    assert box.messages[0].stage == "only"


def test_to_message_takes_records_of_foreign_factories():
    record = logging.makeLogRecord({"msg": "x", "lineno": None, "thread": None, "process": None, "threadName": None})

    assert to_message(record).message == "x"
