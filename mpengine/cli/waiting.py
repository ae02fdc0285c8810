"""The end of a run of another terminal: waited for, and told."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

from mpengine.cli.speech import say
from mpengine.runs import GoneError

if TYPE_CHECKING:
    from mpengine.runs import Watch

LOOK_EVERY_S = 0.2
FAILED = 1


def ending_of(watch: Watch) -> tuple[str, int] | None:
    """Return how a run has ended, in words, with the exit status for that; None while it goes on."""
    is_alive = watch.is_alive()  # before the look: what is noted then, nobody will add to
    try:
        noted = watch.noted()
    except GoneError as error:
        return str(error), FAILED
    if noted.has_ended:
        return f"run {watch.run.run_id} has ended: {noted.reason or noted.state}", 0
    if not is_alive:
        return f"run {watch.run.run_id} is dead: its process {watch.run.entry.pid} was killed", FAILED
    return None


def wait_for_end(watch: Watch) -> int:
    """Wait until a run has ended, and say how; returns the exit status."""
    try:
        pidfd = os.pidfd_open(watch.run.entry.pid)
    except OSError:
        pidfd = -1
    try:
        poll = select.poll()
        if pidfd != -1:
            poll.register(pidfd, select.POLLIN)
        while (ending := ending_of(watch)) is None:
            poll.poll(LOOK_EVERY_S * 1000)
    finally:
        if pidfd != -1:
            os.close(pidfd)
    say(ending[0])
    return ending[1]
