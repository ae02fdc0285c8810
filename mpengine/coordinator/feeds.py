"""Which feed a source gets; and the feed of a range, which needs no thread, since no code of the user's is in it."""

from __future__ import annotations

import time

from mpengine.coordinator.feed import InlineFeed, ThreadedFeed, pack
from mpengine.coordinator.opening import is_indexed
from mpengine.scheduler import events

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from mpengine.coordinator.feed import Feed, Packer
    from mpengine.ipc.codec import Codec


class RangeFeed:
    """Cuts a range where it is asked to: that takes less than to wake a thread for it.

    Args:
        source: a range.
        codec: packs.
        post: gets the events.
    """

    runs_user_code = False

    def __init__(self, source: range, codec: Codec, post: Callable[[events.Event], None]) -> None:
        """Begin at its start."""
        self._left = source
        self._codec = codec
        self._post = post
        self._has_ended = False
        self.threads: Sequence[threading.Thread] = ()

    def pull(self, count: int, batch_size: int) -> None:
        """See ``Feed``."""
        if self._has_ended:
            return
        asked, self._left = self._left[:count], self._left[count:]
        while asked:
            for event in pack(self._codec, asked[:batch_size]):
                self._post(event)
            asked = asked[batch_size:]
        if not self._left:
            self._has_ended = True
            self._post(events.SourceEnded(time.monotonic()))

    def close(self) -> None:
        """See ``Feed``."""
        self._has_ended = True

    def interrupt(self) -> None:
        """See ``Feed``."""

    def join(self, timeout_s: float) -> bool:  # noqa: ARG002 - it is closed already
        """See ``Feed``."""
        return True


class FeedsItself:
    """A source that is its own feed."""

    def feed(self, codec: Codec, post: Callable[[events.Event], None]) -> Feed:
        """Return what packs its items with ``codec``, when the loop asks for them, and posts the events."""
        raise NotImplementedError


def feed_of(
    source: object, codec: Codec, post: Callable[[events.Event], None], *, in_caller: bool, packer: Packer | None = None
) -> Feed:
    """Return what pulls ``source``.

    Args:
        source: see ``open_source``.
        codec: packs.
        post: gets the events.
        in_caller: whether the source's code is to run in the thread that asks.
        packer: tells what was pulled; None: as it is.
    """
    if isinstance(source, FeedsItself):
        return source.feed(codec, post)
    if in_caller:
        return InlineFeed(source, codec, post, packer)
    if type(source) is range and is_indexed(source):
        return RangeFeed(source, codec, post)
    return ThreadedFeed(source, codec, post, packer)
