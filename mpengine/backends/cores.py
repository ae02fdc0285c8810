"""How many cores this process may use: what is the machine's is not all ours."""

from __future__ import annotations

import os

from mpengine.backends.cgroups import ROOT, groups, read


def available_cores() -> int:
    """Return the cores of this process: its affinity, within its cgroups' CPU quota; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return max(1, cores if quota is None else min(cores, int(quota)))


def cpu_quota(root: str | os.PathLike[str] = ROOT) -> float | None:
    """Return the least quota that binds this process, in cores; None where there is none.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    quotas = [quota for group in groups("cpu", root) if (quota := _quota_of(group)) is not None]
    return min(quotas, default=None)


def _quota_of(group: str) -> float | None:
    """Return a group's own quota in cores; None where it has none, or does not tell."""
    try:
        if os.path.exists(os.path.join(group, "cpu.max")):
            quota, period = read(group, "cpu.max").split()
        else:
            quota = read(group, "cpu.cfs_quota_us")
            period = read(group, "cpu.cfs_period_us")
        return None if quota == "max" or int(quota) <= 0 else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
