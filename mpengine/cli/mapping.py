"""``map``: a function or a command for each line of the input, with the options that GNU parallel has for it.

    map PKG.MOD:FN [options] [::: arguments]
    map [options] -- COMMAND WORDS {} [::: arguments]
    map [options] --shell 'LINE {}' [::: arguments]

Here what was typed is checked and made one request; ``jobrun`` runs it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpengine.cli.inputs import Listed, Records, split_columns
from mpengine.cli.mapoptions import LIST, Share, check_known
from mpengine.cli.streams import STANDARD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mpengine.cli.inputs import Arguments
    from mpengine.cli.jobrun import Request
    from mpengine.programs.templates import Template


def perform_jobs(
    target: str | None, load: Callable[[str], Callable[..., Any]], options: dict[str, Any], ctx: click.Context
) -> int:
    """Run jobs as was asked for; return the exit status.

    Args:
        target: names the function; None where there is a command.
        load: returns the function that a target names.
        options: those of the command line; ``jobs`` has been taken.
        ctx: what was behind ``--`` and ``:::``.

    Raises:
        UsageError: what was asked for cannot be.
    """
    check_known(ctx)
    template = _template(target, options, ctx)
    has_work = template is not None or target is not None
    log, retries_failed, resumes = options["joblog"], options["retry_failed"], options["resume"]
    if log is None and (retries_failed or resumes):
        raise click.UsageError("--resume and --retry-failed need a job log: --joblog FILE")
    if not has_work and not (retries_failed and not resumes):
        raise click.UsageError("what is to run? PKG.MOD:FN, or a command behind --, or --shell LINE")
    if not has_work:
        return _run_again(options)
    function = None if target is None else _plain_function(load(target), target)
    source, split = _source(options, ctx)
    try:
        if options["dry_run"]:
            return _write_commands(template, target or "", source, split, options)
        from mpengine.cli.jobrun import run_jobs

        return run_jobs(_request(template, function, target or "", source, split, options))
    finally:
        source.release()


def _template(target: str | None, options: dict[str, Any], ctx: click.Context) -> Template | None:
    from mpengine.programs.templates import Template

    words, line = ctx.meta["words"], options["shell"]
    if sum(given is not None for given in (target, words, line)) > 1:
        raise click.UsageError("PKG.MOD:FN, a command behind --, and --shell LINE: only one of them can run")
    if line is not None:
        return Template((line,), is_line=True)
    if words is None:
        return None
    if not words:
        raise click.UsageError("no command stands behind --")
    if len(words) == 1 and re.search(r"[\s|&;<>$`\"']", words[0]):
        raise click.UsageError(
            f"{words[0]!r} is one word, and so the name of a program; a line for the shell is --shell LINE"
        )
    return Template(tuple(words))


def _source(
    options: dict[str, Any], ctx: click.Context
) -> tuple[Records | Listed, Callable[[Iterable[Any]], Iterable[Arguments]]]:
    """Open what the arguments come from, and return what makes arguments of it."""
    lists: list[tuple[str, list[str]]] = ctx.meta["lists"]
    separator = b"\0" if options["null"] else b"\n"
    if not lists:
        columns = options["colsep"]
        try:
            re.compile(columns or "")
        except re.error as error:
            raise click.UsageError(f"--colsep: {columns!r} is no regular expression: {error}") from None
        return _open(options["input"] or STANDARD, separator), lambda records: split_columns(records, columns)
    for option in ("input", "colsep"):
        if options[option] is not None:
            raise click.UsageError(f"--{option} and {lists[0][0]} cannot both be")
    found: list[list[str]] = []
    for mark, words in lists:
        if mark == LIST:
            found.append(words)
            continue
        for word in words:
            records = _open(Path(word), separator)
            try:
                found.append(list(records))
            finally:
                records.release()
    return Listed(found), iter


def _open(path: Path, separator: bytes) -> Records:
    import sys

    if path == STANDARD and sys.__stdin__ is None:
        raise click.UsageError("cannot read standard input: it is closed")
    try:
        return Records(None if path == STANDARD else path, separator)
    except OSError as error:
        name = "standard input" if path == STANDARD else str(path)
        raise click.UsageError(f"cannot read {name}: {error.strerror}") from error


def _plain_function(found: Callable[..., Any], target: str) -> Callable[..., Any]:
    """Return what can be called for each job with nothing but its argument.

    Raises:
        UsageError: it is a stage that takes more.
    """
    from mpengine.stages import Stage

    stage = found if isinstance(found, Stage) else Stage(found)
    if stage.is_class or stage.is_generator or stage.is_async or stage.takes_state or stage.batch:
        raise click.UsageError(f"{target} is not a function of one argument, which these options of map are for")
    return stage.fn


def _request(
    template: Template | None,
    function: Callable[..., Any] | None,
    target: str,
    source: Records | Listed,
    split: Callable[[Iterable[Any]], Iterable[Arguments]],
    options: dict[str, Any],
) -> Request:
    from mpengine.backends.cores import available_cores
    from mpengine.cli.free import free_bytes
    from mpengine.cli.jobrun import Request
    from mpengine.programs.switchboard import Rules

    limit, policy = options["timeout"], options["on_error"]
    share = limit.share if isinstance(limit, Share) else 0.0
    if share and template is None:
        raise click.UsageError("--timeout N% is for commands; for a function say seconds")
    if policy is not None and options["halt"] is not None:
        raise click.UsageError("--halt and --on-error are two ways to say when a run ends: one of them is enough")
    if policy == "emit" and template is not None:
        raise click.UsageError("--on-error emit is for functions: what a command writes goes to the output in any case")
    if policy is None:
        policy = "drop" if template is not None or options["halt"] is not None else "raise"
    return Request(
        template=template,
        function=function,
        name=target or _name_of(template),
        source=source,
        split=split,
        workers=options["workers"] or available_cores(),
        output=options["output"],
        joblog=options["joblog"],
        resumes=options["resume"],
        retries_failed=options["retry_failed"],
        halt=options["halt"],
        timeout_s=0.0 if share or limit is None else limit,
        rules=Rules(delay_s=options["delay"], memfree=options["memfree"], share=share, free_bytes=free_bytes),
        retries=options["retries"] - 1,
        in_order=not options["unordered"],
        is_tagged=options["tag"],
        emits=policy == "emit",
        raises=policy == "raise",
        backend=options["backend"],
        start_method=options["start_method"],
        quiet=options["quiet"],
        display=options["display"] or "",
        input=options["input"] if not isinstance(source, Listed) else None,
        trace=options["trace"],
        report=options["report"],
        metrics_port=options["metrics_port"],
        dashboard=options["dashboard"],
    )


def _name_of(template: Template | None) -> str:
    """Return what to call a command: its program."""
    words = [] if template is None else template.words[0].split()
    return Path(words[0]).name if words else "command"


def _run_again(options: dict[str, Any]) -> int:
    """Run what has failed by the job log alone: its lines are for the shell, whoever has written them."""
    from mpengine.cli.joblog import JobLog
    from mpengine.cli.jobrun import run_jobs
    from mpengine.programs.templates import Template

    with JobLog(options["joblog"], keeps=True) as log:
        past = log.past
    source = Listed([[past.commands.get(seq, "") for seq in range(1, max(past.commands, default=0) + 1)]])
    template = Template(("",), is_line=True, is_whole=True)
    return run_jobs(_request(template, None, "", source, iter, options))


def _write_commands(
    template: Template | None,
    name: str,
    source: Records | Listed,
    split: Callable[[Iterable[Any]], Iterable[Arguments]],
    options: dict[str, Any],
) -> int:
    from mpengine.cli.delivery import put
    from mpengine.cli.outputs import Output
    from mpengine.programs.jobs import call_text

    fill = None if template is None else template.filler()
    with Output(options["output"], source.fileno() if isinstance(source, Records) else None) as output:
        output.begin()
        for seq, args in enumerate(split(source), 1):
            line = call_text(name, args) if template is None or fill is None else template.text(fill(seq, 1, args))
            put(output.fileno(), line.encode("utf-8", "surrogateescape") + b"\n")
    return 0
