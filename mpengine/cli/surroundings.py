"""What a job that runs for hours meets: disks, memory and its control group, limits, threads, clocks; never judged.

Like ``machine``, everything is a dict of plain values, ready for JSON; what cannot be found out is None.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mpengine.backends.cgroups import groups, read
from mpengine.backends.cores import cpu_quota
from mpengine.worker.threadpools import VARIABLES, threads_for

if TYPE_CHECKING:
    from mpengine.cli.machine import Facts

ROOT = Path("/")
_NO_LIMIT = 1 << 60
"""What the first version of control groups gives where there is no limit is a number beyond this."""


def surroundings(path: Path, workers: int, root: Path = ROOT) -> Facts:
    """Return what a long job meets here.

    Args:
        path: where it keeps its journal or its output; it need not be there yet.
        workers: how many processes it has.
        root: where ``proc`` and ``sys`` are.
    """
    return {
        "disk": disk(path),
        "temporary": {**disk(Path(tempfile.gettempdir())), "nameless_files": _has_nameless_files()},
        "group": group(root),
        "memory": memory(root),
        "limits": limits(root),
        "threads": threads(workers),
        "clock": clock(root),
        "terminal": terminal(),
    }


def disk(path: Path) -> Facts:
    """Return how much room there is where ``path`` is or would be, and on what kind of file system."""
    folder = path.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    facts: Facts = {"path": str(path), "kind": _kind_of(folder), "writable": os.access(folder, os.W_OK)}
    facts.update(size_bytes=None, free_bytes=None, free_files=None, read_only=None)
    with contextlib.suppress(OSError):
        found = os.statvfs(folder)
        facts.update(size_bytes=found.f_blocks * found.f_frsize, free_bytes=found.f_bavail * found.f_frsize)
        facts.update(free_files=found.f_favail if found.f_files else None)  # some file systems have no number of them
        facts.update(read_only=bool(found.f_flag & os.ST_RDONLY))
    return facts


def _kind_of(folder: Path) -> str | None:
    """Return the kind of the file system that ``folder`` is on."""
    with contextlib.suppress(OSError, ValueError):
        device = os.stat(folder).st_dev  # noqa: PTH116 - beside major() and minor()
        wanted = f"{os.major(device)}:{os.minor(device)}"
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
            fields = line.split()
            if fields[2] == wanted:
                return fields[fields.index("-") + 1]
    return None


def _has_nameless_files() -> bool | None:
    """Whether the temporary folder takes files that never have a name; None where it takes none at all."""
    try:
        os.close(os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC))
    except (OSError, AttributeError):
        return False if os.access(tempfile.gettempdir(), os.W_OK) else None
    return True


def group(root: Path = ROOT) -> Facts:
    """Return what the control groups of this process allow: the tightest of each kind."""
    return {
        "cpu_quota": cpu_quota(root),
        "memory_high_bytes": _least("memory", root, "memory.high"),
        "memory_max_bytes": _least("memory", root, "memory.max", "memory.limit_in_bytes"),
        "swap_max_bytes": _least("memory", root, "memory.swap.max"),
        "processes_max": _least("pids", root, "pids.max"),
        "processes_now": _least("pids", root, "pids.current"),
    }


def _least(controller: str, root: Path, *names: str) -> int | None:
    found = []
    for folder in groups(controller, root):
        for name in names:
            with contextlib.suppress(OSError, ValueError):  # not there, or "max"
                found.append(int(read(folder, name)))
    return min((value for value in found if value < _NO_LIMIT), default=None)


def memory(root: Path = ROOT) -> Facts:
    """Return how the kernel gives memory away, and how much swap there is."""
    facts: Facts = dict.fromkeys(("swap_bytes", "swap_free_bytes", "commit_limit_bytes", "committed_bytes"))
    names = dict(zip(("SwapTotal", "SwapFree", "CommitLimit", "Committed_AS"), facts, strict=True))
    with contextlib.suppress(OSError, ValueError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            name, _, amount = line.partition(":")
            if name in names:
                facts[names[name]] = int(amount.split()[0]) * 1024
    return {"overcommit": _number(root / "proc/sys/vm/overcommit_memory"), **facts}


def limits(root: Path = ROOT) -> Facts:
    """Return the limits that a long job meets beside those of ``machine.limits``."""
    soft, hard = (
        None if value == resource.RLIM_INFINITY else value for value in resource.getrlimit(resource.RLIMIT_CORE)
    )
    file_size, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    cpu_s, _ = resource.getrlimit(resource.RLIMIT_CPU)
    pattern = None
    with contextlib.suppress(OSError):
        pattern = (root / "proc/sys/kernel/core_pattern").read_text().strip()
    return {
        "core_bytes": {"soft": soft, "hard": hard},
        "core_pattern": pattern,
        "file_bytes": None if file_size == resource.RLIM_INFINITY else file_size,
        "cpu_s": None if cpu_s == resource.RLIM_INFINITY else cpu_s,
        "processes_now": _own_processes(),
    }


def _own_processes() -> int | None:
    """Return how many threads this user has, which is what the limit on processes counts."""
    with contextlib.suppress(OSError, ImportError):
        import psutil

        me = os.getuid()
        count = 0
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.uids().real == me:
                    count += process.num_threads()
        return count
    return None


def threads(workers: int) -> Facts:
    """Return what the environment says of the threads of numeric libraries, and what an engine would say."""
    return {
        "variables": {name: os.environ[name] for name in VARIABLES.values() if os.environ.get(name)},
        "workers": workers,
        "cores": len(os.sched_getaffinity(0)),
        "by_engine": threads_for(max(1, workers), workers),
    }


def clock(root: Path = ROOT) -> Facts:
    """Return what the kernel tells the time by, and how long the machine has slept since it was started."""
    source = None
    with contextlib.suppress(OSError):
        source = (root / "sys/devices/system/clocksource/clocksource0/current_clocksource").read_text().strip()
    slept_s = None
    if hasattr(time, "CLOCK_BOOTTIME"):
        slept_s = max(0.0, round(time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC), 1))
    return {"source": source, "now": round(time.time()), "slept_s": slept_s}


def terminal() -> Facts:
    """Return whether a terminal that is closed would end what is started here."""
    return {
        "is_terminal": os.isatty(0) or os.isatty(2),
        "is_remote": "SSH_CONNECTION" in os.environ,
        "hangup_ignored": signal.getsignal(signal.SIGHUP) is signal.SIG_IGN,
        "multiplexer": next((name for name in ("TMUX", "STY") if os.environ.get(name)), None),
    }


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
