"""The lives of a run, a worker and a batch: one table each.  A move that is not in the table is a bug of ours.

The drawings in ``docs/states.rst`` are made from these tables, so they cannot be out of date.
"""

from __future__ import annotations

import enum

from mpengine.errors import InternalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, TypeVar


class _Key(enum.Enum):
    """A state or a move: its place in memory is its hash, since an Enum's own is Python code and runs for each move."""

    __hash__ = object.__hash__


class RunState(_Key):
    """Where a run is."""

    PENDING = "pending"
    RUNNING = "running"
    CANCELLING = "cancelling"
    FINISHED = "finished"


class RunMove(_Key):
    """What moves a run."""

    START = "start"
    CANCEL = "cancel"
    SETTLE = "settle everything"


class WorkerLife(_Key):
    """Where a slot is."""

    ABSENT = "absent"
    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"


class WorkerMove(_Key):
    """What moves a slot."""

    START = "start"
    GREET = "say hello"
    RETIRE = "retire"
    DIE = "die"


class BatchState(_Key):
    """Who owns a batch (K4): exactly one of a backlog, one worker, the consumer's side, a handler, the books."""

    QUEUED = "queued"
    IN_FLIGHT = "in flight"
    SUSPENDED = "suspended"
    READY = "ready"
    TAKEN = "handed over"
    ASIDE = "at the error handler"
    FORKED = "in a mix"
    SETTLED = "settled"


class BatchMove(_Key):
    """What moves a batch."""

    DISPATCH = "dispatch"
    SUSPEND = "suspend"
    RESUME = "resume"
    REQUEUE = "requeue"
    HAND_OVER = "hand over"
    SETTLE = "settle"


RUN: Final[dict[tuple[RunState, RunMove], RunState]] = {
    (RunState.PENDING, RunMove.START): RunState.RUNNING,
    (RunState.PENDING, RunMove.CANCEL): RunState.CANCELLING,
    (RunState.RUNNING, RunMove.CANCEL): RunState.CANCELLING,
    (RunState.RUNNING, RunMove.SETTLE): RunState.FINISHED,
    (RunState.CANCELLING, RunMove.SETTLE): RunState.FINISHED,
}

WORKER: Final[dict[tuple[WorkerLife, WorkerMove], WorkerLife]] = {
    (WorkerLife.ABSENT, WorkerMove.START): WorkerLife.STARTING,
    (WorkerLife.STARTING, WorkerMove.GREET): WorkerLife.READY,
    (WorkerLife.STARTING, WorkerMove.DIE): WorkerLife.ABSENT,
    (WorkerLife.READY, WorkerMove.RETIRE): WorkerLife.LEAVING,
    (WorkerLife.READY, WorkerMove.DIE): WorkerLife.ABSENT,
    (WorkerLife.LEAVING, WorkerMove.DIE): WorkerLife.ABSENT,
}

BATCH: Final[dict[tuple[BatchState, BatchMove], BatchState]] = {
    (BatchState.QUEUED, BatchMove.DISPATCH): BatchState.IN_FLIGHT,
    (BatchState.QUEUED, BatchMove.SETTLE): BatchState.SETTLED,
    (BatchState.IN_FLIGHT, BatchMove.SUSPEND): BatchState.SUSPENDED,
    (BatchState.IN_FLIGHT, BatchMove.REQUEUE): BatchState.QUEUED,
    (BatchState.IN_FLIGHT, BatchMove.SETTLE): BatchState.SETTLED,
    (BatchState.SUSPENDED, BatchMove.RESUME): BatchState.IN_FLIGHT,
    (BatchState.SUSPENDED, BatchMove.REQUEUE): BatchState.QUEUED,
    (BatchState.SUSPENDED, BatchMove.SETTLE): BatchState.SETTLED,
    (BatchState.READY, BatchMove.HAND_OVER): BatchState.TAKEN,
    (BatchState.READY, BatchMove.SETTLE): BatchState.SETTLED,
    (BatchState.TAKEN, BatchMove.SETTLE): BatchState.SETTLED,
    (BatchState.ASIDE, BatchMove.SETTLE): BatchState.SETTLED,
    (BatchState.FORKED, BatchMove.SETTLE): BatchState.SETTLED,
}

if TYPE_CHECKING:
    S = TypeVar("S", bound=enum.Enum)
    M = TypeVar("M", bound=enum.Enum)


def follow(table: dict[tuple[S, M], S], state: S, move: M, story: object = "") -> S:
    """Return the state that ``move`` leads to from ``state``.

    Args:
        table: one of the tables above.
        state: where it is.
        move: what happens to it.
        story: whatever helps to understand a failure; shown in the error.

    Raises:
        InternalError: the table knows no such move.
    """
    try:
        return table[state, move]
    except KeyError:
        msg = f"{type(state).__name__} {state.name} cannot {move.value}: {story}"
        raise InternalError(msg) from None
