"""An async source as a plain iterator: whoever pulls it waits, on a thread that is not its event loop's.

    a thread that pulls: next() ---> the source's loop: anext(source), as a task ---> next() returns

The loop is one of the iterator's own, which runs only while something is asked of it; or, for a run that is awaited,
the loop of the caller, where whatever the source was made with lives.

A1. One coroutine of the source runs at a time; ``aclose()`` comes after the pull that is under way has ended.
A2. ``interrupt()`` may be called from any thread or signal handler.  It cancels the pull that is under way; from then
    on the source is at its end.  The pull's task is cancelled on the loop's own thread, so it either is there to be
    cancelled or sees beforehand that it need not begin.
A3. A caller's loop may stop, or be closed, at any time.  A source that was interrupted is then left as it stands (its
    loop closes what it can); one that was not has failed: its end must not be taken for the end of its items.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
from typing import TYPE_CHECKING, Any, Final

from mpengine.errors import EngineError
from mpengine.reading import Interruptible

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine

    Errand = Callable[[], Coroutine[Any, Any, Any]]


class AsyncPull(Interruptible):
    """Iterates over an async iterable.

    Args:
        source: the async iterable.
        loop: where it is to run; None: on a loop of its own, in the thread that pulls.
    """

    def __init__(self, source: AsyncIterable[Any], loop: asyncio.AbstractEventLoop | None) -> None:
        """Begin nothing yet: the source's code runs when it is first pulled."""
        self._source = source
        self._host = _OwnLoop() if loop is None else _CallersLoop(loop)
        self._iterator: AsyncIterator[Any] | None = None
        self._pull: asyncio.Task[Any] | None = None  # touched on the loop's thread alone (A2)
        self._is_interrupted = False
        self._is_closed = False

    def __next__(self) -> Any:
        if self._is_interrupted:
            raise StopIteration
        try:
            item = self._host.run(self._next)
        except _LoopGoneError:
            if not self._is_interrupted:
                raise  # A3
            item = _END
        if type(item) is _Cancelled:  # isinstance() would ask the item
            # As it is, it would look like the cancellation of whoever meets it at the other end of the pipeline.
            raise EngineError("the async source was cancelled, and not by its run") from item.error
        if item is _END:
            raise StopIteration
        return item

    async def _next(self) -> Any:
        if self._is_interrupted:
            return _END
        self._pull = asyncio.current_task()
        try:
            if self._iterator is None:
                self._iterator = aiter(self._source)
            item = await anext(self._iterator)
        except StopAsyncIteration:
            item = _END
        except asyncio.CancelledError as error:
            # Not raised here: its loop, which may be about to end and has cancelled all it has, would complain of it.
            item = _END if self._is_interrupted else _Cancelled(error)
        self._pull = None
        return item

    def interrupt(self) -> None:
        """End the source, also for a thread that is waiting for its next item (A2)."""
        if not self._is_interrupted:  # the source may be busy with its first cancellation
            self._is_interrupted = True
            self._host.call(self._cancel_pull)

    def _cancel_pull(self) -> None:
        if self._pull is not None:
            self._pull.cancel()

    def close(self) -> None:
        """Call the source's ``aclose()``, in the thread that pulls."""
        if self._is_closed:
            return
        self._is_closed = self._is_interrupted = True
        try:
            with contextlib.suppress(_LoopGoneError):
                self._host.run(self._close)
        finally:
            self._host.close()

    async def _close(self) -> None:
        if self._pull is not None:  # its waiter has left it: Ctrl-C, in a thread that both waits and runs the loop
            self._pull.cancel()
            await asyncio.wait([self._pull])
        aclose = getattr(self._iterator, "aclose", None)
        if callable(aclose):
            await aclose()


class _End:
    """Stands for the end of the source."""


_END: Final = _End()


class _Cancelled:
    """Stands for the item that was under way when somebody else cancelled the source."""

    def __init__(self, error: asyncio.CancelledError) -> None:
        self.error = error


class _LoopGoneError(EngineError):
    """The loop that a source lives on does not run any more."""


class _OwnLoop:
    """A loop that runs in the thread that asks."""

    def __init__(self) -> None:
        # A loop factory keeps the thread's own idea of its event loop as it is.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()

    def run(self, errand: Errand) -> Any:
        return self._runner.run(errand())

    def call(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # closed, so there is nothing under way
            self._loop.call_soon_threadsafe(function)

    def close(self) -> None:
        self._runner.close()


class _CallersLoop:
    """A loop that runs in another thread, as long as its owner likes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._answers: queue.SimpleQueue[asyncio.Task[Any] | _End] = queue.SimpleQueue()
        self._is_gone = False

    def run(self, errand: Errand) -> Any:
        gone = "the event loop that the source lives on does not run any more"
        try:
            if self._is_gone:
                raise _LoopGoneError(gone)
            self._loop.call_soon_threadsafe(self._begin, errand)
        except RuntimeError:
            raise _LoopGoneError(gone) from None
        answer = self._answers.get()
        if isinstance(answer, _End):
            raise _LoopGoneError(gone)
        return answer.result()

    def _begin(self, errand: Errand) -> None:
        self._task = self._loop.create_task(errand())  # the loop itself would keep no hold of it
        self._task.add_done_callback(self._answers.put)

    def call(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)
        if not self._loop.is_running():
            self._is_gone = True
            self._answers.put(_END)

    def close(self) -> None:
        pass
