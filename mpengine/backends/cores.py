"""How many cores this process may use: what is the machine's is not all ours.

A quota of CPU time binds a control group and all groups below it, so the one that counts is the least on the way from
this process's own group up to the root.  In a container the path may name groups that cannot be seen from inside; what
is mounted is then the container's own part of the tree, and the walk ends at its top.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path("/")
_MOUNT = "sys/fs/cgroup"


def available_cores() -> int:
    """Return the cores of this process: its affinity, within its cgroups' CPU quota; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return max(1, cores if quota is None else min(cores, int(quota)))


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Return the least quota that binds this process, in cores; None where there is none.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    quotas = [quota for group in _groups(root) if (quota := _quota_of(group)) is not None]
    return min(quotas, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's CPU control groups, and of all that are above them."""
    mount = root / _MOUNT
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    for line in ("0::/", "0:cpu:/", *lines):  # what is mounted binds us, whatever we are told of our place in it
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:  # version 2, mounted alone or beside version 1
            tops = [mount, mount / "unified"]
        elif "cpu" in controllers.split(","):
            tops = [mount / "cpu", mount / controllers]
        else:
            continue
        for top in tops:
            yield from _upwards(top, path)


def _upwards(top: Path, path: str) -> Iterator[Path]:
    """Yield the folders from ``path`` below ``top`` up to ``top`` itself."""
    parts = PurePosixPath(path).parts[1:]
    if ".." in parts:  # outside of what is mounted here
        parts = ()
    for length in range(len(parts), -1, -1):
        yield top.joinpath(*parts[:length])


def _quota_of(group: Path) -> float | None:
    """Return a group's own quota in cores; None where it has none, or does not tell."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        return None if quota == "max" or int(quota) <= 0 else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
