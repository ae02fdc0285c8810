"""``Executor.map``: chunks of calls, and their results in order."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future
    from typing import Any

    Chunk = tuple[tuple[Any, ...], ...]


def run_chunk(function: Callable[..., Any], *chunk: tuple[Any, ...]) -> list[Any]:
    """Return what ``function`` gives for each list of arguments; in a worker."""
    return [function(*args) for args in chunk]


def check_sizes(chunksize: object, buffersize: object) -> None:
    """Refuse what neither can be.

    Raises:
        TypeError: a size is no whole number.
        ValueError: a size is less than 1.
    """
    if not isinstance(chunksize, int):
        msg = f"chunksize must be an integer, not {chunksize!r:.200}"
        raise TypeError(msg)
    if chunksize < 1:
        raise ValueError("chunksize must be >= 1.")
    if buffersize is not None and not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be None or > 0")


def chunks_of(iterables: tuple[Iterable[Any], ...], size: int) -> Iterator[Chunk]:
    """Yield lists of up to ``size`` calls' arguments, pulled when they are asked for."""
    calls = zip(*iterables, strict=False)
    while chunk := tuple(itertools.islice(calls, size)):
        yield chunk


class Results(Iterator["Any"]):
    """The results of some chunks, in order; closing or dropping it cancels what nobody has begun with.

    No generator, which would not notice being dropped before it has begun.

    Args:
        futures: of the chunks submitted so far; emptied.
        submit_next: called before each chunk's results are waited for; submits another chunk, if there is to be one.
        timeout: seconds from now, in which each result has to be there; None: any number.
        is_plain: whether a future's result is that of one call, and no list.
    """

    def __init__(
        self,
        futures: deque[Future[Any]],
        submit_next: Callable[[], Future[Any] | None],
        timeout: float | None,
        *,
        is_plain: bool,
    ) -> None:
        """Begin with the first chunk."""
        self._futures = futures
        self._submit_next = submit_next
        self._is_plain = is_plain
        self._until = None if timeout is None else time.monotonic() + timeout
        self._values: list[Any] = []  # of one chunk, the next one last

    def __next__(self) -> Any:
        """Return the next result.

        Raises:
            TimeoutError: it was not there in time.
            Exception: what its call has raised.
        """
        try:
            while not self._values:
                self._values = self._next_chunk()
        except BaseException:
            self.close()
            raise
        return self._values.pop()  # and hold it no longer

    def _next_chunk(self) -> list[Any]:
        if not self._futures:
            raise StopIteration
        following = self._submit_next()
        if following is not None:
            self._futures.append(following)
        if self._is_plain:
            return [_result_of(self._futures.popleft(), self._until)]
        values: list[Any] = _result_of(self._futures.popleft(), self._until)
        values.reverse()
        return values

    def close(self) -> None:
        """Let go of what has not been asked for; idempotent."""
        self._values.clear()
        while self._futures:
            self._futures.pop().cancel()

    def __del__(self) -> None:
        """Close it."""
        self.close()


def _result_of(future: Future[Any], until: float | None) -> Any:
    try:
        return future.result(None if until is None else until - time.monotonic())
    finally:
        future.cancel()  # if the time is up, nobody wants it any more
        del future  # which holds an error, whose traceback holds this frame
