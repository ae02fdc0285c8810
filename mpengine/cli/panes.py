"""A run of another terminal as tables: its stages, its workers, and what holds it up; pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mpengine.cli.frames import clock, rate, summary
from mpengine.cli.gauge import WINDOW_S
from mpengine.cli.rundown import short_command
from mpengine.cli.speech import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType
    from rich.table import Table

    from mpengine.cli.gauge import Reading
    from mpengine.metrics import WorkerMetrics
    from mpengine.monitor.sights import WorkerSight
    from mpengine.processes.usage import Use
    from mpengine.runs import KnownRun, View

FULL_COLUMNS = 76
"""Terminals narrower than this are not shown what is in flight, how busy stages are, nor what workers use."""
BESIDE_LINES = 11
"""What a screen has beside stages and workers."""
LEAST_WORKERS = 3
LATE_S = 5.0
"""Figures older than this are told to be old."""


@dataclass(frozen=True, slots=True)
class Scene:
    """All there is to show at one moment.

    Attributes:
        run: which.
        view: what the run has published.
        reading: its figures, with rates.
        busy: for each stage, the share of all workers' time that was spent in it.
        uses: what processes use, by number.
        remark: what the viewer has to say; empty for nothing.
    """

    run: KnownRun
    view: View
    reading: Reading
    busy: tuple[float, ...]
    uses: Mapping[int, Use]
    remark: str = ""


class Busyness:
    """How busy stages were, from one view after another: over the last seconds; at first, since the run began.

    What a worker is at counts before it is reported: an item may take longer than anybody watches.
    """

    def __init__(self) -> None:
        self._marks: deque[tuple[float, tuple[float, ...]]] = deque()

    def read(self, view: View) -> tuple[float, ...]:
        """Return the share of all workers' time that was spent in each stage."""
        snapshot = view.snapshot
        spent = [stage.busy_s for stage in snapshot.stages]
        for sight in () if view.sights is None else view.sights.workers:
            if sight.stage is not None and sight.stage < len(spent):
                spent[sight.stage] += sight.unreported_s
        now = (snapshot.elapsed_s, tuple(spent))
        is_first = not self._marks
        self._marks.append(now)
        while len(self._marks) > 1 and self._marks[1][0] <= now[0] - WINDOW_S:
            self._marks.popleft()
        before = (0.0, (0.0,) * len(spent)) if is_first else self._marks[0]
        capacity_s = (now[0] - before[0]) * len(snapshot.workers)
        if capacity_s <= 0:
            return (0.0,) * len(spent)
        return tuple(
            min(1.0, max(0.0, later - earlier) / capacity_s) for earlier, later in zip(before[1], spent, strict=True)
        )


