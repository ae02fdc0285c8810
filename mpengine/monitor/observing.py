"""Observers of a run: objects that are told what happens, in bulk, and off the loop.

    loop --- small tuples ---> bounded tape ---> teller's thread ---> observe(records)

``coordinator.tape`` is the loop's end and ``coordinator.telling`` the thread; here is what an observer has to be, and
what it is told.

O1. ``RunBegan`` comes first and ``RunEnded`` last.  Between them records come in the order in which the loop took in
    what they tell of; all of a run come from one thread, and no two calls at once.
O2. An observer never disturbs the run: one that raises is named in the log, once, and told nothing more of that run.
O3. One that is too slow is not waited for.  The tape is bounded, what does not fit is dropped, and ``RecordsDropped``
    says how many; ``RunBegan`` and ``RunEnded`` always come.
O4. A record is frozen and holds plain values: numbers, texts, tuples.  Nobody's exception or result is in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mpengine.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mpengine.metrics import Snapshot
    from mpengine.results import Err, Ok


class Observer(Protocol):
    """What is told of a run.  Only ``observe`` has to be there; what it wants is asked for by attributes.

    Attributes that are looked for, when a run begins:
        sample_s: seconds between two ``Sampled``; 0, or no such attribute: none.
        wants_rss: whether these are to tell the resident memory of processes.
        wants_times: whether workers are to keep the times of items, for ``StageTally.times`` and ``slowest``.
    """

    def observe(self, records: Sequence[Record], /) -> object:
        """Take in what has happened since the last call; on the teller's thread (O1)."""


@dataclass(frozen=True, slots=True)
class StageOutline:
    """A stage, as a run that begins has it.

    Attributes:
        name: the stage's name.
        chain: number of the chain that it is in; stages of one chain run in one worker with nothing in between.
        kind: ``process``, ``thread`` or ``async``.
        workers: at most so many run it; None: all may.
        buffer: items that may wait before its chain.
        policy: its error policy, by name.
        after: the stages whose results it gets; none: the source's items.
        fans_out: whether it makes any number of items of one.
    """

    name: str
    chain: int
    kind: str
    workers: int | None
    buffer: int
    policy: str
    after: tuple[int, ...]
    fans_out: bool = False


@dataclass(frozen=True, slots=True)
class RunBegan:
    """A run has begun.

    Attributes:
        at: when, in seconds of the monotonic clock, as in all records.
        created: the same moment as a Unix time.
        run_id: differs from run to run in this process.
        pid: the coordinator's process.
        stages: the stages, in order.
        workers: how many worker processes there may be.
        length: items of the source, where that is known.
        snapshot: takes a snapshot of this run, from any thread, until it is over and after that.
        cancel: cancels this run, for the reason that it gets, from any thread; nothing happens when it is over.
    """

    at: float
    created: float
    run_id: int
    pid: int
    stages: tuple[StageOutline, ...]
    workers: int
    length: int | None
    snapshot: Callable[[], Snapshot]
    cancel: Callable[[str], object]


@dataclass(frozen=True, slots=True)
class WorkerStarted:
    """A worker is there: a process, or a thread beside the coordinator, whose ``pid`` is None."""

    at: float
    worker_id: int
    pid: int | None


@dataclass(frozen=True, slots=True)
class WorkerEnded:
    """A worker is gone before the end of the run.

    Attributes:
        at: when.
        worker_id: its slot.
        pid: its process; None for a thread.
        how: exit code or signal, by name.
        was_retired: whether it was asked to leave, having done what one may (``max_items_per_worker``).
        timed_out: whether it was killed since an item's time was up.
        is_oom: whether the kernel killed it for want of memory.
        over_memory: whether it was killed for ``memory_limit``.
        peak_rss: bytes of resident memory that it had at most; 0: not known.
        batches: the batches that it held, which are run again.
        output: the end of what it had printed and not passed on, where the engine keeps that.
    """

    at: float
    worker_id: int
    pid: int | None
    how: str
    was_retired: bool = False
    timed_out: bool = False
    is_oom: bool = False
    over_memory: bool = False
    peak_rss: int = 0
    batches: tuple[int, ...] = ()
    output: str = ""


