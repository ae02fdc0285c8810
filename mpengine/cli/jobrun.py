"""A run of jobs, from their arguments to an exit status.

    Jobs --> engine, unordered: each outcome comes when its job ends --> counted, learnt from, halted at --> Delivery

R1. The engine gives outcomes as they come, since to halt, to learn how long jobs take, and to start the next one, the
    end of a job counts, not its turn.  Order is made here, where what waits is kept.
R2. A job that has failed for whatever reason has an outcome: a command's own, or one that is made up for a call that
    raised and for a worker that died.
"""

from __future__ import annotations

import contextlib
import json
import signal
import tempfile
import time
from typing import TYPE_CHECKING, Any, cast

import click

from mpengine.cli.delivery import Delivery
from mpengine.cli.figures import NAMED_FAILURES
from mpengine.cli.gauge import Gauge
from mpengine.cli.halting import Halt
from mpengine.cli.inputs import Jobs, Records
from mpengine.cli.joblog import JobLog, words_of
from mpengine.cli.outputs import Output
from mpengine.cli.progress import Progress, choose_screen
from mpengine.cli.signals import Signals, StoppedError
from mpengine.cli.speech import say
from mpengine.cli.streams import prints_diverted
from mpengine.cli.watchers import watchers
from mpengine.errors import EngineError
from mpengine.programs.jobs import Orders, call_text, command_stage, function_stage
from mpengine.programs.outcomes import CommandFailedError, Outcome
from mpengine.programs.switchboard import Rules, Switchboard
from mpengine.records import dataclass
from mpengine.results import Err, ItemError
from mpengine.sinks import SinkError
from mpengine.sinks.text import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from mpengine.cli.gauge import Reading
    from mpengine.cli.halting import HaltRule
    from mpengine.cli.inputs import Arguments, Listed
    from mpengine.engine import Engine
    from mpengine.monitor.observing import Observer
    from mpengine.programs.templates import Template
    from mpengine.results import Ok
    from mpengine.stages import Stage

FAILED = 1
MAX_BYTES = 1 << 26
"""What outcomes under way may weigh together: their outputs are small, or files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for.

    Attributes:
        template: the command; None: a function is called.
        function: what is called; None: a command is run.
        name: how the function is called.
        source: where arguments come from.
        split: makes arguments of what the source holds.
        workers: how many jobs run at once.
        output: where outputs go.
        joblog: the job log; None: there is none.
        resumes: whether jobs of the log are left out.
        retries_failed: whether those of them that failed are run all the same; alone, no others are.
        halt: when to halt; None: never.
        timeout_s: how long a job may take; 0: any time.
        rules: when jobs may start.
        retries: how often one is tried again.
        in_order: whether outputs are written in the order of the jobs.
        is_tagged: whether each line begins with the job's arguments.
        emits: whether a failed call is written as a line of JSON.
        raises: whether the first that fails ends the run.
        backend: as for an engine.
        start_method: as for an engine.
        quiet: whether to show neither progress nor figures.
        display: ``bar``, ``eta``, or empty for what is shown anyway.
        input: what is read, where that is a file.
        trace: as for any run, and so are the three below.
        report: see there.
        metrics_port: see there.
        dashboard: see there.
    """

    template: Template | None
    function: Callable[..., Any] | None
    name: str
    source: Records | Listed
    split: Callable[[Iterable[Any]], Iterable[Arguments]]
    workers: int
    output: Path
    joblog: Path | None
    resumes: bool
    retries_failed: bool
    halt: HaltRule | None
    timeout_s: float
    rules: Rules
    retries: int
    in_order: bool
    is_tagged: bool
    emits: bool
    raises: bool
    backend: str
    start_method: str
    quiet: bool
    display: str
    input: Path | None = None
    trace: Path | None = None
    report: Path | None = None
    metrics_port: tuple[str | None, int] | None = None
    dashboard: str | None = None


