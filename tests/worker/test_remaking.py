"""Results that were lost are made again from their recipes; all in this process."""

from array import array

import pytest

from mpengine import stage
from mpengine.backends.here import NoSlot
from mpengine.ipc.bales import BaleCodec
from mpengine.ipc.codec import Broken
from mpengine.worker.chain import Chain, Site, Stopped
from mpengine.worker.remaking import Maker, Recipe


def half(item):
    return item / (item != 13) / 2


def three(item):
    for number in range(3):
        yield item * 10 + number


CHAINS = [Chain([stage(half)], 0), Chain([stage(three)], 0)]
CODEC = BaleCodec(main_by_value=False)


@pytest.fixture
def maker():
    return make_maker()


def make_maker(*, is_cancelled=False):
    site = Site(NoSlot(), lambda: is_cancelled, lambda _: is_cancelled, -1)
    return Maker(CODEC, CHAINS.__getitem__, site)


def test_what_is_there_is_unpacked_and_nothing_runs(maker):
    assert maker.items([CODEC.pack([1, 2, 3])], (), 0, 3) == [1, 2, 3]


def test_a_lost_payload_is_made_again_from_what_it_was_made_of(maker):
    recipe = Recipe(0, (CODEC.pack([2, 4, 6, 8]),), (), first=1, count=3)

    assert maker.items([recipe], (), 0, 3) == [2.0, 3.0, 4.0]


def test_recipes_go_back_as_far_as_need_be(maker):
    inner = Recipe(0, (CODEC.pack([2, 4]),), (), first=0, count=2)
    outer = Recipe(1, (inner,), (), first=0, count=6, places=array("I", [0, 0, 0, 1, 1, 1]).tobytes())

    assert maker.items([outer], (), 0, 6) == [10.0, 11.0, 12.0, 20.0, 21.0, 22.0]


@pytest.mark.parametrize(("lo", "hi"), [(0, 1), (1, 2), (1, 4), (2, 3), (3, 4)])
def test_of_a_fan_out_only_what_is_needed_is_made_and_in_its_place(maker, lo, hi):
    # Results 1 and 2 of the first item, for 0 came with a report before this one; then 0 and 1 of the second.
    places = array("I", [0, 0, 1, 1]).tobytes()
    recipe = Recipe(1, (CODEC.pack([5, 6]),), (), first=0, count=4, places=places, skip=1)

    assert maker.items([recipe], (), lo, hi)[lo:hi] == [51, 52, 60, 61][lo:hi]


def test_what_fails_now_is_broken_with_its_error_and_its_mates_are_not(maker):
    recipe = Recipe(0, (CODEC.pack([2, 13, 4]),), (), first=0, count=3)

    made = maker.items([recipe], (), 0, 3)
    assert (made[0], made[2]) == (1.0, 2.0)
    assert type(made[1]) is Broken
    assert isinstance(made[1].error, ZeroDivisionError)


def test_what_must_not_run_twice_does_not(maker):
    recipe = Recipe(0, (CODEC.pack([2]),), (), first=0, count=1, is_once=True)

    (made,) = maker.items([recipe], (), 0, 1)
    assert "not to be run twice" in str(made.error)


def test_what_is_put_together_of_several_is_made_part_by_part(maker):
    recipe = Recipe(0, (CODEC.pack([2, 4]),), (), first=0, count=2)

    assert maker.items([CODEC.pack([7, 8]), recipe], ("splice", ((0, 1, 2), (1, 0, 1))), 0, 2) == [8, 1.0]


def test_a_cancelled_run_makes_nothing():
    recipe = Recipe(0, (CODEC.pack([2]),), (), first=0, count=1)

    with pytest.raises(Stopped):
        make_maker(is_cancelled=True).items([recipe], (), 0, 1)
