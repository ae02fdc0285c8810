"""Starts processes that run a few recipes each, watches them against the clock, and adds up what they tell.

Everything that is orphaned below comes to this process, which is the subreaper: so what outlives its run is seen, and
what one process leaves behind does not reach the next.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soaking import building, forms, judging
from soaking.belongings import MARK, Process, family
from soaking.running import STACKS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SCRIPT = Path(__file__).resolve().parent.parent / "soak"
START_S, END_S, STACKS_S = 60.0, 20.0, 2.0
_PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Sum:
    """What all recipes together came to."""

    recipes: int = 0
    runs: int = 0
    items: int = 0
    failed: int = 0
    interrupted: int = 0
    deaths: int = 0
    seconds: float = 0.0
    dealt: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    bad_seeds: dict[int, list[str]] = field(default_factory=dict)

    def add(self, told: dict[str, Any]) -> None:
        """Add what one recipe came to."""
        self.recipes += 1
        for name in ("runs", "items", "failed", "interrupted", "deaths"):
            setattr(self, name, getattr(self, name) + told[name])
        self.dealt.update(told["dealt"])
        self.warnings.update(told["warnings"])
        for fault in told["faults"]:
            self.blame(told["seed"], fault["kind"], fault["text"])

    def blame(self, seed: int, kind: str, text: str) -> None:
        """Note a fault, and say so at once."""
        self.faults[kind] += 1
        self.bad_seeds.setdefault(seed, []).append(kind)
        print(f"\nseed {seed}: {kind}: {text}\n  again: scripts/soak --seed {seed} --runs 1\n", flush=True)


def become_subreaper() -> None:
    """Have orphans among the descendants of this process come to it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def bury_all(but: int | None = None) -> dict[int, int]:
    """Collect the exit statuses of all children that have ended; returns that of ``but``, if it is among them."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            if pid == but:
                ended[pid] = status
    return ended


def soak(seeds: Iterator[int], until: float, batch: int, longest_stop_s: float) -> Sum:
    """Run recipes until the seeds or the time are up.

    Args:
        seeds: which.
        until: a moment of the monotonic clock.
        batch: how many recipes a process runs.
        longest_stop_s: how long blows may stop somebody.
    """
    become_subreaper()
    total, began_at = Sum(), time.monotonic()
    while time.monotonic() < until:
        some = [seed for _, seed in zip(range(batch), seeds, strict=False)]
        if not some:
            break
        waiting = some
        while waiting and time.monotonic() < until:
            with _Child(waiting, longest_stop_s, total) as child:
                waiting = child.watch(until)
        print(f"{total.recipes:,} engines, {total.items:,} items, {total.faults.total()} faults", file=sys.stderr)
    total.seconds = time.monotonic() - began_at
    return total


class _Child:
    """A process that runs recipes; as a context manager, which leaves nothing of it."""

    def __init__(self, seeds: Sequence[int], longest_stop_s: float, total: Sum) -> None:
        self._seeds = list(seeds)
        self._total = total
        self._mark = os.urandom(8).hex()
        self._folder = Path(tempfile.mkdtemp(prefix="soak-"))
        self._output = (self._folder / "output").open("w+b")
        place = self._folder / "tmp"
        place.mkdir()
        self._pipe_fd, theirs = os.pipe()
        arguments = ["--child", ",".join(map(str, seeds)), "--pipe", str(theirs), "--stop-s", str(longest_stop_s)]
        environment = {**os.environ, MARK: self._mark, "TMPDIR": str(place)}
        self._program = subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments],
            pass_fds=(theirs,), env=environment, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output,
        )  # fmt: skip
        os.close(theirs)
        self._pid = self._program.pid
        self._status: int | None = None
        self._rest = b""

    def __enter__(self) -> _Child:  # noqa: PYI034 - as in the other scripts
        return self

    def __exit__(self, *_: object) -> None:
        for _ in range(3):
            for process in family(self._mark, self._pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            if self._status is None:
                self._program.send_signal(signal.SIGKILL)
                self._note_end(wait_s=END_S)
            bury_all()
        self._program.returncode = 0
        os.close(self._pipe_fd)
        self._output.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def watch(self, until: float) -> list[int]:
        """Listen until all seeds are done, something is wrong with the process, or the time is up.

        Returns:
            The seeds that another process has to run.
        """
        under_way, due_at = None, time.monotonic() + START_S
        while True:
            line = self._read_line(due_at)
            if line is None:
                if under_way is not None:
                    kind = judging.HANG if self._status is None else judging.CRASH
                    self._total.blame(under_way, kind, self._tell(kind))
                    self._seeds.remove(under_way)
                elif self._seeds:
                    raise RuntimeError(f"a process has run nothing:\n{self._tell(judging.CRASH)}")
                self._see_off()
                return self._seeds
            told = json.loads(line)
            if "begins" in told:
                under_way, due_at = told["begins"], time.monotonic() + told["limit_s"]
                continue
            self._total.add(told["ended"])
            self._seeds.remove(under_way)
            under_way, due_at = None, time.monotonic() + END_S
            if time.monotonic() > until:
                return []

    def _see_off(self) -> None:
        """See that nothing of a process that has ended by itself is left."""
        self._note_end(wait_s=END_S)
        if self._status == 0:
            for process in family(self._mark, self._pid):
                self._total.blame(-1, judging.LEFTOVER, process.tell())

    def _read_line(self, due_at: float) -> bytes | None:
        """Return a line; None when none comes in time, or none will come."""
        while b"\n" not in self._rest:
            ready = select.select([self._pipe_fd], [], [], min(0.2, max(0.0, due_at - time.monotonic())))[0]
            self._note_end()  # and bury what has come to this process meanwhile
            if ready:
                content = os.read(self._pipe_fd, 65536)
                if not content:
                    self._note_end(wait_s=END_S)
                    return None
                self._rest += content
            elif time.monotonic() >= due_at:
                return None
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _note_end(self, wait_s: float = 0.0) -> None:
        until = time.monotonic() + wait_s
        while self._status is None:
            self._status = bury_all(but=self._pid).get(self._pid)
            if self._status is not None or time.monotonic() >= until:
                return
            time.sleep(0.01)
        bury_all()

    def _tell(self, kind: str) -> str:
        """Return what everybody is at, or has last written."""
        lines = []
        if kind == judging.HANG:
            members = family(self._mark, self._pid)
            me = Process.of(self._pid)
            lines += [process.tell() for process in ([me] if me else []) + members]
            for process in members:
                if process.catches(forms.DUMP):
                    os.kill(process.pid, forms.DUMP)
            self._program.send_signal(STACKS)
            time.sleep(STACKS_S)
            for path in sorted((self._folder / "tmp").glob(f"soak-*/*/{building.STACKS}")):
                lines += [f"-- stacks of workers, {path.parent.name}", path.read_text(errors="replace")]
        else:
            lines.append(f"exit status {self._status}")
        self._output.seek(0)
        return "\n".join([*lines, "-- what the process wrote", self._output.read().decode(errors="replace")[-20_000:]])
