"""What is to be done: the same stages over the same items for every contender, and what must come out.

A job is made anew, from its name, in every process that needs it.  An item is made when it is asked for and is never
given out twice: neither a source nor a pickle can save itself work by seeing the same object again.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workload import add_one, add_three, busy, first, fused, second, third

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

CELLS = 1_000_000  # of 8 bytes: an array
PROFILES = 30


@dataclass(frozen=True)
class Job:
    """Stages, and the items for them.

    Attributes:
        stages: what is done to each item, one after the other.
        by_hand: all stages as one function, as one would write it.
        items: makes the items from one number to another.
        keep: what the consumer keeps of a result, as a number, before it lets it go; None: the result itself.
        expected: the number that is kept of an item's result.
        count: how many items there are.
        workers: how many processes may work on them.
        item_bytes: what an item weighs; 0 where that does not matter.
    """

    stages: tuple[Callable[[Any], Any], ...]
    by_hand: Callable[[Any], Any]
    items: Callable[[int, int], Iterable[Any]]
    keep: Callable[[Any], float] | None
    expected: Callable[[int], float]
    count: int
    workers: int = 2
    item_bytes: int = 0

    def source(self) -> Iterable[Any]:
        """Return the items: a range, or a generator."""
        return self.items(0, self.count)

    def kept(self, results: Iterable[Any]) -> list[Any]:
        """Be the consumer: take all results, and return what is to be kept of them."""
        if self.keep is None:
            return results if isinstance(results, list) else list(results)
        return list(map(self.keep, results))

    def fault(self, kept: list[Any]) -> str:
        """Return what is wrong with the results, in a few words; nothing if they are what they must be."""
        if len(kept) != self.count:
            return f"{len(kept):,} of {self.count:,} results"
        if sum(kept) != sum(map(self.expected, range(self.count))):
            return "wrong results"
        return ""


# ---------------------------------------------------------------------- items, and what is done to them


def generated(low: int, high: int) -> Iterator[int]:
    """Yield numbers from a generator, which has no length."""
    yield from range(low, high)


def arrays(low: int, high: int) -> Iterator[Any]:
    """Yield arrays of 8 MB."""
    import numpy as np

    for number in range(low, high):
        yield np.full(CELLS, float(number))


def twice(array: Any) -> Any:
    """Be the first stage for arrays."""
    return array * 2.0


def one_more(array: Any) -> Any:
    """Be the second stage for arrays."""
    return array + 1.0


def twice_and_one_more(array: Any) -> Any:
    """Be both, as one would write it by hand."""
    return one_more(twice(array))


def last_cell(array: Any) -> float:
    """Return the last number of an array."""
    return float(array[-1])


def payloads(size: int, low: int, high: int) -> Iterator[bytes]:
    """Yield so many bytes, which begin with the item's number."""
    rest = bytes(size - 8)
    for number in range(low, high):
        yield number.to_bytes(8, "little") + rest


def echo(payload: bytes) -> bytes:
    """Give back what came."""
    return payload


def number_in(size: int, payload: bytes) -> int:
    """Return the number that a payload begins with, if it is whole."""
    return int.from_bytes(payload[:8], "little") if len(payload) == size else -1


def costing(ms: float, item: int) -> int:
    """Be a stage of a random profile."""
    busy(ms)
    return item + 1


def costing_all(costs: tuple[float, ...], item: int) -> int:
    """Be all stages of a random profile, as one would write it by hand."""
    for ms in costs:
        item = costing(ms, item)
    return item


def profile(number: int) -> tuple[float, ...]:
    """Return the milliseconds of each stage of a random profile: 2 to 4 stages of 0.1 to 8 ms, small ones as likely."""
    chance = random.Random(number)  # noqa: S311 - costs, no secret
    return tuple(round(0.1 * 80 ** chance.random(), 2) for _ in range(chance.randint(2, 4)))


# ---------------------------------------------------------------------- jobs by name


def make(name: str, count: int, workers: int) -> Job:
    """Return the job of this name: ``single``, ``payloads-1024``, ``profile-7`` and so on."""
    kind, _, of = name.partition("-")
    return MAKERS[kind](of, count=count, workers=workers)


def _plus(number: int, item: int) -> int:
    return item + number


def _single(source: str, **size: int) -> Job:
    items = generated if source == "generated" else range
    return Job((add_one,), add_one, items, None, functools.partial(_plus, 1), **size)


def _three(_: str, **size: int) -> Job:
    return Job((add_one,) * 3, add_three, range, None, functools.partial(_plus, 3), **size)


def _cpu(_: str, **size: int) -> Job:
    return Job((first, second, third), fused, range, None, functools.partial(_plus, 3), **size)


def _profile(number: str, **size: int) -> Job:
    costs = profile(int(number))
    stages = tuple(functools.partial(costing, ms) for ms in costs)
    return Job(stages, functools.partial(costing_all, costs), range, None, functools.partial(_plus, len(costs)), **size)


def _arrays(_: str, **size: int) -> Job:
    return Job(
        (twice, one_more), twice_and_one_more, arrays, last_cell, lambda number: 2.0 * number + 1.0,
        item_bytes=8 * CELLS, **size,
    )  # fmt: skip


def _payloads(size: str, **of: int) -> Job:
    items, keep = functools.partial(payloads, int(size)), functools.partial(number_in, int(size))
    return Job((echo,), echo, items, keep, lambda number: number, item_bytes=int(size), **of)


MAKERS: dict[str, Callable[..., Job]] = {
    "single": _single,
    "three": _three,
    "cpu": _cpu,
    "profile": _profile,
    "arrays": _arrays,
    "payloads": _payloads,
}
