"""Starts the program of a cell, does to it what has to come from outside, and sees what is left of it.

Whose a process is, is told by a cookie in its environment, which children inherit, and by descent: what was once seen
below a process of the cell stays one of its own, also when the parent has gone or the environment was overwritten.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from faultlines import items

if TYPE_CHECKING:
    from collections.abc import Iterator

COOKIE = "FAULTLINES_CELL"
SCRIPTS = Path(__file__).resolve().parent.parent
LOOK_EVERY_S = 0.05
BOTH_BUSY_S = 3.0  # how long the second worker may take to be busy as well, once the first one is
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where libraries leave named semaphores, which is looked for


@dataclass(frozen=True)
class Limits:
    """How long a cell may take, and when after its end it is looked at what is left, in seconds.

    A library has ``start_s`` to come to its first item.  From there on ``still_s`` without a call or a result are one
    hang, and so are ``still_s`` after the signal, or ``run_s`` in all.
    """

    still_s: float = 15.0
    start_s: float = 60.0
    run_s: float = 60.0
    looks_s: tuple[float, float] = (1.0, 5.0)


@dataclass
class Seen:
    """What was seen of a cell: all that is judged by.

    ``seconds`` are those from the first item to the end, or from the signal to the end.  ``left`` names the processes
    of the library, and ``left_by_items`` counts those that items had started, at each look.
    """

    fault: str
    ended: bool = False
    status: int | None = None
    seconds: float = 0.0
    struck: bool = False
    events: list[dict[str, Any]] = field(default_factory=list)
    calls: int = 0
    left: list[list[str]] = field(default_factory=list)
    left_by_items: list[int] = field(default_factory=list)
    stderr: str = ""


class Family:
    """The processes of a cell, dead or alive."""

    def __init__(self, cookie: str) -> None:
        self._mark = f"{COOKIE}={cookie}".encode()
        self._known: set[psutil.Process] = set()
        self._strangers: set[psutil.Process] = set()
        self.pids: set[int] = set()
        self.shared_memory: set[int] = set()

    def look(self) -> None:
        """Find those that have come since."""
        for process in psutil.process_iter():
            # A process has a stranger's environment until it runs the program: those that are new are asked again.
            if process in self._known or process in self._strangers:
                continue
            try:
                parent = process.ppid()
                if self._mark in Path(f"/proc/{process.pid}/environ").read_bytes() or self._is_known(parent):
                    self._known.add(process)
                    self.pids.add(process.pid)
                elif time.time() - process.create_time() > 1:
                    self._strangers.add(process)
            except (OSError, psutil.Error):
                continue

    def _is_known(self, pid: int) -> bool:
        return any(process.pid == pid for process in self._known if process.is_running())

    def alive(self) -> Iterator[psutil.Process]:
        """Yield those that still are, zombies not counted."""
        for process in self._known:
            try:
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    yield process
            except psutil.Error:
                continue

    def end(self, patience_s: float = 10.0) -> None:
        """Kill all of them, and those they start meanwhile."""
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            self.look()
            living = list(self.alive())
            if not living:
                return
            for process in living:
                self.shared_memory |= _shared_memory_of(process)  # what would have tidied up is killed too
                try:
                    process.kill()
                except psutil.Error:
                    continue
            time.sleep(LOOK_EVERY_S)
        sys.exit(f"these processes will not end: {[process.pid for process in self.alive()]}")


class _Clock:
    """Tells when a cell's time is up."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._progress = (0, 0)
        self._moved_at = self.began_at = time.monotonic()

    def began(self) -> None:
        """Count from here."""
        self._moved_at = self.began_at = time.monotonic()

    def is_up(self, folder: Path) -> bool:
        """Look whether anything has moved, and return whether it is too long ago that it did."""
        progress = (_size(folder / "calls"), _size(folder / "events"))
        now = time.monotonic()
        if progress != self._progress:
            if not self._progress[0] and progress[0]:
                self.began()
            self._progress, self._moved_at = progress, now
        if not progress[0]:
            return now - self.began_at > self._limits.start_s
        return now - self._moved_at > self._limits.still_s or now - self.began_at > self._limits.run_s


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def run(peer: str, fault: str, limits: Limits, python_path: tuple[str, ...] = ()) -> Seen:
    """Run a cell, and return what was seen of it; nothing of it is left afterwards."""
    cookie = secrets.token_hex(8)
    # Ray makes sockets below its temporary folder, whose names may not be long.
    folder = Path(tempfile.mkdtemp(prefix="f-"))
    family = Family(cookie)
    environment = surroundings(cookie, folder, python_path)
    command = [sys.executable, "-m", "faultlines.cell", peer, fault, str(folder)]
    try:
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            program = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                start_new_session=True, cwd=folder,
            )  # fmt: skip
        try:
            return _watched(program, family, Seen(fault), folder, limits)
        finally:
            family.end()
            program.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        tidy_shared_memory(family)


