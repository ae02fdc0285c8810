"""Ending processes that nobody buries any more: their parent, the nursery, has died before them."""

import time
from collections.abc import Collection

from mpengine.processes.identity import ProcessIdentity, wait_gone
from mpengine.worker.burial import kill_group
from mpengine.worker.descent import kill_bearers


def kill_orphans(leaders: Collection[ProcessIdentity], cookie: str, timeout_s: float) -> None:
    """Kill the process groups of `leaders` and all that bears the registry's cookie; wait until they are gone.

    A group whose leader is alive is known by the leader's identity.  Of one whose leader has gone, the number may be a
    stranger's by now: what is left of it is known by the cookie.

    Args:
        leaders: The processes that each lead a group of their own.
        cookie: Of the registry that started them.
        timeout_s: How long to wait at most.
    """
    give_up_at = time.monotonic() + timeout_s
    alive = [leader for leader in leaders if leader.is_alive()]
    for leader in alive:
        kill_group(leader.pid)
    kill_bearers(cookie, give_up_at)
    wait_gone(alive, max(0.0, give_up_at - time.monotonic()))