def run_jobs(request: Request) -> int:
    """Run all jobs, write what they have written, and tell how it went.

    Returns:
        The exit status.

    Raises:
        UsageError: the output or the log cannot be used.
        StoppedError: a signal ended the run.
        SinkError: an output or a line of the log could not be written.
        EngineError: there was no run.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(request.source.release)
        log = None
        keeps = request.resumes or request.retries_failed
        if request.joblog is not None:
            log = stack.enter_context(JobLog(request.joblog, keeps=keeps))
        output = stack.enter_context(_open_output(request, log))
        observers = stack.enter_context(watchers(request))
        stack.enter_context(prints_diverted())
        course = _Course(request, output, log)
        switchboard = stack.enter_context(Switchboard(request.rules, say))
        return course.run(switchboard, observers)


def _open_output(request: Request, log: JobLog | None) -> Output:
    """Open the output, and see whether the log is of the same jobs.

    Raises:
        UsageError: it cannot be used.
    """
    output = Output(request.output, request.source.fileno() if isinstance(request.source, Records) else None)
    problem = None
    if log is not None and output.is_same(log.fileno()):
        problem = f"{request.joblog} cannot be the output and its log at once"
    elif log is not None and output.is_regular and not output.is_standard:
        held, ought = output.size_bytes, log.past.written_bytes
        if held < ought:
            problem = (
                f"{request.output} holds {held:,} bytes, and by {request.joblog} it ought to hold {ought:,}: "
                "it is not the output of those jobs"
            )
    if problem is not None:
        output.close()
        raise click.UsageError(problem)
    return output


class _Course:
    """One run.

    Args:
        request: see ``Request``.
        output: where outputs go.
        log: the job log.
    """

    def __init__(self, request: Request, output: Output, log: JobLog | None) -> None:
        self._request = request
        self._output = output
        self._log = log
        fill = None if request.template is None else request.template.filler()
        self._fill = fill
        total = request.source.count()
        arguments = request.split(request.source)
        if total is None and request.halt is not None and request.halt.is_share:
            arguments = list(arguments)  # a share of all jobs is asked for, so all have to be known
            total = len(arguments)
        self._total = self._wanted(total)
        self._jobs = Jobs(arguments, request.source.close, self._is_wanted)
        self._halt = Halt(request.halt, self._total)
        self._reason = ""

    def _wanted(self, total: int | None) -> int | None:
        """Return how many of ``total`` jobs are to run, as far as the log tells."""
        past = None if self._log is None else self._log.past
        if past is None or not past.commands:
            return total
        if not self._request.resumes:
            return len(past.failed)
        done = len(past.commands) - (len(past.failed) if self._request.retries_failed else 0)
        return None if total is None else max(0, total - done)

    def _is_wanted(self, seq: int, args: Arguments) -> bool:
        request = self._request
        if self._log is None or not (request.resumes or request.retries_failed):
            return True
        known = self._log.past.commands.get(seq)
        if known is None:
            return request.resumes
        self._check_same(seq, args, known)
        return request.retries_failed and seq in self._log.past.failed

    def _check_same(self, seq: int, args: Arguments, known: str) -> None:
        template = self._request.template
        if template is not None and any("{%}" in word for word in template.words):
            return  # which slot ran it is in the command, and is another one each time
        command = self._command_of(seq, args)
        if command != known and words_of(command) != words_of(known):
            log = self._request.joblog
            msg = f"job {seq} of {log} was {known!r}, and would be {command!r} now: the input has changed"
            raise EngineError(msg)

    def _command_of(self, seq: int, args: Arguments) -> str:
        template = self._request.template
        if template is None or self._fill is None:
            return call_text(self._request.name, args)
        return template.text(self._fill(seq, 1, args))

    # ------------------------------------------------------------------ the run

    def run(self, switchboard: Switchboard, observers: Sequence[Observer] = ()) -> int:
        """Run it; see ``run_jobs``."""
        from mpengine.engine import Engine

        request = self._request
        delivery = Delivery(
            self._output.fileno(),
            self._jobs,
            switchboard.take_file,
            log=self._log,
            in_order=request.in_order,
            is_tagged=request.is_tagged,
            command_of=self._command_of,
        )
        stream = signals = None
        try:
            with (
                Engine(
                    request.workers,
                    start_method=request.start_method,
                    ordered=False,
                    on_error="emit",
                    backend=request.backend,
                    max_bytes=MAX_BYTES,
                    observers=observers,
                ) as engine,
                Signals(engine, cast("Any", self._jobs)) as signals,
                Progress(self._screen(), self._reader(engine)),
                engine.iter([self._stage(switchboard)], self._jobs) as stream,
            ):
                signals.run_has_started(in_this_thread=request.backend == "inline")
                # What the log does not know of is taken off (rule B1 of ``joblog``).
                self._output.begin(0 if self._log is None else self._log.past.written_bytes)
                if self._log is not None:
                    self._log.begin()
                for value in stream:
                    signals.may_raise = True
                    try:
                        self._take(value, engine, switchboard, delivery)
                    finally:
                        signals.may_raise = False
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
        if self._halt.is_reached or stream.result.is_ok:
            delivery.flush()
        return self._tell(stream.result)

    def _stage(self, switchboard: Switchboard) -> Stage:
        request = self._request
        orders = Orders(
            address=switchboard.address,
            folder=tempfile.gettempdir(),
            template=request.template,
            timeout_s=request.timeout_s,
            asks=request.rules.ask_first,
            names=self._log is not None and request.template is not None,
        )
        if request.template is not None:
            return command_stage(orders, name=request.name, retries=request.retries)
        assert request.function is not None  # noqa: S101 - one of the two
        timeout = request.timeout_s or None
        return function_stage(request.function, request.name, orders, retries=request.retries, timeout=timeout)

    def _take(self, value: Any, engine: Engine, switchboard: Switchboard, delivery: Delivery) -> None:
        """Take in an outcome, or the error of a job."""
        outcome, trouble = self._outcome_of(value) if isinstance(value, ItemError) else (value, "")
        if outcome.is_well:
            switchboard.learn(outcome.runtime_s)
        elif trouble and self._halt.failed < NAMED_FAILURES:
            say(f"failed: {trouble}")
        is_time = self._halt.take(is_well=outcome.is_well)
        if not outcome.is_well and self._request.raises and not self._reason:
            self._reason = trouble
            engine.cancel(trouble)
            self._jobs.close()
        elif is_time:
            self._stop(engine, switchboard)
        delivery.take(outcome)

    def _outcome_of(self, error: ItemError) -> tuple[Outcome, str]:
        """Return the outcome of a job that has failed, and what is to be said of it (R2)."""
        if isinstance(error.error, CommandFailedError):
            outcome = error.error.outcome
            return outcome, f"job {outcome.seq}: {outcome.told()}"
        seq = self._jobs.seq_of(error.index)
        line = b""
        if self._request.emits:
            line = json.dumps(plain(error)).encode("ascii") + b"\n"
        text = " ".join(str(error.error).split())
        return (
            Outcome(seq, time.time(), 0.0, exitval=1, out=line),
            f"{self._request.name}: job {seq}: {type(error.error).__name__}: {text}",
        )

    def _stop(self, engine: Engine, switchboard: Switchboard) -> None:
        rule = self._request.halt
        assert rule is not None  # noqa: S101 - who else would want to halt?
        amount = f"{rule.number:.3%}".rstrip("0%").rstrip(".") + "%" if rule.is_share else f"{rule.number:g}"
        when = "now" if rule.at_once else "soon"
        self._reason = f"--halt {when},{rule.counts}={amount}: reached after {_jobs(self._halt.done)}"
        switchboard.stop()
        if rule.at_once:
            engine.cancel(self._reason)
        self._jobs.close()

    def _tell(self, result: Ok | Err) -> int:
        is_meant = self._halt.is_reached or (bool(self._reason) and self._request.raises)
        hidden = self._halt.failed - NAMED_FAILURES
        if hidden > 0:
            say(f"failed: {hidden:,} more")
        if self._halt.is_reached:
            say(self._reason)
        elif isinstance(result, Err):
            say(f"the run failed: {result.reason}")
        if not self._request.quiet:
            halt = self._halt
            say(f"{_jobs(halt.done)}, {halt.failed:,} failed, {result.report.duration_s:,.2f} s")
        if isinstance(result, Err) and not is_meant:
            return FAILED
        return FAILED if self._reason and self._request.raises else self._halt.status

    # ------------------------------------------------------------------ what is shown

    def _screen(self) -> Any:
        from mpengine.cli.bars import choose_line

        if self._request.display:
            return choose_line(is_bar=self._request.display == "bar")
        return None if self._request.quiet else choose_screen(self._output.fileno())

    def _reader(self, engine: Engine) -> Callable[[], Reading | None]:
        gauge = Gauge(total=self._total)

        def read() -> Reading | None:
            snapshot = engine.snapshot()
            return gauge.read(snapshot) if snapshot.stages else None

        return read


def _jobs(number: int) -> str:
    return f"{number:,} job" if number == 1 else f"{number:,} jobs"
