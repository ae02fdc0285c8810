"""How much memory is free, for whoever is in this process's control groups."""

from __future__ import annotations

from mpengine.backends.cgroups import memory_groups


def free_bytes() -> int:
    """Return the bytes of memory that can be had: of the machine, and of each control group that limits it."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for group in memory_groups():
        try:
            free = min(free, max(0, group.limit - group.used()))
        except (OSError, ValueError):  # it has gone, or does not tell
            continue
    return free
