"""The dashboard of a run that the command line starts: opened, and its address told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mpengine.cli.speech import say
from mpengine.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpengine.cli.gauge import Reading
    from mpengine.dashboard.live import Dashboard
    from mpengine.metrics import Snapshot


class PlaceType(click.ParamType):  # type: ignore[type-arg] # it has no arguments in every version
    """Where to listen, as it was typed."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return what was typed, if it can be read."""
        from mpengine.dashboard.address import Place

        try:
            Place.parse(value)
        except ValueError as error:
            self.fail(f"{error}; without one, write --dashboard after everything else.", param, ctx)
        return str(value)


def open_dashboard(address: str, read: Callable[[Snapshot], Reading | None] | None) -> Dashboard:
    """Open a dashboard, and say once where it is.

    Args:
        address: where.
        read: tells how far the run is, and nobody else; None: the dashboard sees for itself.

    Raises:
        UsageError: it cannot be.
    """
    from mpengine.dashboard.live import Dashboard

    def ahead(snapshot: Snapshot) -> dict[str, Any]:
        reading = read(snapshot) if read is not None else None
        if reading is None:
            return {}
        return {"total": reading.total, "share": reading.share, "left_s": reading.left_s}

    try:
        dashboard = Dashboard(address, ahead=ahead if read is not None else None)
    except EngineError as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.UsageError(error.strerror or str(error)) from error
    say(f"dashboard: {dashboard.url}")
    if not dashboard.is_loopback:
        say("whoever reaches this machine and has that address may watch and cancel the run; nothing is encrypted")
    return dashboard
