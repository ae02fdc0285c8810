"""The control groups that bind this process: where their files are, and what they say of memory.

A limit binds a control group and all groups below it, so what counts is the tightest on the way from this process's own
group up to the root.  In a container the path may name groups that cannot be seen from inside; what is mounted is then
the container's own part of the tree, and the walk ends at its top.
"""

from __future__ import annotations

import contextlib
import os

from mpengine.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# Paths are strings here: every engine looks at its group first thing, and pathlib is a slow import.
ROOT = "/"
_MOUNT = "sys/fs/cgroup"
_DROPPABLE_FIRST = {"total_inactive_file", "total_active_file"}
_DROPPABLE_SECOND = {"inactive_file", "active_file", "slab_reclaimable"}
_NO_LIMIT = 1 << 60  # version 1 has a number near the largest there is


def groups(controller: str, root: str | os.PathLike[str] = ROOT) -> Iterator[str]:
    """Yield the folders of this process's control groups, and of all that are above them.

    Args:
        controller: ``"cpu"``, ``"memory"``.
        root: where ``proc`` and ``sys`` are.
    """
    mount = os.path.join(root, _MOUNT)
    try:
        lines = read(root, "proc/self/cgroup").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    for line in ("0::/", f"0:{controller}:/", *lines):  # what is mounted binds us, whatever we are told of our place
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:  # version 2, mounted alone or beside version 1
            tops = [mount, os.path.join(mount, "unified")]
        elif controller in controllers.split(","):
            tops = [os.path.join(mount, controller), os.path.join(mount, controllers)]
        else:
            continue
        for top in tops:
            yield from _upwards(top, path)


def _upwards(top: str, path: str) -> Iterator[str]:
    """Yield the folders from ``path`` below ``top`` up to ``top`` itself."""
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if ".." in parts:  # outside of what is mounted here
        parts = []
    for length in range(len(parts), -1, -1):
        yield os.path.join(top, *parts[:length])


def read(folder: str | os.PathLike[str], name: str) -> str:
    """Return what a file says.

    Raises:
        OSError, ValueError: it is not there, or not text.
    """
    with open(os.path.join(folder, name), encoding="utf-8") as file:
        return file.read()


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """A control group with a limit on memory.

    Attributes:
        folder: its files.
        limit: bytes.
        is_second: whether it is one of version 2.
    """

    folder: str
    limit: int
    is_second: bool

    def used(self) -> int:
        """Return the bytes that are in use and cannot just be dropped: page cache does not count.

        Raises:
            OSError, ValueError: the group has gone, or does not tell.
        """
        usage = "memory.current" if self.is_second else "memory.usage_in_bytes"
        droppable = _DROPPABLE_SECOND if self.is_second else _DROPPABLE_FIRST
        used = int(read(self.folder, usage))
        for line in read(self.folder, "memory.stat").splitlines():
            name, _, amount = line.partition(" ")
            if name in droppable:
                used -= int(amount)
        return max(0, used)


def memory_groups(root: str | os.PathLike[str] = ROOT) -> list[MemoryGroup]:
    """Return the control groups that limit this process's memory, each once."""
    found = {}
    for folder in groups("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                limit = int(read(folder, name))
            except (OSError, ValueError):  # not there, or "max"
                continue
            if 0 < limit < _NO_LIMIT:
                found[folder] = MemoryGroup(folder, limit, name == "memory.max")
    return list(found.values())


def oom_kills(root: str | os.PathLike[str] = ROOT) -> int:
    """Return how many processes the kernel has killed for want of memory; 0 when it does not say.

    It is asked for this process's own control group, and where that does not count, for the machine.
    """
    places = [(folder, name) for folder in groups("memory", root) for name in ("memory.events", "memory.oom_control")]
    for place in (*places, (root, "proc/vmstat")):
        with contextlib.suppress(OSError, ValueError):
            for line in read(*place).splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0
