"""The command line: ``python -m mpengine run pkg.mod:pipeline`` and ``map pkg.mod:fn``.

Values go to standard output, one JSON value a line; everything meant for a person to standard error.  The exit status:

    0    all good
    1    the run failed, an item did, or a value could not be written
    2    wrong usage, said in one line
    130  after SIGINT
    143  after SIGTERM
"""

from __future__ import annotations

import contextlib
import importlib
import operator
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

from mpengine.errors import EngineError, PipelineError, RemoteTraceback
from mpengine.results import Err, Ok, Report, bounded_text
from mpengine.sinks import JsonLinesSink, SinkClosedError, SinkError
from mpengine.sources import LineSource

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from mpengine.engine import Engine
    from mpengine.pipeline import Pipeline

FAILED = 1
MISUSED = 2

NAMED_FAILURES = 20
STANDARD = Path("-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for on the command line; ``input`` and ``output`` may be ``STANDARD``."""

    workers: int | None
    input: Path | None
    output: Path
    on_error: str
    backend: str
    start_method: str
    unordered: bool
    quiet: bool
    summary: str | None = None


class StoppedError(Exception):
    """A signal stopped the run, which has been cleaned up since."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.status = 128 + signum


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: the arguments; those of the process by default.

    Returns:
        The exit status.
    """
    try:
        return int(commands.main(args, prog_name="mpengine", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return MISUSED
    except click.ClickException as error:
        line, status = error.format_message(), error.exit_code
    except click.Abort:  # Ctrl-C before the run began, or after it
        line, status = "interrupted", 128 + signal.SIGINT
    except PipelineError as error:
        line, status = str(error), MISUSED
    except SinkClosedError:
        return FAILED  # whoever stopped reading knows it
    except EngineError as error:
        line, status = str(error), FAILED
    except StoppedError as error:
        line, status = str(error), error.status
    _say(line)
    return status


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mpengine")
def commands() -> None:
    """Staged, bounded, crash-proof process pipelines on one machine."""


_PATH = click.Path(dir_okay=False, allow_dash=True, path_type=Path)
_OPTIONS = (
    click.option("-w", "--workers", type=click.IntRange(min=1), help="Worker processes; default: one for each core."),
    click.option("--input", type=_PATH, metavar="FILE", help="Items are the lines of FILE; - is standard input."),
    click.option(
        "--output", type=_PATH, metavar="FILE", default=STANDARD, help="Write to FILE, not to standard output."
    ),
    click.option(
        "--on-error",
        type=click.Choice(["raise", "drop"], case_sensitive=False),
        default="raise",
        show_default=True,
        help="What a failed item means to a stage that does not say so itself.",
    ),
    click.option(
        "--backend",
        type=click.Choice(["process", "inline"]),
        default="process",
        show_default=True,
        help="Run the stages in worker processes, or all in this one.",
    ),
    click.option(
        "--start-method",
        type=click.Choice(["forkserver", "spawn", "fork"]),
        default="forkserver",
        show_default=True,
        help="How worker processes are started.",
    ),
    click.option("--unordered", is_flag=True, help="Write values as they come, not in the order of the items."),
    click.option("-q", "--quiet", is_flag=True, help="Show no table at the end."),
)


def _with_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give ``command`` the options that every way to start a run has."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@commands.command()
@click.argument("target", metavar="PKG.MOD:PIPELINE")
@_with_options
@click.option("--summary", metavar="PKG.MOD:FN", help="Show the (label, value) rows that FN returns for all values.")
def run(target: str, **options: Any) -> int:
    """Run a pipeline and write each value that comes out as a line of JSON."""
    from mpengine.pipeline import Pipeline

    found = _load(target)
    if not isinstance(found, Pipeline):
        raise click.UsageError(f"{target} is not a Pipeline but of type {type(found).__name__}")
    return _perform(found, Options(**options))


@commands.command(name="map")
@click.argument("target", metavar="PKG.MOD:FN")
@_with_options
def map_lines(target: str, **options: Any) -> int:
    """Call a function with each line of the input and write what it returns as a line of JSON."""
    found = _load(target)
    if not callable(found):
        raise click.UsageError(f"{target} is not callable but of type {type(found).__name__}")
    options["input"] = options["input"] or STANDARD
    return _perform([found], Options(**options))


def _load(target: str) -> Any:
    """Return what ``package.module:attribute`` names, seen from the current folder."""
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise click.UsageError(f"{target!r} names nothing: write it as package.module:attribute")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise click.UsageError(f"cannot import {module_name}: {_in_one_line(error)}") from error
    try:
        return operator.attrgetter(attribute)(module)
    except AttributeError:
        raise click.UsageError(f"module {module_name} has no {attribute!r}") from None


def _perform(stages: Pipeline | list[Any], options: Options) -> int:
    """Run ``stages``, tell how it went, and return the exit status."""
    summarise = _load(options.summary) if options.summary else None
    values: list[Any] = []
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(_open_source(options.input)) if options.input else None
        result = _stream(stages, source, _open_sink(options), values if summarise else None, options)
    status = _tell(result, quiet=options.quiet)
    if summarise and result.is_ok:
        return max(status, _summarise(summarise, values))
    return status


def _stream(
    stages: Pipeline | list[Any],
    source: LineSource | None,
    sink: JsonLinesSink,
    kept: list[Any] | None,
    options: Options,
) -> Ok | Err:
    """Run ``stages`` and write what comes out; keep it too, if there is a list for it."""
    from mpengine.engine import Engine

    stream = signals = None
    try:
        with (
            sink,
            Engine(
                options.workers,
                start_method=options.start_method,
                ordered=not options.unordered,
                on_error=options.on_error,
                backend=options.backend,
            ) as engine,
            _Signals(engine, source) as signals,
            engine.iter(stages, source) as stream,
        ):
            signals.run_has_started(in_this_thread=options.backend == "inline")
            for value in stream:
                signals.may_raise = True
                try:
                    sink.write(value)
                finally:
                    signals.may_raise = False
                if kept is not None:
                    kept.append(value)
    except KeyboardInterrupt:
        raise StoppedError(signal.SIGINT) from None
    except (SinkError, StoppedError):
        raise
    except (Exception, SystemExit):
        if stream is None or stream.result is None:
            raise  # not what ended the run: there was none
    if signals and signals.received:
        raise StoppedError(signals.received)
    assert stream is not None  # noqa: S101
    assert stream.result is not None  # noqa: S101 - it has ended
    return stream.result


class _Signals:
    """While entered, SIGINT and SIGTERM end the source and cancel the run, which is then cleaned up after as always.

    SIGINT raises ``KeyboardInterrupt`` too while the engine waits for workers: it is prepared for that, and hurries
    when there is a second one.  While it starts a run, or works in this thread, the first one is not raised into it.
    Where SIGINT was ignored it still is.

    Attributes:
        received: the first signal that came; None before.
        may_raise: whether only this module's own code is running, which may wait for a reader who has stopped reading;
            a signal raises ``StoppedError`` there.
    """

    def __init__(self, engine: Engine, source: LineSource | None) -> None:
        self._engine = engine
        self._source = source
        self._may_interrupt = False
        self._before: dict[int, Any] = {}
        self.received: int | None = None
        self.may_raise = False

    def __enter__(self) -> Self:
        self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._on_signal)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def run_has_started(self, *, in_this_thread: bool) -> None:
        """Cancel the run if a signal came before there was one to cancel; know from now on what SIGINT may do."""
        self._may_interrupt = not in_this_thread
        if self.received is not None:
            self._cancel(self.received)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        is_first, self.received = self.received is None, self.received or signum
        self._cancel(signum)
        if self.may_raise:
            raise StoppedError(signum)
        if signum == signal.SIGINT and (self._may_interrupt or not is_first):
            signal.default_int_handler(signum, frame)

    def _cancel(self, signum: int) -> None:
        self._engine.cancel(signal.Signals(signum).name)
        if self._source is not None:
            self._source.close()


def _open_source(path: Path) -> LineSource:
    try:
        return LineSource(None if path == STANDARD else path)
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {error.strerror}") from error


def _open_sink(options: Options) -> JsonLinesSink:
    path, source = options.output, options.input
    try:
        if path == STANDARD:
            # A descriptor of its own: Python has nothing to flush into a broken pipe when it ends.
            return JsonLinesSink(os.dup(1))
        if source and source != STANDARD and path.is_file() and path.samefile(source):
            raise click.UsageError(f"{path} cannot be input and output at once")
        return JsonLinesSink(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666))
    except OSError as error:
        raise click.UsageError(f"cannot write {path}: {error.strerror}") from error


def _tell(result: Ok | Err, *, quiet: bool) -> int:
    """Say what failed and show the run's figures; return the exit status."""
    failed = sum(stage.failed for stage in result.report.snapshot.stages)
    named = sorted(result.report.errors, key=operator.attrgetter("index"))[:NAMED_FAILURES]
    for item_error in named:
        _say(f"failed: {item_error}")
    if failed > len(named):
        _say(f"failed: {failed - len(named):,} more")
    if isinstance(result, Err):
        _say(f"the run failed: {result.reason}{_place(result.cause)}")
    if not quiet:
        _show_figures(result.report)
    return FAILED if failed or not result.is_ok else 0


def _place(error: BaseException | None) -> str:
    """Return where in the user's code an error from a worker was raised, as far as its traceback tells."""
    remote = error.__cause__ if error is not None else None
    frames = [line.strip() for line in remote.text.splitlines()] if isinstance(remote, RemoteTraceback) else []
    frames = [line for line in frames if line.startswith('File "') and ", in " in line]
    return f" ({frames[-1]})" if frames else ""


def _show_figures(report: Report) -> None:
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
    caption = (
        f"{snapshot.source_items:,} items in, {snapshot.delivered:,} values out, "
        f"{report.duration_s:,.2f} s, {len(snapshot.workers)} workers"
    )
    _show_table(("stage", "processed", "succeeded", "failed", "skipped", "busy"), rows, caption)


def _summarise(summarise: Callable[[list[Any]], Sequence[tuple[object, object]]], values: list[Any]) -> int:
    """Show the user's own rows for what came out; return the exit status."""
    try:
        rows = [(str(label), str(value)) for label, value in summarise(values)]
    except Exception as error:  # noqa: BLE001 - it is the user's function; the line says what it raised
        _say(f"the summary failed: {_in_one_line(error)}")
        return FAILED
    _show_table(("summary", ""), rows, None)
    return 0


def _show_table(heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str | None) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, caption=caption, caption_justify="left")
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # as text, so that brackets in a name are no markup
    Console(stderr=True).print(table)


def _in_one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {bounded_text(error)}".split())


def _say(line: str) -> None:
    """Say one line to the person at the terminal."""
    click.echo(f"mpengine: {' '.join(line.split())}", err=True)
