"""``cancel``: ask a run to end, and tell what came of it.

A run that does not answer is left as it was: the wish is taken back, so that nothing happens later that nobody expects.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mpengine.cli.rundown import state_of_run
from mpengine.cli.speech import say
from mpengine.cli.waiting import wait_for_end
from mpengine.runs import GoneError, Watch, attach

if TYPE_CHECKING:
    from mpengine.runs import KnownRun

FAILED = 1
CONFIRM_S = 5.0


def cancel_run(run: KnownRun, reason: str, *, at_once: bool, wait: bool) -> int:
    """Ask ``run`` to end.

    Args:
        run: which.
        reason: why.
        at_once: do not give workers their time to leave.
        wait: wait until it has ended.

    Returns:
        The exit status: 0 when it is on its way to its end, or there.
    """
    if run.is_alive is False:
        say(f"run {run.run_id} is dead: its process {run.entry.pid} is gone")
        return FAILED
    try:
        with attach(run) as watch:
            if not _is_heard(watch, reason, at_once=at_once):
                return FAILED
            return wait_for_end(watch) if wait else 0
    except (GoneError, ValueError) as error:
        say(str(error))
        return FAILED


def _is_heard(watch: Watch, reason: str, *, at_once: bool) -> bool:
    """Ask, and wait until the run says by itself that it is ending."""
    run = watch.run
    try:
        if not watch.cancel(reason, at_once=at_once):
            say(f"run {run.run_id} does not answer ({state_of_run(run)}); it was not cancelled")
            return False
        deadline_at, seen = time.monotonic() + CONFIRM_S, 0
        while time.monotonic() < deadline_at:
            view = watch.look(seen, 0.5)
            seen = view.number
            if view.snapshot.state != "running":
                say(f"run {run.run_id} is ending: {view.snapshot.reason or 'it was at its end'}")
                return True
    except GoneError:
        noted = watch.noted()
        if not noted.has_ended:
            raise
        say(f"run {run.run_id} has ended: {noted.reason or 'it was at its end'}")
        return True
    say(f"run {run.run_id} was told to end, and goes on for now: it hangs, or is very busy")
    return True
