"""What the page shows, from one snapshot after another: pure, and bounded however long the run is (W3).

``see`` takes a snapshot in, ``add_troubles`` what went wrong; ``step`` tells what the page needs since the step before,
``full`` all that it needs.  Both are plain dicts of plain values.  Time is the run's own, ``elapsed_s``.

The throughput is kept for the whole run: when there are ``POINTS`` points, each two become one that is twice as long.
What workers were at is kept for the last ``COLUMNS`` seconds.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from mpengine.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mpengine.metrics import Snapshot, StageMetrics, WorkerMetrics

POINTS: Final = 240
COLUMNS: Final = 120
COLUMN_S: Final = 1.0
ROWS: Final = 64
"""Workers that are shown one by one; of more, these are the first."""
STAGES: Final = 64
TROUBLES: Final = 50
WINDOW_S: Final = 3.0
NAME_LENGTH: Final = 80
TEXT_LENGTH: Final = 500
TRACEBACK_LENGTH: Final = 6000

_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_LETTERS: Final = {"absent": "a", "starting": "s", "leaving": "l"}


@dataclass(frozen=True, slots=True)
class _Mark:
    at: float
    pulled: int
    delivered: int
    failed: int
    processed: tuple[int, ...]
    busy_s: tuple[float, ...]
    work_s: tuple[float, ...]


class History:
    """What is to be known of one run after another."""

    def __init__(self) -> None:
        self._run = 0
        self._outline: list[dict[str, Any]] = []
        self._ending: dict[str, Any] | None = None
        self._clear()

    def begin(self, run_id: int, outline: list[dict[str, Any]]) -> None:
        """Another run begins; what was known of the one before is forgotten.

        Args:
            run_id: its number.
            outline: ``chain`` and ``after`` of each stage.
        """
        self._clear()
        self._run = run_id
        self._outline = outline[:STAGES]

    def _clear(self) -> None:
        self._snapshot: Snapshot | None = None
        self._ending = None
        self._ahead: dict[str, Any] = {}
        self._marks: deque[_Mark] = deque()
        self._chart = _Chart()
        self._columns: deque[tuple[str, str]] = deque(maxlen=COLUMNS)
        self._new_columns: deque[tuple[str, str]] = deque(maxlen=COLUMNS)
        self._at_work_on: Mapping[int, int] = {}
        self._samples: list[tuple[str, ...]] = []
        self._deaths: tuple[int, ...] = ()
        self._column_at = 0.0
        self._troubles: deque[dict[str, Any]] = deque(maxlen=TROUBLES)
        self._new_troubles: deque[dict[str, Any]] = deque(maxlen=TROUBLES)
        self._is_anew = True

    def see(self, snapshot: Snapshot, ahead: dict[str, Any], at_work_on: Mapping[int, int]) -> None:
        """Take a snapshot in.

        Args:
            snapshot: the figures of this moment.
            ahead: what is known of what is still to come: ``total``, ``share``, ``left_s``.
            at_work_on: for workers by number, the first stage of the batch that they got last.
        """
        self._snapshot = snapshot
        self._ahead = ahead
        self._at_work_on = at_work_on
        mark = _mark(snapshot)
        if not self._marks:
            self._marks.append(_beginning(mark))
        self._chart.add(mark)
        self._add_column(snapshot, at_work_on)
        self._marks.append(mark)
        while len(self._marks) > 2 and self._marks[1].at <= mark.at - WINDOW_S:  # noqa: PLR2004 - the oldest and now
            self._marks.popleft()

    def end(self, ending: dict[str, Any]) -> None:
        """The run is over: ``is_ok``, ``cause`` and ``advice`` tell how."""
        self._ending = ending

    def add_troubles(self, troubles: Sequence[dict[str, Any]]) -> None:
        """Take in what went wrong, as ``trouble`` puts it."""
        self._troubles.extend(troubles)
        self._new_troubles.extend(troubles)

    def _add_column(self, snapshot: Snapshot, at_work_on: Mapping[int, int]) -> None:
        workers = snapshot.workers[:ROWS]
        self._samples.append(tuple(worker.state for worker in workers))
        if snapshot.elapsed_s < self._column_at + COLUMN_S:
            return
        self._column_at = snapshot.elapsed_s
        deaths = tuple(worker.deaths for worker in workers)
        before = self._deaths or (0,) * len(deaths)
        states = "".join(
            "x" if now > then else _cell([states[row] for states in self._samples if row < len(states)])
            for row, (now, then) in enumerate(zip(deaths, before, strict=False))
        )
        stages = "".join(_DIGITS[at_work_on.get(worker.worker_id, 0) % len(_DIGITS)] for worker in workers)
        self._deaths, self._samples = deaths, []
        self._columns.append((states, stages))
        self._new_columns.append((states, stages))

    # ------------------------------------------------------------------ what is told

    def step(self) -> dict[str, Any]:
        """Return what has changed since the step before; everything, where that was another run's."""
        if self._is_anew:
            told = self.full()
        else:
            told = self._present()
            told["chart"] = self._chart.news()
            told["columns"] = list(self._new_columns)
            told["troubles"] = list(self._new_troubles)
        self._chart.told()
        self._new_columns.clear()
        self._new_troubles.clear()
        self._is_anew = False
        return told

    def full(self) -> dict[str, Any]:
        """Return everything."""
        told = self._present()
        told["full"] = True
        told["chart"] = self._chart.whole()
        told["columns"] = list(self._columns)
        told["troubles"] = list(self._troubles)
        return told

    def _present(self) -> dict[str, Any]:
        snapshot = self._snapshot
        if snapshot is None:
            return {"full": False, "run": self._run, "state": "idle", "ending": None, "stages": [], "workers": []}
        first, last = self._marks[0], self._marks[-1]
        passed_s = last.at - first.at
        return {
            "full": False,
            "run": self._run,
            "state": snapshot.state,
            "reason": cut(snapshot.reason, TEXT_LENGTH),
            "ending": self._ending,
            "elapsed_s": round(snapshot.elapsed_s, 2),
            "pulled": snapshot.source_items,
            "delivered": snapshot.delivered,
            "filtered": snapshot.filtered,
            "dropped": snapshot.dropped,
            "failed": snapshot.failed,
            "cancelled": snapshot.cancelled,
            "pulled_per_s": _rate(first.pulled, last.pulled, passed_s),
            "per_s": _rate(first.delivered, last.delivered, passed_s),
            "ahead": self._ahead,
            "outline": self._outline,
            "stages_in_all": len(snapshot.stages),
            "stages": [
                _stage(stage, _rate(done, stage.processed, passed_s), _rate(busy_s, stage.busy_s, passed_s))
                for stage, done, busy_s in zip(snapshot.stages[:STAGES], first.processed, first.busy_s, strict=False)
            ],
            "workers_in_all": len(snapshot.workers),
            "workers": [
                _worker(worker, _rate(work_s, worker.busy_s, passed_s), self._at_work_on.get(worker.worker_id))
                for worker, work_s in zip(snapshot.workers[:ROWS], first.work_s, strict=False)
            ],
        }


