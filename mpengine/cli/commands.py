"""What can be typed, and what each ending means as an exit status."""

from __future__ import annotations

import contextlib
import importlib
import operator
import signal
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpengine.backends.standard import hold_standard_files
from mpengine.cli import watching
from mpengine.cli.dashboards import PlaceType
from mpengine.cli.formats import INPUTS, OUTPUTS
from mpengine.cli.mapoptions import MapCommand, is_plain, take_jobs, with_map_options
from mpengine.cli.mapping import perform_jobs
from mpengine.cli.running import FAILED, Options, perform
from mpengine.cli.signals import StoppedError
from mpengine.cli.speech import give_up_broken_streams, in_one_line, say
from mpengine.cli.streams import STANDARD, open_sink, prints_diverted, write_tables
from mpengine.cli.watchers import AddressType
from mpengine.errors import EngineError, PipelineError
from mpengine.sinks.base import SinkClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MISUSED = 2
MAX_WORKERS = 4096
"""More is a slip of the finger, and would fill the machine before it fails."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: the arguments; those of the process by default.

    Returns:
        The exit status.
    """
    hold_standard_files()
    try:
        return _run_command(args)
    finally:
        give_up_broken_streams()


def _run_command(args: Sequence[str] | None) -> int:
    try:
        return int(commands.main(args, prog_name="mpengine", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        with contextlib.suppress(OSError):  # as for every other line: whether it can be read changes nothing
            error.show()
        return MISUSED
    except click.ClickException as error:
        line, status = error.format_message(), error.exit_code
    except PipelineError as error:
        line, status = str(error), MISUSED
    except SinkClosedError:
        return FAILED  # whoever stopped reading knows it
    except EngineError as error:
        line, status = str(error), FAILED
    except StoppedError as error:  # in a run, or before or after it
        line, status = str(error), error.status
    except OSError as error:  # the system has no room for one process more, or the help cannot be written
        line, status = in_one_line(error), FAILED
    except SystemExit:  # how click ends when nobody reads its help
        return FAILED
    say(line)
    return status


class _Commands(click.Group):
    """A group that leaves Ctrl-C to ``main``: click would begin a line of its own for it."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise StoppedError(signal.SIGINT) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mpengine")
def commands() -> None:
    """Staged, bounded, crash-proof process pipelines on one machine."""


class _PolicyChoice(click.Choice[str]):
    """The error policies that need nothing but their name."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and value.lower() == "side":
            self.fail("'side' needs an error_handler, which a stage names in the code.", param, ctx)
        return super().convert(value, param, ctx)


# Whether a file can be read or written is for opening it to tell.
_PATH = click.Path(readable=False, allow_dash=True, path_type=Path)
_OPTIONS = (
    click.option(
        "-w",
        "--workers",
        type=click.IntRange(1, MAX_WORKERS),
        metavar="N",
        help="Worker processes; default: one for each core.",
    ),
    click.option("--input", type=_PATH, metavar="FILE", help="Take the items from FILE; - is standard input."),
    click.option(
        "--input-format",
        type=click.Choice(INPUTS),
        help="What is in it; default: by its name for run, lines for map.",
    ),
    click.option(
        "--output", type=_PATH, metavar="FILE", default=STANDARD, help="Write to FILE, not to standard output."
    ),
    click.option(
        "--output-format", type=click.Choice(OUTPUTS), help="What is written; default: by its name, or jsonl."
    ),
    click.option(
        "--dead-letter",
        type=_PATH,
        metavar="FILE",
        help="Drop failed items of stages that do not say what they mean, and append them to FILE.",
    ),
    click.option(
        "--on-error",
        type=_PolicyChoice(["raise", "drop", "emit"], case_sensitive=False),
        default="raise",
        show_default=True,
        help="What a failed item means to a stage that does not say so itself.",
    ),
    click.option(
        "--backend",
        type=click.Choice(["process", "inline", "ray"]),
        default="process",
        show_default=True,
        help="Run the stages in worker processes, all in this one, or in actors of a Ray cluster.",
    ),
    click.option(
        "--start-method",
        type=click.Choice(["forkserver", "spawn", "fork"]),
        default="forkserver",
        show_default=True,
        help="How worker processes are started.",
    ),
    click.option("--unordered", is_flag=True, help="Write values as they come, not in the order of the items."),
    click.option(
        "--journal", type=_PATH, metavar="FILE", help="Keep in FILE what is done, so that --resume can go on with it."
    ),
    click.option(
        "--resume",
        is_flag=True,
        help="Pass over what is done or has failed, by the journal or, of map, by its job log.",
    ),
    click.option("--retry-failed", is_flag=True, help="Resume, and run again what has failed."),
    click.option("--force", is_flag=True, help="Resume, though the stages or the output are others than before."),
    click.option("--key", metavar="PKG.MOD:FN", help="What the journal calls an item; default: a hash of it."),
    click.option(
        "--keep-output",
        type=click.IntRange(0),
        metavar="BYTES",
        default=0,
        help="Keep so much of what an item prints for its error; items then run one by one.",
    ),
    click.option("--trace", type=_PATH, metavar="FILE", help="Write a trace of the run, which Perfetto opens."),
    click.option("--report", type=_PATH, metavar="FILE", help="Write a page about the run (HTML) when it is over."),
    click.option(
        "--metrics-port",
        type=AddressType(),
        metavar="[HOST:]PORT",
        help="Serve figures for Prometheus, at 127.0.0.1 by default, while the run goes on.",
    ),
    click.option(
        "--dashboard",
        type=PlaceType(),
        metavar="[HOST:PORT]",
        is_flag=False,
        flag_value="127.0.0.1:0",
        help="Show the run in a browser; without HOST:PORT to this machine alone.",
    ),
    click.option("-q", "--quiet", is_flag=True, help="Show neither progress nor the table at the end."),
)


def _with_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give ``command`` the options that every way to start a run has."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _options(options: dict[str, Any]) -> Options:
    """Return what was asked for."""
    if options["journal"] is None:
        for name in ("resume", "retry_failed", "force", "key"):
            if options[name]:
                raise click.UsageError(f"--{name.replace('_', '-')} needs a --journal")
    options["key"] = _load_function(options["key"]) if options["key"] else None
    return Options(**options)


@commands.command()
@click.argument("target", metavar="PKG.MOD:PIPELINE")
@_with_options
@click.option("--summary", metavar="PKG.MOD:FN", help="Show the (label, value) rows that FN returns for all values.")
def run(target: str, summary: str | None, **options: Any) -> int:
    """Run a pipeline and write each value that comes out as a line of JSON."""
    from mpengine.pipeline import Pipeline

    found = _load(target)
    if not isinstance(found, Pipeline):
        raise click.UsageError(f"{target} is not a Pipeline but of type {type(found).__name__}")
    if summary and (options["resume"] or options["retry_failed"]):
        raise click.UsageError("--summary is of all values, and a run that is resumed has only those that are new")
    return perform(found, _options(options), _load_function(summary) if summary else None)


@commands.command(name="map", cls=MapCommand)
@click.argument("target", metavar="[PKG.MOD:FN]", required=False)
@with_map_options
@_with_options
@click.pass_context
def map_lines(ctx: click.Context, /, target: str | None, **options: Any) -> int:
    """Call a function, or run a command, for each line of the input.

    What a function returns is written as a line of JSON.  A command stands behind "--": map -- gzip -9 {} ::: *.txt
    """
    from mpengine.pipeline import Pipeline

    take_jobs(options, MAX_WORKERS)
    if ctx.get_parameter_source("on_error") is click.core.ParameterSource.DEFAULT:
        options["on_error"] = None
    if target is None or not is_plain(ctx):
        return perform_jobs(target, _load_function, options, ctx)
    function = _load_function(target)
    own = {field.name for field in fields(Options)}
    options = {name: value for name, value in options.items() if name in own}
    options["input"] = options["input"] or STANDARD
    options["on_error"] = options["on_error"] or "raise"
    options["input_format"] = options["input_format"] or "lines"
    return perform(Pipeline((), [function]), _options(options))  # the lines take the place of its source


@commands.command()
@click.argument("path", metavar="JOURNAL", type=_PATH)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object instead of tables.")
def report(path: Path, *, as_json: bool) -> int:
    """Tell what a journal has: what is done, what has failed and of what, and what is left."""
    from mpengine.cli.journals import tables
    from mpengine.journal.reading import read

    facts = read(path)
    if as_json:
        with open_sink(STANDARD, None) as sink:
            sink.write(facts)
    else:
        write_tables(*tables(facts))
    return 0


@commands.command()
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object instead of tables.")
@click.option(
    "--path",
    type=click.Path(path_type=Path),
    metavar="P",
    help="Where a long job would keep its journal or output; default: here.",
)
def doctor(*, as_json: bool, path: Path | None) -> int:
    """Tell what this machine allows, start a worker by each start method, and say whether an engine can run here.

    For a job that runs for hours it says what to do before: a line for each thing that might end it.
    """
    from mpengine.cli.doctor import examine, tables

    facts = examine(path)
    if as_json:
        with open_sink(STANDARD, None) as sink:
            sink.begin()
            sink.write(facts)
    else:
        write_tables(*tables(facts))
    for problem in facts["problems"]:
        say(f"an engine cannot run here: {problem}")
    return 0 if facts["ok"] else FAILED


for _command in watching.COMMANDS:
    commands.add_command(_command)


def _load_function(target: str) -> Callable[..., Any]:
    found = _load(target)
    if not callable(found):
        raise click.UsageError(f"{target} is not callable but of type {type(found).__name__}")
    function: Callable[..., Any] = found
    return function


def _load(target: str) -> Any:
    """Return what ``package.module:attribute`` names, seen from the current folder."""
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise click.UsageError(f"{target!r} names nothing: write it as package.module:attribute")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        with prints_diverted():
            module = importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a module raises, SystemExit among it
        raise click.UsageError(f"cannot import {module_name}: {in_one_line(error)}") from error
    try:
        return operator.attrgetter(attribute)(module)
    except AttributeError:
        raise click.UsageError(f"module {module_name} has no {attribute!r}") from None
    except Exception as error:  # a module may have a __getattr__ of its own
        raise click.UsageError(f"cannot get {attribute!r} from {module_name}: {in_one_line(error)}") from error
