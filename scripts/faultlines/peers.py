"""Every library of the fault table at a plain use of it: two workers, one function, as its documentation has it.

An adapter is a context manager that gives the outcomes of a job as they come: a value, or a ``Failure``.  Where a
library lets a program go on after an item has failed, the adapter goes on; where it has a time limit for an item, the
adapter passes it on.  Leaving the context ends the library in the ordinary way.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from faultlines.items import WORKERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MOST_FAILURES = 5000


@dataclass(frozen=True)
class Job:
    """What is to be done: ``count`` items of ``source()``, each within ``timeout_s`` seconds (None: no limit)."""

    function: Callable[[int], Any]
    source: Callable[[], Iterable[int]]
    count: int
    timeout_s: float | None
    to_the_end: bool  # False: the consumer will stop


@dataclass(frozen=True)
class Failure:
    """An error that the library told of; ``index`` is the item's number, where the program can tell."""

    index: int | None
    error: BaseException | str


def each(iterator: Iterator[Any], *, ordered: bool = True) -> Iterator[Any]:
    """Yield what comes out of an iterator, and go on after what it raises until it has ended."""
    failures = 0
    index = -1
    while failures < MOST_FAILURES:
        index += 1
        try:
            value = next(iterator)
        except StopIteration:
            return
        except Exception as error:  # noqa: BLE001 - whatever a library raises is what is looked for
            failures += 1
            yield Failure(index if ordered else None, error)
        else:
            yield value


def one_by_one(futures: Iterable[Any], result: Callable[[Any], Any]) -> Iterator[Any]:
    """Yield the result of each future, or its failure."""
    for index, future in enumerate(futures):
        try:
            value = result(future)
        except Exception as error:  # noqa: BLE001 - as above
            yield Failure(index, error)
        else:
            yield value


@contextmanager
def mpengine(job: Job) -> Iterator[Iterator[Any]]:
    """Run a stage that drops what fails."""
    from mpengine import Engine, Err, stage

    engine = Engine(WORKERS)
    pipeline = [job.source(), stage(job.function, on_error="drop", timeout=job.timeout_s)]

    def outcomes() -> Iterator[Any]:
        result = engine.run(pipeline)
        yield from result.report.values
        for item_error in result.report.errors:
            yield Failure(item_error.index, item_error.error)
        if isinstance(result, Err):
            yield Failure(None, result.cause or result.reason)

    yield outcomes() if job.to_the_end else each(engine.iter(pipeline))


@contextmanager
def pool(job: Job) -> Iterator[Iterator[Any]]:
    """Use ``multiprocessing.Pool.imap``, whose iterator goes on after an error."""
    import multiprocessing

    with multiprocessing.Pool(WORKERS) as workers:
        yield each(workers.imap(job.function, job.source()))


@contextmanager
def executor(job: Job) -> Iterator[Iterator[Any]]:
    """Use a ``ProcessPoolExecutor``, and ask each future."""
    from concurrent.futures import Future, ProcessPoolExecutor

    with ProcessPoolExecutor(WORKERS) as workers:
        yield one_by_one([workers.submit(job.function, item) for item in job.source()], Future.result)


@contextmanager
def loky(job: Job) -> Iterator[Iterator[Any]]:
    """Use loky's reusable executor, and ask each future."""
    from loky import get_reusable_executor

    workers = get_reusable_executor(max_workers=WORKERS)
    yield one_by_one([workers.submit(job.function, item) for item in job.source()], lambda future: future.result())


@contextmanager
def joblib(job: Job) -> Iterator[Iterator[Any]]:
    """Use ``Parallel``, with results as they come."""
    from joblib import Parallel, delayed

    parallel = Parallel(n_jobs=WORKERS, return_as="generator", timeout=job.timeout_s)
    yield each(parallel(delayed(job.function)(item) for item in job.source()))


@contextmanager
def mpire(job: Job) -> Iterator[Iterator[Any]]:
    """Use ``WorkerPool.imap``."""
    from mpire import WorkerPool

    with WorkerPool(n_jobs=WORKERS) as workers:
        yield each(workers.imap(job.function, job.source(), iterable_len=job.count, task_timeout=job.timeout_s))


