"""The teller: the thread that tells observers what is on the tape, a few times a second.

    tape --- entries ---> this thread --- records ---> observe(), one observer after the other
                              ^
    books --- snapshot() -----+   every ``sample_s``

L1. The thread is there from the beginning of a run with observers to its end, and waits for nothing but the time, or
    the end.  What it tells is told in bulk: nobody wakes it for a record.
L2. Who ends a run waits until the observers have been told of the end, ``END_S`` at most.  An observer that has not
    come back by then is named in the log and left to itself, and with it this thread, which is a daemon.
L3. Nothing that an observer raises gets any further than the log, whatever it is.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from mpengine.coordinator import tape as tapes
from mpengine.coordinator.scribe import WARNING
from mpengine.monitor import observing
from mpengine.worker.chain import summarize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpengine.backends.base import Backend
    from mpengine.coordinator.scribe import Scribe
    from mpengine.coordinator.tape import Entry
    from mpengine.metrics import Snapshot
    from mpengine.monitor.observing import Observer, Record, RunBegan
    from mpengine.plan import Plan
    from mpengine.results import Err, Ok
    from mpengine.scheduler import events
    from mpengine.scheduler.scheduler import Scheduler

TURN_S: Final = 0.25
END_S: Final = 5.0
LEAST_SAMPLE_S: Final = 0.01


class Teller:
    """Tells the observers of one run.

    Args:
        observers: whom to tell.
        scheduler: whose run.
        backend: runs it.
        take_snapshot: takes a snapshot of it.
        scribe: logs.

    Attributes:
        tape: for the loop to note on what has happened.
    """

    def __init__(
        self, observers: Sequence[Observer], scheduler: Scheduler, backend: Backend,
        take_snapshot: Callable[[], Snapshot], scribe: Scribe,
    ) -> None:  # fmt: skip
        """Start nothing yet."""
        self.tape = tapes.Tape(scheduler, backend.pid_of)
        self._observers = list(observers)
        self._scheduler = scheduler
        self._backend = backend
        self._take_snapshot = take_snapshot
        self._scribe = scribe
        wishes = [seconds for seconds in map(_sample_s, observers) if seconds > 0]
        self._sample_s = max(LEAST_SAMPLE_S, min(wishes)) if wishes else 0.0
        self._wants_rss = any(getattr(observer, "wants_rss", False) for observer in observers)
        self._wake = threading.Event()
        self._has_told = threading.Event()
        self._result: Ok | Err | None = None
        self._current: object = None
        self._thread: threading.Thread | None = None
        # The thread's own:
        self._pids: dict[int, int | None] = {}
        self._sample_at = 0.0
        self._begun_at: dict[int, float] = {}  # by worker: when it was last known to have begun with something

    @property
    def wants_times(self) -> bool:
        """Whether any observer wants the times of items."""
        return any(getattr(observer, "wants_times", False) for observer in self._observers)

    def begin(self, cancel: Callable[[str], object]) -> None:
        """The run has begun, which ``cancel`` cancels; start the thread, which tells so first."""
        began = observing.RunBegan(
            time.monotonic(), time.time(), self._backend.run_id, os.getpid(), outline(self._scheduler.plan),
            self._scheduler.settings.workers, self._scheduler.settings.length, self._take_snapshot,
            cancel,
        )  # fmt: skip
        self._sample_at = began.at + self._sample_s
        thread = threading.Thread(target=self._tell_all, args=(began,), name="mpengine-teller", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # too many threads, or the interpreter is on its way out
            self._scribe.note(WARNING, "observers are told nothing of this run: %s", summarize(error))
            return
        self._thread = thread

    def end(self, result: Ok | Err) -> None:
        """The run is over: have that told, and wait until it is (L2)."""
        thread = self._thread
        if thread is None:
            return
        self._result = result
        self._wake.set()
        if threading.current_thread() is thread:
            return  # an observer has ended the run
        if self._has_told.wait(END_S):
            thread.join()
        else:
            self._scribe.note(WARNING, "observer %s does not come back; it is left to itself", _name(self._current))

    # ------------------------------------------------------------------ the thread

    def _tell_all(self, began: RunBegan) -> None:
        try:
            self._tell([began])
            while True:
                is_last = self._wait()
                records = self._records()
                if is_last:
                    assert self._result is not None  # noqa: S101 - end() has set it
                    records.append(observing.RunEnded(time.monotonic(), self._result))
                if records:
                    self._tell(records)
                if is_last:
                    return
        finally:
            self._has_told.set()

    def _wait(self) -> bool:
        """Wait for the next turn; return whether it is the last."""
        left_s = TURN_S
        if self._sample_s:
            left_s = min(left_s, max(0.0, self._sample_at - time.monotonic()))
        return self._wake.wait(left_s)

    def _tell(self, records: Sequence[Record]) -> None:
        for observer in list(self._observers):
            self._current = observer
            try:
                observer.observe(records)
            except BaseException as error:  # noqa: BLE001 - the observer's own affair (L3), even if it wants to leave
                self._observers.remove(observer)
                text = "observer %s is told nothing more of this run: %s"
                self._scribe.note(WARNING, text, _name(observer), summarize(error))

    def _records(self) -> list[Record]:
        records = [self._record(entry) for entry in self.tape.take()]
        dropped = self.tape.take_dropped()
        if dropped:
            records.append(observing.RecordsDropped(time.monotonic(), dropped))
        if self._sample_s and (time.monotonic() >= self._sample_at or self._result is not None):
            records.append(self._sample())
        return records

    def _record(self, entry: Entry) -> Record:
        kind = entry[0]
        if kind == tapes.SENT:
            sent = observing.BatchSent(*entry[1:])
            self._begun_at.setdefault(sent.worker_id, sent.at)
            return sent
        if kind == tapes.REPORTED:
            return self._report(*entry[1:])
        if kind == tapes.STARTED:
            _, at, worker_id, pid = entry
            self._pids[worker_id] = pid
            return observing.WorkerStarted(at, worker_id, pid)
        if kind == tapes.ENDED:
            return self._ending(*entry[1:])
        record: Record = entry[1]
        return record

    def _report(  # noqa: PLR0913, PLR0917 - what stands on the tape
        self, at: float, worker_id: int, batch_id: int, span: tuple[int, int], progress: str, items: int, results: int,
        tallies: Sequence[events.Tally], begun_at: float, ended_at: float, times: Sequence[Any],
    ) -> observing.BatchReported:  # fmt: skip
        if len(times) != len(tallies):
            times = [((), ())] * len(tallies)
        told = tuple([
            observing.StageTally(
                stage, tally.succeeded, tally.failed, tally.skipped, tally.retried, tally.busy_s, bins, slowest
            )
            for stage, (tally, (bins, slowest)) in enumerate(zip(tallies, times, strict=True), span[0])
        ])  # fmt: skip
        # No sooner than it was known to have done with what came before.
        since = self._begun_at.get(worker_id, 0.0)
        if not ended_at:  # nobody has looked: it did this last, and it took as long as it says
            ended_at, begun_at = at, at - sum([tally.busy_s for tally in tallies])
        ended_at = min(max(ended_at, since), at)
        begun_at = min(max(begun_at, since), ended_at)
        self._begun_at[worker_id] = ended_at
        return observing.BatchReported(
            at, worker_id, batch_id, span, progress, items, results, begun_at, ended_at, told
        )  # fmt: skip

    def _ending(self, event: events.WorkerDied, was_retired: bool, held: tuple[int, ...]) -> observing.WorkerEnded:  # noqa: FBT001 - as it stands on the tape
        self._begun_at.pop(event.worker_id, None)
        return observing.WorkerEnded(
            event.at, event.worker_id, self._pids.pop(event.worker_id, None), event.how, was_retired, event.timed_out,
            event.is_oom, event.excess is not None, event.peak_rss, held, event.output,
        )  # fmt: skip

    def _sample(self) -> observing.Sampled:
        at = time.monotonic()
        self._sample_at = at + self._sample_s
        rss: dict[int, int] = {}
        own_rss = 0
        if self._wants_rss:
            own_rss = resident_bytes(os.getpid()) or 0
            for worker_id, pid in self._pids.items():
                size_bytes = None if pid is None else resident_bytes(pid)
                if size_bytes is not None:
                    rss[worker_id] = size_bytes
        return observing.Sampled(at, self._take_snapshot(), rss, own_rss)


def _sample_s(observer: object) -> float:
    wish: Any = getattr(observer, "sample_s", 0.0)
    return float(wish or 0.0)


def _name(observer: object) -> str:
    return type(observer).__name__


def resident_bytes(pid: int) -> int | None:
    """Return the resident memory of a process, in bytes; None where there is none of that number."""
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as file:  # noqa: PTH123 - several times a second
            return int(file.read(200).split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return None


_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def outline(plan: Plan) -> tuple[observing.StageOutline, ...]:
    """Return what observers are told of a plan."""
    return tuple(
        observing.StageOutline(
            stage.name, chain.index, "thread" if chain.seats and chain.kind == "process" else chain.kind,
            chain.workers, chain.buffer, policy.value, after, stage.is_generator,
        )
        for (chain, stage, policy), after in zip(
            ((chain, *both) for chain in plan.chains for both in zip(chain.stages, chain.policies, strict=True)),
            plan.upstream,
            strict=True,
        )
    )  # fmt: skip
