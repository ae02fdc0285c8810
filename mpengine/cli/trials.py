"""One worker by each start method: does a run of one item work here, and how long does it take?"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass

from mpengine.worker import lifeline

PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of a start method.

    Attributes:
        works: whether the run went well.
        seconds: how long it took, from the engine's making to the worker's burial.
        lifeline: what ends the worker when its parent is gone; None when nothing has told.
        error: what went wrong, in one line.
    """

    works: bool
    seconds: float
    lifeline: str | None = None
    error: str | None = None


def try_start_method(method: str, patience_s: float = PATIENCE_S) -> Trial:
    """Run one item in one worker that is started by ``method``.

    Args:
        method: ``"forkserver"``, ``"spawn"`` or ``"fork"``.
        patience_s: after so many seconds the run is cancelled.
    """
    began_at = time.monotonic()
    try:
        ((pid, mechanism),) = _run_one_item(method, patience_s)
        error = None if pid != os.getpid() else "the worker was not a process of its own"
    except Exception as raised:  # noqa: BLE001 - whatever it is, it becomes the finding
        mechanism, error = None, " ".join(f"{type(raised).__name__}: {raised}".split())
    return Trial(error is None, time.monotonic() - began_at, mechanism, error)


def _run_one_item(method: str, patience_s: float) -> list[tuple[int, str]]:
    from mpengine.engine import Engine
    from mpengine.pipeline import Pipeline

    with Engine(1, start_method=method) as engine, engine.iter(Pipeline([None], [look_around])) as values:
        reason = f"no answer within {patience_s:g} s"
        deadline = threading.Timer(patience_s, engine.cancel, (reason,), {"at_once": True})
        deadline.daemon = True
        deadline.start()
        try:
            return list(values)
        finally:
            deadline.cancel()
            deadline.join()


def look_around(_item: object) -> tuple[int, str]:
    """Return the worker's process number, and what would end it if its parent were gone."""
    reading, writing = os.pipe()
    try:
        # On a pipe of its own, and taken back before that is closed: closing it is what the signal would be for.
        if not lifeline.arm_signal(reading):
            return os.getpid(), lifeline.THREAD
        lifeline.disarm(reading)
        return os.getpid(), lifeline.SIGIO
    finally:
        os.close(writing)
        os.close(reading)
