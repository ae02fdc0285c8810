"""A cluster of several raylets on this machine, of which one is killed while pipelines run; prints what came of it."""

import itertools
import json
import logging
import os
import signal
import sys
import threading
import time
import warnings

import numpy as np

from mpengine import Engine, Pipeline, stage
from mpengine.examples import stdlib

SYSTEM = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
ITEMS, MODULES = 200, 60


def make(item):
    time.sleep(0.01)
    return np.full(20_000, item)


def spread(array):
    for number in range(3):
        yield array * 3 + number


def first(array):
    return int(array[0])


def killing(source, at, kill):
    for number, item in enumerate(source):
        if number == at:
            kill()
        yield item


def main():
    """Start, run, kill, and tell."""
    warnings.simplefilter("ignore")
    from ray.cluster_utils import Cluster

    store = {"object_store_memory": 150_000_000}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": SYSTEM, **store},
    )
    cluster.add_node(num_cpus=1, **store)
    doomed = cluster.add_node(num_cpus=1, **store)
    cluster.wait_for_nodes()
    told = {}
    options = {"address": cluster.address, "init": {"logging_level": logging.FATAL, "log_to_driver": False}}
    modules = list(itertools.islice(stdlib.modules(), MODULES))
    job = stdlib.pipeline.stages
    raylet = doomed.all_processes["raylet"][0].process.pid
    try:
        with Engine(3, backend="ray", ray_options=options, crash_retries=10) as engine:
            engine.run([range(6), str])
            told["workers"] = len(engine.pids())
            kill_worker = lambda: os.kill(engine.pids()[0], signal.SIGKILL)  # noqa: E731
            on_ray = engine.run(Pipeline(killing(modules, 20, kill_worker)) >> job[0] >> job[1] >> job[2])
            told["example"] = on_ray.is_ok
            told["deaths"] = sum(worker.deaths for worker in on_ray.report.snapshot.workers)
            kill_raylet = lambda: os.kill(raylet, signal.SIGKILL)  # noqa: E731
            stages = [stage(make, buffer=32), stage(spread, buffer=32), stage(first, buffer=64)]
            lost = engine.run([killing(range(ITEMS), 100, kill_raylet), *stages])
            told["is_ok"], told["reason"] = lost.is_ok, getattr(lost, "reason", None)
            told["same"] = lost.report.values == list(range(3 * ITEMS))
            told["values"] = len(lost.report.values)
            told["books"] = [[book.processed, book.succeeded] for book in lost.report.snapshot.stages]
            told["lost"] = sum(worker.deaths for worker in lost.report.snapshot.workers)
            after = engine.run(Pipeline(modules) >> job[0] >> job[1] >> job[2])
            told["after"] = after.report.values == on_ray.report.values
            told["remade"] = engine._backend.meter.remade
        told["threads"] = [t.name for t in threading.enumerate() if t.name.startswith("mpengine-")]
        inline = Engine(backend="inline").run(Pipeline(modules) >> job[0] >> job[1] >> job[2])
        told["inline"] = inline.report.values == on_ray.report.values
    finally:
        cluster.shutdown()
    print(json.dumps(told))


if __name__ == "__main__":
    sys.exit(main())
