"""The shortest program with each peer: from the import to the first result of one item.

``{workers}`` is how many processes it may have.  Each program is for a process of its own.
"""

from __future__ import annotations

from contenders.field import PEERS

PROGRAMS = {
    "executor": (
        "from concurrent.futures import ProcessPoolExecutor\n"
        "pool = ProcessPoolExecutor({workers})\n"
        "result = pool.submit(abs, -1).result()"
    ),
    "loky": (
        "from loky import get_reusable_executor\n"
        "result = get_reusable_executor(max_workers={workers}).submit(abs, -1).result()"
    ),
    "joblib": (
        "from joblib import Parallel, delayed\n"
        "(result,) = Parallel(n_jobs={workers})(delayed(abs)(item) for item in [-1])"
    ),
    "mpire": "from mpire import WorkerPool\npool = WorkerPool(n_jobs={workers})\n(result,) = pool.map(abs, [-1])",
    "pebble": (
        "from pebble import ProcessPool\n"
        "pool = ProcessPool(max_workers={workers})\n"
        "result = next(pool.map(abs, [-1]).result())"
    ),
    "pypeln": "import pypeln as pl\nresult = next(iter(pl.process.map(abs, [-1], workers={workers})))",
    "dask": (
        "from distributed import Client\n"
        "client = Client(n_workers={workers}, threads_per_worker=1, dashboard_address=None)\n"
        "result = client.submit(abs, -1).result()"
    ),
    "ray_tasks": (
        "import os, tempfile\n"
        "folder = tempfile.TemporaryDirectory(prefix='b-', ignore_cleanup_errors=True)\n"
        "os.environ.update(RAY_AUTH_MODE='disabled', RAY_USAGE_STATS_ENABLED='0', RAY_TMPDIR=folder.name)\n"
        "import ray\n"
        "ray.init(num_cpus={workers}, include_dashboard=False, log_to_driver=False)\n"
        "result = ray.get(ray.remote(lambda item: abs(item)).remote(-1))"
    ),
}


def programs(peers: list[str]) -> dict[str, str]:
    """Return the programs of those of these peers that are here, by their titles."""
    return {PEERS[name].title: PROGRAMS[name] for name in peers if name in PROGRAMS and PEERS[name].is_here()}
