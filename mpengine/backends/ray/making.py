"""How actors are made: workers wherever Ray finds a place, wardens where there is a worker."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from mpengine.backends.ray.cluster import Cluster
    from mpengine.backends.ray.options import RayOptions


class ActorMaker:
    """Makes the actors of one engine.

    Nobody restarts them but the scheduler, and no call of theirs is made twice by Ray.

    Args:
        cluster: where.
        chosen: ``ray_options``.
        workers: how many there will be.
        memory_limit: bytes of resident memory that a worker may have; None: any number.
    """

    def __init__(self, cluster: Cluster, chosen: RayOptions, workers: int, memory_limit: int | None) -> None:
        """Make none yet."""
        self._cluster = cluster
        self._chosen = chosen
        self._workers = workers
        self._memory_limit = memory_limit

    def make_worker(self, worker_id: int) -> Any:
        """Return the handle of a new worker's actor; it may have to wait for a place."""
        from mpengine.backends.ray.actor import RayWorker

        chosen = dict(self._chosen.actor)
        chosen.setdefault("num_cpus", self._cluster.share(self._workers))
        is_elsewhere = "working_dir" in chosen.get("runtime_env", {})
        place = None if is_elsewhere else (str(Path.cwd()), tuple(sys.path))
        return self._made(RayWorker, **chosen).remote(worker_id, place)

    def make_warden(self, machine: str) -> Any:
        """Return the handle of a new warden's actor, on that machine and no other."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from mpengine.backends.ray.actor import RayWarden

        chosen = {name: self._chosen.actor[name] for name in ("runtime_env",) if name in self._chosen.actor}
        chosen |= {"num_cpus": 0, "max_concurrency": 4}
        chosen["scheduling_strategy"] = NodeAffinitySchedulingStrategy(machine, soft=False)
        return self._made(RayWarden, **chosen).remote(self._memory_limit)

    def _made(self, what: type, **chosen: Any) -> Any:
        if self._chosen.namespace is not None:
            chosen["namespace"] = self._chosen.namespace
        return self._cluster.ray.remote(what).options(max_restarts=0, max_task_retries=0, **chosen)
