"""Several items of a source, pulled by one call into C, which another thread can end.

``list.extend`` keeps what came before an exception, and sees each change of the list whose iterator it goes along.  So
the source is put into a list as often as it is to be asked, with what raises ``_RecalledError`` behind it; whoever
wants the call to end puts that in all places.  A call that ends without it has come to the source's end.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

PULL_S = 0.0005
"""A call takes about so much of its thread's time at most: a source may let no other thread run meanwhile."""

MOST = 4096


class _RecalledError(Exception):
    """The call has pulled what it was to pull, or is to pull no more."""


class _Recall:
    """Is asked for an item where the source is not to be asked any more."""

    def __next__(self) -> object:
        raise _RecalledError


_RECALL = _Recall()


class Puller:
    """Pulls a source: as many items by one call as its pace allows.

    Args:
        iterator: the source.
        may_pull: whether several items may be pulled; it is called where ``recall`` ends the call already.
    """

    def __init__(self, iterator: Iterator[Any], may_pull: Callable[[], bool]) -> None:
        """Begin with one at a time."""
        self._iterator = iterator
        self._may_pull = may_pull
        self._asked: list[Any] = []
        self._most = 1

    def pull(self, items: list[Any], count: int) -> None:
        """Add some items to ``items``, no more than ``count``, or none; another thread may take from its head.

        Raises:
            StopIteration: the source has ended.
            BaseException: whatever the source raises; what came before has been added.
        """
        iterator = self._iterator
        asked: list[Any] = [iterator] * min(count, self._most)
        asked.append(_RECALL)
        self._asked = asked
        if not self._may_pull():
            return
        began = time.thread_time()
        try:
            items.extend(map(next, asked))
        except _RecalledError:
            took_s = time.thread_time() - began
            if took_s > PULL_S:
                self._most = max(1, self._most // 2)
            elif took_s < PULL_S / 2 and asked[0] is iterator and len(asked) > self._most:  # it has pulled them all
                self._most = min(MOST, 2 * self._most)
            return
        raise StopIteration

    def recall(self) -> None:
        """Make a call that is under way end with the item that it is at; from any thread."""
        asked = self._asked
        asked[:] = [_RECALL] * len(asked)
