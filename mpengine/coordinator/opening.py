"""Whatever may stand at the head of a pipeline, as one kind of thing: an iterator that can be closed.

An iterable, an async iterable, or a function that returns one of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any

from mpengine.errors import PipelineError


def open_source(source: object) -> Iterator[Any]:
    """Return an iterator over ``source``.

    Args:
        source: an iterable, an async iterable, or a function without arguments that returns one.

    Raises:
        PipelineError: it is none of these, or the function returns none of these.
        Exception: whatever the function raises.
    """
    opened = source
    if callable(opened) and not isinstance(opened, Iterable | AsyncIterable):
        opened = opened()
    if isinstance(opened, AsyncIterable):
        return _drain(opened)
    if isinstance(opened, Iterable):
        return iter(opened)
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


def _drain(source: AsyncIterable[Any]) -> Iterator[Any]:
    """Iterate over an async iterable on an event loop of this thread's own; ``close()`` calls its ``aclose()``."""
    import asyncio

    iterator = aiter(source)
    with asyncio.Runner() as runner:
        try:
            while True:
                try:
                    item = runner.run(_next_of(iterator))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            aclose = getattr(iterator, "aclose", None)
            if callable(aclose):
                runner.run(aclose())


async def _next_of(iterator: AsyncIterator[Any]) -> Any:
    return await anext(iterator)
