"""Where calls wait until a worker is free for them, and futures until there is a result.

    submit --> waiting --(the loop asks, a worker is free)--> given --(result)--> the future is done
                  |
                  +-- cancelled: never leaves

D1. A call is given away when the loop has asked for one, which it does when a worker is free (``is_prompt``).  Until
    then its future can be cancelled.
D2. Whoever comes second packs: the thread that submits where the loop has asked already, else the loop.  No code of the
    user's is in that, since calls come pickled, and large buffers are only copied.
D3. Calls are numbered as they are given away, which is how the engine counts items.
D4. A future is settled with no lock held, since its callbacks are the user's.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from mpengine.coordinator.feed import pack
from mpengine.coordinator.feeds import FeedsItself
from mpengine.scheduler import events
from mpengine.worker.calls import Call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future
    from typing import Any

    from mpengine.ipc.codec import Codec
    from mpengine.ipc.messages import Buffer

    Waiting = tuple[Future[Any], bytes, list[Buffer]]


class Desk(FeedsItself):
    """The calls of one executor; the source of its run, and that source's feed."""

    runs_user_code = False
    threads: Sequence[threading.Thread] = ()

    def __init__(self) -> None:
        """Begin without a call."""
        self._lock = threading.RLock()
        self._waiting: deque[Waiting] = deque()
        self._given: dict[int, Future[Any]] = {}
        self._asked = 0
        self._count = 0
        self._is_closing = False
        self._has_ended = False
        self._codec: Codec | None = None
        self._post: Callable[[events.Event], None] | None = None

    # ------------------------------------------------------------------ whoever submits

    def put(self, future: Future[Any], content: bytes, buffers: list[Buffer]) -> None:
        """Let a call wait."""
        with self._lock:
            self._waiting.append((future, content, buffers))
            self._give()

    def close_to_new(self) -> None:
        """Take no more calls; those that wait are still made."""
        with self._lock:
            self._is_closing = True
            self._give()

    def drop_waiting(self) -> None:
        """Cancel what waits."""
        with self._lock:
            dropped, self._waiting = self._waiting, deque()
        for future, *_ in dropped:
            future.cancel()
        with self._lock:
            self._give()

    def take_given(self, number: int) -> Future[Any] | None:
        """Return the future of a call that has ended, once."""
        return self._given.pop(number, None)

    def take_all(self) -> list[Future[Any]]:
        """Return every future that there is, once: the run has ended."""
        with self._lock:
            self._has_ended = True
            waiting, self._waiting = self._waiting, deque()
            given, self._given = self._given, {}
        return [*given.values(), *(future for future, *_ in waiting if future.set_running_or_notify_cancel())]

    # ------------------------------------------------------------------ the loop

    def feed(self, codec: Codec, post: Callable[[events.Event], None]) -> Desk:
        """See ``FeedsItself``."""
        self._codec = codec
        self._post = post
        return self

    def pull(self, count: int, batch_size: int) -> None:  # noqa: ARG002 - a batch is one call
        """See ``Feed``."""
        with self._lock:
            self._asked += count
            self._give()

    def _give(self) -> None:
        """Give away what was asked for and waits (D2), or tell that no more will come."""
        if self._post is None or self._codec is None or self._has_ended:
            return
        while self._asked and self._waiting:
            future, content, buffers = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            number = self._count
            self._count += 1
            self._asked -= 1
            self._given[number] = future
            for event in pack(self._codec, [Call(number, content, *buffers)]):
                self._post(event)
        if self._is_closing and not self._waiting:
            self._has_ended = True
            self._post(events.SourceEnded(time.monotonic()))

    def close(self) -> None:
        """See ``Feed``."""
        with self._lock:
            self._has_ended = True

    def interrupt(self) -> None:
        """See ``Feed``."""

    def join(self, timeout_s: float) -> bool:  # noqa: ARG002 - there is nothing to wait for
        """See ``Feed``."""
        return True
