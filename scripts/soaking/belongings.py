"""What a run leaves behind, and who bears a soak's mark: read from ``/proc``, of this machine as it is now."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

MARK = "MPENGINE_SOAK"
PATIENCE_S = 5.0
_OWN = "mpengine"
_POLL_S = 0.02


@dataclass(frozen=True)
class Belongings:
    """What this process has, and what it has put where others can see it."""

    threads: frozenset[threading.Thread]
    fds: dict[int, str]
    shared_memory: frozenset[str]
    temporary_files: frozenset[str]

    @classmethod
    def now(cls) -> Belongings:
        """Return what there is now."""
        return cls(
            frozenset(threading.enumerate()),
            _fds(),
            frozenset(name for name in _names("/dev/shm") if name.startswith(_OWN)),  # noqa: S108 - only looked at
            frozenset(_names(tempfile.gettempdir())),
        )

    def since(self, before: Belongings) -> list[str]:
        """Return what there is more than before."""
        return [
            *(f"thread {thread.name}" for thread in self.threads - before.threads),
            *(f"fd {fd}: {target}" for fd, target in self.fds.items() if before.fds.get(fd) != target),
            *(f"shared memory {name}" for name in self.shared_memory - before.shared_memory),
            *(f"temporary file {name}" for name in self.temporary_files - before.temporary_files),
        ]


def left_since(before: Belongings, patience_s: float = PATIENCE_S) -> list[str]:
    """Return what there is more than before, and stays."""
    deadline_at = time.monotonic() + patience_s
    gc.collect()
    while (left := Belongings.now().since(before)) and time.monotonic() < deadline_at:
        time.sleep(_POLL_S)
    return left


def _fds() -> dict[int, str]:
    found = {}
    for link in list(Path("/proc/self/fd").iterdir()):
        try:
            found[int(link.name)] = str(link.readlink())
        except OSError:
            continue  # the one that lists the folder
    return found


def _names(folder: str) -> list[str]:
    try:
        return [path.name for path in Path(folder).iterdir()]
    except OSError:
        return []


# ---------------------------------------------------------------------- processes


@dataclass(frozen=True)
class Process:
    """A process as ``/proc`` tells of it.

    Attributes:
        pid: its number.
        parent: its parent's.
        began: when it was created, in the kernel's ticks; with the number, who it is.
        state: a letter; ``Z`` has ended.
    """

    pid: int
    parent: int
    began: int
    state: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """Return the process with this number, if there is one."""
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        fields = text[text.rindex(")") + 2 :].split()
        return cls(pid, int(fields[1]), int(fields[19]), fields[0])

    def bears(self, mark: str) -> bool:
        """Whether its program was begun with this mark in its environment."""
        try:
            return f"{MARK}={mark}".encode() in Path(f"/proc/{self.pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False

    @property
    def command(self) -> str:
        """Its command line."""
        try:
            return Path(f"/proc/{self.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            return ""

    def tell(self) -> str:
        """Return a line about what it is and what it is at."""
        told = [f"pid {self.pid}, child of {self.parent}, {self.state}"]
        for name in ("wchan", "syscall"):
            try:
                told.append(f"{name} {Path(f'/proc/{self.pid}/{name}').read_text().strip()}")
            except OSError:
                continue
        return f"{', '.join(told)}: {self.command[:160]}"

    def catches(self, signum: int) -> bool:
        """Whether it has a handler for a signal."""
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except OSError:
            return False
        (mask,) = (int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:"))
        return bool(mask >> (signum - 1) & 1)


def all_processes() -> list[Process]:
    """Return every process there is now."""
    found = (Process.of(int(name)) for name in _names("/proc") if name.isdigit())
    return [process for process in found if process is not None]


def family(mark: str, root: int) -> list[Process]:
    """Return who bears the mark or descends from ``root``, without ``root`` itself and those that have ended."""
    everybody = all_processes()
    children: dict[int, list[Process]] = {}
    for process in everybody:
        children.setdefault(process.parent, []).append(process)
    found = {process.pid: process for process in everybody if process.bears(mark)}
    waiting = [root]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            found[child.pid] = child
            waiting.append(child.pid)
    found.pop(root, None)
    found.pop(os.getpid(), None)
    return [process for process in found.values() if process.state not in "ZX"]
