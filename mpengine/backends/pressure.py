"""Slowing down before the kernel has to kill: what the control group's memory limit leaves is watched.

Y1. Where a control group limits memory, it is looked at every ``LOOK_S`` while a run is on; elsewhere never.
Y2. Once ``HIGH`` of the limit is in use, that is told, and again when less than ``LOW`` is; what follows is decided
    elsewhere.
Y3. What this process or others in the group use counts as well, for it is what the kernel counts.
"""

from __future__ import annotations

from mpengine.scheduler import events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpengine.backends.cgroups import MemoryGroup

LOOK_S = 0.1
HIGH = 0.9
LOW = 0.8


class MemoryPressure:
    """Watches the control groups of one run.

    Args:
        groups: those that limit memory.
        warn: told in words when it gets tight.
    """

    def __init__(self, groups: Sequence[MemoryGroup], warn: Callable[[str], object]) -> None:
        """Look for the first time at once."""
        self._groups = groups
        self._warn = warn
        self._look_at = 0.0
        self._is_tight = False

    def wait_s(self, at: float) -> float | None:
        """Return the seconds until the next look; None when there is none (Y1)."""
        return max(0.0, self._look_at - at) if self._groups else None

    def look(self, at: float) -> list[events.Event]:
        """Look if it is time to, and return what is to be told."""
        if not self._groups or at < self._look_at:
            return []
        self._look_at = at + LOOK_S
        share, used, limit = max(map(_use_of, self._groups))
        if self._is_tight and share < LOW:
            self._is_tight = False
        elif not self._is_tight and share >= HIGH:
            self._is_tight = True
            self._warn(
                f"the control group uses {used:,} of its {limit:,} bytes of memory: "
                "batches run one at a time until it uses less"
            )
        else:
            return []
        return [events.MemoryTightened(at) if self._is_tight else events.MemoryEased(at)]


def _use_of(group: MemoryGroup) -> tuple[float, int, int]:
    try:
        used = group.used()
    except (OSError, ValueError):  # it has gone
        used = 0
    return used / group.limit, used, group.limit
