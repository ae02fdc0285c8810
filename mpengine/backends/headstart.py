"""A head start for the fork server: it comes up while this process still imports its own side of a run.

To bring up a fresh interpreter takes longer than anything else before the first result, so it is begun first.

S1. What cannot run is refused before: the chains are pickled first.
S2. A head start is the run's.  One that is dropped before the run has begun, by Ctrl-C for instance, ends what it has
    started.
S3. Where it fails, nothing is told: the first worker's start tries again, and tells.
"""

from __future__ import annotations

import os

from mpengine.errors import PipelineError
from mpengine.pickling import dump
from mpengine.processes.registry import ProcessRegistry
from mpengine.records import replace
from mpengine.worker.threadpools import threads_for, variables_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from mpengine.plan import Plan
    from mpengine.settings import EngineOptions


class HeadStart:
    """A registry whose fork server is on its way up.

    Args:
        plan: what is to run.
        chosen: the engine's options.
        workers: how many.
        cores: that they share.

    Attributes:
        plan: the same.
        dumped: its chains, pickled.

    Raises:
        PipelineError: the stages will not travel.
        OSError: this process has no descriptors left.
    """

    _registry: ProcessRegistry | None = None  # also where Ctrl-C comes before there is one

    def __init__(self, plan: Plan, chosen: EngineOptions, workers: int, cores: int) -> None:
        """Start the fork server."""
        self.plan = plan
        self.dumped = dump_chains(plan)
        self._registry = open_registry(chosen.start_method, tuple(chosen.preload), workers, cores, chosen.environ)
        self._registry.get_ready()

    def take(self) -> ProcessRegistry | None:
        """Return the registry, whose caller has to close it from now on; None when it was taken already."""
        registry, self._registry = self._registry, None
        return registry

    def __del__(self) -> None:
        """End what nobody has taken (S2)."""
        registry = self.take()
        if registry is not None:
            registry.close(0.0)


def open_registry(
    start_method: str, preload: tuple[str, ...], workers: int, cores: int, environ: Mapping[str, str] | None = None
) -> ProcessRegistry:
    """Return a registry whose workers have their share of the cores, and the variables of ``environ``."""
    variables = {**variables_for(threads_for(cores, workers), os.environ), **(environ or {})}
    return ProcessRegistry(start_method, preload=preload, environ=variables)


def dump_chains(plan: Plan) -> list[bytes]:
    """Return each chain of a plan as bytes; none for those that run beside the coordinator.

    Raises:
        PipelineError: the stages will not travel.
    """
    return [b"" if chain.seats else _dump_chain(chain.stages) for chain in plan.chains]


def _dump_chain(stages: tuple[Any, ...]) -> bytes:
    # What is called here alone need not travel, and may hold what cannot.
    here = [stage if stage.error_handler is None else replace(stage, error_handler=None) for stage in stages]
    try:
        return dump(tuple(here))
    except Exception as error:
        names = ", ".join(repr(stage.name) for stage in stages)
        msg = f"stage {names} cannot be sent to a worker: {type(error).__name__}: {error}"
        raise PipelineError(msg) from error
