"""A run, from its input to its exit status."""

from __future__ import annotations

import contextlib
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from mpengine.cli.figures import summarise, tell
from mpengine.cli.gauge import Gauge
from mpengine.cli.journals import open_journal
from mpengine.cli.progress import Progress, choose_screen
from mpengine.cli.signals import Signals, StoppedError
from mpengine.cli.speech import in_one_line
from mpengine.cli.streams import open_sink, open_source, prints_diverted
from mpengine.cli.watchers import watchers
from mpengine.errors import EngineError, JournalError
from mpengine.sinks.base import SinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mpengine.cli.gauge import Reading
    from mpengine.metrics import Snapshot
    from mpengine.monitor.observing import Observer
    from mpengine.pipeline import Pipeline
    from mpengine.reading import Reader
    from mpengine.results import Err, Ok
    from mpengine.sinks.base import Sink

FAILED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for on the command line; ``input`` and ``output`` may be ``STANDARD``."""

    workers: int | None
    input: Path | None
    output: Path
    input_format: str | None
    output_format: str | None
    dead_letter: Path | None
    on_error: str
    backend: str
    start_method: str
    unordered: bool
    quiet: bool
    journal: Path | None = None
    resume: bool = False
    retry_failed: bool = False
    force: bool = False
    key: Callable[[Any], Any] | None = None
    trace: Path | None = None
    report: Path | None = None
    metrics_port: tuple[str | None, int] | None = None
    keep_output: int = 0
    dashboard: str | None = None


def perform(pipeline: Pipeline, options: Options, summary: Callable[[list[Any]], Any] | None = None) -> int:
    """Run ``pipeline``, write what comes out, and tell how it went.

    Args:
        pipeline: what to run.
        options: see ``Options``.
        summary: gets all values in the end, which are kept for it.

    Returns:
        The exit status.

    Raises:
        UsageError: the input or the output cannot be used.
        StoppedError: a signal ended the run.
        SinkError: a value could not be written.
        EngineError: there was no run.
    """
    values: list[Any] = []
    if options.dead_letter is not None:
        from mpengine.deadletters import DeadLetter
        from mpengine.pipeline import with_dead_letters

        pipeline = with_dead_letters(pipeline, DeadLetter(options.dead_letter))
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open_source(options.input, options.input_format)) if options.input else None
        sink = open_sink(options.output, source, options.output_format)
        with contextlib.ExitStack() as on_error:
            on_error.enter_context(sink)
            observers = stack.enter_context(watchers(options, _reader(pipeline, source)))
            on_error.pop_all()
        stack.enter_context(prints_diverted())
        result = _stream(pipeline, source, sink, values if summary else None, options, observers)
        is_well = tell(result, quiet=options.quiet)
        if summary and result.is_ok:
            is_well = summarise(summary, values) and is_well
    return 0 if is_well else FAILED


def _stream(
    pipeline: Pipeline,
    source: Reader | None,
    sink: Sink,
    kept: list[Any] | None,
    options: Options,
    observers: Sequence[Observer] = (),
) -> Ok | Err:
    """Run ``pipeline`` and write what comes out; keep it too, if there is a list for it."""
    from mpengine.engine import Engine

    screen = None if options.quiet else choose_screen(sink.fileno())
    read = _reader(pipeline, source)
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
                observers=observers,
                keep_output=options.keep_output,
            ) as engine,
            Signals(engine, source) as signals,
            Progress(screen, lambda: read(engine.snapshot())),  # until the last worker has stopped
            engine.iter(pipeline, source, journal=open_journal(options, sink)) as stream,
        ):
            signals.run_has_started(in_this_thread=options.backend == "inline")
            sink.begin()
            for value in stream:
                signals.may_raise = True
                try:
                    _write(sink, value)
                finally:
                    signals.may_raise = False
                if kept is not None:
                    kept.append(value)
    except KeyboardInterrupt:
        raise StoppedError(signal.SIGINT) from None
    except (SinkError, StoppedError):
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the result tells of it, or it is raised again
        _raise_unless_told_by(None if stream is None else stream.result, error, sink)
    if signals and signals.received:
        raise StoppedError(signals.received)
    assert stream is not None  # noqa: S101
    assert stream.result is not None  # noqa: S101 - it has ended
    return stream.result


def _write(sink: Sink, value: Any) -> None:
    """Write a value; whatever goes wrong there is the sink's, and is not to be taken for what ended the run."""
    try:
        sink.write(value)
    except SinkError:
        raise
    except Exception as error:
        raise _unwritten(sink, error) from error


def _raise_unless_told_by(result: Ok | Err | None, error: BaseException, sink: Sink) -> None:
    """Raise what is not what ended the run, since ``result`` does not tell of it."""
    if result is None:  # there was no run
        if isinstance(error, JournalError):
            raise click.UsageError(str(error)) from error
        raise error
    if result.is_ok and isinstance(error, Exception):  # it came when the output was ended
        raise error if isinstance(error, EngineError) else _unwritten(sink, error)


def _unwritten(sink: Sink, error: Exception) -> SinkError:
    return SinkError(f"cannot write {sink.label}: {in_one_line(error)}")


def _reader(pipeline: Pipeline, source: Reader | None) -> Callable[[Snapshot], Reading | None]:
    """Return a function that reads how far the run is, for one who looks at it again and again."""
    from mpengine.coordinator.opening import length_of
    from mpengine.stages import Stage

    gauge = Gauge(
        total=length_of(pipeline.source) if source is None else None,
        fans_out=any(isinstance(stage, Stage) and stage.is_generator for stage in pipeline.stages),
    )

    def read(snapshot: Snapshot) -> Reading | None:
        return gauge.read(snapshot, None if source is None else source.given_share) if snapshot.stages else None

    return read
