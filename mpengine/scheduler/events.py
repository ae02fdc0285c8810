"""What has happened.  Every event carries its time, in seconds of a monotonic clock."""

from __future__ import annotations

import enum

from mpengine.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class Progress(enum.Enum):
    """How far a worker has got with the batch that it reports on."""

    DONE = "done"
    """Nothing of the batch is left."""
    MORE = "more"
    """The worker goes on with the rest."""
    SUSPENDED = "suspended"
    """The worker has put the rest aside and goes on when it is told to."""
    GIVEN_BACK = "given back"
    """The worker has not begun the rest, and does not hold it any more."""


class Ending(enum.Enum):
    """What an item has failed of."""

    RAISED = "raised"
    """Its stage raised, or it could not be packed or unpacked."""
    CRASHED = "crashed"
    """Its workers died."""
    TIMED_OUT = "timed out"
    """It took longer than its stage's ``timeout``."""
    OVER_MEMORY = "over memory"
    """It took its workers over the engine's ``memory_limit``."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that failed for good.

    Attributes:
        position: the item's place in the batch's payload.
        stage: number of the stage within the chain.
        summary: the error in one line.
        error: the exception, in whatever form the backend sends it; never looked into.
        item: bounded ``repr`` of what the stage was given.
        traceback: as text.
        attempts: how often the stage tried.
        how: what it has failed of.
        exit: of a worker that died of it, how: exit code or signal, by name.
        peak_rss: of that worker, the bytes of resident memory that it had at most; 0 when that is not known.
        output: the end of what it had printed, where that is kept.
        given: of a source item that could not be packed, a list that holds it, and its place in that.
    """

    position: int
    stage: int
    summary: str
    error: Any = None
    item: str = ""
    traceback: str = ""
    attempts: int = 1
    how: Ending = Ending.RAISED
    exit: str = ""
    peak_rss: int = 0
    output: str = ""
    given: tuple[Any, int] | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of a batch's items in one stage."""

    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    retried: int = 0
    busy_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Chunk:
    """Results of a batch, in order.

    Attributes:
        payload: a reference; never looked into.
        count: how many results.
        first: place in the batch's payload of the item that the first result came from.
        positions: for each result, the place of its item; None where the results follow the items one to one.
        size_bytes: what the payload weighs.
    """

    payload: Any
    count: int
    first: int = 0
    positions: Sequence[int] | None = None
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run has begun."""

    at: float


@dataclass(frozen=True, slots=True)
class SourcePacked:
    """The source gave ``pulled`` items; those that could be packed are in ``payload``.

    ``failures`` tell of the others, by their place among the pulled.
    """

    at: float
    payload: Any
    pulled: int
    size_bytes: int = 0
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True, slots=True)
class SourcePassed:
    """The source gave ``count`` items that nothing is to be done for: an earlier run has settled them."""

    at: float
    count: int


@dataclass(frozen=True, slots=True)
class SourceRecalled:
    """The source gave ``pulled`` items whose results an earlier run has made.

    Attributes:
        at: when.
        payload: the results; never looked into.
        pulled: how many items.
        positions: for each result, the place of its item among those.
        size_bytes: what the payload weighs.
    """

    at: float
    payload: Any
    pulled: int
    positions: Sequence[int]
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SourceEnded:
    """The source has no more items; what was asked for and not packed will not come."""

    at: float


@dataclass(frozen=True, slots=True)
class SourceFailed:
    """The source raised ``error``."""

    at: float
    error: Any
    summary: str


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker has said hello; its process has done ``items`` before this run."""

    at: float
    worker_id: int
    items: int = 0


@dataclass(frozen=True, slots=True)
class Excess:
    """What a worker was killed for that had grown too large.

    Attributes:
        rss: bytes of resident memory that it was last seen with.
        limit: bytes that it might have had.
        is_fresh: whether its process had done nothing before, so that only the items at hand can have caused it.
    """

    rss: int
    limit: int
    is_fresh: bool


@dataclass(frozen=True, slots=True)
class WorkerBloated:
    """A worker has more memory than it may have, and is to be replaced once it holds nothing any more."""

    at: float
    worker_id: int


@dataclass(frozen=True, slots=True)
class MemoryTightened:
    """The memory that processes may use together is nearly used up."""

    at: float


