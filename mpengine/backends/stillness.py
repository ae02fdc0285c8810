"""Workers that somebody has stopped (SIGSTOP and the like), told from those at a long item.

V1. A worker that has given no sign of life since the last look, ``LOOK_S`` before, may be at a long item.  Its process
    then runs, or waits; one that was stopped does neither, which the kernel tells.
V2. One that is found stopped at two looks in a row is told to go on (SIGCONT): it loses nothing by it.  When the looks
    were far apart, this very process was stopped as well, and the second look counts as the first.
V3. One that has been told so ``MOST_STOPS`` times and is stopped again is killed; its death is told like any other.
V4. The fork server (or the guardian, under ``fork``) is looked at in the same way, and always told to go on: nobody
    else has any business with it.
V5. One under a debugger is no concern of ours: the kernel tells that apart.
"""

from __future__ import annotations

import signal

from mpengine.processes.identity import STOPPED, state_of
from mpengine.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mpengine.backends.fleet import Fleet

LOOK_S = 1.0
MOST_STOPS = 3


@dataclass(slots=True)
class _Seen:
    heartbeat_at: float = -1.0
    is_stopped: bool = False
    stops: int = 0


class Stillness:
    """Watches the processes of a fleet in one run.

    Args:
        warn: told in words what was done to whom.
        is_stopped: tells whether the process of a number is stopped; one that has gone is not.
    """

    def __init__(self, warn: Callable[[str], object], is_stopped: Callable[[int], bool] | None = None) -> None:
        """Look for the first time when the run has lasted for a while."""
        self._warn = warn
        self._is_stopped = is_stopped or is_stopped_now
        self._looked_at: float | None = None
        self._seen: dict[int, _Seen] = {}

    def wait_s(self, at: float) -> float:
        """Return the seconds until the next look."""
        if self._looked_at is None:
            self._looked_at = at
        return max(0.0, self._looked_at + LOOK_S - at)

    def look(self, fleet: Fleet, at: float) -> None:
        """Look at all processes if it is time to, and do what is to be done about them."""
        if self.wait_s(at) > 0.0 or self._looked_at is None:
            return
        is_fresh = at - self._looked_at < 2 * LOOK_S
        self._looked_at = at
        before, self._seen = self._seen, {}
        for link in fleet.links.values():
            pid = fleet.pid_of(link.worker_id)
            if pid is None:
                continue
            seen = self._seen[pid] = before.get(pid, _Seen())
            heartbeat_at = link.slot.heartbeat_at
            is_still, seen.heartbeat_at = heartbeat_at == seen.heartbeat_at, heartbeat_at
            if self._must_act(seen, pid, is_still=is_still, is_fresh=is_fresh):
                who = f"worker {link.worker_id} (process {pid})"
                if seen.stops >= MOST_STOPS:
                    self._warn(f"{who} was stopped again and again by a signal: it is replaced")
                    fleet.kill(link)
                else:
                    seen.stops += 1
                    self._warn(f"{who} was stopped by a signal: it is told to go on")
                    fleet.send_signal(link, signal.SIGCONT)
        for identity in fleet.helpers():
            seen = self._seen[identity.pid] = before.get(identity.pid, _Seen())
            if self._must_act(seen, identity.pid, is_still=True, is_fresh=is_fresh):
                self._warn(f"the fork server (process {identity.pid}) was stopped by a signal: it is told to go on")
                identity.send_signal(signal.SIGCONT)

    def _must_act(self, seen: _Seen, pid: int, *, is_still: bool, is_fresh: bool) -> bool:
        was_stopped, seen.is_stopped = seen.is_stopped, is_still and self._is_stopped(pid)
        if not (seen.is_stopped and was_stopped and is_fresh):
            return False
        seen.is_stopped = False
        return True


def is_stopped_now(pid: int) -> bool:
    """Whether a process is stopped, and not by a debugger."""
    return state_of(pid) == STOPPED
