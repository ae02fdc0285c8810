"""Error handlers are called one after another, off the loop, and no further once the run is over (H1, H2, H4)."""

import threading

import pytest

from mpengine import ErrorPolicy, stage
from mpengine.coordinator.failures import Failures
from mpengine.coordinator.handlers import InlineHandlers, ThreadedHandlers
from mpengine.coordinator.scribe import Scribe
from mpengine.ipc.codec import PlainCodec
from mpengine.scheduler.commands import CallHandler, ReportFailure
from mpengine.scheduler.events import Failure

PATIENCE_S = 20.0


def call_of(number, stage_number=0):
    failure = Failure(number, 0, f"ValueError: no {number}", ValueError(f"no {number}"), repr(number))
    return CallHandler(100 + number, ReportFailure(stage_number, number, 1, ErrorPolicy.SIDE, failure))


class Mailbox:
    """Gets events, from any thread."""

    def __init__(self):
        self.events = []
        self._arrived = threading.Semaphore(0)

    def post(self, event):
        self.events.append(event)
        self._arrived.release()

    def wait_for(self, count):
        for _ in range(count):
            assert self._arrived.acquire(timeout=PATIENCE_S)
        return self.events


@pytest.fixture(params=[InlineHandlers, ThreadedHandlers])
def kind(request):
    return request.param


@pytest.fixture
def mailbox():
    return Mailbox()


def handlers_of(kind, mailbox, *functions):
    stages = [stage(abs, name=f"s{n}", error_handler=function) for n, function in enumerate(functions)]
    return kind(stages, Failures([each.name for each in stages], Scribe()), mailbox.post, PlainCodec())


def test_each_handler_gets_the_item_errors_of_its_stage_in_order(kind, mailbox):
    seen = []
    first = lambda error: seen.append((0, error.stage, error.index, error.item))  # noqa: E731 - one of two alike
    handlers = handlers_of(kind, mailbox, first, lambda error: seen.append((1, error.stage, error.index)))
    for number in range(4):
        handlers.call(call_of(number, number % 2))
    events = mailbox.wait_for(4)
    assert seen == [(0, "s0", 0, "0"), (1, "s1", 1), (0, "s0", 2, "2"), (1, "s1", 3)]
    assert [(event.batch_id, event.error, event.summary) for event in events] == [
        (n, None, "") for n in range(100, 104)
    ]
    handlers.close()
    assert handlers.join(PATIENCE_S)


def test_what_a_handler_raises_is_told_and_the_next_one_is_called(kind, mailbox):
    def fail(error):
        if error.index == 0:
            raise OSError("disk full")

    handlers = handlers_of(kind, mailbox, fail)
    handlers.call(call_of(0))
    handlers.call(call_of(1))
    first, second = mailbox.wait_for(2)
    assert (type(first.error), first.summary) == (OSError, "OSError: disk full")
    assert second.error is None
    handlers.close()
    assert handlers.join(PATIENCE_S)


def test_an_exit_in_a_handler_is_told_where_it_would_end_a_thread_in_silence(mailbox):
    def leave(error):
        raise SystemExit(3)

    handlers = handlers_of(ThreadedHandlers, mailbox, leave)
    handlers.call(call_of(0))
    (event,) = mailbox.wait_for(1)
    assert type(event.error) is SystemExit
    handlers.close()
    assert handlers.join(PATIENCE_S)
    with pytest.raises(SystemExit):
        handlers_of(InlineHandlers, mailbox, leave).call(call_of(0))  # belongs to the caller, as Ctrl-C does


def test_a_thread_begins_with_the_first_failure(mailbox):
    handlers = handlers_of(ThreadedHandlers, mailbox, print)
    (thread,) = handlers.threads
    assert (thread.name, thread.daemon, thread.ident) == ("mpengine-handlers", True, None)
    handlers.close()
    assert handlers.join(0)


def test_a_closed_run_calls_no_further_handler_and_waits_for_the_last(mailbox):
    gate, is_called, seen = threading.Event(), threading.Event(), []

    def shut(error):
        seen.append(error.index)
        is_called.set()
        assert gate.wait(PATIENCE_S)

    handlers = handlers_of(ThreadedHandlers, mailbox, shut)
    for number in range(3):
        handlers.call(call_of(number))
    assert is_called.wait(PATIENCE_S)
    handlers.close()
    assert not handlers.join(0.01)
    gate.set()
    assert handlers.join(PATIENCE_S)
    assert seen == [0]


def test_it_tells_whether_user_code_runs_in_the_callers_thread(mailbox):
    seen = []
    handlers = handlers_of(InlineHandlers, mailbox, lambda error: seen.append(handlers.runs_user_code))
    handlers.call(call_of(0))
    assert (seen, handlers.runs_user_code) == ([True], False)
