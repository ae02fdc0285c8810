"""How long it takes from asking a peer to stop until nothing is left of it; a way for ``seat``.

Each function begins with busy items of 10 ms on all workers, and returns what is to be called at the moment that is
measured: it comes back when the peer's processes are gone, as far as the peer has a way to say so.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import psutil
from workload import fork, ten_ms

if TYPE_CHECKING:
    from collections.abc import Callable

ITEMS = 10_000
PATIENCE_S = 10.0
SEEN = 10  # so many results are waited for first


def cancelled(order: dict[str, Any], tell: Callable[..., None]) -> None:
    """Measure from the call to its return, and until no process is left but what the library keeps for the next."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    stop = CANCELLED[order["contender"]](order["workers"])
    tell(ready=True)
    time.sleep(random.Random().uniform(0, 0.05))  # noqa: S311 - a moment, no secret
    asked_at = time.perf_counter()
    stop()
    returned_s = time.perf_counter() - asked_at
    until = time.perf_counter() + PATIENCE_S
    while _busy(before) and time.perf_counter() < until:
        time.sleep(0.001)
    tell(fault="", seconds=returned_s, gone_s=time.perf_counter() - asked_at, left=len(_busy(before)))


def _busy(before: set[int]) -> list[psutil.Process]:
    """Return the children that have come since and live."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            is_helper = any("resource_tracker" in word or "forkserver" in word for word in child.cmdline())
            if child.pid not in before and child.status() != psutil.STATUS_ZOMBIE and not is_helper:
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def pool(workers: int) -> Callable[[], None]:
    """Terminate and join a ``Pool``."""
    own = fork.Pool(workers)
    results = own.imap(ten_ms, range(ITEMS))
    for _ in range(SEEN):
        next(results)

    def stop() -> None:
        own.terminate()
        own.join()

    return stop


def executor(workers: int) -> Callable[[], None]:
    """Shut a ``ProcessPoolExecutor`` down, with what waits cancelled."""
    from concurrent.futures import ProcessPoolExecutor

    own = ProcessPoolExecutor(workers, mp_context=fork)
    futures = [own.submit(ten_ms, item) for item in range(ITEMS)]
    futures[SEEN].result()
    return lambda: own.shutdown(wait=True, cancel_futures=True)


def loky(workers: int) -> Callable[[], None]:
    """Shut loky's executor down, and kill its workers."""
    from loky import get_reusable_executor

    own = get_reusable_executor(max_workers=workers)
    futures = [own.submit(ten_ms, item) for item in range(ITEMS)]
    futures[SEEN].result()
    return lambda: own.shutdown(wait=True, kill_workers=True)


def mpire(workers: int) -> Callable[[], None]:
    """Terminate a ``WorkerPool``."""
    from mpire import WorkerPool

    own = WorkerPool(n_jobs=workers)
    results = own.imap(ten_ms, range(ITEMS), iterable_len=ITEMS, chunk_size=1)
    for _ in range(SEEN):
        next(results)
    return own.terminate


def pebble(workers: int) -> Callable[[], None]:
    """Stop and join a ``ProcessPool``."""
    from pebble import ProcessPool

    own = ProcessPool(max_workers=workers)
    results = own.map(ten_ms, range(ITEMS)).result()
    for _ in range(SEEN):
        next(results)

    def stop() -> None:
        own.stop()
        own.join()

    return stop


def dask(workers: int) -> Callable[[], None]:
    """Close the client and the cluster."""
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None)
    client = Client(cluster)
    futures = client.map(ten_ms, range(1000))
    futures[SEEN].result()

    def stop() -> None:
        client.cancel(futures)
        client.close()
        cluster.close()

    return stop


def ray_tasks(workers: int) -> Callable[[], None]:
    """Shut Ray down."""
    import ray

    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    remote = ray.remote(ten_ms)
    futures = [remote.remote(item) for item in range(1000)]
    ray.get(futures[SEEN])
    return ray.shutdown


CANCELLED = {one.__name__: one for one in (pool, executor, loky, mpire, pebble, dask, ray_tasks)}
