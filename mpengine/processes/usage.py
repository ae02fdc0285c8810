"""What processes use, as whoever looks at them can see from outside."""

import time
from typing import NamedTuple

import psutil


class Use(NamedTuple):
    """What one process uses.

    Args:
        rss_bytes: Its resident memory.
        cpu_share: How much of a core it has used since it was last looked at; None the first time.
    """

    rss_bytes: int
    cpu_share: float | None


class Usage:
    """Looks at processes again and again; one that has another's number is found to be another."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[psutil.Process, float, float]] = {}

    def of(self, pid: int) -> Use | None:
        """What the process with that number uses; None if there is none, or it may not be looked at."""
        try:
            before = self._known.get(pid)
            process = psutil.Process(pid)
            with process.oneshot():
                times, rss_bytes = process.cpu_times(), process.memory_info().rss
        except psutil.Error:
            self._known.pop(pid, None)
            return None
        at, used_s = time.monotonic(), times.user + times.system
        self._known[pid] = (process, at, used_s)
        if before is None or before[0] != process or at <= before[1]:
            return Use(rss_bytes, None)
        return Use(rss_bytes, max(0.0, used_s - before[2]) / (at - before[1]))
