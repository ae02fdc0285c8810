"""The other way round: coordinators are killed at random moments, and everything that was theirs has to go with them.

This process is the subreaper of all that they start, so a process that hides from its parents is seen as well as one
that has got rid of its mark.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from measuring import Table

from soaking.belongings import MARK, Belongings, Process, family
from soaking.supervising import become_subreaper, bury_all
from soaking.victim import FORKED, GROUP_S, SESSION_S

VICTIM = Path(__file__).with_name("victim.py")
METHODS = ("forkserver", "forkserver", "spawn", "fork")
ALLOWED_S, PATIENCE_S, END_S = 1.0, 5.0, 60.0
START_UP_S, RUN_S = 0.7, 1.7
_POLL_S = 0.01


@dataclass
class Killed:
    """What all of them came to."""

    kills: Counter[str] = field(default_factory=Counter)
    ended_first: int = 0
    seconds: list[float] = field(default_factory=list)
    survivors: Counter[str] = field(default_factory=Counter)
    files: list[str] = field(default_factory=list)
    hangs: int = 0


def campaign(count: int, seed: int, *, own_sessions: bool) -> tuple[Table, bool]:
    """Kill so many coordinators; returns a table, and whether all was well."""
    become_subreaper()
    killed = Killed()
    for number in range(seed, seed + count):
        _kill_one(number, killed, own_sessions=own_sessions)
    rows = [
        *([f"killed, {method}", f"{times:,}"] for method, times in sorted(killed.kills.items())),
        ["had ended by themselves before", f"{killed.ended_first:,}"],
        ["seconds until all was gone, median", f"{statistics.median(killed.seconds or [0]):.3f}"],
        ["seconds until all was gone, worst", f"{max(killed.seconds, default=0):.3f}"],
        [f"processes there after {ALLOWED_S:.0f} s", f"{killed.survivors.total():,}"],
        *([f"of these: {what}", f"{times:,}"] for what, times in sorted(killed.survivors.items())),
        ["files and names left behind", f"{len(killed.files):,}"],
        ["that did not end by themselves", f"{killed.hangs:,}"],
    ]
    note = f"Workers start programs{' in sessions of their own, too' if own_sessions else ''}."
    table = Table("Killed coordinators", ("what", "how many"), rows, note)
    return table, not (killed.survivors or killed.files or killed.hangs)


def _kill_one(seed: int, killed: Killed, *, own_sessions: bool) -> None:
    chance = random.Random(seed)  # noqa: S311 - to be repeated
    method, early = chance.choice(METHODS), chance.random() < 0.3  # noqa: PLR2004
    delay_s = chance.uniform(0, START_UP_S if early else RUN_S)
    mark = os.urandom(8).hex()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        before = Belongings.now()
        program = subprocess.Popen(
            [sys.executable, str(VICTIM), method, str(own_sessions)],
            env={**os.environ, MARK: mark, "TMPDIR": folder}, stdout=subprocess.PIPE, stderr=nowhere,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert program.stdout is not None  # noqa: S101 - asked for above
        if not early and not select.select([program.stdout], [], [], END_S)[0]:
            killed.hangs += 1
        has_ended = _has_ended_within(program.pid, delay_s)
        program.send_signal(signal.SIGKILL)
        program.returncode = 0
        at = time.monotonic()
        killed.kills[method] += not has_ended
        killed.ended_first += has_ended
        told = f"seed {seed}: {method}, {delay_s:.3f} s after its {'start' if early else 'first result'}"
        _await_gone(mark, at, killed, told)
        program.stdout.close()
        files = [
            *(path.name for path in Path(folder).iterdir()),
            *(text for text in Belongings.now().since(before) if "memory" in text),
        ]
        if files:
            print(f"{told}: left {files}", flush=True)
        killed.files += files


def _has_ended_within(pid: int, seconds: float) -> bool:
    pidfd = os.pidfd_open(pid)
    try:
        return bool(select.select([pidfd], [], [], seconds)[0])
    finally:
        os.close(pidfd)


def _await_gone(mark: str, at: float, killed: Killed, told: str) -> None:
    """Wait until nobody bears the mark and nobody has come to this process; note who is late."""
    late: dict[tuple[int, int], Process] = {}
    while True:
        bury_all()
        left = family(mark, os.getpid())
        passed_s = time.monotonic() - at
        if passed_s > ALLOWED_S and not late:
            late = {(process.pid, process.began): process for process in left}
            for process in left:
                what = _kind_of(process)
                killed.survivors[what] += 1
                print(f"{told}: still there: {what}, {process.tell()}", flush=True)
        if not left or passed_s > PATIENCE_S:
            break
        time.sleep(_POLL_S)
    killed.seconds.append(passed_s)
    while left := family(mark, os.getpid()):
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        bury_all()
        time.sleep(_POLL_S)


def _kind_of(process: Process) -> str:
    try:
        name = Path(f"/proc/{process.pid}/comm").read_text().strip()
    except OSError:
        return "gone meanwhile"
    if name == FORKED:
        return "a fork of a worker"
    words = process.command.split()
    return {GROUP_S: "a program in its worker's group", SESSION_S: "a program in a session of its own"}.get(
        words[-1] if words else "", "a process of the engine"
    )
