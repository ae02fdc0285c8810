"""Ending processes that nobody buries any more: their parent, the nursery, has died before them."""

from collections.abc import Collection

from mpengine.processes.identity import ProcessIdentity, wait_gone
from mpengine.worker.descent import bearers_of, kill
from mpengine.worker.nursery import kill_group


def kill_orphans(leaders: Collection[ProcessIdentity], cookie: str, timeout_s: float) -> None:
    """Kill the process groups of `leaders` and all that bears the registry's cookie; wait until they are gone.

    A group whose leader is alive is known by the leader's identity.  Of one whose leader has gone, the number may be a
    stranger's by now: what is left of it is known by the cookie.

    Args:
        leaders: The processes that each lead a group of their own.
        cookie: Of the registry that started them.
        timeout_s: How long to wait at most.
    """
    alive = [leader for leader in leaders if leader.is_alive()]
    for leader in alive:
        kill_group(leader.pid)
    strays = [ProcessIdentity.of(pid) for pid in bearers_of(cookie)]
    for stray in strays:
        kill(stray.pid)
    wait_gone([*alive, *strays], timeout_s)
