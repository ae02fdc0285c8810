"""What comes with Python: ``multiprocessing.Pool``, ``ProcessPoolExecutor``; and bare processes without transport."""

from __future__ import annotations

import functools
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from workload import fork

from contenders import jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from contenders.jobs import Job


def stages_of(job: Job, *, by_hand: bool) -> tuple[Callable[[Any], Any], ...]:
    """Return the functions to call one after the other: the stages, or all of them in one."""
    return (job.by_hand,) if by_hand else job.stages


def chained(
    through: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]], *, by_hand: bool
) -> Callable[[Job], Iterable[Any]]:
    """Return what runs a job by having what comes out of one stage go through the next."""

    def run(job: Job) -> Iterable[Any]:
        results = job.source()
        for stage in stages_of(job, by_hand=by_hand):
            results = through(stage, results)
        return results

    return run


@contextmanager
def pool(
    job: Job, *, chunk: int | None = 1, by_hand: bool = False, method: str = "imap"
) -> Iterator[Callable[[Job], Iterable[Any]]]:
    """Use ``Pool.imap``, whose chunks are of one item unless told, or ``Pool.map``, which chooses (None)."""
    with fork.Pool(job.workers) as workers:
        yield chained(lambda stage, items: getattr(workers, method)(stage, items, chunk), by_hand=by_hand)


@contextmanager
def executor(job: Job, *, chunk: int = 1, by_hand: bool = False) -> Iterator[Callable[[Job], Iterable[Any]]]:
    """Use ``ProcessPoolExecutor.map``."""
    with ProcessPoolExecutor(job.workers, mp_context=fork) as workers:
        yield chained(lambda stage, items: workers.map(stage, items, chunksize=chunk), by_hand=by_hand)


# ---------------------------------------------------------------------- no transport


def share(job: Job, low: int, high: int) -> list[Any]:
    """Do a part of a job in this process, from making the items to keeping something of the results."""
    return job.kept(map(job.by_hand, job.items(low, high)))


@contextmanager
def bare(job: Job, *, name: str) -> Iterator[Callable[[Job], Iterable[Any]]]:
    """Split the work by hand over processes: each makes the items of its share, and sends back what is kept, once."""
    ends, processes = [], []
    for _ in range(job.workers):
        here, there = fork.Pipe()
        process = fork.Process(target=_serve, args=(there, name, job.workers), daemon=True)
        process.start()
        there.close()
        ends.append(here)
        processes.append(process)

    def run(job: Job) -> Iterable[Any]:
        cuts = [job.count * number // job.workers for number in range(job.workers + 1)]
        for end, low, high in zip(ends, cuts, cuts[1:], strict=False):
            end.send((job.count, low, high))
        return Kept(result for end in ends for result in end.recv())

    yield run
    for end in ends:
        end.send(None)
    for process in processes:
        process.join()


class Kept(list[Any]):
    """What is kept already, in the process that had the result."""


def _serve(end: Any, name: str, workers: int) -> None:
    """Do a share of a job whenever one is asked for."""
    while (asked := end.recv()) is not None:
        count, low, high = asked
        end.send(share(jobs.make(name, count, workers), low, high))


# ---------------------------------------------------------------------- batches made by hand


def batched(function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    """Call a function for each item of a batch, in the process that has the batch."""
    return list(map(function, items))


def by_batch(function: Callable[[Any], Any]) -> Callable[[list[Any]], list[Any]]:
    """Return a function of a batch that can be sent to another process."""
    return functools.partial(batched, function)
