"""Error handlers (SIDE), called one after another, off the loop.

H1. A handler gets one ``ItemError`` at a time, on a thread of its own, in the order in which the items failed.
H2. How many wait for a slow handler is bounded by the source's window: an item counts as under way until its handler
    has returned.
H3. A handler that takes a second argument is given the source's item; it is unpacked on the handlers' thread.
H4. A cancelled run calls no further handler.  One that never returns is left to its daemon thread, as a source is.
"""

from __future__ import annotations

import queue
import threading
import time

from mpengine.errors import StageError
from mpengine.ipc.codec import Broken
from mpengine.scheduler import events
from mpengine.worker.chain import summarize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Protocol

    from mpengine.coordinator.failures import Failures
    from mpengine.ipc.codec import Codec
    from mpengine.scheduler.commands import CallHandler
    from mpengine.stages import Stage
else:
    Protocol = object


class Handlers(Protocol):
    """Calls error handlers."""

    threads: Sequence[threading.Thread]
    """The threads they are called on."""

    def call(self, command: CallHandler) -> None:
        """Call the handler of a failed item, now or later, and post ``HandlerReturned`` when it has returned."""

    def close(self) -> None:
        """Call no further handler."""

    def join(self, timeout_s: float) -> bool:
        """Wait until no handler runs; return whether that is so."""


class InlineHandlers:
    """Calls handlers in the thread that asks: for a backend in the caller's own.

    Args:
        stages: whose handlers.
        failures: makes the ``ItemError``.
        post: gets the events.
        codec: unpacks what the source gave.
    """

    threads: Sequence[threading.Thread] = ()
    _caught: type[BaseException] = Exception  # Ctrl-C belongs to the caller

    def __init__(
        self, stages: Sequence[Stage], failures: Failures, post: Callable[[events.Event], None], codec: Codec
    ) -> None:
        """Keep what it needs."""
        self._stages = stages
        self._failures = failures
        self._post = post
        self._codec = codec
        self.runs_user_code = False

    def call(self, command: CallHandler) -> None:
        """See ``Handlers``."""
        stage = self._stages[command.report.stage]
        error: BaseException | None = None
        self.runs_user_code = True
        try:
            if stage.error_handler is not None:
                items = (self._item(command),) if stage.hands_item else ()
                stage.error_handler(self._failures.item_error(command.report), *items)
        except self._caught as raised:
            error = raised  # ends the run, by event
        finally:
            self.runs_user_code = False
        summary = "" if error is None else summarize(error)
        self._post(events.HandlerReturned(time.monotonic(), command.batch_id, error, summary))

    def _item(self, command: CallHandler) -> Any:
        """Return what the source gave (H3); None where it can be had no more: it cannot be unpickled."""
        if command.given is None:
            return None
        payload, place = command.given
        try:
            item = self._codec.unpack(payload)[place]
        except StageError:
            return None
        return None if type(item) is Broken else item

    def close(self) -> None:
        """See ``Handlers``."""

    def join(self, timeout_s: float) -> bool:  # noqa: ARG002 - none is running
        """See ``Handlers``."""
        return True


class ThreadedHandlers(InlineHandlers):
    """Calls handlers on a thread of its own, which begins with the first of them.

    Args:
        stages: whose handlers.
        failures: makes the ``ItemError``.
        post: gets the events, from another thread.
        codec: unpacks what the source gave.
    """

    def __init__(
        self, stages: Sequence[Stage], failures: Failures, post: Callable[[events.Event], None], codec: Codec
    ) -> None:
        """Start nothing yet."""
        self._caught = BaseException  # a sys.exit() in there must not end the thread in silence
        super().__init__(stages, failures, post, codec)
        self._waiting: queue.SimpleQueue[CallHandler | None] = queue.SimpleQueue()
        self._is_closed = False
        self.threads = [threading.Thread(target=self._serve, name="mpengine-handlers", daemon=True)]

    def call(self, command: CallHandler) -> None:
        """See ``Handlers``."""
        self._waiting.put(command)
        if self.threads[0].ident is None:
            self.threads[0].start()

    def _serve(self) -> None:
        while (command := self._waiting.get()) is not None and not self._is_closed:
            super().call(command)

    def close(self) -> None:
        """See ``Handlers``."""
        self._is_closed = True
        self._waiting.put(None)

    def join(self, timeout_s: float) -> bool:
        """See ``Handlers``."""
        if self.threads[0].ident is None:
            return True
        self.threads[0].join(timeout_s)
        return not self.threads[0].is_alive()