@dataclass(frozen=True, slots=True)
class BatchSent:
    """Items were sent to a worker.

    Attributes:
        at: when.
        worker_id: the worker.
        batch_id: names the batch within the run.
        stages: the stages of its chain, first and one past the last.
        items: how many.
        first_index: source index of the first item.
        last_index: source index of the last one.
    """

    at: float
    worker_id: int
    batch_id: int
    stages: tuple[int, int]
    items: int
    first_index: int
    last_index: int


@dataclass(frozen=True, slots=True)
class StageTally:
    """What became of items in one stage.

    Attributes:
        stage: the stage's number.
        succeeded: items that it returned a value for.
        failed: items that failed for good.
        skipped: items that it filtered out.
        retried: further attempts.
        busy_s: seconds in its function.
        times: (bin, items) of the seconds that items took, with the bins of ``metrics.BOUNDS_S``.  An item that ran by
            itself counts with its own time; those that ran in a slice, in a list or side by side with their mean.
        slowest: (source index, seconds) of items that are among the slowest of their worker so far.
    """

    stage: int
    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    retried: int = 0
    busy_s: float = 0.0
    times: tuple[tuple[int, int], ...] = ()
    slowest: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class BatchReported:
    """A worker has told how far it is with a batch.

    Attributes:
        at: when that was read.
        worker_id: the worker.
        batch_id: the batch.
        stages: the stages of its chain, first and one past the last.
        progress: ``done``, ``more`` (it goes on), ``suspended``, or ``given back``.
        items: items, since its last report, that nothing more will come from.
        results: how many came out.
        begun_at: when the worker began with these items; it was sent them earlier, perhaps while it had others.
        ended_at: when it was through with them.
        tallies: of each stage of the chain.
    """

    at: float
    worker_id: int
    batch_id: int
    stages: tuple[int, int]
    progress: str
    items: int
    results: int
    begun_at: float
    ended_at: float
    tallies: tuple[StageTally, ...]


@dataclass(frozen=True, slots=True)
class ItemFailed:
    """An item has failed for good; the fields are those of ``ItemError``, but for the exception.

    Attributes:
        at: when.
        stage: number of the stage.
        index: the item's number in the source.
        worker_id: the worker that tried last; None when it failed outside any.
        policy: what becomes of it, by name.
        how: ``raised``, ``crashed``, ``timed out`` or ``over memory``.
        summary: the error in one line.
        item: a bounded ``repr``.
        traceback: as text.
        attempts: how often the stage tried.
        output: the end of what it had printed, where the engine keeps that.
    """

    at: float
    stage: int
    index: int
    worker_id: int | None
    policy: str
    how: str
    summary: str
    item: str
    traceback: str
    attempts: int
    output: str = ""


@dataclass(frozen=True, slots=True)
class Sampled:
    """The figures of one moment.

    Attributes:
        at: when.
        snapshot: all figures.
        rss: bytes of resident memory by worker, of those whose processes are there; empty unless asked for.
        own_rss: the coordinator's; 0 unless asked for.
    """

    at: float
    snapshot: Snapshot
    rss: Mapping[int, int]
    own_rss: int = 0


@dataclass(frozen=True, slots=True)
class RunCancelled:
    """The run is being cancelled, for ``reason``."""

    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class RecordsDropped:
    """So many records were dropped since the last of these, because observers did not keep up (O3)."""

    at: float
    count: int


@dataclass(frozen=True, slots=True)
class RunEnded:
    """A run is over, its workers gone or kept; ``result`` has everything but the values."""

    at: float
    result: Ok | Err


Record = (
    RunBegan
    | WorkerStarted
    | WorkerEnded
    | BatchSent
    | BatchReported
    | ItemFailed
    | Sampled
    | RunCancelled
    | RecordsDropped
    | RunEnded
)
