"""A run's report as one page: gathered while it runs, within bounds, and written when it is over.

    records --> Gathered, bounded --> pages --> the file, at once

U1. What is kept does not grow with the run: bins, the slowest items, the first failures, a course of ``MAX_POINTS``
    points that is thinned out when it is full.
U2. The page takes the place of the file in one step.  Until then nothing of the file is lost, and a run whose
    coordinator is killed leaves it as it was.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import stat
from collections import Counter, deque
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mpengine.monitor.observing import (
    BatchReported,
    ItemFailed,
    RecordsDropped,
    RunBegan,
    RunEnded,
    Sampled,
    WorkerEnded,
    WorkerStarted,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpengine.monitor.observing import Record, StageOutline

SAMPLE_S: Final = 0.25
MAX_POINTS: Final = 240
MAX_SLOWEST: Final = 20
MAX_FAILED: Final = 100
MAX_ENDINGS: Final = 100


class Gathered:
    """What is known of a run.

    Attributes:
        began: its beginning.
        ended: its end; None while it goes on.
        times: for each stage, how many items fell into which bin.
        slowest: for each stage, (seconds, source index) of the slowest items, in no order.
        failed: the first failures.
        failures: how many there were, by stage and error.
        endings: the last workers that ended before the run did.
        pids: every worker's last process.
        peak_rss: the most memory that each worker was seen with, in bytes.
        own_peak_rss: the same of the coordinator.
        course: (seconds since the beginning, items that were through, items that waited) of samples.
        dropped: records that were dropped.
    """

    def __init__(self, began: RunBegan) -> None:
        """Begin with nothing."""
        self.began = began
        self.ended: RunEnded | None = None
        self.times: list[Counter[int]] = [Counter() for _ in began.stages]
        self.slowest: list[list[tuple[float, int]]] = [[] for _ in began.stages]
        self.failed: list[ItemFailed] = []
        self.failures: Counter[tuple[int, str]] = Counter()
        self.endings: deque[WorkerEnded] = deque(maxlen=MAX_ENDINGS)
        self.pids: dict[int, int | None] = {}
        self.peak_rss: dict[int, int] = {}
        self.own_peak_rss = 0
        self.course: list[tuple[float, int, int]] = []
        self._step = 1
        self._samples = 0
        self.dropped = 0

    @property
    def stages(self) -> tuple[StageOutline, ...]:
        """The stages, in order."""
        return self.began.stages

    def take_in(self, record: Record) -> None:
        """Take in what has happened."""
        match record:
            case BatchReported():
                self._report(record)
            case ItemFailed():
                self.failures[record.stage, record.summary.partition(":")[0]] += 1
                if len(self.failed) < MAX_FAILED:
                    self.failed.append(record)
            case Sampled():
                self._sample(record)
            case WorkerStarted(_, worker_id, pid):
                self.pids[worker_id] = pid
            case WorkerEnded():
                self._note_rss(record.worker_id, record.peak_rss)
                if not record.was_retired:
                    self.endings.append(record)
            case RecordsDropped(_, count):
                self.dropped += count
            case RunEnded():
                self.ended = record
            case _:
                pass

    def _report(self, report: BatchReported) -> None:
        for tally in report.tallies:
            counter, slowest = self.times[tally.stage], self.slowest[tally.stage]
            for place, items in tally.times:
                counter[place] += items
            for index, seconds in tally.slowest:
                if len(slowest) < MAX_SLOWEST:
                    heapq.heappush(slowest, (seconds, index))
                elif seconds > slowest[0][0]:
                    heapq.heapreplace(slowest, (seconds, index))

    def _sample(self, sampled: Sampled) -> None:
        for worker_id, rss in sampled.rss.items():
            self._note_rss(worker_id, rss)
        self.own_peak_rss = max(self.own_peak_rss, sampled.own_rss)
        self._samples += 1
        books = sampled.snapshot.stages
        if books and self._samples % self._step == 0:
            waiting = sum(book.queued for book in books)
            self.course.append((sampled.at - self.began.at, books[-1].processed, waiting))
            if len(self.course) >= MAX_POINTS:
                self.course = self.course[1::2]
                self._step *= 2

    def _note_rss(self, worker_id: int, rss: int) -> None:
        self.peak_rss[worker_id] = max(rss, self.peak_rss.get(worker_id, 0))


class ReportFile:
    """An observer that writes a page about each run when it is over; one run takes the place of another.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be written.
    """

    sample_s = SAMPLE_S
    wants_rss = True
    wants_times = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """See that the file can be written; nothing of it is lost yet."""
        self.path = Path(path).resolve()
        existed = self.path.exists()
        # A pipe that nobody reads is refused, not waited for.
        os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666))
        self._is_regular = stat.S_ISREG(self.path.stat().st_mode)
        if not existed:
            self.path.unlink()
        self._gathered: Gathered | None = None

    def observe(self, records: Sequence[Record]) -> None:
        """Gather what has happened; write the page when the run is over.

        Raises:
            OSError: the page cannot be written.
        """
        for record in records:
            if type(record) is RunBegan:
                self._gathered = Gathered(record)
            elif self._gathered is not None:
                self._gathered.take_in(record)
        gathered = self._gathered
        if gathered is not None and gathered.ended is not None:
            self._gathered = None
            from mpengine.monitor.pages import page  # with ``html``, which nobody needs before there is a report

            self._write(page(gathered).encode("utf-8", "backslashreplace"))

    def _write(self, content: bytes) -> None:
        if not self._is_regular:  # a pipe or a device, which nothing may take the place of
            self.path.write_bytes(content)
            return
        part = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        try:
            part.write_bytes(content)
            part.replace(self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
