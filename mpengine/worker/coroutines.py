"""Stages that are an ``async def``: several items of a batch at once, on the stage's own event loop.

A1. The loop runs only while the job is advanced; between two reports its coroutines stand still.
A2. Results are reported in the order of the items: what is finished waits for what came before it.
A3. At most ``concurrency`` items are under way.  None is named in the slot, unless the job is careful and
    runs it alone.
A4. The cancel pipe is among what the loop waits for, so cancelling interrupts a wait at once.
A5. One whose time is up is cancelled.  One that goes on all the same, or does not give control back, is ended with its
    worker: the slot tells when the oldest call that goes on has had its timeout ``PATIENCE`` times over.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import traceback
from typing import TYPE_CHECKING, Any

from mpengine.errors import ItemTimeoutError
from mpengine.stages import KillSwitch
from mpengine.worker.chain import LEAVING, Killed, Stopped, backoff_s

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator

    from mpengine.worker.chain import Site, Step
    from mpengine.worker.groups import Outcome


PATIENCE = 2


def innermost(error: BaseException) -> str:
    """Return where ``error`` was raised, as the end of a sentence: the innermost frame of the user's own code."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _OURS.search(frame.filename)]
    return f"; it was in {frames[-1].name} ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


_OURS = re.compile(r"[/\\](asyncio|mpengine[/\\]worker)[/\\]")


