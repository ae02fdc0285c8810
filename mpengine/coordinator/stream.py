"""The results of a run as an iterator: closing it, or dropping it, ends the run."""

from __future__ import annotations

import itertools
import operator
import threading
from collections.abc import Iterator

from mpengine.errors import EngineError
from mpengine.results import Err

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self

    from mpengine.coordinator.run import Run
    from mpengine.metrics import Snapshot
    from mpengine.results import Ok


class _Batches(Iterator[Iterator["Any"]]):
    """The lists of results, as iterators.  When nobody holds this any more, the run is over.

    Several threads may be in the same ``itertools.chain`` over this, which keeps the last iterator it was given and
    forgets the one before, read to its end or not.  So a list is given again and again until nothing is left of it.
    """

    def __init__(self, run: Run) -> None:
        self._is_over = False  # whether the consumer knows of the end
        self._current: Iterator[Any] = iter([])
        self._taking = threading.RLock()  # a signal handler may ask for a result as well
        self._run = run  # last: who has it can be closed

    def __next__(self) -> Iterator[Any]:
        if not self._run.is_here:
            msg = "these results belong to the process that this one was forked from"
            raise EngineError(msg)
        with self._taking:  # and no loop in here: Python 3.13 would leave its jump out, and the lock taken
            return self._filled_or_over()

    def _filled_or_over(self) -> Iterator[Any]:
        try:
            return self._filled()
        except StopIteration:
            raise
        except BaseException as error:  # Ctrl-C, most likely: in order now, and at once if it comes again
            # Wherever it came, it may have taken a list of results along: who goes on must not miss it in silence.
            self._is_over = True
            if self._run.result is None:
                self._run.end("SIGINT" if isinstance(error, KeyboardInterrupt) else type(error).__name__, error)
            raise

    def _filled(self) -> Iterator[Any]:
        while not operator.length_hint(self._current):
            self._current = iter(self._next_list())
        return self._current

    def _next_list(self) -> list[Any]:
        if self._is_over:
            raise StopIteration
        batch = None if self._run.result is not None else self._next()
        if batch is not None:
            return batch
        self._is_over = True
        result = self._run.with_interrupt(self._run.conclude())
        if isinstance(result, Err):
            raise result.exception()
        raise StopIteration

    def _next(self) -> list[Any] | None:
        if not self._run.in_caller:
            return self._run.next_batch()
        with self._run.watch_signals():
            return self._run.next_batch()

    def close(self) -> None:
        self._is_over = True
        if self._run.result is None and self._run.is_here:
            self._run.end("the results were not wanted any more")
        for _ in self._current:  # nor is what is left of the last list
            pass

    def __del__(self) -> None:
        if hasattr(self, "_run"):  # else Ctrl-C came before it was made
            self.close()


class ResultStream(Iterator["Any"]):
    """The results of a run as they come; closing it early cancels the run and leaves nothing behind.

    An iterator and a context manager.  Dropping the last reference closes it.
    """

    def __init__(self, run: Run) -> None:
        """Begin with the first result."""
        self._run = run
        self._batches = _Batches(run)
        self._values = itertools.chain.from_iterable(self._batches)

    @classmethod
    def begun(cls, run: Run, start: Callable[[], None]) -> Self:
        """Start a run and return its results; whatever comes in between, Ctrl-C too, ends the run."""
        try:
            with run.watch_signals():
                start()
            return cls(run)
        except BaseException as error:
            if run.goes_on:
                run.end(type(error).__name__, error)
            raise

    def __iter__(self) -> Iterator[Any]:  # noqa: PYI034 - not itself, see below
        """Return the iterator."""
        return self._values  # which knows the lists but not this object: no cycle, and no call of ours for each result

    def __next__(self) -> Any:
        """Return the next result, waiting for it.

        Raises:
            Exception: the run's cause, when the run failed.
        """
        return next(self._values)

    @property
    def result(self) -> Ok | Err | None:
        """How the run ended, without its values; None before the end."""
        return self._run.result

    def snapshot(self) -> Snapshot:
        """Return the figures so far; from any thread."""
        return self._run.snapshot()

    def close(self) -> None:
        """Cancel the run if it still goes on, and wait until nothing of it is left; idempotent."""
        self._batches.close()

    def __enter__(self) -> Self:
        """Return the stream."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the stream."""
        self.close()
