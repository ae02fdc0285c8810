"""What can be typed to look at a run of another terminal: ``ps``, ``top``, ``stack`` and ``cancel``.

None of them is anything that the run would notice, but ``cancel``, which is meant to be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mpengine.runs import KnownRun

FAILED = 1


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Write a JSON array instead of a table.")
@click.option("--clear", is_flag=True, help="First forget the runs whose coordinators were killed.")
def ps(*, as_json: bool, clear: bool) -> int:
    """List the runs of yours that go on on this machine, and those whose coordinators were killed."""
    from mpengine.cli.rundown import as_plain, runs_table
    from mpengine.cli.speech import say
    from mpengine.cli.streams import STANDARD, open_sink, write_tables
    from mpengine.runs import KEPT_S, clear_dead, known_runs

    cleared = clear_dead(0.0 if clear else KEPT_S)
    if clear:
        say(f"forgotten: {cleared}")
    found = known_runs()
    if as_json:
        with open_sink(STANDARD, None) as sink:
            sink.write([as_plain(run) for run in found])
    elif found:
        write_tables(runs_table(found))
    else:
        say("no run goes on that has lasted long enough to be listed")
    return 0


@click.command()
@click.argument("run", required=False, metavar="[RUN]")
@click.option("--once", is_flag=True, help="Show it once, as plain text; so it is where output is no terminal, too.")
@click.option("--json", "as_json", is_flag=True, help="Write the figures once, as a JSON object.")
def top(run: str | None, *, once: bool, as_json: bool) -> int:
    """Show a run while it goes on: its stages, its workers, and what holds it up.  Leave with q."""
    from mpengine.cli.top import watch

    return watch(_found(run), once=once, as_json=as_json)


@click.command()
@click.argument("run", required=False, metavar="[RUN]")
@click.option("--threads", is_flag=True, help="Of each worker all threads; not quite safe, see the documentation.")
@click.option("--full", is_flag=True, help="The engine's own frames, too.")
@click.option("--all", "with_parent", is_flag=True, help="The threads of the coordinator, too.")
def stack(run: str | None, *, threads: bool, full: bool, with_parent: bool) -> int:
    """Tell where every worker of a run is, as Python stacks.  They may be asleep, or deep in C code."""
    from mpengine.cli.stacking import tell_stacks

    return tell_stacks(_found(run), threads=threads, full=full, with_parent=with_parent)


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--reason", default="cancelled from another terminal", show_default=True, help="Why; the run tells it.")
@click.option("--at-once", is_flag=True, help="Do not give workers their time to leave.")
@click.option("--wait", is_flag=True, help="Wait until the run has ended.")
def cancel(run: str, *, reason: str, at_once: bool, wait: bool) -> int:
    """Have a run end in order, as Ctrl-C in its own terminal would."""
    from mpengine.cli.cancelling import cancel_run

    return cancel_run(_found(run), reason, at_once=at_once, wait=wait)


def _found(wanted: str | None) -> KnownRun:
    """Return the run that is meant.

    Raises:
        UsageError: nobody knows which; those that could be are shown.
    """
    from mpengine.cli.rundown import runs_table
    from mpengine.cli.speech import show
    from mpengine.runs import NoSuchRunError, find_run

    try:
        return find_run(wanted)
    except NoSuchRunError as error:
        if error.candidates:
            show(runs_table(error.candidates))
            raise click.UsageError(f"{error}; name one of these") from None
        raise click.UsageError(str(error)) from None


COMMANDS = (ps, top, stack, cancel)
