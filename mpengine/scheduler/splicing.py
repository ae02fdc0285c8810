"""Waiting batches joined, by reference, for a stage that takes several items at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpengine.scheduler.batches import Batch
from mpengine.scheduler.lifecycles import BatchState
from mpengine.scheduler.payloads import Spliced

if TYPE_CHECKING:
    from mpengine.scheduler.stock import Stock


def splice(stock: Stock, batch: Batch, wanted: int) -> Batch:
    """Join ``batch``, which is queued, with its queued neighbours, for up to ``wanted`` items."""
    members = [batch]
    total = batch.count
    while total < wanted and (following := _neighbour(stock, members[-1])) is not None:
        if total + following.count > wanted:
            stock.split(following, following.lo + wanted - total)
        members.append(following)
        total += following.count
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


def neighbours(stock: Stock, batch: Batch, wanted: int) -> int:
    """Return how many items ``splice`` would join, or ``wanted`` if there are more."""
    total, last = batch.count, batch
    while total < wanted and (following := _neighbour(stock, last)) is not None:
        total, last = total + following.count, following
    return min(total, wanted)


def _neighbour(stock: Stock, batch: Batch) -> Batch | None:
    """Return the queued batch whose items come right behind those of ``batch``, if there is one to be joined."""
    following = batch.behind if stock.ordered else stock.backlog.following(batch)
    if following is None or following.state is not BatchState.QUEUED or following.chain != batch.chain:
        return None
    return following if following.is_plain else None


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
