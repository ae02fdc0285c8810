"""Several items are pulled by one call; each is packed in time all the same, and what came before an error counts."""

import itertools
import threading
from types import SimpleNamespace

import pytest

from mpengine.coordinator import feed as feeding
from mpengine.coordinator import pulling
from mpengine.coordinator.feed import ThreadedFeed
from mpengine.coordinator.pulling import MOST, Puller
from mpengine.ipc.codec import PickleCodec
from mpengine.scheduler.events import SourceEnded, SourceFailed, SourcePacked

CODEC = PickleCodec(main_by_value=True)
QUICK = 20_000
"""So many items are pulled by large calls."""


class Posted:
    """Gets a feed's events, and tells how many items were packed."""

    def __init__(self):
        self.items = []
        self.last = None
        self._changed = threading.Condition()

    def __call__(self, event):
        with self._changed:
            if isinstance(event, SourcePacked):
                self.items += CODEC.unpack(event.payload)
            else:
                self.last = event
            self._changed.notify_all()

    def wait_packed(self, count):
        with self._changed:
            return self._changed.wait_for(lambda: len(self.items) >= count, 20)


@pytest.fixture
def clock(monkeypatch):
    """Make a thread's time stand still, but for what a test adds to it."""
    clock = SimpleNamespace(at=0.0)
    monkeypatch.setattr(pulling, "time", SimpleNamespace(thread_time=lambda: clock.at))
    return clock


def sizes_of(puller, calls, count=10**6):
    """Return how many items each of some calls pulls."""
    sizes = []
    for _ in range(calls):
        items = []
        puller.pull(items, count)
        sizes.append(len(items))
    return sizes


def drain(puller, items):
    """Pull until the source ends or fails."""
    for _ in range(1000):
        puller.pull(items, 1000)


def test_calls_pull_more_and_more_of_a_quick_source_up_to_a_bound(clock):
    assert sizes_of(Puller(itertools.count(), lambda: True), 15) == [*(2**power for power in range(13)), MOST, MOST]


def test_no_call_pulls_more_than_it_was_asked_to(clock):
    puller = Puller(itertools.count(), lambda: True)
    sizes_of(puller, 15)
    assert sizes_of(puller, 2, count=3) == [3, 3]


def test_a_source_that_takes_its_time_is_pulled_by_small_calls(clock):
    def slow():
        for item in itertools.count():
            clock.at += pulling.PULL_S / 10
            yield item

    assert sizes_of(Puller(slow(), lambda: True), 7) == [1, 2, 4, 8, 8, 8, 8]


def test_a_source_that_becomes_slow_is_soon_pulled_one_by_one(clock):
    def slower():
        for item in itertools.count():
            clock.at += 1.0 if item >= 15 else 0.0
            yield item

    assert sizes_of(Puller(slower(), lambda: True), 9) == [1, 2, 4, 8, 16, 8, 4, 2, 1]


def test_nothing_is_pulled_by_a_call_that_may_not():
    source = itertools.count()
    assert sizes_of(Puller(source, lambda: False), 3) == [0, 0, 0]
    assert next(source) == 0


def test_a_call_that_is_recalled_ends_with_the_item_that_it_is_at(clock):
    def recalling():
        for item in itertools.count():
            if item == 20:
                puller.recall()
            yield item

    puller = Puller(recalling(), lambda: True)
    assert sizes_of(puller, 6) == [1, 2, 4, 8, 6, 16]  # and no call was larger for it
    assert sizes_of(puller, 1) == [32]


def test_a_puller_that_is_recalled_between_two_calls_pulls_on(clock):
    puller = Puller(itertools.count(), lambda: True)
    assert sizes_of(puller, 2) == [1, 2]
    puller.recall()
    assert sizes_of(puller, 1) == [4]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 6, 7])
def test_what_came_before_the_end_or_an_error_has_been_added(clock, count):
    def failing():
        yield from range(count)
        raise OSError

    for source, ends_by in ((failing(), OSError), (iter(range(count)), StopIteration)):
        items = []
        puller = Puller(source, lambda: True)
        with pytest.raises(ends_by):
            drain(puller, items)
        assert items == list(range(count))


def test_a_source_is_asked_once_for_what_it_has_not_and_never_for_another_iterator(clock):
    """Not all sources go on ending once they have ended, and an iterator's own ``iter`` may be anything."""

    class Odd:
        def __init__(self):
            self.calls = 0

        def __next__(self):
            self.calls += 1
            if self.calls == 4:
                raise StopIteration
            return self.calls

    items = []
    puller = Puller(Odd(), lambda: True)
    with pytest.raises(StopIteration):
        drain(puller, items)
    assert items == [1, 2, 3]


