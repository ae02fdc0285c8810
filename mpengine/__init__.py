"""Staged, bounded, crash-proof process pipelines for CPU-heavy batch jobs.

Where things are (imports point down only)::

    cli                 python -m mpengine
    testing             a check that nothing is left behind; pytest_plugin offers it to suites
    engine              Engine: run, iter, map, arun, aiter, cancel, snapshot
    coordinator         the one loop in the parent, the source's feed, the consumer's side
    backends            where batches run: worker processes, threads beside the coordinator, or inline
    processes           worker processes as the parent sees them: identity, starting, registry, stopping
    worker              what runs in a worker process
    monitor             the metrics board: snapshots for other processes
    journal             what is done and what has failed, in a file, so that another run goes on with it
    ipc    scheduler    messages, queues, codec, control block; and the decisions, which are pure
    plan                from a pipeline to chains
    pipeline            Pipeline: a source and its stages
    mixes               Mix: stages side by side
    stages              Stage, SKIP, KillSwitch, WorkerState
    deadletters         DeadLetter: failed items kept in a file, and run again
    sources  sinks      files, tables and folders that items come from and values go to
    reading             records that workers read, and what is malformed; compression
    cancelevent         CancelEvent: the cancel flag as a multiprocessing.Event
    results  policies  cancellation  metrics  settings
    bounded             what user code says of its objects, within bounds
    errors
    records  pickling   dataclasses that cost next to nothing to import

Names are loaded when they are first used (PEP 562), so a worker never pays for what only the parent needs.
For the same reason modules that are loaded before the first result take ``typing`` for type checkers alone, who know
what ``TYPE_CHECKING = False`` means: importing it costs as much as twenty modules here, in each process.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mpengine.cancelevent import CancelEvent
    from mpengine.cancellation import cancelled
    from mpengine.deadletters import DeadLetter, dead_letters
    from mpengine.engine import Engine
    from mpengine.errors import (
        EngineClosedError,
        EngineError,
        InternalError,
        ItemTimeoutError,
        JournalError,
        MalformedError,
        MemoryLimitError,
        PipelineError,
        SourceError,
        StageError,
        WorkerDiedError,
    )
    from mpengine.executor import Executor
    from mpengine.journal.description import Journal
    from mpengine.metrics import Snapshot, StageMetrics, WorkerMetrics
    from mpengine.mixes import Mix, mix
    from mpengine.pipeline import Pipeline
    from mpengine.policies import ErrorPolicy, Retry
    from mpengine.results import Err, ItemError, Ok, Report
    from mpengine.sinks.base import SinkError
    from mpengine.stages import SKIP, KillSwitch, Stage, WorkerState, stage

_HOME = {
    "CancelEvent": "cancelevent",
    "DeadLetter": "deadletters",
    "Engine": "engine",
    "EngineClosedError": "errors",
    "EngineError": "errors",
    "Err": "results",
    "ErrorPolicy": "policies",
    "Executor": "executor.pool",
    "InternalError": "errors",
    "ItemError": "results",
    "ItemTimeoutError": "errors",
    "Journal": "journal.description",
    "JournalError": "errors",
    "KillSwitch": "stages",
    "MalformedError": "errors",
    "MemoryLimitError": "errors",
    "Mix": "mixes",
    "Ok": "results",
    "Pipeline": "pipeline",
    "PipelineError": "errors",
    "Report": "results",
    "Retry": "policies",
    "SKIP": "stages",
    "SinkError": "sinks.base",
    "Snapshot": "metrics",
    "SourceError": "errors",
    "Stage": "stages",
    "StageError": "errors",
    "StageMetrics": "metrics",
    "WorkerDiedError": "errors",
    "WorkerMetrics": "metrics",
    "WorkerState": "stages",
    "cancelled": "cancellation",
    "dead_letters": "deadletters",
    "mix": "mixes",
    "stage": "stages",
}

__all__ = [
    "SKIP",
    "CancelEvent",
    "DeadLetter",
    "Engine",
    "EngineClosedError",
    "EngineError",
    "Err",
    "ErrorPolicy",
    "Executor",
    "InternalError",
    "ItemError",
    "ItemTimeoutError",
    "Journal",
    "JournalError",
    "KillSwitch",
    "MalformedError",
    "MemoryLimitError",
    "Mix",
    "Ok",
    "Pipeline",
    "PipelineError",
    "Report",
    "Retry",
    "SinkError",
    "Snapshot",
    "SourceError",
    "Stage",
    "StageError",
    "StageMetrics",
    "WorkerDiedError",
    "WorkerMetrics",
    "WorkerState",
    "cancelled",
    "dead_letters",
    "mix",
    "stage",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for."""
    if name == "joblib":  # a backend for it, which nobody else has to have
        return import_module(f"{__name__}.{name}")
    home = _HOME.get(name)
    if home is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    thing = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = thing
    return thing


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted([*globals(), *__all__])