@contextmanager
def pebble(job: Job) -> Iterator[Iterator[Any]]:
    """Use ``ProcessPool.map``, whose iterator goes on after an error."""
    from pebble import ProcessPool

    with ProcessPool(max_workers=WORKERS) as workers:
        yield each(workers.map(job.function, job.source(), timeout=job.timeout_s).result())


@contextmanager
def pypeln(job: Job) -> Iterator[Iterator[Any]]:
    """Use one process stage; results come in any order."""
    import pypeln as pl

    stage = pl.process.map(job.function, job.source(), workers=WORKERS, maxsize=8, timeout=job.timeout_s or 0)
    yield each(iter(stage), ordered=False)


class _WithState:
    """The function as pipevine calls it."""

    def __init__(self, function: Callable[[int], Any]) -> None:
        self.function = function
        self.__name__ = "work"

    def __call__(self, item: int, _: Any) -> Any:
        return self.function(item)


@contextmanager
def pipevine(job: Job) -> Iterator[Iterator[Any]]:
    """Use one work pool of processes, and look at the pipeline's result and its count of failures."""
    from pipevine import Pipeline, work_pool
    from pipevine.util import is_err

    stage = work_pool(buffer=10, retries=1, num_workers=WORKERS, multi_proc=True)(_WithState(job.function))
    pipeline = Pipeline(iter(job.source())) >> stage

    def outcomes() -> Iterator[Any]:
        yield from each(pipeline.iter(), ordered=False)
        until = time.monotonic() + 2
        while not pipeline.metrics.stop and time.monotonic() < until:  # they are counted by a thread, afterwards
            time.sleep(0.01)
        if is_err(pipeline.result):
            yield Failure(None, repr(pipeline.result))
        elif pipeline.result.failed:
            yield Failure(None, f"{pipeline.result.failed} counted as failed")

    yield outcomes()


@contextmanager
def pyper(job: Job) -> Iterator[Iterator[Any]]:
    """Use a source and one task of processes; results come in any order."""
    from pyper import task

    pipeline = task(job.source, branch=True) | task(job.function, workers=WORKERS, multiprocess=True)
    yield each(pipeline(), ordered=False)


@contextmanager
def streamable(job: Job) -> Iterator[Iterator[Any]]:
    """Use ``stream.map`` with an executor of processes; its iteration goes on after an error."""
    from concurrent.futures import ProcessPoolExecutor

    from streamable import stream

    with ProcessPoolExecutor(WORKERS) as workers:
        yield each(iter(stream(job.source()).map(job.function, concurrency=workers)))


@contextmanager
def dask(job: Job) -> Iterator[Iterator[Any]]:
    """Use ``Client.map`` on a cluster of two processes, and ask each future."""
    from distributed import Client, LocalCluster

    options = {"n_workers": WORKERS, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        yield one_by_one(client.map(job.function, list(job.source())), lambda future: future.result())


def _call(function: Callable[[int], Any], item: int) -> Any:
    """Be what Ray runs: it wants a plain function."""
    return function(item)


@contextmanager
def ray(job: Job) -> Iterator[Iterator[Any]]:
    """Use tasks, and get each reference."""
    import ray as library

    library.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    try:
        call = library.remote(_call)
        yield one_by_one([call.remote(job.function, item) for item in job.source()], library.get)
    finally:
        library.shutdown()


# The adapter, the title in the table, and the distribution whose version is told (None: comes with Python).
PEERS = {
    "mpengine": ("mpengine", "mpengine"),
    "pool": ("multiprocessing.Pool", None),
    "executor": ("ProcessPoolExecutor", None),
    "loky": ("loky", "loky"),
    "joblib": ("joblib", "joblib"),
    "mpire": ("mpire", "mpire"),
    "pebble": ("pebble", "pebble"),
    "pypeln": ("pypeln", "pypeln"),
    "pipevine": ("pipevine", "pipevine"),
    "pyper": ("pyper", "python-pyper"),
    "streamable": ("streamable", "streamable"),
    "dask": ("dask.distributed", "distributed"),
    "ray": ("ray", "ray"),
}
