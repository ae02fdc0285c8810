"""All that is watched of worker processes beside what they say: time, memory, and whether they have been stopped.

Each watch is a module of its own, with its rules; here they are asked together.
"""

from __future__ import annotations

import signal

from mpengine.backends.cgroups import memory_groups, oom_kills
from mpengine.backends.deadlines import Deadlines
from mpengine.backends.hearing import death_from
from mpengine.backends.memory import MemoryGuard
from mpengine.backends.pressure import MemoryPressure
from mpengine.backends.stillness import Stillness

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mpengine.backends.fleet import Fleet, Lost
    from mpengine.scheduler import events


class Watches:
    """The watches over a fleet in one run.

    Args:
        memory_limit: bytes of resident memory that a worker may have; None: any number.
        warn: told in words what the user ought to know.

    Attributes:
        deadlines: of calls with a timeout.
    """

    def __init__(self, memory_limit: int | None, warn: Callable[[str], object]) -> None:
        """Begin to watch."""
        self.deadlines = Deadlines()
        self._memory = MemoryGuard(memory_limit)
        self._warn = warn
        self._pressure: MemoryPressure | None = None  # until the loop is there: control groups take many looks
        self._stillness = Stillness(warn)
        self._oom_kills: int | None = None
        self._has_begun = False
        self._look_at = 0.0  # when the first of them has to, but for the deadlines

    def wait_s(self, at: float, timeout_s: float | None) -> float:
        """Return the seconds until the first of them has to look, or ``timeout_s`` if that is less."""
        wait_s = max(0.0, self._look_at - at)
        if timeout_s is not None and timeout_s < wait_s:
            wait_s = timeout_s
        due_s = self.deadlines.wait_s(at) if self.deadlines.has_any else None
        return wait_s if due_s is None else min(wait_s, due_s)

    def look(self, fleet: Fleet, at: float) -> list[events.Event]:
        """Have all of them look whose time it is, and return what is to be told.

        The loop comes here with every batch, and mostly nobody's time has come.
        """
        if self.deadlines.has_any:
            self.deadlines.enforce(fleet, at)
        if at < self._look_at:
            return []
        if self._pressure is None:
            if not self._has_begun:  # in a warm engine, workers are about to get their first batches
                self._has_begun = True
                return []
            self._pressure = MemoryPressure(memory_groups(), self._warn)
            self._has_oom_killed()
        self._stillness.look(fleet, at)
        told = [*self._memory.look(fleet, at), *self._pressure.look(at)]
        waits_s = (self._stillness.wait_s(at), self._memory.wait_s(at), self._pressure.wait_s(at))
        self._look_at = at + min(wait_s for wait_s in waits_s if wait_s is not None)
        return told

    def death_of(self, at: float, lost: Lost) -> events.WorkerDied:
        """Return the event of a process being gone, with what was done to it."""
        timed_out = self.deadlines.bury(lost.worker_id, lost.generation)
        excess = self._memory.bury(lost.worker_id, lost.generation)
        is_oom = not lost.is_ours and lost.exitcode == -signal.SIGKILL and self._has_oom_killed()
        return death_from(at, lost, timed_out=timed_out, excess=excess, is_oom=is_oom)

    def _has_oom_killed(self) -> bool:
        """Whether the kernel has killed for want of memory since this was last asked; it does not say whom."""
        before, self._oom_kills = self._oom_kills, oom_kills()
        return before is not None and self._oom_kills > before
