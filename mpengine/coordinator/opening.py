"""Whatever may stand at the head of a pipeline, as one kind of thing: an iterator that can be closed.

An iterable, an async iterable, or a function that returns one of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Coroutine, Iterable

from mpengine.errors import PipelineError
from mpengine.reading import Interruptible, ReadHere, Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator
    from typing import Any


class OnLoop:
    """A source that is to be pulled on its caller's loop if it turns out to be async."""

    def __init__(self, source: object, loop: asyncio.AbstractEventLoop) -> None:
        """Keep both."""
        self.source = source
        self.loop = loop


def on_loop(source: object, loop: asyncio.AbstractEventLoop) -> object:
    """Return ``source`` so that it is pulled on ``loop`` if it is async, or a function that returns what is."""
    return OnLoop(source, loop) if isinstance(source, AsyncIterable) or not isinstance(source, Iterable) else source


def open_source(source: object) -> Iterator[Any]:
    """Return an iterator over ``source``.

    Args:
        source: an iterable, an async iterable, or a function without arguments that returns one; or an input.

    Raises:
        PipelineError: it is none of these, or the function returns none of these.
        Exception: whatever the function raises.
    """
    loop = None
    if isinstance(source, OnLoop):
        loop, source = source.loop, source.source
    if isinstance(source, Source):
        return source.open()  # with the stage that reads its records, which the pipeline has put behind it
    opened = source
    if callable(opened) and not isinstance(opened, Iterable | AsyncIterable):
        opened = opened()
    if isinstance(opened, Source):
        return ReadHere(opened.open())
    if isinstance(opened, AsyncIterable):
        from mpengine.coordinator.async_sources import AsyncPull  # with asyncio, which others need not pay for

        return AsyncPull(opened, loop)
    if isinstance(opened, Iterable):
        return iter(opened)
    if isinstance(opened, Coroutine):
        opened.close()  # nobody will await it, which its loop would complain of
    msg = f"the source must be or return an iterable, not {opened!r:.200}"
    raise PipelineError(msg)


def is_indexed(source: object) -> bool:
    """Whether ``source`` can be cut into slices at once, without running anybody's code."""
    return type(source) in (list, tuple, range) and length_of(source) is not None


def length_of(source: object) -> int | None:
    """Return how many items ``source`` has, if it is one of the kinds whose length can be trusted."""
    try:
        return len(source) if isinstance(source, list | tuple | range | dict | set | frozenset | str | bytes) else None
    except OverflowError:  # a range may be longer than any list can be
        return None


def close_iterator(iterator: object) -> None:
    """Call the iterator's ``close()``, if it has one."""
    close = getattr(iterator, "close", None)
    if callable(close):
        close()


def interrupt(iterator: object) -> None:
    """End a wait for the iterator's next item, where that can be done: an async source's can be cancelled."""
    if isinstance(iterator, Interruptible):
        iterator.interrupt()
