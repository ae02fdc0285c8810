"""A run as a trace that Perfetto and ``chrome://tracing`` open: what each worker was at, and when.

    records --> one line of JSON each --> the file, a few times a second

The file is in the Chrome trace format, as an array of events: a slice (``X``) for every report on a batch, on the track
of its worker, and within it one for each stage of a fused chain; counters (``C``) for queues and memory; instants
(``i``) for failed items and for workers that come and go; names (``M``) for all of them.

F1. Nothing is kept: what is told is written, and forgotten.
F2. A file whose run is over is a whole JSON document.  One whose coordinator was killed lacks the closing bracket, or
    the end of its last line, which the format allows and both viewers put up with.
F3. The slices of a worker follow one another; those of its stages lie within, one behind the other, each as long as its
    function ran.  When each of a chain's stages ran is not known, since the items of a batch go through one by one.
F4. The file is open while a run goes on.  Another run with the same observer is added to it.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final

from mpengine.monitor.observing import (
    BatchReported,
    ItemFailed,
    RecordsDropped,
    RunBegan,
    RunCancelled,
    RunEnded,
    Sampled,
    WorkerEnded,
    WorkerStarted,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from io import FileIO

    from mpengine.monitor.observing import Record, StageOutline, StageTally

SAMPLE_S: Final = 0.2
MAX_TEXT: Final = 2_000
END: Final = b"\n]\n"

Event = dict[str, Any]


class TraceFile:
    """An observer that writes a trace.

    Args:
        path: the file; what it holds is replaced when the first run begins.

    Raises:
        OSError: it cannot be written.
    """

    sample_s = SAMPLE_S
    wants_rss = True
    wants_times = True  # for the times at which workers begin and end

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """See that the file can be written; nothing of it is lost yet."""
        self.path = os.fspath(path)
        # A pipe that nobody reads is refused, not waited for.
        os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666))
        self._file: FileIO | None = None
        self._lead = ""
        self._runs = 0
        self._pid = 0
        self._stages: tuple[StageOutline, ...] = ()
        self._named: set[int] = set()

    def observe(self, records: Sequence[Record]) -> None:
        """Write what has happened.

        Raises:
            OSError: the file cannot be written.
        """
        try:
            self._write([event for record in records for event in self._events(record)])
            if self._file is not None and type(records[-1]) is RunEnded:
                self._file.write(END)
                self._close()
        except BaseException:
            self._close()
            raise

    def _write(self, events: Sequence[Event]) -> None:
        if self._file is None or not events:
            return
        lines = ",\n".join([json.dumps(event, separators=(",", ":")) for event in events])
        rest = memoryview((self._lead + lines).encode("utf-8", "backslashreplace"))
        self._lead = ",\n"
        while rest:  # a file without a buffer may take a part
            rest = rest[self._file.write(rest) :]

    def _open(self) -> None:
        self._close()
        if self._runs:
            self._file = open(self.path, "r+b", buffering=0)  # noqa: SIM115, PTH123 - open as long as the run
            self._file.seek(-len(END), os.SEEK_END)
            self._lead = ",\n"
        else:
            self._file = open(self.path, "wb", buffering=0)  # noqa: SIM115, PTH123 - the same
            self._lead = "[\n"
        self._runs += 1

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    # ------------------------------------------------------------------ records as events

    def _events(self, record: Record) -> Iterator[Event]:
        match record:
            case RunBegan():
                yield from self._begin(record)
            case BatchReported():
                yield from self._slices(record)
            case Sampled():
                yield from self._counters(record)
            case WorkerStarted(at, worker_id, pid):
                yield from self._name(worker_id)
                yield self._instant(at, worker_id, "started", {"pid": pid})
            case _:
                yield from self._moments(record)

    def _moments(self, record: Record) -> Iterator[Event]:
        match record:
            case WorkerEnded(at, worker_id, pid, how):
                name = "left" if record.was_retired else "died"
                held = {"pid": pid, "how": how, "peak_rss": record.peak_rss, "batches": list(record.batches)}
                yield self._instant(at, worker_id, name, held)
            case ItemFailed():
                yield self._failure(record)
            case RunCancelled(at, reason):
                yield self._instant(at, None, "cancelled", {"reason": reason[:MAX_TEXT]})
            case RecordsDropped(at, count):
                yield self._instant(at, None, "records dropped", {"count": count})
            case RunEnded(at, result):
                facts: Event = {"ok": result.is_ok}
                if not result.is_ok:
                    facts["reason"] = result.reason[:MAX_TEXT]
                yield self._instant(at, None, "ended", facts)
            case _:
                pass

    def _begin(self, began: RunBegan) -> Iterator[Event]:
        self._open()
        self._pid, self._stages = began.pid, began.stages
        self._named.clear()
        yield self._meta("process_name", 0, {"name": f"mpengine, run {began.run_id}"})
        yield self._meta("thread_name", 0, {"name": "coordinator"})
        stages = [{"name": outline.name, "chain": outline.chain, "kind": outline.kind} for outline in began.stages]
        facts = {"run_id": began.run_id, "workers": began.workers, "created": began.created, "stages": stages}
        yield self._instant(began.at, None, "began", facts)

    def _name(self, worker_id: int) -> Iterator[Event]:
        if worker_id not in self._named:
            self._named.add(worker_id)
            yield self._meta("thread_name", _track(worker_id), {"name": f"worker {worker_id}"})
            yield self._meta("thread_sort_index", _track(worker_id), {"sort_index": _track(worker_id)})

    def _slices(self, report: BatchReported) -> Iterator[Event]:
        yield from self._name(report.worker_id)
        begin, end = _us(report.begun_at), _us(report.ended_at)
        names = [self._stages[tally.stage].name for tally in report.tallies]
        facts = {
            "batch": report.batch_id, "items": report.items, "results": report.results, "progress": report.progress,
            **_figures(report.tallies[0] if len(names) == 1 else None),
        }  # fmt: skip
        yield self._slice(report.worker_id, " + ".join(names), "batch", begin, end, facts)
        if len(names) == 1:
            return
        busy_s = sum(tally.busy_s for tally in report.tallies)
        scale = min(1.0, (end - begin) / _us(busy_s)) if busy_s else 0.0  # clocks are read at different places
        for name, tally in zip(names, report.tallies, strict=True):
            until = min(end, begin + _us(tally.busy_s) * scale)
            yield self._slice(report.worker_id, name, "stage", begin, until, _figures(tally))
            begin = until

    def _counters(self, sampled: Sampled) -> Iterator[Event]:
        seen: set[int] = set()
        for outline, book in zip(self._stages, sampled.snapshot.stages, strict=False):
            if outline.chain not in seen:  # what waits and what is out is told of the first stage of a chain
                seen.add(outline.chain)
                yield self._counter(sampled.at, f"queue of {book.name}", {"items": book.queued})
                yield self._counter(sampled.at, f"in flight in {book.name}", {"items": book.in_flight})
        for worker_id, rss in sorted(sampled.rss.items()):
            yield self._counter(sampled.at, f"memory of worker {worker_id}", {"MiB": round(rss / 2**20, 2)})
        yield self._counter(sampled.at, "memory of coordinator", {"MiB": round(sampled.own_rss / 2**20, 2)})

    def _failure(self, failed: ItemFailed) -> Event:
        facts = {
            "index": failed.index, "item": failed.item, "error": failed.summary[:MAX_TEXT], "how": failed.how,
            "attempts": failed.attempts, "policy": failed.policy,
        }  # fmt: skip
        name = f"{self._stages[failed.stage].name}: item {failed.index} failed"
        return self._instant(failed.at, failed.worker_id, name, facts)

    # ------------------------------------------------------------------ events

    def _meta(self, name: str, track: int, args: Event) -> Event:
        return {"ph": "M", "name": name, "pid": self._pid, "tid": track, "args": args}

    def _slice(self, worker_id: int, name: str, category: str, begin: float, end: float, args: Event) -> Event:
        return {
            "ph": "X", "name": name, "cat": category, "pid": self._pid, "tid": _track(worker_id),
            "ts": round(begin, 3), "dur": round(round(end, 3) - round(begin, 3), 3), "args": args,
        }  # fmt: skip

    def _counter(self, at: float, name: str, args: Event) -> Event:
        return {"ph": "C", "name": name, "pid": self._pid, "tid": 0, "ts": round(_us(at), 3), "args": args}

    def _instant(self, at: float, worker_id: int | None, name: str, args: Event) -> Event:
        track, scope = (0, "p") if worker_id is None else (_track(worker_id), "t")
        return {
            "ph": "i", "name": name, "cat": "event", "s": scope, "pid": self._pid, "tid": track,
            "ts": round(_us(at), 3), "args": args,
        }  # fmt: skip


def _track(worker_id: int) -> int:
    return worker_id + 1  # the coordinator has the first one


def _us(seconds: float) -> float:
    return seconds * 1e6


def _figures(tally: StageTally | None) -> Event:
    if tally is None:
        return {}
    return {
        "succeeded": tally.succeeded, "failed": tally.failed, "skipped": tally.skipped, "retried": tally.retried,
        "busy_ms": round(tally.busy_s * 1e3, 3),
    }  # fmt: skip
