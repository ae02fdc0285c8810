"""Ending processes that nobody buries any more: their parent, the nursery, has died before them."""

import contextlib
import os
from collections.abc import Collection

import psutil

from mpengine.processes.identity import ProcessIdentity, wait_gone
from mpengine.processes.spawning import COOKIE_NAME
from mpengine.worker.nursery import kill_group


def kill_orphans(leaders: Collection[ProcessIdentity], cookie: str, timeout_s: float) -> None:
    """Kill the process groups that `leaders` lead or have led, and wait until they are gone.

    A group whose leader is alive is known by the leader's identity.  Of a group whose leader has gone, the number may
    be a stranger's by now: there, only those die whose environment carries the cookie.

    Args:
        leaders: The processes that each lead a group of their own.
        cookie: Of the registry that started them.
        timeout_s: How long to wait at most.
    """
    alive = [leader for leader in leaders if leader.is_alive()]
    for leader in alive:
        kill_group(leader.pid)
    strays = _bearers({leader.pid for leader in leaders if leader not in alive}, cookie)
    for stray in strays:
        with contextlib.suppress(psutil.Error):
            stray.kill()
    wait_gone([*alive, *(ProcessIdentity.of(stray.pid) for stray in strays)], timeout_s)


def _bearers(groups: Collection[int], cookie: str) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _bears(process, groups, cookie)] if groups else []


def _bears(process: psutil.Process, groups: Collection[int], cookie: str) -> bool:
    try:
        return os.getpgid(process.pid) in groups and process.environ().get(COOKIE_NAME) == cookie
    except (psutil.Error, OSError):
        return False
