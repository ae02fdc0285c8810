"""What a run that has ended has to tell: which items failed, why it failed itself, and its figures."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from mpengine.cli.speech import in_one_line, one_line, say, show, table
from mpengine.errors import RemoteTraceback
from mpengine.results import Err, Ok, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.table import Table

NAMED_FAILURES = 20


def tell(result: Ok | Err, *, quiet: bool) -> bool:
    """Say what failed, show the run's figures, and say what held it up.

    Args:
        result: how the run ended.
        quiet: whether to leave the figures out.

    Returns:
        Whether all was well.
    """
    failed = sum(stage.failed for stage in result.report.snapshot.stages)
    named = sorted(result.report.errors, key=operator.attrgetter("index"))[:NAMED_FAILURES]
    for item_error in named:
        say(f"failed: {item_error}")
    if failed > len(named):
        say(f"failed: {failed - len(named):,} more")
    if isinstance(result, Err):
        say(f"the run failed: {result.reason}{_place(result.cause)}")
    if not quiet:
        from rich.text import Text

        show(_figures(result.report), Text(one_line(result.report.bottleneck)))
    return not failed and result.is_ok


def _place(error: BaseException | None) -> str:
    """Return where in the user's code an error from a worker was raised, as far as its traceback tells."""
    remote = error.__cause__ if error is not None else None
    frames = [line.strip() for line in remote.text.splitlines()] if isinstance(remote, RemoteTraceback) else []
    frames = [line for line in frames if line.startswith('File "') and ", in " in line]
    return f" ({frames[-1]})" if frames else ""


def _figures(report: Report) -> Table:
    snapshot = report.snapshot
    rows = [
        (
            stage.name,
            f"{stage.processed:,}",
            f"{stage.succeeded:,}",
            f"{stage.failed:,}",
            f"{stage.skipped:,}",
            f"{stage.busy_s:,.2f} s",
        )
        for stage in snapshot.stages
    ]
    before = f"{snapshot.resumed:,} of them settled before, " if snapshot.resumed else ""
    caption = (
        f"{snapshot.source_items:,} items in, {before}{snapshot.delivered:,} values out, "
        f"{report.duration_s:,.2f} s, {len(snapshot.workers)} workers"
    )
    return table(("stage", "processed", "succeeded", "failed", "skipped", "busy"), rows, caption)


def summarise(summary: Callable[[list[Any]], Sequence[tuple[object, object]]], values: list[Any]) -> bool:
    """Show the user's own rows for what came out; return whether there were any to show."""
    try:
        rows = [(str(label), str(value)) for label, value in summary(values)]
    except Exception as error:  # noqa: BLE001 - it is the user's function; the line says what it raised
        say(f"the summary failed: {in_one_line(error)}")
        return False
    show(table(("summary", ""), rows))
    return True
