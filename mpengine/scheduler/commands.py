"""What is to be done.  Every command is carried out without asking back."""

from __future__ import annotations

from mpengine.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mpengine.policies import ErrorPolicy
    from mpengine.scheduler.events import Failure


@dataclass(frozen=True, slots=True)
class PullSource:
    """Pull ``count`` more items, and pack them ``batch_size`` to a batch."""

    count: int
    batch_size: int


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Start a process for a slot, ``after_s`` seconds from now."""

    worker_id: int
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Send items ``lo`` to ``hi`` of a payload to a worker.

    Attributes:
        worker_id: the worker.
        batch_id: names the batch in what comes back.
        chain: what to run.
        payload: a reference; never looked into.
        lo: first item.
        hi: one past the last item.
        skip: results of the first item that were delivered before its worker died, and are not wanted again.
        careful: name each item in the slot before running it.
        out_size: results are wanted in chunks of at most so many.
        budget: the worker suspends a fan-out after about so many results.
        attempted: a stage of the chain, and how many attempts the first item has had there already.
    """

    worker_id: int
    batch_id: int
    chain: int
    payload: Any
    lo: int
    hi: int
    skip: int
    careful: bool
    out_size: int
    budget: int
    attempted: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Resume:
    """Let a worker go on with a batch it has suspended, for ``budget`` results in chunks of ``out_size``."""

    worker_id: int
    batch_id: int
    out_size: int
    budget: int


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand results ``lo`` to ``hi`` of a payload to the consumer; ``origin[i]`` is the source index of result ``i``."""

    batch_id: int
    payload: Any
    lo: int
    hi: int
    origin: Sequence[int]


@dataclass(frozen=True, slots=True)
class ReportFailure:
    """Keep a failed item: log it, and list it in the report.

    As the payload of a batch of results it stands for the ``ItemError`` that takes the item's place (EMIT).
    """

    stage: int
    index: int
    worker_id: int | None
    policy: ErrorPolicy
    failure: Failure


@dataclass(frozen=True, slots=True)
class SettleItems:
    """Nothing is under way any more of what came of some source items; told where the plan says ``tells_settled``.

    Attributes:
        indices: of the items.
        left: of those that the run has left behind, or that ended it.
        failed: of those of which something failed and was dropped.
    """

    indices: range
    left: set[int]
    failed: set[int]


@dataclass(frozen=True, slots=True)
class CallHandler:
    """Call the error handler of a failed item's stage; ``HandlerReturned`` tells of its end, by ``batch_id``.

    ``given`` is where the source's item is, a payload and its place in that, if the handler asks for it.
    """

    batch_id: int
    report: ReportFailure
    given: tuple[Any, int] | None = None


@dataclass(frozen=True, slots=True)
class KillWorker:
    """End a worker's process, whose death is told like any other: it cannot be believed any more.

    ``is_wanted``: or nobody wants any more what it is at, and there is nothing to be told of it.
    """

    worker_id: int
    why: str
    is_wanted: bool = False


@dataclass(frozen=True, slots=True)
class RetireWorker:
    """Let a worker's process tear its stages down and leave; ``WorkerDied`` tells when it has."""

    worker_id: int


@dataclass(frozen=True, slots=True)
class CancelRun:
    """End the run early: flag, close the source, pills; ``at_once`` without patience for those that are to leave."""

    reason: str
    error: Any = None
    failure: ReportFailure | None = None
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class FinishRun:
    """Everything is settled: let the workers go."""


Command = (
    PullSource
    | StartWorker
    | Dispatch
    | Resume
    | Deliver
    | ReportFailure
    | SettleItems
    | CallHandler
    | KillWorker
    | RetireWorker
    | CancelRun
    | FinishRun
)
