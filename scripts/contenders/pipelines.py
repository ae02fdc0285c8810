"""Libraries of stages: pypeln, pipevine, python-pyper; and queues of faster-fifo with stages made by hand.

All of them start their processes when a run begins, so that this is within what is measured.  Results of pypeln,
pipevine, pyper and faster-fifo come in any order.
"""

from __future__ import annotations

import itertools
import queue
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from workload import fork

from contenders.stdlib import chained, stages_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from contenders.jobs import Job


@contextmanager
def pypeln(job: Job, *, maxsize: int = 0, by_hand: bool = False) -> Iterator[Callable[[Job], Iterable[Any]]]:
    """Use a process stage for each."""
    import pypeln as pl

    yield chained(
        lambda stage, items: pl.process.map(stage, items, workers=job.workers, maxsize=maxsize), by_hand=by_hand
    )


class WithState:
    """A function as pipevine calls it."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self.__name__ = "stage"

    def __call__(self, item: Any, _: Any) -> Any:
        """Leave the state alone."""
        return self._function(item)


@contextmanager
def pipevine(_: Job, *, buffer: int = 1, by_hand: bool = False) -> Iterator[Callable[[Job], Iterable[Any]]]:
    """Use a work pool of processes for each stage."""
    from pipevine import Pipeline, work_pool

    def run(job: Job) -> Iterable[Any]:
        pipeline = Pipeline(iter(job.source()))
        for stage in stages_of(job, by_hand=by_hand):
            made = work_pool(buffer=buffer, retries=1, num_workers=job.workers, multi_proc=True)
            pipeline = pipeline >> made(WithState(stage))
        return pipeline.iter()

    yield run


@contextmanager
def pyper(_: Job, *, throttle: int = 0, by_hand: bool = False) -> Iterator[Callable[[Job], Iterable[Any]]]:
    """Use a task of processes for each stage."""
    from pyper import task

    limit = {"throttle": throttle} if throttle else {}

    def run(job: Job) -> Iterable[Any]:
        pipeline = task(job.source, branch=True, **limit)
        for stage in stages_of(job, by_hand=by_hand):
            pipeline = pipeline | task(stage, workers=job.workers, multiprocess=True, **limit)
        return pipeline()

    yield run


# ---------------------------------------------------------------------- queues

PATIENCE_S = 600.0


class End:
    """Comes once for each process behind a queue.  The last one is behind all items; whoever meets one leaves."""


@contextmanager
def faster_fifo(
    _: Job, *, many: int = 1, size_bytes: int = 1_000_000, by_hand: bool = False
) -> Iterator[Callable[[Job], Iterable[Any]]]:
    """Put a queue before and behind each stage, and fill the first from a thread; ``many`` items at a time."""
    from faster_fifo import Queue

    def run(job: Job) -> Iterator[Any]:
        functions = stages_of(job, by_hand=by_hand)
        queues = [Queue(max_size_bytes=size_bytes) for _ in range(len(functions) + 1)]
        processes = [
            fork.Process(target=_serve, args=(function, many, queues[number], queues[number + 1]), daemon=True)
            for number, function in enumerate(functions)
            for _ in range(job.workers)
        ]
        for process in processes:
            process.start()
        threading.Thread(target=_fill, args=(job, many, queues[0]), daemon=True).start()
        running = job.workers
        while running:
            for result in _taken(queues[-1], many):
                if isinstance(result, End):
                    running -= 1
                else:
                    yield result
        for process in processes:
            process.join()

    yield run


def _fill(job: Job, many: int, first: Any) -> None:
    """Put the items into the first queue."""
    items = iter(job.source())
    while batch := list(itertools.islice(items, many)):
        first.put_many(batch, timeout=PATIENCE_S)
    first.put_many([End()] * job.workers, timeout=PATIENCE_S)


def _taken(before: Any, many: int) -> list[Any]:
    """Return up to so many of what a queue holds."""
    while True:
        try:
            return before.get_many(timeout=PATIENCE_S, max_messages_to_get=many)
        except queue.Empty:  # it made room for a large item, which another process took meanwhile
            continue


def _serve(function: Callable[[Any], Any], many: int, before: Any, behind: Any) -> None:
    """Be a process of a stage."""
    ends = 0
    while not ends:
        batch = _taken(before, many)
        items = [item for item in batch if not isinstance(item, End)]
        ends = len(batch) - len(items)
        if items:
            behind.put_many(list(map(function, items)), timeout=PATIENCE_S)
    if ends > 1:  # those of its siblings
        before.put_many([End()] * (ends - 1), timeout=PATIENCE_S)
    behind.put_many([End()], timeout=PATIENCE_S)
