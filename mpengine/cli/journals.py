"""A journal on the command line: for a run, and as tables."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mpengine.cli.speech import one_line, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mpengine.cli.running import Options
    from mpengine.journal.description import Journal
    from mpengine.sinks.base import Sink

NAMED_FAILURES = 20


def open_journal(options: Options, sink: Sink) -> Journal | None:
    """Return the journal that was asked for; an item is done when its lines are in ``sink``."""
    if options.journal is None:
        return None
    from mpengine.journal.description import Journal

    return Journal(
        options.journal,
        key=options.key,
        resume=options.resume,
        retry_failed=options.retry_failed,
        force=options.force,
        output=sink,
    )


def tables(facts: dict[str, Any]) -> list[RenderableType]:
    """Return what ``mpengine.journal.reading.read`` gives as tables."""
    from rich.text import Text

    left = "unknown, since the source was never read to its end" if facts["left"] is None else f"{facts['left']:,}"
    items = [("done", f"{facts['done']:,}"), ("failed", f"{facts['failed']:,}"), ("left", left)]
    parts: list[RenderableType] = [
        Text(one_line(f"{facts['path']}: {facts['state']}")),
        Text(one_line(facts["fingerprint"])),
        Text(one_line(f"output: {facts['output'] or 'none'}")),  # no caption, which is as narrow as its table
        table(("items", ""), items),
    ]
    runs = [
        (str(run["run"]), _moment(run["began_at"]), _lasting(run), f"{run['done']:,}", f"{run['failed']:,}",
         one_line(run["ending"]))
        for run in facts["runs"]
    ]  # fmt: skip
    parts.append(table(("run", "began", "lasted", "done", "failed", "ended"), runs))
    failures = facts["failures"]
    if failures:
        causes = [
            (one_line(cause["stage"]), one_line(cause["error"]), f"{cause['count']:,}") for cause in facts["causes"]
        ]
        parts.append(table(("stage", "error", "count"), causes))
        named = [
            (one_line(failure["stage"]), f"{failure['index']:,}", one_line(failure["item"]), one_line(failure["error"]))
            for failure in failures[:NAMED_FAILURES]
        ]
        more = facts["failure_count"] - len(named)
        parts.append(table(("stage", "item", "", "error"), named, f"and {more:,} more" if more > 0 else None))
    return parts


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _lasting(run: dict[str, Any]) -> str:
    return "" if run["ended_at"] is None else f"{run['ended_at'] - run['began_at']:,.2f} s"