@dataclass(frozen=True, slots=True)
class MemoryEased:
    """There is memory enough again."""

    at: float


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """A worker's process is gone.

    Attributes:
        at: when.
        worker_id: its slot.
        how: exit code or signal, by name.
        batch_id: the batch its slot named as current; None when it named none.
        position: the item its slot named as current; None when it named none.
        stage: the stage, within the chain, that its slot named.
        item: what the item is, in words, if the worker left word of that.
        in_setup: whether it was building the batch's stages, and had not begun with the batch.
        attempt: number of the attempt that its slot named, from 1.
        timed_out: whether it was killed because the item's time was up.
        is_torn: whether its slot held half a record, so that nothing is known of what it was at.
        where: where the item was, in words that end a sentence; empty when that is not known.
        trace: the same at length, as a traceback.
        excess: what it was killed for, if that was its memory.
        is_oom: whether the kernel killed it, since the machine or the control group had no memory left.
        peak_rss: bytes of resident memory that it had at most; 0 when that is not known.
        output: the end of what it had printed and not passed on, where that is kept.
    """

    at: float
    worker_id: int
    how: str
    batch_id: int | None = None
    position: int | None = None
    stage: int = 0
    item: str = ""
    in_setup: bool = False
    attempt: int = 1
    timed_out: bool = False
    is_torn: bool = False
    where: str = ""
    trace: str = ""
    excess: Excess | None = None
    is_oom: bool = False
    peak_rss: int = 0
    output: str = ""


@dataclass(frozen=True, slots=True)
class StageBroken:
    """A worker could not load a chain's functions or set a stage up: trying again would not help."""

    at: float
    worker_id: int
    stage: int
    summary: str
    error: Any = None


@dataclass(frozen=True, slots=True)
class StartFailed:
    """No worker can be started: ``summary`` says why."""

    at: float
    summary: str
    error: Any = None


@dataclass(frozen=True, slots=True)
class BatchReturned:
    """A worker reports on a batch.

    Attributes:
        at: when.
        worker_id: its slot.
        batch_id: the batch.
        progress: whether more of the batch is to come.
        consumed: items, since the last report, that nothing more will come from.
        emitted: results reported so far of the item that the worker is in the middle of.
        chunks: the results.
        failures: items that failed for good; their places count in ``consumed``.
        tallies: figures of each stage of the chain.
        kill: the reason that a ``KillSwitch`` gave; None without one.
        timing: for observers, as in ``ipc.messages.Returned``; never looked into.
    """

    at: float
    worker_id: int
    batch_id: int
    progress: Progress
    consumed: int
    emitted: int = 0
    chunks: tuple[Chunk, ...] = ()
    failures: tuple[Failure, ...] = ()
    tallies: tuple[Tally, ...] = ()
    kill: str | None = None
    timing: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class DeliveryTaken:
    """The consumer has taken a batch of results; ``failures`` are those it could not unpack, by their place."""

    at: float
    batch_id: int
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True, slots=True)
class DeliveryRefused:
    """The consumer went away without taking a batch of results that was handed over."""

    at: float
    batch_id: int


@dataclass(frozen=True, slots=True)
class HandlerReturned:
    """An error handler has come to its end; ``error`` is what it raised, ``summary`` that in one line."""

    at: float
    batch_id: int
    error: Any = None
    summary: str = ""


@dataclass(frozen=True, slots=True)
class TimePassed:
    """The time has come that the scheduler wanted to be told of (``Scheduler.look_again_at``)."""

    at: float


@dataclass(frozen=True, slots=True)
class ItemsCalledOff:
    """Nobody wants the results of these source items any more, and what runs of them is to end now."""

    at: float
    items: frozenset[int]


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """Somebody wants the run to end."""

    at: float
    reason: str
    error: Any = None


Event = (
    RunStarted
    | SourcePacked
    | SourcePassed
    | SourceRecalled
    | SourceEnded
    | SourceFailed
    | WorkerReady
    | WorkerBloated
    | MemoryTightened
    | MemoryEased
    | WorkerDied
    | StageBroken
    | StartFailed
    | BatchReturned
    | DeliveryTaken
    | DeliveryRefused
    | HandlerReturned
    | TimePassed
    | ItemsCalledOff
    | CancelRequested
)
