"""The runs that are listed, as a table and as plain values."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mpengine.cli.frames import clock
from mpengine.cli.speech import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from mpengine.runs import KnownRun

SILENT_S = 15.0
"""A run notes how far it is every few seconds; one that has not for so long may hang."""
MAX_COMMAND = 48


def state_of_run(run: KnownRun) -> str:
    """Return in one word how a run is: its own state, or what keeps it from telling."""
    if run.is_alive is None:
        return "elsewhere"
    if not run.is_alive:
        return "dead"
    from mpengine.processes.identity import STOPPED, state_of

    if state_of(run.entry.pid) == STOPPED:
        return "stopped"
    if time.time() - run.figures.noted_at > SILENT_S + 2 * run.entry.interval_s:
        return "silent"
    return run.figures.state


def elapsed_s(run: KnownRun) -> float:
    """Return how long a run has gone on; of a dead one, when that was noted last."""
    passed_s = time.time() - run.figures.noted_at if run.is_alive else 0.0
    return run.figures.elapsed_s + max(0.0, passed_s)


def runs_table(runs: Sequence[KnownRun]) -> Table:
    """Return the runs as a table."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    made = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))  # there is much to tell in 80 columns
    for head in ("run", "pid", "state", "for", "in", "out", "failed", "stages", "command"):
        is_figure = head in {"pid", "for", "in", "out", "failed"}
        is_free = head in {"stages", "command"}
        made.add_column(
            head,
            justify="right" if is_figure else "left",
            no_wrap=not is_free,
            overflow="fold" if is_free else "ellipsis",  # with "ignore", rich aligns nothing
        )
    for run in runs:
        figures = run.figures
        row = (
            run.run_id,
            str(run.entry.pid),
            state_of_run(run),
            clock(elapsed_s(run)),
            f"{figures.source_items:,}",
            f"{figures.delivered:,}",
            f"{figures.failed:,}",
            " > ".join(run.entry.stages),
            short_command(run.entry.command),
        )
        *cells, command = (Text(one_line(cell)) for cell in row)
        command.truncate(MAX_COMMAND, overflow="ellipsis")  # a run is told of in few lines; --json has all of it
        made.add_row(*cells, command)
    return made


def short_command(command: str) -> str:
    """Return a command without what is before the program's name."""
    head, _, rest = command.partition(" ")
    text = f"{head.rpartition('/')[2]} {rest}".strip()
    if rest.startswith("-m mpengine"):
        text = rest.removeprefix("-m ")  # which Python it is, tells nobody which run
    return text


def as_plain(run: KnownRun) -> dict[str, Any]:
    """Return what is known of a run, ready for JSON; without the key to its board."""
    entry, figures = run.entry, run.figures
    return {
        "run": run.run_id,
        "pid": entry.pid,
        "state": state_of_run(run),
        "reason": figures.reason,
        "began_at": entry.began_at,
        "elapsed_s": elapsed_s(run),
        "noted_at": figures.noted_at,
        "source_items": figures.source_items,
        "total": entry.total,
        "delivered": figures.delivered,
        "failed": figures.failed,
        "workers": entry.workers,
        "stages": list(entry.stages),
        "command": entry.command,
        "folder": entry.folder,
        "version": entry.version,
    }
