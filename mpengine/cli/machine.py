"""What this machine allows: looked up and tried out, never judged.

Everything is a dict of plain values, ready for JSON.  What cannot be found out is None.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import os
import platform
import resource
from pathlib import Path
from typing import Any

from mpengine.backends.cores import available_cores, cpu_quota
from mpengine.ipc.mpqueue import PIPE_BYTES

NEEDED = ("click", "cloudpickle", "psutil", "rich")
EXTRAS = ("numpy", "prometheus_client", "pyarrow", "ray", "starlette", "threadpoolctl", "uvicorn", "zstandard")

Facts = dict[str, Any]

_OPEN_FILES = Path("/proc/self/fd")
_NO_LIMIT = 1 << 60
"""What the first version of cgroups gives where there is no limit is a number beyond this."""


def versions() -> Facts:
    """Return the versions of the Python that runs this, and of what is installed for it."""
    return {
        "mpengine": _version("mpengine"),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "needed": {name: _version(name) for name in NEEDED},
        "extras": {name: _version(name) for name in EXTRAS},
    }


def cores() -> Facts:
    """Return how many cores there are, how many of them are ours, and how many workers that makes."""
    return {
        "machine": os.cpu_count(),
        "affinity": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "cgroup_quota": cpu_quota(),
        "default_workers": available_cores(),
    }


def memory() -> Facts:
    """Return how much memory the machine has, how much of it is free, and how much of it is ours."""
    facts: Facts = {"total_bytes": None, "available_bytes": None, "cgroup_limit_bytes": cgroup_memory_limit()}
    with contextlib.suppress(ImportError):  # which is told with the versions
        import psutil

        found = psutil.virtual_memory()
        facts.update(total_bytes=found.total, available_bytes=found.available)
    return facts


def limits() -> Facts:
    """Return what one process, and one user, may have open and running; None is no limit."""
    return {
        "open_files": _limit(resource.RLIMIT_NOFILE),
        "open_files_now": len(list(_OPEN_FILES.iterdir())) if _OPEN_FILES.is_dir() else None,
        "processes": _limit(resource.RLIMIT_NPROC),
        "address_space_bytes": _limit(resource.RLIMIT_AS),
    }


def pipes() -> Facts:
    """Return how large a pipe is, how large one can be made, and how large an engine's are."""
    facts: Facts = {"default_bytes": None, "engine_bytes": None}
    reading, writing = os.pipe()
    try:
        with contextlib.suppress(OSError, AttributeError):
            facts["default_bytes"] = fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)
            with contextlib.suppress(OSError):
                fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            facts["engine_bytes"] = fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)
    finally:
        os.close(reading)
        os.close(writing)
    facts["max_bytes"] = _number(Path("/proc/sys/fs/pipe-max-size"))
    pages = _number(Path("/proc/sys/fs/pipe-user-pages-soft"))
    facts["user_bytes"] = pages * os.sysconf("SC_PAGE_SIZE") if pages else None  # 0 is no limit
    return facts


def kernel() -> Facts:
    """Return which of the calls that an engine makes use of, where there are any, work here."""
    return {"pidfd": _works("pidfd_open", os.getpid()), "memfd": _works("memfd_create", "mpengine-doctor")}


def shared_memory(path: Path = Path("/dev/shm")) -> Facts:  # noqa: S108 - looked at, not written to
    """Return how large the file system of named shared memory is."""
    try:
        found = os.statvfs(path)
    except OSError:
        return {"path": str(path), "size_bytes": None, "free_bytes": None}
    return {
        "path": str(path),
        "size_bytes": found.f_blocks * found.f_frsize,
        "free_bytes": found.f_bavail * found.f_frsize,
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _limit(which: int) -> Facts:
    soft, hard = (None if value == resource.RLIM_INFINITY else value for value in resource.getrlimit(which))
    return {"soft": soft, "hard": hard}


def _works(name: str, *arguments: object) -> bool:
    """Whether ``os`` has this function, which opens a file, and the kernel lets it."""
    function = getattr(os, name, None)
    if function is None:
        return False
    try:
        os.close(function(*arguments))
    except OSError:
        return False
    return True


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def cgroup_memory_limit(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the smallest limit of the groups that this process is in; None where there is none.

    Args:
        groups: lists the groups.
        root: where they are.
    """
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found: list[int | None] = []
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") > 1):
        top, name = (root, "memory.max") if not controllers else (root / "memory", "memory.limit_in_bytes")
        if not controllers or "memory" in controllers.split(","):
            # In a container the path may be the host's: what is not there is passed over, and the root is looked at.
            group = top / path.lstrip("/")
            found += [_number(folder / name) for folder in (group, *group.parents) if folder.is_relative_to(top)]
    return min((limit for limit in found if limit is not None and limit < _NO_LIMIT), default=None)