class Coroutines:
    """The items of one job that are under way.

    Args:
        step: the stage.
        site: where.
        is_alone: whether one item is to be reported before the next one begins (A3).
    """

    def __init__(self, step: Step, site: Site, *, is_alone: bool) -> None:
        """Begin with nothing under way."""
        self._step = step
        self._site = site
        self._is_alone = is_alone
        self._at_once = 1 if is_alone else step.concurrency
        self._is_closed = False
        self._calls: dict[object, tuple[float, int]] = {}  # those that are timed, oldest first: due, attempt
        self._running: dict[asyncio.Task[Outcome], int] = {}
        self._finished: dict[int, Outcome] = {}

    def go_on(self, waiting: Iterator[tuple[int, Any, int]], first: int, until: float) -> list[Outcome]:
        """Run items until those from ``first`` on are finished, or the time is up and some of them are.

        Args:
            waiting: those that have not begun: position, item, and how many attempts ended with workers that died;
                taken as they are begun.
            first: position of the first item that has not been reported.
            until: when to report what is finished, on the clock of ``time.perf_counter``.

        Returns:
            What became of the items from ``first`` on, in order; at least one.

        Raises:
            Killed: one of them gave or raised a ``KillSwitch``.
            Stopped: the run was cancelled.
        """
        return self._step.loop.run_until_complete(self._go_on(waiting, first, until))

    async def _go_on(self, waiting: Iterator[tuple[int, Any, int]], first: int, until: float) -> list[Outcome]:
        loop = asyncio.get_running_loop()
        cancelled: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._site.cancel_fd, _set, cancelled)
        try:
            self._note_oldest()
            while True:
                is_due = self._is_alone or time.perf_counter() >= until
                if not (is_due and first in self._finished):
                    self._begin(waiting)
                if first in self._finished and (is_due or not self._running):
                    self._note_none()
                    return self._take(first)
                await self._wait_for_some(cancelled, until if first in self._finished else None)
                if cancelled.done() or self._site.is_cancelled():
                    raise Stopped
        finally:
            loop.remove_reader(self._site.cancel_fd)
            cancelled.cancel()

    def _begin(self, waiting: Iterator[tuple[int, Any, int]]) -> None:
        while len(self._running) < self._at_once and (following := next(waiting, None)) is not None:
            position, item, attempts = following
            self._running[asyncio.ensure_future(self._run(item, attempts))] = position

    def _take(self, first: int) -> list[Outcome]:
        outcomes: list[Outcome] = []
        while (outcome := self._finished.pop(first + len(outcomes), None)) is not None:
            outcomes.append(outcome)
        return outcomes

    async def _wait_for_some(self, cancelled: asyncio.Future[None], until: float | None) -> None:
        timeout_s = None if until is None else max(0.0, until - time.perf_counter())
        awaited: list[asyncio.Future[Any]] = [*self._running, cancelled]
        await asyncio.wait(awaited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for task in [task for task in self._running if task.done()]:
            self._finished[self._running.pop(task)] = task.result()

    async def _run(self, item: Any, attempts: int) -> Outcome:
        step = self._step
        error: BaseException | None = None
        while error is None or step.retry.is_worth_it(error, attempts):
            if error is not None:
                await asyncio.sleep(backoff_s(step.retry, attempts))
            attempts += 1
            try:
                value = await self._call(item, attempts)
            except KillSwitch as switch:
                raise Killed(switch.reason) from None
            except (Stopped, *LEAVING):
                raise
            except BaseException as raised:  # that is the item's error, and goes back as such
                if self._is_closed:
                    raise
                error = raised
            else:
                if issubclass(type(value), KillSwitch):
                    raise Killed(value.reason)
                return value, None, attempts
        return None, error, attempts

    async def _call(self, item: Any, attempts: int) -> Any:
        """Call the stage's function once, under its timeout if it has one."""
        limit_s = self._step.timeout
        if limit_s is None:
            return await self._step.call(item)
        call, began_at = object(), time.monotonic()
        self._calls[call] = (began_at + PATIENCE * limit_s, attempts)
        self._note_oldest()
        timer = asyncio.timeout(limit_s)
        try:
            async with timer:
                value = await self._step.call(item)
        except (KillSwitch, *LEAVING):
            raise
        except BaseException as error:
            self._end(call)
            if not (timer.expired() or time.monotonic() > began_at + limit_s):
                raise
            raise self._late(innermost(error.__context__ or error)) from error
        self._end(call)
        if time.monotonic() > began_at + limit_s:
            raise self._late("")
        return value

    def _late(self, where: str) -> ItemTimeoutError:
        return ItemTimeoutError(f"took longer than {self._step.timeout} s{where}")

    def _end(self, call: object) -> None:
        del self._calls[call]
        self._note_oldest()

    def _note_oldest(self) -> None:
        """Tell in the slot when this process is to be ended, because of the oldest call that goes on (A5)."""
        self._note_none()
        for due_at, attempts in self._calls.values():
            self._site.slot.begin_attempt(0, attempts, due_at - time.monotonic())
            return

    def _note_none(self) -> None:
        """Tell in the slot that this process need not be ended.

        Raises:
            Stopped: it has to be, and the run was cancelled before it was.
        """
        if self._step.timeout is not None and self._site.slot.end_attempt() and self._site.is_watched:
            raise self._site.late(self._step)

    def close(self) -> None:
        """End what is under way: ``CancelledError`` is raised in it."""
        self._is_closed = True
        if not self._running or self._step.loop.is_closed():
            return
        tasks, self._running = list(self._running), {}
        for task in tasks:
            task.cancel()
        with contextlib.suppress(Killed):
            self._step.loop.run_until_complete(_settle(tasks))


def drain(given: AsyncIterator[Any], loop: asyncio.AbstractEventLoop, site: Site) -> Iterator[Any]:
    """Iterate over what an async generator gives; it stands still between two of its values (A1, A4).

    Raises:
        Stopped: the run was cancelled, which was raised in the generator as ``CancelledError``.
    """
    values = aiter(given)
    try:
        while True:
            try:
                value = loop.run_until_complete(_next_of(values, site))
            except StopAsyncIteration:
                return
            yield value
    finally:
        closer = getattr(values, "aclose", None)
        if closer is not None:
            loop.run_until_complete(closer())


async def _next_of(values: AsyncIterator[Any], site: Site) -> Any:
    loop = asyncio.get_running_loop()
    cancelled: asyncio.Future[None] = loop.create_future()
    following = asyncio.ensure_future(_await(anext(values)))
    loop.add_reader(site.cancel_fd, _set, cancelled)
    try:
        await asyncio.wait([following, cancelled], return_when=asyncio.FIRST_COMPLETED)
    finally:
        loop.remove_reader(site.cancel_fd)
        cancelled.cancel()
    if not following.done():
        following.cancel()
        await _settle([following])
        raise Stopped
    return following.result()


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _settle(tasks: list[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