def surroundings(cookie: str, folder: Path, python_path: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the environment of a program of ours: marked, with a folder for all it writes."""
    (folder / "t").mkdir()
    return {
        **os.environ,
        COOKIE: cookie,
        "HOME": str(folder),
        "TMPDIR": str(folder / "t"),
        "PYTHONPATH": os.pathsep.join([str(SCRIPTS), *python_path]),
        "RAY_TMPDIR": str(folder / "t"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "DASK_TEMPORARY_DIRECTORY": str(folder / "t"),
    }


def _watched(program: subprocess.Popen[bytes], family: Family, seen: Seen, folder: Path, limits: Limits) -> Seen:
    """Watch the program until it has ended or its time is up, and then what is left of it."""
    clock = _Clock(limits)
    busy_at: float | None = None
    from_outside = seen.fault in items.FROM_OUTSIDE
    while program.poll() is None and not clock.is_up(folder):
        family.look()
        if from_outside and not seen.struck:
            busy = len(list(folder.glob("busy-*")))
            busy_at = busy_at or (time.monotonic() if busy else None)
            if busy >= items.WORKERS or (busy_at and time.monotonic() - busy_at > BOTH_BUSY_S):
                family.look()
                _strike(program, seen.fault)
                seen.struck = True
                clock.began()
        try:
            program.wait(LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            continue
    ended_at = time.monotonic()
    seen.ended, seen.status, seen.seconds = program.poll() is not None, program.poll(), ended_at - clock.began_at
    for look_s in limits.looks_s if seen.ended else ():
        while time.monotonic() < ended_at + look_s:
            family.look()
            if not list(family.alive()):
                break
            time.sleep(LOOK_EVERY_S)
        names = [_name(process) for process in family.alive()]
        seen.left_by_items.append(names.count("sleep"))
        seen.left.append(sorted(name for name in names if name != "sleep"))
    lines = (folder / "events").read_text(encoding="utf-8").splitlines() if (folder / "events").exists() else []
    seen.events = [json.loads(line) for line in lines if line.endswith("}")]
    seen.calls = _size(folder / "calls")
    seen.stderr = (folder / "stderr").read_text(encoding="utf-8", errors="replace")[-2000:]
    return seen


def _strike(program: subprocess.Popen[bytes], fault: str) -> None:
    """Do to the program what the fault is."""
    if fault == items.PARENT_KILLED:
        program.kill()
    elif fault == items.SIGINT_ALONE:
        program.send_signal(signal.SIGINT)
    else:
        os.killpg(program.pid, signal.SIGINT)


def _name(process: psutil.Process) -> str:
    """Return what a process is, in a few words."""
    try:
        return process.name() if "python" not in process.name() else " ".join(process.cmdline()[1:4])[:80]
    except psutil.Error:
        return "?"


def _shared_memory_of(process: psutil.Process) -> set[int]:
    """Return the inodes in shared memory that a process has mapped; a semaphore's maker knows it by another name."""
    try:
        lines = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return {int(line.split()[4]) for line in lines if f" {SHARED_MEMORY}/" in line}


def tidy_shared_memory(family: Family) -> None:
    """Remove the names in shared memory that processes of the cell used, or that hold the number of one."""
    for path in SHARED_MEMORY.iterdir():
        try:
            used = path.stat().st_ino in family.shared_memory
        except FileNotFoundError:
            continue
        if used or any(int(number) in family.pids for number in re.findall(r"[-_](\d+)[-_]", path.name)):
            path.unlink(missing_ok=True) if path.is_file() else shutil.rmtree(path, ignore_errors=True)
