"""The source of a run with a journal: what is settled is passed over, or its results come from the journal.

    source --> settled? --no--> the feed, as an item; what it is called is kept until it is settled
                       --yes-> passed over, or its results from the journal, in its place

P1. Source indices count everything that the source gives, what is passed over included: an item has the same number in
    every run over the same input.
P2. What was passed over is told with the next thing that is packed, so that indices and items stay in step.
"""

from __future__ import annotations

import pickle
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from mpengine.coordinator.feed import pack
from mpengine.coordinator.opening import close_iterator, interrupt, open_source
from mpengine.journal.memory import Recall
from mpengine.reading import Interruptible
from mpengine.scheduler import events

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpengine.coordinator.journaling import RunNotes
    from mpengine.ipc.codec import Codec
    from mpengine.journal.memory import Memory

MOST_RECALLED = 256
MOST_RECALLED_BYTES = 1 << 18


class JournaledSource(Interruptible):
    """A source, less what is settled.  Pulled and packed by a feed.

    Args:
        source: what is pulled; see ``open_source``.
        notes: of the same run.
        at_once: whether items come without waiting, so that several may be recalled together.
    """

    def __init__(self, source: object, notes: RunNotes, *, at_once: bool) -> None:
        """Open nothing yet."""
        self._source = source
        self._notes = notes
        self._most_recalled = MOST_RECALLED if at_once else 1
        self._inner: Iterator[Any] | None = None
        self._memory: Memory | None = None
        self._is_closing = False
        self._has_ended = False
        self._passed = 0
        self._gaps: deque[int] = deque()  # for each item given, how many were passed over before it
        self._waiting: deque[Any] = deque()
        self._recalled: list[tuple[bytes, ...]] = []
        self._recalled_bytes = 0

    def __iter__(self) -> JournaledSource:
        """Open the source, and look what is settled; on the thread that pulls."""
        self._memory = self._notes.remember()
        self._inner = open_source(self._source)
        if self._is_closing:
            interrupt(self._inner)
        return self

    def __next__(self) -> Any:
        while not self._waiting:
            self._pull()
        return self._waiting.popleft()

    def _pull(self) -> None:
        """Pull one item, which may be passed over."""
        assert self._inner is not None  # noqa: S101 - it has been opened
        assert self._memory is not None  # noqa: S101 - the same
        self._notes.writer.await_room()
        if self._is_closing or self._has_ended:
            raise StopIteration
        try:
            item = next(self._inner)
        except StopIteration:
            self._has_ended = True  # and is not asked again: not everything that has ended stays so
            self._notes.has_ended = not self._is_closing  # one that was interrupted may have had more
            self._give_recalled()
            return
        found = self._memory.look_up(self._notes.key_of(item))
        index = self._notes.seen
        self._notes.seen += 1
        if not isinstance(found, Recall):
            self._notes.begin(index, found)
            self._give_recalled()
            self._give(item)
            return
        self._notes.known += 1
        if found.contents:
            self._recalled.append(found.contents)
            self._recalled_bytes += sum(map(len, found.contents))
            if len(self._recalled) >= self._most_recalled or self._recalled_bytes >= MOST_RECALLED_BYTES:
                self._give_recalled()
        else:
            self._give_recalled()
            self._passed += 1

    def _give(self, item: Any) -> None:
        self._gaps.append(self._passed)
        self._passed = 0
        self._waiting.append(item)

    def _give_recalled(self) -> None:
        if self._recalled:
            self._give(_Recalled(tuple(self._recalled)))
            self._recalled.clear()
            self._recalled_bytes = 0

    def close(self) -> None:
        """Close the source; on the thread that pulls, or once none does."""
        self._is_closing = True
        inner, self._inner = self._inner, None
        memory, self._memory = self._memory, None
        try:
            if inner is not None:
                close_iterator(inner)
        finally:
            if memory is not None:
                memory.close()

    def interrupt(self) -> None:
        """End a wait for the next item, or for the journal."""
        self._is_closing = True
        self._notes.let_go()
        interrupt(self._inner)

    # ------------------------------------------------------------------ on the thread that packs

    def pack(self, codec: Codec, items: Any) -> Iterator[events.Event]:
        """Yield the events of ``items``, which this source has given, having been pulled and packed."""
        fresh: list[Any] = []
        for item in items:
            gap = self._gaps.popleft()
            if fresh and (gap or type(item) is _Recalled):
                yield from pack(codec, fresh)
                fresh = []
            if gap:
                yield events.SourcePassed(time.monotonic(), gap)
            if type(item) is _Recalled:
                yield item.event()
            else:
                fresh.append(item)
        if fresh:
            yield from pack(codec, fresh)

    def ended(self) -> Iterator[events.Event]:
        """Yield the events of the source's end."""
        if self._passed:
            yield events.SourcePassed(time.monotonic(), self._passed)
        yield events.SourceEnded(time.monotonic())


class _Recalled:
    """Items whose results come from the journal."""

    def __init__(self, contents: tuple[tuple[bytes, ...], ...]) -> None:
        self._contents = contents

    def event(self) -> events.SourceRecalled:
        values = [pickle.loads(content) for some in self._contents for content in some]  # noqa: S301 - the user's own
        places = [place for place, some in enumerate(self._contents) for _ in some]
        weight = sum(len(content) for some in self._contents for content in some)
        return events.SourceRecalled(time.monotonic(), values, len(self._contents), places, weight)
