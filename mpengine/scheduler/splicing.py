"""Waiting batches joined, by reference, for a stage that takes several items at once."""

from __future__ import annotations

from itertools import takewhile

from mpengine.scheduler.batches import Batch
from mpengine.scheduler.lifecycles import BatchState
from mpengine.scheduler.payloads import Spliced

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TypeGuard

    from mpengine.scheduler.stock import Stock


def splice(stock: Stock, batch: Batch, wanted: int) -> Batch:
    """Join ``batch``, which is queued, with its queued neighbours, for up to ``wanted`` items."""
    members = []
    total = 0
    for member in _run_from(stock, batch):
        members.append(member)
        total += member.count
        if total >= wanted:
            break
    if total > wanted:
        stock.split(members[-1], members[-1].hi - (total - wanted))
        total = wanted
    if len(members) == 1:
        return batch
    parts = tuple(part for member in members for part in _parts_of(member))
    origin = [index for member in members for index in member.indices()]
    families = tuple(dict.fromkeys(family for member in members for family in member.families))
    weight = sum(member.size_bytes for member in members)
    joined = Batch(stock.new_id(), batch.chain, Spliced(parts), origin, 0, total, weight, families=families)
    joined.since = batch.since
    stock.adopt(joined)
    stock.order.insert([joined], ahead_of=batch)
    for member in members:
        stock.settle(member)
    stock.backlog.put(joined, in_front=True)
    return joined


def can_fill(stock: Stock, batch: Batch, wanted: int) -> bool:
    """Whether ``splice`` would find ``wanted`` items to join."""
    if stock.backlog.waiting[batch.chain] < wanted:
        return False
    total = 0
    for member in _run_from(stock, batch):
        total += member.count
        if total >= wanted:
            return True
    return False


def _run_from(stock: Stock, batch: Batch) -> Iterator[Batch]:
    """Yield ``batch``, and what is queued right behind it for as long as it can be joined."""
    yield batch
    if stock.ordered:
        following = batch.behind
        while _is_mate(following, batch):
            yield following
            following = following.behind
        return
    waiting = stock.backlog.from_first(batch.chain)
    for other in waiting:
        if other is batch:  # which is mostly the first
            break
    yield from takewhile(lambda other: _is_mate(other, batch), waiting)


def _is_mate(other: Batch | None, batch: Batch) -> TypeGuard[Batch]:
    return other is not None and other.state is BatchState.QUEUED and other.chain == batch.chain and other.is_plain


def _parts_of(batch: Batch) -> list[tuple[Any, int, int]]:
    """Return the windows of plain payloads that ``batch`` consists of."""
    if not isinstance(batch.payload, Spliced):
        return [(batch.payload, batch.lo, batch.hi)]
    parts = []
    start = 0
    for payload, lo, hi in batch.payload.parts:
        first, last = max(batch.lo, start), min(batch.hi, start + hi - lo)
        if first < last:
            parts.append((payload, lo + first - start, lo + last - start))
        start += hi - lo
    return parts
