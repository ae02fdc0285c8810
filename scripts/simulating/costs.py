"""What items cost in each stage: seconds by the item's number, added up, so that a batch costs two look-ups."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass
from heapq import heapreplace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable


@dataclass(frozen=True)
class Costs:
    """Seconds that the items of a run take in one chain.

    Attributes:
        until: what all items before number ``i`` take together, for ``i`` from 0 to the number of items.
    """

    until: array[float]

    def between(self, lo: int, hi: int) -> float:
        """Return what items ``lo`` to ``hi`` take."""
        return self.until[hi] - self.until[lo]

    def reached(self, lo: int, hi: int, seconds: float) -> int:
        """Return where a worker is that began with ``lo`` and stops when an item ends ``seconds`` later, or after."""
        return min(hi, max(lo + 1, bisect_right(self.until, self.until[lo] + seconds, lo, hi + 1)))

    @property
    def total(self) -> float:
        """What all items take."""
        return self.until[-1]

    def bound(self, workers: int) -> float:
        """Return how long items take that are handed out one by one, each to whoever is free, at no cost."""
        free = [0.0] * workers
        for before, after in pairwise(self.until):
            heapreplace(free, free[0] + after - before)
        return max(free)


def costs_of(seconds: Iterable[float]) -> Costs:
    """Return the costs of items, given those of each."""
    return Costs(array("d", accumulate(seconds, initial=0.0)))


def even(item_s: float) -> Callable[[int, random.Random], Costs]:
    """Every item takes the same."""
    return lambda items, _: costs_of([item_s] * items)


def changing(before_s: float, after_s: float, at: float = 0.5) -> Callable[[int, random.Random], Costs]:
    """What items take changes in the midst of the run."""
    return lambda items, _: costs_of(before_s if number < at * items else after_s for number in range(items))


def spread(item_s: float, sigma: float) -> Callable[[int, random.Random], Costs]:
    """What items take is spread log-normally; ``item_s`` is the mean."""
    return lambda items, chance: costs_of(
        item_s * chance.lognormvariate(-sigma * sigma / 2, sigma) for _ in range(items)
    )


def with_slow(item_s: float, slow_s: float, one_in: int) -> Callable[[int, random.Random], Costs]:
    """One item in so many, at random, takes ``slow_s``."""
    return lambda items, chance: costs_of(slow_s if chance.randrange(one_in) == 0 else item_s for _ in range(items))


def slow_last(item_s: float, slow_s: float, ahead: int) -> Callable[[int, random.Random], Costs]:
    """One item takes ``slow_s``, so many before the last."""
    return lambda items, _: costs_of(slow_s if number == items - ahead else item_s for number in range(items))
