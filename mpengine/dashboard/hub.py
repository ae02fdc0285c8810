"""One step, encoded once, to everybody who looks.

The last ``KEPT`` steps are kept, ready to be sent.  A viewer is a place in them; one who has fallen behind, being slow
or new, is told everything that is, and goes on from there (W3).  Nothing is queued for anybody.

H1. What is told in full is as of a step, and is good for any viewer while all later steps are kept.
H2. It is asked for only by those who need it, and once for all of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from mpengine.dashboard.wire import Frame, Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

KEPT: Final = 32
MAX_VIEWERS: Final = 16
QUIET_S: Final = 10.0
RETRY_MS: Final = 1000
STILL_HERE: Final = b": still here\n\n"
END: Final = b"event: end\ndata: {}\n\n"


class Hub:
    """Everybody who looks.

    Args:
        ask: sends a request to the program.

    Attributes:
        is_over: whether nothing more will come.
    """

    def __init__(self, ask: Callable[[Request], object]) -> None:
        self._ask = ask
        self._number = 0
        self._steps: deque[bytes] = deque(maxlen=KEPT)
        self._full = b""
        self._full_number: int | None = None
        self._is_asked = False
        self._viewers = 0
        self._changed = asyncio.Event()
        self._left = asyncio.Event()
        self.is_over = False

    def take(self, kind: Frame, payload: bytes) -> None:
        """Take in a frame."""
        if kind is Frame.STEP:
            self._number += 1
            self._steps.append(_event("step", payload))
        elif kind is Frame.FULL:
            self._full, self._full_number = _event("step", payload), self._number
            self._is_asked = False
        else:
            self.is_over = True
        self._wake()

    def end(self) -> None:
        """Nothing more will come."""
        self.is_over = True
        self._wake()

    def cancel(self, reason: str) -> None:
        """Have the run cancelled."""
        self._ask(Request(cancel=reason))

    @property
    def is_crowded(self) -> bool:
        """Whether nobody else may look."""
        return self._viewers >= MAX_VIEWERS

    async def wait_empty(self, timeout_s: float) -> None:
        """Wait until nobody looks any more.

        Raises:
            TimeoutError: somebody still does.
        """
        async with asyncio.timeout(timeout_s):
            while self._viewers:
                self._left.clear()
                await self._left.wait()

    async def look(self) -> AsyncIterator[bytes]:
        """Yield the events for one viewer, until nothing more will come."""
        self._count(1)
        try:
            yield f"retry: {RETRY_MS}\n\n".encode()
            at = None
            while True:
                content = None
                if at is not None and self._keeps_all_after(at):
                    if at < self._number:
                        content = self._steps[at - self._number]
                        at += 1
                elif self._full_number is not None and self._keeps_all_after(self._full_number):
                    at, content = self._full_number, self._full
                else:
                    at = None
                    self._ask_for_full()
                if content is not None:
                    yield content
                elif self.is_over:
                    yield END
                    return
                elif not await self._has_news():
                    yield STILL_HERE
        finally:
            self._count(-1)

    def _keeps_all_after(self, number: int) -> bool:
        return number >= self._number - len(self._steps)

    def _ask_for_full(self) -> None:
        if not self._is_asked and not self.is_over:  # (H2)
            self._is_asked = True
            self._ask(Request(wants_full=True))

    async def _has_news(self) -> bool:
        """Wait for something new; return False when for long there was none."""
        changed = self._changed
        try:
            async with asyncio.timeout(QUIET_S):
                return await changed.wait()
        except TimeoutError:
            return False

    def _count(self, change: int) -> None:
        self._viewers += change
        self._left.set()
        self._ask(Request(viewers=self._viewers))

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _event(name: str, payload: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), payload)
