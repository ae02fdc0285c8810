"""Runs for asyncio callers: the consumer's side has a thread of its own, and the caller's loop never waits for it.

    the caller's loop                              the consumer's thread, one for each run
      arun, aiter -------- wants a batch ------->    run.start(), run.next_batch(), run.conclude()
          ^                                            |
          +---- a future of the loop is settled <------+

A1. The thread alone waits for the run; the loop waits for futures, which the thread has it settle.
A2. However the run is left, it is told so (``leave``), and the thread sees it to its end and ends itself.  Nobody has
    to wait for that, but whoever can does.
A3. A watcher waits for the thread on the loop, and is not put off by being cancelled.  ``asyncio.run`` cancels what is
    left of its loop's tasks and waits for them: for the watcher, hence for the run, also for one that nobody else
    waits for any more.
A4. The loop alone holds the anchor.  Nothing else tells of a loop being closed, and a run for it would go on.
A5. What drops a run (``__del__``, at any moment and in any thread) tells it and never waits.
A6. A list of results is no reason to keep the loop: whoever takes one after the other lets it go on every ``TURN_S``.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Self, TypeVar

from mpengine.results import Err

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mpengine.coordinator.run import Run
    from mpengine.metrics import Snapshot
    from mpengine.results import Ok

    Batch = list[Any]

Outcome = TypeVar("Outcome")

TASK_CANCELLED = "the awaiting task was cancelled"
NOT_WANTED = "the results were not wanted any more"
LOOP_CLOSED = "the event loop was closed"
LONG_S = 365 * 86400.0
TURN_S = 0.005


class Consumer:
    """The thread that takes a run's results for a loop.  Made on that loop.

    Args:
        run: not started yet.
        serve: what the thread does, with this object: from starting the run to its result.

    Attributes:
        run: the same.
        over: done when the thread has ended.
    """

    def __init__(self, run: Run, serve: Callable[[Consumer], Ok | Err]) -> None:
        """Start the thread."""
        self.run = run
        self._loop = asyncio.get_running_loop()
        self._requests: queue.SimpleQueue[asyncio.Future[Batch] | None] = queue.SimpleQueue()
        self._ended: asyncio.Future[Ok | Err] = self._loop.create_future()
        self._is_left = False
        context = contextvars.copy_context()  # inline, stage functions are to see what they would see in run()
        self._thread = threading.Thread(
            target=context.run, args=(self._live, serve), name="mpengine-consumer", daemon=True
        )
        self._thread.start()
        self._anchor = weakref.ref(self._loop.call_later(LONG_S, _ignore, _Anchor(self)))
        self.over: asyncio.Task[None] = self._loop.create_task(self._watch())

    # ------------------------------------------------------------------ on the thread

    def _live(self, serve: Callable[[Consumer], Ok | Err]) -> None:
        try:
            result = serve(self)
        except BaseException as error:  # noqa: BLE001 - the run did not begin; told where it is awaited
            self._tell(_fail, self._ended, error)
        else:
            self._tell(_settle, self._ended, result)

    def serve_batches(self, start: Callable[[], None]) -> Ok | Err:
        """Start the run, take a batch whenever one is asked for, and conclude the run."""
        start()
        try:
            while (request := self._requests.get()) is not None and (batch := self.run.next_batch()) is not None:
                self._tell(_settle, request, batch)
        except BaseException as error:  # noqa: BLE001 - unpickling is user code; becomes the result, as in Engine.run
            self.run.cancel(type(error).__name__, error)
        return self.run.conclude()

    def _tell(
        self, how: Callable[[asyncio.Future[Outcome], Any], None], future: asyncio.Future[Outcome], outcome: object
    ) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody is left to be told
            self._loop.call_soon_threadsafe(how, future, outcome)

    # ------------------------------------------------------------------ on the loop

    async def _watch(self) -> None:
        while not self._ended.done():
            try:
                await asyncio.wait([self._ended])
            except asyncio.CancelledError as error:
                self.leave(reason_of(error))
        self._thread.join()  # that it was about to end was the last thing it told
        if (anchor := self._anchor()) is not None:
            anchor.cancel()
        self._ended.exception()  # somebody has looked, should nobody else do it

    async def next_batch(self) -> Batch | None:
        """Return the next results; None when there are no more, because the run is over."""
        request: asyncio.Future[Batch] = self._loop.create_future()
        self._requests.put(request)
        await self._wait([request, self.over])
        return None if self.over.done() else request.result()

    async def result(self) -> Ok | Err:
        """Wait for the end and return the result.

        Raises:
            EngineError: the run did not begin.
        """
        await self._wait([self.over])
        return self._ended.result()

    async def _wait(self, futures: list[asyncio.Future[Any]]) -> None:
        """Wait for one of them; if that is cancelled, cancel the run, wait until nothing is left of it, and go."""
        try:
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError as error:
            self.leave(reason_of(error))
            while not self.over.done():
                with contextlib.suppress(asyncio.CancelledError):  # we go as soon as we can; the first one is raised
                    await asyncio.wait([self.over])
            raise
        except BaseException:  # the coroutine is thrown away, which nobody may wait in (A5)
            self.leave(NOT_WANTED)
            raise

    async def aclose(self) -> None:
        """Leave the run, and wait until nothing is left of it."""
        self.leave(NOT_WANTED)
        await self._wait([self.over])

    async def wait_left(self) -> None:
        """Wait for the end of a run that was left already."""
        if self._is_left and self._loop is asyncio.get_running_loop():
            await asyncio.wait([self.over])

    def leave(self, reason: str) -> None:
        """Cancel the run if it still goes on; from any thread, at any moment; never waits."""
        if not self.run.is_here:
            return  # a forked child drops its copy
        self._is_left = True
        self._requests.put(None)
        if not self._ended.done():
            self.run.cancel(reason)


def reason_of(error: asyncio.CancelledError) -> str:
    """Return why a task was cancelled: what ``task.cancel("why")`` says, or that it was."""
    reason = error.args[0] if error.args else None
    return reason if type(reason) is str and reason else TASK_CANCELLED


class _Anchor:
    """What a loop holds of a run (A4)."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def __del__(self) -> None:
        self._consumer.leave(LOOP_CLOSED)