def trouble(fields: dict[str, Any]) -> dict[str, Any]:
    """Return what the page is told of something that went wrong, every text cut to what it shows (W3).

    Args:
        fields: ``kind`` (``item`` or ``worker``), ``at_s``, ``stage`` (its number, or None), ``worker_id``, ``index``,
            ``summary``, ``item``, ``traceback``, ``attempts``.
    """
    traceback = fields["traceback"]
    return {
        **fields,
        "summary": cut(fields["summary"], TEXT_LENGTH),
        "item": cut(fields["item"], TEXT_LENGTH),
        # Its end says what was raised, and where.
        "traceback": traceback if len(traceback) <= TRACEBACK_LENGTH else "[...]\n" + traceback[-TRACEBACK_LENGTH:],
    }


def cut(text: str | None, length: int) -> str | None:
    """Return a text that is no longer than ``length``."""
    if text is None:
        return None
    return text if len(text) <= length else text[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


class _Chart:
    """Rates over the whole run, as points ``[at, pulled a second, delivered a second, failed a second]``."""

    def __init__(self) -> None:
        self._points: list[list[float]] = []
        self._width_s = COLUMN_S
        self._counted = (0.0, 0, 0, 0)
        self._untold = 0
        self._is_other = True

    def add(self, mark: _Mark) -> None:
        now = (mark.at, mark.pulled, mark.delivered, mark.failed)
        passed_s = mark.at - self._counted[0]
        if passed_s < self._width_s:
            return
        rates = [_rate(before, after, passed_s) for before, after in zip(self._counted[1:], now[1:], strict=True)]
        self._points.append([round(mark.at, 2), *rates])
        self._counted = now
        self._untold += 1
        if len(self._points) >= POINTS:
            self._points = [_merged(*self._points[at : at + 2]) for at in range(0, POINTS, 2)]
            self._width_s *= 2
            self._is_other = True

    def whole(self) -> dict[str, Any]:
        return {"anew": True, "points": self._points}

    def news(self) -> dict[str, Any]:
        if self._is_other:
            return self.whole()
        return {"anew": False, "points": self._points[-self._untold :] if self._untold else []}

    def told(self) -> None:
        self._untold = 0
        self._is_other = False


def _merged(one: list[float], other: list[float]) -> list[float]:
    return [other[0], *(round((a + b) / 2, 3) for a, b in zip(one[1:], other[1:], strict=True))]


def _cell(states: list[str]) -> str:
    """Return how a worker was doing as one letter: how much of the time it was at work, 0 to 9, or where it was."""
    last = states[-1] if states else "absent"
    return _LETTERS.get(last) or str(round(9 * states.count("busy") / len(states)))


def _mark(snapshot: Snapshot) -> _Mark:
    return _Mark(
        snapshot.elapsed_s,
        snapshot.source_items,
        snapshot.delivered,
        sum(stage.failed for stage in snapshot.stages),
        tuple(stage.processed for stage in snapshot.stages),
        tuple(stage.busy_s for stage in snapshot.stages),
        tuple(worker.busy_s for worker in snapshot.workers[:ROWS]),
    )


def _beginning(mark: _Mark) -> _Mark:
    return _Mark(0.0, 0, 0, 0, (0,) * len(mark.processed), (0.0,) * len(mark.busy_s), (0.0,) * len(mark.work_s))


def _stage(stage: StageMetrics, per_s: float, busy: float) -> dict[str, Any]:
    return {
        "name": cut(stage.name, NAME_LENGTH),
        "buffer": stage.buffer,
        "queued": stage.queued,
        "in_flight": stage.in_flight,
        "processed": stage.processed,
        "failed": stage.failed,
        "skipped": stage.skipped,
        "retried": stage.retried,
        "timed_out": stage.timed_out,
        "crashed": stage.crashed,
        "per_s": per_s,
        "busy": busy,
    }


def _worker(worker: WorkerMetrics, busy: float, stage: int | None) -> dict[str, Any]:
    return {
        "id": worker.worker_id,
        "pid": worker.pid,
        "state": worker.state,
        "stage": stage,
        "items": worker.items,
        "busy": min(1.0, busy),
        "deaths": worker.deaths,
    }


def _rate(before: float, now: float, passed_s: float) -> float:
    return round(max(0.0, now - before) / passed_s, 3) if passed_s > 0 else 0.0