def scene(shown: Scene, columns: int, lines: int | None = None) -> list[RenderableType]:
    """Return what to show on a terminal of that size; ``lines`` None: as many as it takes."""
    from rich.padding import Padding
    from rich.text import Text

    def row(text: str, style: str = "") -> RenderableType:
        return Padding(Text(one_line(text), style=style, no_wrap=True, overflow="ellipsis"), 0)

    is_full = columns >= FULL_COLUMNS
    run, view = shown.run, shown.view
    snapshot = view.snapshot
    state = snapshot.state + (f" ({snapshot.reason})" if snapshot.reason else "")
    what = short_command(run.entry.command)
    heading = f"run {run.run_id}, pid {run.entry.pid}, {state}, for {clock(snapshot.elapsed_s)}: {what}"
    room = None if lines is None else max(LEAST_WORKERS + 1, lines - BESIDE_LINES)
    stages = shown.reading.stages[: None if room is None else max(1, room // 2)]
    left = None if room is None else max(LEAST_WORKERS, room - len(stages))
    made: list[RenderableType] = [
        row(heading, "bold"),
        row(summary(shown.reading)),
        "",
        _stages(shown, len(stages), is_full=is_full),
    ]
    if len(stages) < len(shown.reading.stages):
        made.append(row(f"... {len(shown.reading.stages) - len(stages)} more stages"))
    if view.sights is not None and view.sights.bottleneck:
        bottleneck: Any = Text(one_line(view.sights.bottleneck))
        made += ["", bottleneck if lines is None else row(view.sights.bottleneck)]
    workers = _chosen(snapshot.workers, _sights(view), left)
    made += ["", _workers(shown, workers, is_full=is_full)]
    if len(workers) < len(snapshot.workers):
        made.append(row(f"... {len(snapshot.workers) - len(workers)} more workers"))
    remark = shown.remark or (f"these figures are {clock(view.age_s)} old" if view.age_s > _late_s(run) else "")
    return [*made, row(remark, "reverse")] if remark else made


def _late_s(run: KnownRun) -> float:
    return LATE_S + run.entry.interval_s


def _sights(view: View) -> dict[int, WorkerSight]:
    return {} if view.sights is None else {sight.worker_id: sight for sight in view.sights.workers}


def _chosen(
    workers: Sequence[WorkerMetrics], sights: Mapping[int, WorkerSight], room: int | None
) -> list[WorkerMetrics]:
    """Return the workers that there is room for: if not all, those that have been at something the longest."""
    if room is None or len(workers) <= room:
        return list(workers)

    def waits(worker: WorkerMetrics) -> float:
        sight = sights.get(worker.worker_id)
        return 0.0 if sight is None else -max(sight.since_s or 0.0, sight.unreported_s)

    longest = sorted(workers, key=waits)[:room]
    return sorted(longest, key=lambda worker: worker.worker_id)


def _stages(shown: Scene, count: int, *, is_full: bool) -> Table:
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold")
    made.add_column("stage")
    for head in ("done", "rate", "queued", *(("in flight", "busy") if is_full else ()), "failed"):
        made.add_column(head, justify="right", no_wrap=True)
    for stage, busy in list(zip(shown.reading.stages, shown.busy, strict=True))[:count]:
        more = (f"{stage.in_flight:,}", f"{busy:.0%}") if is_full else ()
        figures = (f"{stage.done:,}", rate(stage.per_s), f"{stage.queued:,}/{stage.bound:,}", *more)
        failed = Text(f"{stage.failed:,}", style="red" if stage.failed else "")
        made.add_row(Text(stage.name, no_wrap=True, overflow="ellipsis"), *map(Text, figures), failed)
    return made


def _workers(shown: Scene, workers: Sequence[WorkerMetrics], *, is_full: bool) -> Table:
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("worker", "pid"):
        made.add_column(head, justify="right", no_wrap=True)
    made.add_column("state", no_wrap=True)
    made.add_column("at")
    for head in ("for", *(("rss", "cpu", "deaths") if is_full else ())):
        made.add_column(head, justify="right", no_wrap=True)
    names = [stage.name for stage in shown.view.snapshot.stages]
    sights = _sights(shown.view)
    for worker in workers:
        sight = sights.get(worker.worker_id)
        use = None if worker.pid is None else shown.uses.get(worker.pid)
        cells = [str(worker.worker_id), "" if worker.pid is None else str(worker.pid), worker.state]
        at = Text(one_line(_at(sight, names)), no_wrap=True, overflow="ellipsis")
        more = (_rss(use), _cpu(use), f"{worker.deaths:,}") if is_full else ()
        made.add_row(*map(Text, cells), at, *map(Text, (_for(sight), *more)))
    return made


def _at(sight: WorkerSight | None, names: Sequence[str]) -> str:
    """Return what a worker is at, in words."""
    if sight is None or sight.stage is None or sight.stage >= len(names):
        return ""
    name = names[sight.stage]
    if sight.in_setup:
        return f"{name}: setting up"
    if sight.item is None:
        return name if sight.first is None else f"{name}: items {sight.first:,} to {sight.last:,}"
    again = f", attempt {sight.attempt}" if sight.attempt > 1 else ""
    return f"{name}: item {sight.item:,}{again}" + (f", {sight.text}" if sight.text else "")


def _for(sight: WorkerSight | None) -> str:
    if sight is None or sight.stage is None:
        return ""
    seconds = sight.unreported_s if sight.since_s is None else sight.since_s
    return f"{seconds:.1f} s" if seconds < 60 else clock(seconds)  # noqa: PLR2004 - a minute


def _rss(use: Use | None) -> str:
    return "" if use is None else f"{use.rss_bytes / 1e6:,.0f} MB"


def _cpu(use: Use | None) -> str:
    return "" if use is None or use.cpu_share is None else f"{use.cpu_share:.0%}"