def _ignore(_: object) -> None:
    """Stand in for the anchor's timer, which is there to be held."""


def _settle(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not future.done():
        future.set_result(outcome)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


class _Values(AsyncIterator[Any]):
    """The results.  When nobody holds this any more, the run is over."""

    def __init__(self, begin: Callable[[], Awaitable[Consumer]]) -> None:
        self._begin = begin
        self._taken: deque[Any] = deque()  # of the lists that were taken, what has not been handed out
        self._is_over = False
        self._pause_at = 0.0  # when the loop has been in our consumer's hands for long enough
        self.consumer: Consumer | None = None

    async def __anext__(self) -> Any:
        while True:
            if self._taken and time.monotonic() < self._pause_at:
                return self._taken.popleft()
            if self._taken:
                await asyncio.sleep(0)  # others are to have their turn in the middle of a list, too (A6)
            else:
                self._taken.extend(await self._next_batch())
            self._pause_at = time.monotonic() + TURN_S

    async def _next_batch(self) -> Batch:
        if not self._is_over and self.consumer is None:
            self.consumer = await self._begin()
        if self._is_over or self.consumer is None:
            raise StopAsyncIteration
        batch = await self.consumer.next_batch()
        if batch is not None:
            return batch
        result = await self.consumer.result()
        if isinstance(result, Err) and not self._is_over:
            self._is_over = True  # that it failed is told once
            raise result.exception()
        self._is_over = True
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._is_over = True
        self._taken.clear()
        if self.consumer is not None:
            await self.consumer.aclose()

    def __del__(self) -> None:
        if self.consumer is not None:
            self.consumer.leave(NOT_WANTED)


class AsyncResultStream(AsyncIterator[Any]):
    """The results of a run as they come, for ``async for``; the run begins when the first one is asked for.

    An async iterator and an async context manager.  Leaving it early, by ``aclose()``, at the end of its ``async with``
    or by dropping the last reference, cancels the run.
    """

    def __init__(self, begin: Callable[[], Awaitable[Consumer]]) -> None:
        """Begin nothing yet."""
        self._values = _Values(begin)

    def __aiter__(self) -> AsyncIterator[Any]:  # noqa: PYI034 - not itself, see below
        """Return the iterator."""
        return self._values  # which does not know this object, and makes no call of ours for each result

    async def __anext__(self) -> Any:
        """Return the next result.

        Raises:
            Exception: the run's cause, when the run failed.
        """
        return await anext(self._values)

    @property
    def result(self) -> Ok | Err | None:
        """How the run ended, without its values; None before the end."""
        consumer = self._values.consumer
        return None if consumer is None else consumer.run.result

    def snapshot(self) -> Snapshot:
        """Return the figures so far; empty ones before the first result was asked for.  From any thread."""
        from mpengine.metrics import Snapshot

        consumer = self._values.consumer
        return Snapshot() if consumer is None else consumer.run.snapshot()

    async def aclose(self) -> None:
        """Cancel the run if it still goes on, and wait until nothing of it is left; idempotent."""
        await self._values.aclose()

    async def __aenter__(self) -> Self:
        """Return the stream."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the stream."""
        await self.aclose()


class Entrance:
    """Where an engine's asyncio callers come in."""

    def __init__(self) -> None:
        """Begin without a run."""
        self._last: Callable[[], Consumer | None] = _nobody

    async def begin(self, make_run: Callable[[], Run], serve: Callable[[Consumer], Ok | Err]) -> Consumer:
        """Make a run and have a thread begin it.

        A run that was left in ``async for`` may still be on its way out, since nobody can wait in a ``break``; the next
        one waits for it here.
        """
        last = self._last()
        if last is not None:
            await last.wait_left()
        consumer = Consumer(make_run(), serve)
        last = self._last()
        if last is None or last.over.done():  # else the engine is busy, and the new one is about to be refused
            self._last = weakref.ref(consumer)
        return consumer


def _nobody() -> None:
    """Return nothing, like a weak reference to what is gone."""
