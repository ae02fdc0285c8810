"""The feed packs on a thread of its own: whatever items do there is told, or the run would wait for ever."""

import sys
import threading

import pytest

from mpengine.coordinator.feed import ThreadedFeed, pack
from mpengine.ipc.codec import PickleCodec
from mpengine.scheduler.events import SourceEnded, SourceFailed, SourcePacked
from mpengine.worker.chain import summarize

CODEC = PickleCodec(main_by_value=True)


class Shy:
    """Will not be pickled, nor be shown."""

    def __reduce__(self):
        raise ShyError

    def __repr__(self):
        sys.exit(5)


class ShyError(Exception):
    def __str__(self):
        return sys.exit(6)


class NoMemory:
    """Packs so many items at once and no more; keeps what was packed."""

    def __init__(self, most):
        self.most = most

    def pack(self, items):
        if len(items) > self.most:
            raise MemoryError
        return list(items)

    def check(self, items):
        self.pack(items)

    def weigh(self, payload):
        return len(payload)


def fed(source, codec=CODEC, count=100):
    """Return the events of a source that is pulled to its end, on the feed's own threads."""
    happened = []
    feed = ThreadedFeed(source, codec, happened.append)
    feed.pull(count, count)
    assert feed.join(20)
    return happened


@pytest.mark.parametrize("wrap", [list, iter])
def test_an_item_that_will_be_neither_pickled_nor_shown_fails_alone(wrap):
    """Its repr, or its error's str, asks a thread to leave; nobody would hear of the items that come after."""
    *packed, ended = fed(wrap([0, Shy(), 2]))
    assert isinstance(ended, SourceEnded)
    assert sum(event.pulled for event in packed) == 3
    (failure,) = [failure for event in packed for failure in event.failures]
    assert "SystemExit" in failure.summary
    assert "SystemExit" in failure.item


@pytest.mark.parametrize("wrap", [list, iter])
def test_items_that_pack_one_by_one_and_not_together_are_packed_one_by_one(wrap):
    *packed, ended = fed(wrap([0, 1, 2]), NoMemory(most=1))
    assert isinstance(ended, SourceEnded)
    assert [item for event in packed for item in event.payload] == [0, 1, 2]
    assert not any(event.failures for event in packed)


def test_an_item_that_packs_now_and_then_fails_and_the_others_are_packed():
    class Moody:
        calls = 0

        def __reduce__(self):
            type(self).calls += 1
            if self.calls in (3, 8):  # each try is two: pickle, then cloudpickle
                return int, ()
            raise RuntimeError("not in the mood")

    events = list(pack(CODEC, [1, Moody(), 3]))
    assert [len(CODEC.unpack(event.payload)) for event in events] == [1, 0, 1]
    assert ["not in the mood" in failure.summary for event in events for failure in event.failures] == [True]


@pytest.mark.parametrize("wrap", [list, iter])
def test_a_feed_that_cannot_go_on_says_so(wrap):
    *_, last = fed(wrap([0, 1, 2]), NoMemory(most=-1))
    assert isinstance(last, SourceFailed)
    assert isinstance(last.error, MemoryError)


def test_an_error_that_exits_when_it_is_told_ends_no_thread_in_silence():
    told = []
    thread = threading.Thread(target=lambda: told.append(summarize(ShyError())))
    thread.start()
    thread.join()
    assert told == ["ShyError: <its str() raised SystemExit>"]
    with pytest.raises(SystemExit):  # in the main thread it may come from a signal's handler
        summarize(ShyError())


def test_one_event_tells_of_a_batch_in_which_nothing_is_amiss():
    (event,) = pack(CODEC, [1, 2, 3])
    assert isinstance(event, SourcePacked)
    assert (CODEC.unpack(event.payload), event.pulled, event.failures) == ([1, 2, 3], 3, ())
