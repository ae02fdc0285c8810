"""Pools and executors: loky, joblib, mpire, pebble, streamable.  Several stages are maps of maps."""

from __future__ import annotations

import itertools
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from contenders.stdlib import by_batch, chained, stages_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from contenders.jobs import Job


@contextmanager
def loky(job: Job, *, chunk: int = 1, by_hand: bool = False) -> Iterator[Callable[[Job], Iterable[Any]]]:
    """Use the reusable executor's ``map``."""
    from loky import get_reusable_executor

    workers = get_reusable_executor(max_workers=job.workers, timeout=600)

    yield chained(lambda stage, items: workers.map(stage, items, chunksize=chunk), by_hand=by_hand)
    workers.shutdown(wait=True, kill_workers=True)


@contextmanager
def joblib(
    job: Job, *, batch: int | str = "auto", returns: str = "list", by_hand: bool = False
) -> Iterator[Callable[[Job], Iterable[Any]]]:
    """Use ``Parallel``, whose batches grow by themselves unless told."""
    from joblib import Parallel, delayed

    functions = stages_of(job, by_hand=by_hand)
    with ExitStack() as stack:
        # A Parallel that gives results as they come does one thing at a time: one for each stage.
        many = len(functions) if returns == "generator" else 1
        parallels = [
            stack.enter_context(Parallel(n_jobs=job.workers, batch_size=batch, return_as=returns)) for _ in range(many)
        ]

        def run(job: Job) -> Iterable[Any]:
            results = job.source()
            for stage, parallel in zip(functions, itertools.cycle(parallels), strict=False):
                results = parallel(delayed(stage)(item) for item in results)
            return results

        yield run


@contextmanager
def mpire(job: Job, *, chunk: int | None = None, by_hand: bool = False) -> Iterator[Callable[[Job], Iterable[Any]]]:
    """Use ``WorkerPool.imap``, a pool for each stage, since a pool does one thing at a time."""
    from mpire import WorkerPool

    functions = stages_of(job, by_hand=by_hand)
    with ExitStack() as stack:
        pools = [stack.enter_context(WorkerPool(n_jobs=job.workers, keep_alive=True)) for _ in functions]

        def run(job: Job) -> Iterable[Any]:
            results = job.source()
            for stage, pool in zip(functions, pools, strict=True):
                results = pool.imap(stage, results, iterable_len=job.count, chunk_size=chunk)
            return results

        yield run


@contextmanager
def pebble(job: Job, *, chunk: int = 1, by_hand: bool = False) -> Iterator[Callable[[Job], Iterable[Any]]]:
    """Use ``ProcessPool.map``."""
    from pebble import ProcessPool

    with ProcessPool(max_workers=job.workers) as workers:
        yield chained(lambda stage, items: workers.map(stage, items, chunksize=chunk).result(), by_hand=by_hand)


@contextmanager
def streamable(job: Job, *, group: int = 1, by_hand: bool = False) -> Iterator[Callable[[Job], Iterable[Any]]]:
    """Use ``stream.map`` with an executor of processes; or group items by hand, map over the groups, and flatten."""
    from concurrent.futures import ProcessPoolExecutor

    from streamable import stream

    with ProcessPoolExecutor(job.workers) as workers:

        def run(job: Job) -> Iterable[Any]:
            results = stream(job.source())
            if group > 1:
                results = results.group(group)
            for stage in stages_of(job, by_hand=by_hand):
                results = results.map(by_batch(stage) if group > 1 else stage, concurrency=workers)
            return results.flatten() if group > 1 else results

        yield run
