"""A range is cut where it is asked to, without a thread; every other source has the feed that it needs."""

import pytest

from mpengine.coordinator.feed import InlineFeed, ThreadedFeed
from mpengine.coordinator.feeds import RangeFeed, feed_of
from mpengine.ipc.codec import PickleCodec
from mpengine.scheduler.events import SourceEnded, SourcePacked

CODEC = PickleCodec(main_by_value=True)


@pytest.fixture
def happened():
    return []


def unpacked(happened):
    return [list(CODEC.unpack(event.payload)) for event in happened if type(event) is SourcePacked]


def test_a_range_is_cut_into_what_was_asked_for(happened):
    feed = feed_of(range(5, 15), CODEC, happened.append, in_caller=False)

    feed.pull(4, 3)
    assert unpacked(happened) == [[5, 6, 7], [8]]
    assert not any(type(event) is SourceEnded for event in happened)
    feed.pull(100, 4)

    assert unpacked(happened)[2:] == [[9, 10, 11, 12], [13, 14]]
    assert [type(event) for event in happened].count(SourceEnded) == 1
    feed.pull(5, 5)
    assert [type(event) for event in happened].count(SourceEnded) == 1
    assert (list(feed.threads), feed.join(0)) == ([], True)


def test_a_range_of_nothing_ends_at_once(happened):
    feed_of(range(0), CODEC, happened.append, in_caller=False).pull(1, 1)

    assert [type(event) for event in happened] == [SourceEnded]


def test_a_range_that_is_closed_gives_nothing_more(happened):
    feed = feed_of(range(10), CODEC, happened.append, in_caller=False)
    feed.close()
    feed.pull(5, 5)

    assert happened == []


class OfItsOwn(list):
    pass


@pytest.mark.parametrize(
    ("source", "in_caller", "kind"),
    [
        (range(3), False, RangeFeed),
        (range(3), True, InlineFeed),
        (range(10**30), False, ThreadedFeed),  # too long to be cut by numbers that count items
        ([1, 2], False, ThreadedFeed),
        (OfItsOwn(), False, ThreadedFeed),
    ],
)
def test_each_source_has_the_feed_it_needs(source, in_caller, kind, happened):
    feed = feed_of(source, CODEC, happened.append, in_caller=in_caller)

    assert type(feed) is kind