def test_items_are_taken_from_the_head_while_a_call_adds_to_the_tail(clock):
    taken = []

    def source():
        for item in range(1000):
            if item % 7 == 0:
                taken.extend(items[:5])
                del items[:5]
            yield item

    items = []
    puller = Puller(source(), lambda: True)
    with pytest.raises(StopIteration):
        drain(puller, items)
    assert taken + items == list(range(1000))


def test_f2_what_came_before_an_item_that_takes_for_ever_is_packed():
    released = threading.Event()

    def stalling():
        yield from range(QUICK)
        released.wait(20)
        yield QUICK

    posted = Posted()
    feed = ThreadedFeed(stalling(), CODEC, posted)
    feed.pull(2 * QUICK, QUICK)
    try:
        assert posted.wait_packed(QUICK)
        assert not released.is_set()
    finally:
        released.set()
        assert feed.join(20)
    assert posted.items == list(range(QUICK + 1))
    assert isinstance(posted.last, SourceEnded)


def test_f2_each_item_of_a_source_that_has_become_slow_is_packed_before_the_next_comes():
    """The call that is under way then would pull on, and nobody would know of what it has."""
    waited = []

    def slower():
        yield from range(QUICK)
        for item in range(QUICK, QUICK + 20):
            yield item
            if all(waited):
                waited.append(posted.wait_packed(item + 1))

    posted = Posted()
    feed = ThreadedFeed(slower(), CODEC, posted)
    feed.pull(2 * QUICK, QUICK)
    assert feed.join(60)
    assert waited == [True] * 20
    assert posted.items == list(range(QUICK + 20))


def test_what_a_source_gave_before_it_failed_is_packed():
    def failing():
        yield from range(QUICK)
        raise OSError("no more")

    posted = Posted()
    feed = ThreadedFeed(failing(), CODEC, posted)
    feed.pull(2 * QUICK, QUICK)
    assert feed.join(20)
    assert posted.items == list(range(QUICK))
    assert isinstance(posted.last, SourceFailed)
    assert isinstance(posted.last.error, OSError)


def test_f1_no_more_is_pulled_than_was_asked_for():
    pulled = []

    def counting():
        for item in itertools.count():
            pulled.append(item)
            yield item

    posted = Posted()
    feed = ThreadedFeed(counting(), CODEC, posted)
    for asked in (1, 1, QUICK, 1, 5):
        before = len(posted.items)
        feed.pull(asked, 100)
        assert posted.wait_packed(before + asked)
        assert len(pulled) == before + asked
    feed.close()
    assert feed.join(20)
    assert len(pulled) == QUICK + 8


def test_a_source_that_is_closed_is_pulled_no_further_than_the_item_it_is_at(clock, monkeypatch):
    monkeypatch.setattr(feeding, "LINGER_S", 60)  # nothing is packed meanwhile, which would end a call, too
    pulled = []
    closed = threading.Event()

    def endless():
        for item in itertools.count():
            pulled.append(item)
            if item == QUICK:
                threading.Thread(target=lambda: (feed.close(), closed.set())).start()
                assert closed.wait(20)
            yield item

    posted = Posted()
    feed = ThreadedFeed(endless(), CODEC, posted)
    feed.pull(10**9, 10**9)
    assert closed.wait(20)
    assert feed.join(20)
    assert len(pulled) == QUICK + 1


def test_an_announcement_of_what_was_taken_already_keeps_nobody_from_sleeping():
    """Who packs would wait for what is not there, over and over, without ever sleeping."""
    feed = ThreadedFeed(iter(()), CODEC, Posted())
    feed._announce()
    assert feed._since is None


def test_the_last_item_that_was_asked_for_is_announced_when_it_comes_after_the_packer_has_looked(monkeypatch):
    monkeypatch.setattr(feeding, "LINGER_S", 3600.0)
    is_asked, may_come = threading.Event(), threading.Event()

    def source():
        yield 0
        is_asked.set()  # by a call that may pull several, since the first one waits
        may_come.wait(20)
        yield 1
        yield 2

    posted = Posted()
    feed = ThreadedFeed(source(), CODEC, posted)
    feed.pull(2, 2)
    assert is_asked.wait(20)
    monkeypatch.setattr(feeding, "LINGER_S", 0.0)
    with feed._changed:
        feed._changed.notify_all()
    assert posted.wait_packed(1)
    monkeypatch.setattr(feeding, "LINGER_S", 3600.0)

    may_come.set()

    assert posted.wait_packed(2)
    assert posted.items == [0, 1]
    feed.close()
    assert feed.join(20)
