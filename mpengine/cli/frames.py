"""A reading of the gauge as a frame for a terminal, and as one line for a log."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from mpengine.cli.gauge import Reading, StageReading

BAR_COLUMNS = 60
FULL_COLUMNS = 64
"""Terminals narrower than this are not shown what waits, nor what is in flight."""
FRAME_LINES = 5
"""What a frame has beside its stages: an empty line, two of the whole run, the heads, and the line it ends in."""


def frame(reading: Reading, columns: int, lines: int) -> list[RenderableType]:
    """Return what to show of ``reading`` on a terminal of that size.

    The first line is empty: that is where the cursor rests, and where a line that somebody else writes meanwhile lands.
    """
    from rich.padding import Padding
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    def row(text: str) -> RenderableType:
        return Padding(Text(text, no_wrap=True, overflow="ellipsis"), 0)  # bare, it would be wrapped all the same

    shown: list[RenderableType] = ["", row(summary(reading))]
    if reading.share is not None:
        bar = ProgressBar(total=1.0, completed=reading.share, width=min(columns, BAR_COLUMNS))
        shown.append(Padding(bar, 0))  # which ends its line; a bar does not
    stages = reading.stages[: max(1, lines - FRAME_LINES - 1)]
    shown.append(_stages(stages, is_full=columns >= FULL_COLUMNS))
    if len(stages) < len(reading.stages):
        shown.append(row(f"... {len(reading.stages) - len(stages)} more stages"))
    return shown


def line(reading: Reading) -> str:
    """Return ``reading`` in one line."""
    stages = [
        f"{stage.name} {stage.done:,}" + (f" ({stage.failed:,} failed)" if stage.failed else "")
        for stage in reading.stages
    ]
    return "; ".join([f"{summary(reading)}, after {clock(reading.elapsed_s)}", *stages])


def summary(reading: Reading) -> str:
    """Return how far the run is, the more important first: a narrow terminal shows the beginning."""
    if reading.total is not None:
        parts = [f"{reading.done:,} of {reading.total:,}"]
    else:
        parts = [f"{reading.items_in:,} in", f"{reading.values_out:,} out"]
    if reading.share is not None:
        parts.append(f"{int(100 * reading.share)}%")
    if reading.is_ending:
        return ", ".join([*parts, "stopping"])
    if reading.left_s is not None:
        parts.append(f"{clock(reading.left_s)} left")
    return ", ".join([*parts, rate(reading.per_s)])


def clock(seconds: float) -> str:
    """Return ``seconds`` as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def rate(per_s: float) -> str:
    """Return how many a second, with one decimal place where that says something."""
    return f"{per_s:,.0f}/s" if per_s >= 10 or not per_s else f"{per_s:.1f}/s"  # noqa: PLR2004 - two digits do


def _stages(stages: tuple[StageReading, ...], *, is_full: bool) -> Table:
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold")
    made.add_column("stage")  # the one column that gives way, since it may be wrapped; its texts then are not
    for head in ("done", "rate", *(("queued", "in flight") if is_full else ()), "failed"):
        made.add_column(head, justify="right", no_wrap=True)
    for stage in stages:
        waiting = (f"{stage.queued:,}/{stage.bound:,}", f"{stage.in_flight:,}") if is_full else ()
        figures = (f"{stage.done:,}", rate(stage.per_s), *waiting)
        failed = Text(f"{stage.failed:,}", style="red" if stage.failed else "")
        name = Text(stage.name, no_wrap=True, overflow="ellipsis")
        made.add_row(name, *map(Text, figures), failed)
    return made
