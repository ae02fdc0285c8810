"""The times of items in a worker: counted in bins, and the slowest of all among those that are named."""

import random

from mpengine.metrics import BOUNDS_S
from mpengine.worker.stopwatch import KEPT, Stopwatch


def test_every_item_falls_into_the_bin_whose_bounds_are_around_it():
    watch = Stopwatch()
    for position, seconds in enumerate([0.0, 1e-7, 1.1e-7, 0.002, 0.0021, 1e9]):
        watch.note(position, seconds)
    watch.note_mean(4, 0.008)
    watch.note_mean(0, 1.0)

    bins, _ = watch.take()

    place = BOUNDS_S.index(0.002)
    assert dict(bins) == {0: 2, 1: 1, place: 5, place + 1: 1, len(BOUNDS_S): 1}
    assert watch.take() == ((), ())


def test_the_slowest_items_of_all_are_among_those_that_are_named_and_few_others():
    chance = random.Random(7)
    times = [chance.lognormvariate(0, 2) for _ in range(5_000)]
    watch, named = Stopwatch(), []
    for start in range(0, len(times), 50):
        for position in range(start, start + 50):
            watch.note(position, times[position])
        _, slowest = watch.take()
        assert len(slowest) <= KEPT
        named += slowest

    assert all(times[position] == seconds for position, seconds in named)
    slowest = sorted(times, reverse=True)[:KEPT]
    assert set(slowest) <= {seconds for _, seconds in named}
    assert len(named) < 300
