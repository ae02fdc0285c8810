"""What watches a run from the command line: a trace, a report, figures for Prometheus, a dashboard."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

import click

from mpengine.cli.streams import STANDARD
from mpengine.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mpengine.cli.gauge import Reading
    from mpengine.metrics import Snapshot
    from mpengine.monitor.observing import Observer

MAX_PORT = 65_535


class Watched(Protocol):
    """What says how a run is to be watched, and what its own files are; ``Options`` tells what they mean."""

    @property
    def input(self) -> Path | None:
        """What it reads."""

    @property
    def output(self) -> Path:
        """What it writes."""

    @property
    def trace(self) -> Path | None:
        """Where its trace goes."""

    @property
    def report(self) -> Path | None:
        """Where the page about it goes."""

    @property
    def metrics_port(self) -> tuple[str | None, int] | None:
        """Where its figures are served."""

    @property
    def dashboard(self) -> str | None:
        """Where it is shown."""


class AddressType(click.ParamType):  # type: ignore[type-arg] # it has no arguments in every version
    """A port, or a host and a port."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return (host or None, port)."""
        if isinstance(value, tuple):
            return value
        host, colon, port = str(value).rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if (colon and not host) or not (port.isascii() and port.isdigit() and int(port) <= MAX_PORT):
            self.fail(f"{value!r} is no [HOST:]PORT.", param, ctx)
        return host or None, int(port)


@contextlib.contextmanager
def watchers(
    options: Watched, read: Callable[[Snapshot], Reading | None] | None = None
) -> Iterator[tuple[Observer, ...]]:
    """Open what is to watch a run, and close it in the end.

    Args:
        options: what was asked for.
        read: tells a dashboard how far the run is; None: it has to see for itself.

    Raises:
        UsageError: a file or a port cannot be had.
    """
    _check_paths(options)
    with contextlib.ExitStack() as stack:
        observers: list[Observer] = []
        if options.metrics_port is not None:
            from mpengine.monitor.prometheus import LOOPBACK, PrometheusExporter

            host, port = options.metrics_port
            try:
                observers.append(stack.enter_context(PrometheusExporter(port, host or LOOPBACK)))
            except EngineError as error:
                raise click.UsageError(str(error)) from error
        if options.trace is not None:
            from mpengine.monitor.tracing import TraceFile

            observers.append(_opened(TraceFile, options.trace))
        if options.report is not None:
            from mpengine.monitor.reporting import ReportFile

            observers.append(_opened(ReportFile, options.report))
        if options.dashboard is not None:
            from mpengine.cli.dashboards import open_dashboard

            observers.append(stack.enter_context(open_dashboard(options.dashboard, read)))
        yield tuple(observers)


def _opened(make: Callable[[Path], Observer], path: Path) -> Observer:
    try:
        return make(path)
    except OSError as error:
        raise click.UsageError(f"cannot write {path}: {error.strerror}") from error


def _check_paths(options: Watched) -> None:
    """Refuse a file that would be written over by another part of the command."""
    roles = {"--input": options.input, "--output": options.output, "--trace": options.trace, "--report": options.report}
    seen: dict[Path, str] = {}
    for role, path in roles.items():
        if path == STANDARD and role in {"--trace", "--report"}:
            raise click.UsageError(f"{role} needs a file: standard output is for values")
        if path is None or path == STANDARD:
            continue
        first = seen.setdefault(path.resolve(), role)
        if first != role and (first, role) != ("--input", "--output"):  # these two may be one terminal
            raise click.UsageError(f"{path} cannot be {first} and {role} at once")
