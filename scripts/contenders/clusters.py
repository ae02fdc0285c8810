"""Libraries whose processes are a cluster: dask.distributed, Ray tasks and Ray Data; all on this machine."""

from __future__ import annotations

import collections
import functools
import importlib
import itertools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from contenders.stdlib import batched, stages_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from contenders.jobs import Job


def windowed(items: Iterable[Any], begin: Callable[[Any], Any], finish: Callable[[Any], Any], most: int) -> Any:
    """Begin with items, at most so many at a time, and yield what they come to, in order."""
    under_way: collections.deque[Any] = collections.deque()
    for item in items:
        under_way.append(begin(item))
        if len(under_way) >= most:
            yield finish(under_way.popleft())
    while under_way:
        yield finish(under_way.popleft())


def in_batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of so many items."""
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


# ---------------------------------------------------------------------- dask


@contextmanager
def dask(job: Job, *, window: int = 0, bag: int = 0, by_hand: bool = False) -> Iterator[Callable[[Job], Iterable[Any]]]:
    """Use ``Client.map`` for each stage; or submit a few items at a time; or a bag of so many partitions."""
    from distributed import Client, LocalCluster

    options = {"n_workers": job.workers, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        functions = stages_of(job, by_hand=by_hand)

        def begin(item: Any) -> Any:
            for stage in functions:
                item = client.submit(stage, item, pure=False)
            return item

        def run(job: Job) -> Iterable[Any]:
            if bag:
                from dask import bag as bags

                results = bags.from_sequence(job.source(), npartitions=bag)
                for stage in functions:
                    results = results.map(stage)
                return results.compute(scheduler=client)
            if window:
                return windowed(job.source(), begin, lambda future: future.result(), window)
            futures = list(job.source())
            for stage in functions:
                futures = client.map(stage, futures)
            return client.gather(futures)

        yield run


# ---------------------------------------------------------------------- Ray


@contextmanager
def _ray(workers: int) -> Iterator[Any]:
    """Have a Ray of so many cores."""
    import ray

    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    try:
        yield ray
    finally:
        ray.shutdown()


def call(function: Callable[[Any], Any], item: Any) -> Any:
    """Be what Ray runs: it wants a plain function."""
    return function(item)


@contextmanager
def ray_tasks(
    job: Job, *, window: int = 0, batch: int = 1, by_hand: bool = False
) -> Iterator[Callable[[Job], Iterable[Any]]]:
    """Use a task for each item and stage, all at once or a few at a time; or for each batch that is made by hand."""
    with _ray(job.workers) as ray:
        remote = ray.remote(batched if batch > 1 else call)

        def begin(item: Any) -> Any:
            for stage in stages_of(job, by_hand=by_hand):
                item = remote.remote(stage, item)
            return item

        def run(job: Job) -> Iterable[Any]:
            items = in_batches(job.source(), batch) if batch > 1 else job.source()
            most = window or job.count
            results = windowed(items, begin, ray.get, most)
            return itertools.chain.from_iterable(results) if batch > 1 else results

        yield run


def row_through(function: Callable[[Any], Any], row: dict[str, Any]) -> dict[str, Any]:
    """Call a function for a row."""
    return {"item": function(row["item"])}


def rows_through(function: Callable[[Any], Any], rows: dict[str, Any]) -> dict[str, Any]:
    """Call a function for each of many rows."""
    return {"item": [function(item) for item in rows["item"].tolist()]}


@contextmanager
def ray_data(job: Job, *, blocks: int = 0, by_hand: bool = False) -> Iterator[Callable[[Job], Iterable[Any]]]:
    """Use a data set of the items: ``map`` for each stage; or ``map_batches`` over so many blocks."""
    with _ray(job.workers):
        data = importlib.import_module("ray.data")
        data.DataContext.get_current().enable_progress_bars = False

        def run(job: Job) -> Iterator[Any]:
            results = data.from_items(list(job.source()), override_num_blocks=blocks or None)
            for stage in stages_of(job, by_hand=by_hand):
                if blocks:
                    results = results.map_batches(functools.partial(rows_through, stage), batch_size=None)
                else:
                    results = results.map(functools.partial(row_through, stage))
            for row in results.iter_rows():
                yield row["item"]

        yield run
