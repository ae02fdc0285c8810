"""The options of ``map``: those of GNU parallel, and what stands behind ``--`` and ``:::``.

What stands there is for the command and for the jobs: no option is looked for in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpengine.cli import amounts
from mpengine.cli.halting import parse_halt
from mpengine.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

COMMAND, LIST, FILES = "--", ":::", "::::"


class MapCommand(click.Command):
    """A command that leaves what stands behind ``--`` and ``:::`` as it is."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take that off first."""
        ends = [args.index(mark) for mark in (COMMAND, LIST, FILES) if mark in args]
        end = min(ends, default=len(args))
        own, rest = args[:end], args[end:]
        words: list[str] | None = None
        if rest[:1] == [COMMAND]:
            ends = [rest.index(mark) for mark in (LIST, FILES) if mark in rest]
            end = min(ends, default=len(rest))
            words, rest = rest[1:end], rest[end:]
        ctx.meta["words"], ctx.meta["lists"] = words, _lists(rest)
        return super().parse_args(ctx, own)


def _lists(words: list[str]) -> list[tuple[str, list[str]]]:
    """Return what stands behind each ``:::`` and ``::::``."""
    found: list[tuple[str, list[str]]] = []
    for word in words:
        if word in {LIST, FILES}:
            found.append((word, []))
        else:
            found[-1][1].append(word)
    return found


class Amount(click.ParamType):  # type: ignore[type-arg]  # generic by its stubs alone
    """What one of the functions in ``amounts`` reads.

    Args:
        name: shown in the help.
        read: makes a value of a text, or raises a ``ValueError``.
    """

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        """Keep both."""
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read it."""
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@dataclass(frozen=True)
class Share:
    """A share of a median."""

    share: float


def _limit(text: str) -> float | Share:
    share = amounts.share(text)
    if share is not None:
        return Share(share)
    value = amounts.seconds(text)
    if not value:
        msg = "a job needs more than 0 seconds"
        raise ValueError(msg)
    return value


_FILE = click.Path(dir_okay=False, readable=False, path_type=Path)
OPTIONS = (
    click.option("-j", "--jobs", metavar="N", help="Jobs at once: N, N% of the cores, +N or -N beside them."),
    click.option("--shell", metavar="LINE", help="Run LINE by /bin/sh for each job; arguments are quoted in it."),
    click.option("-0", "--null", is_flag=True, help="Items end with a zero byte, not with a line end."),
    click.option("--colsep", metavar="REGEX", help="Items are columns, with this between them: {1}, {2}, ..."),
    click.option("--tag", is_flag=True, help="Begin each line of the output with the job's arguments."),
    click.option("--dry-run", is_flag=True, help="Write the commands, and run none."),
    click.option("--joblog", type=_FILE, metavar="FILE", help="Write a line for each job that is done."),
    click.option("--resume", is_flag=True, help="Leave out what the job log holds, and add to it and to the output."),
    click.option("--retry-failed", is_flag=True, help="Run again what has failed by the job log; alone, nothing else."),
    click.option(
        "--halt", type=Amount("rule", parse_halt), metavar="RULE", help="never; or now|soon,fail|success|done=N[%]."
    ),
    click.option(
        "--timeout", type=Amount("time", _limit), metavar="TIME", help="End a job after so long; or N% of the median."
    ),
    click.option("--retries", type=click.IntRange(1), default=1, metavar="N", help="Try a job N times in all."),
    click.option(
        "--delay", type=Amount("time", amounts.seconds), default=0.0, metavar="TIME", help="Seconds between two starts."
    ),
    click.option(
        "--memfree",
        type=Amount("size", amounts.size),
        default=0,
        metavar="SIZE",
        help="Start nothing while less is free.",
    ),
    click.option("--bar", "display", flag_value="bar", default="", help="Show one line with a bar."),
    click.option(
        "--eta", "display", flag_value="eta", help="Show one line: how much is left, and how long it will take."
    ),
)
_OF_JOBS = (
    "shell", "null", "colsep", "tag", "dry_run", "joblog", "resume", "retry_failed",
    "halt", "timeout", "retries", "delay", "memfree", "display",
)  # fmt: skip
"""Those of them that take a run of jobs, also where a function is called."""


_OF_BOTH = {
    "target", "jobs", "workers", "input", "output", "on_error", "backend", "start_method", "unordered", "quiet",
    "trace", "report", "metrics_port", "dashboard",
}  # fmt: skip
"""Those of any run that a run of jobs has too."""


def with_map_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give ``command`` the options that are for ``map``, but for those that it has from elsewhere already."""
    for option in reversed(OPTIONS):
        before = [*_parameters(command)]
        command = option(command)
        added = _parameters(command)[-1]
        if any(added.name == other.name and added.opts == other.opts for other in before):
            _parameters(command).pop()
    return command


def _parameters(command: Callable[..., int]) -> list[click.Parameter]:
    """Return what a function has been given by click so far."""
    found: list[click.Parameter] = vars(command).setdefault("__click_params__", [])
    return found


def take_jobs(options: dict[str, Any], most: int) -> None:
    """Make ``--jobs`` and ``--workers`` one, in place.

    Raises:
        UsageError: there are both, or there is no such number.
    """
    from mpengine.backends.cores import available_cores

    text = options.pop("jobs")
    if text is None:
        return
    if options["workers"] is not None:
        raise click.UsageError("--jobs and --workers are the same: one of them is enough")
    try:
        options["workers"] = amounts.jobs(text, available_cores(), most)
    except ValueError as error:
        raise click.UsageError(f"--jobs: {error}") from None


def is_plain(ctx: click.Context) -> bool:
    """Whether nothing was asked for that takes a run of jobs: no command, no list, none of the options above."""
    names = set(_OF_JOBS)
    if ctx.params.get("journal") is not None:
        names -= {"resume", "retry_failed"}  # which go on from the journal then
    return not any(_is_asked(ctx, name) for name in names) and ctx.meta["words"] is None and not ctx.meta["lists"]


def _is_asked(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


def check_known(ctx: click.Context) -> None:
    """Refuse what a run of jobs would pass over in silence.

    Raises:
        UsageError: something was asked for that only a run of a pipeline has.
    """
    known = _OF_BOTH | set(_OF_JOBS)
    for parameter in ctx.command.params:
        if parameter.name not in known and _is_asked(ctx, str(parameter.name)):
            shown = parameter.opts[-1]
            hint = "; its log is --joblog FILE" if parameter.name == "journal" else ""
            raise click.UsageError(f"{shown} is not for commands, nor for functions with options of jobs{hint}")
