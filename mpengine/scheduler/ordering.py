"""The order in which results leave.

Input order is a doubly linked list of everything under way, whose nodes are the batches themselves.  A batch that
becomes several (split, or its results in chunks) puts them in its own place, so order costs O(1) a batch and needs no
numbering, whatever is filtered, multiplied or run again.  Results leave from the front while they are ready.

In arrival order whatever is ready leaves at once, and there is nothing to keep.
"""

from __future__ import annotations

from mpengine.scheduler.lifecycles import BatchState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Protocol

    from mpengine.scheduler.batches import Batch
else:
    Protocol = object


class Order(Protocol):
    """What both orders can do."""

    def append(self, batch: Batch) -> None:
        """Put ``batch`` behind everything."""

    def insert(self, batches: Iterable[Batch], *, ahead_of: Batch) -> None:
        """Put ``batches``, in their order, right ahead of one that is under way."""

    def insert_behind(self, batch: Batch, rest: Batch) -> None:
        """Put ``rest`` right behind ``batch``."""

    def remove(self, batch: Batch) -> None:
        """Take ``batch`` out, if it is there; nothing of it is left."""

    def pop_ready(self) -> Iterator[Batch]:
        """Take out and yield the results that may leave now."""

    @property
    def head(self) -> Batch | None:
        """What all results wait for; None if there is no such thing."""


class InputOrder:
    """Results leave in the order in which their items came in."""

    def __init__(self) -> None:
        """Start empty."""
        self._head: Batch | None = None
        self._tail: Batch | None = None

    def append(self, batch: Batch) -> None:
        """See ``Order``."""
        batch.before, batch.behind = self._tail, None
        if self._tail is None:
            self._head = batch
        else:
            self._tail.behind = batch
        self._tail = batch

    def insert(self, batches: Iterable[Batch], *, ahead_of: Batch) -> None:
        """See ``Order``."""
        before = ahead_of.before
        for batch in batches:
            batch.before = before
            if before is None:
                self._head = batch
            else:
                before.behind = batch
            before = batch
        if before is not ahead_of.before and before is not None:
            before.behind = ahead_of
            ahead_of.before = before

    def insert_behind(self, batch: Batch, rest: Batch) -> None:
        """See ``Order``."""
        if batch.behind is None:
            self.append(rest)
        else:
            self.insert([rest], ahead_of=batch.behind)

    def remove(self, batch: Batch) -> None:
        """See ``Order``."""
        if batch.state is BatchState.TAKEN or not (batch is self._head or batch.before is not None):
            return
        before, behind = batch.before, batch.behind
        if before is None:
            self._head = behind
        else:
            before.behind = behind
        if behind is None:
            self._tail = before
        else:
            behind.before = before
        batch.before = batch.behind = None

    def pop_ready(self) -> Iterator[Batch]:
        """See ``Order``."""
        while self._head is not None and self._head.state is BatchState.READY:
            batch = self._head
            self.remove(batch)
            yield batch

    @property
    def head(self) -> Batch | None:
        """See ``Order``."""
        return self._head

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over what is under way, front to back."""
        batch = self._head
        while batch is not None:
            yield batch
            batch = batch.behind


class ArrivalOrder:
    """Results leave as soon as they are there."""

    def __init__(self) -> None:
        """Start empty."""
        self._ready: dict[int, Batch] = {}

    def append(self, batch: Batch) -> None:
        """See ``Order``; only results matter here."""
        if batch.state is BatchState.READY:
            self._ready[batch.batch_id] = batch

    def insert(self, batches: Iterable[Batch], *, ahead_of: Batch) -> None:  # noqa: ARG002 - there is no place to keep
        """See ``Order``."""
        for batch in batches:
            self.append(batch)

    def insert_behind(self, batch: Batch, rest: Batch) -> None:  # noqa: ARG002 - as above
        """See ``Order``."""
        self.append(rest)

    def remove(self, batch: Batch) -> None:
        """See ``Order``."""
        self._ready.pop(batch.batch_id, None)

    def pop_ready(self) -> Iterator[Batch]:
        """See ``Order``."""
        ready, self._ready = self._ready, {}
        yield from ready.values()

    @property
    def head(self) -> Batch | None:
        """See ``Order``; nothing ever waits for anything."""
        return None
