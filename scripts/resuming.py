"""Kill the coordinator of one job again and again, resume it each time, and see whether its output is the right one.

The jobs are what the journal has to get right: every item gives one line; some fail, are dropped or filtered out, and
some give many lines; lines come in order, or as they come.  Most of their time is slept away, so that many of them run
on few cores.  A job that was killed often enough is let run to its end, and its output compared with that of the same
job, which nobody disturbed: byte for byte when it is ordered, as a multiset of lines when it is not.
"""

from __future__ import annotations

import os
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps import Steps

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
HANG_S = 300.0

MODULE = """
import os
import time
from mpengine import SKIP, Pipeline, stage

ITEMS = int(os.environ["RESUMING_ITEMS"])
ITEM_S = float(os.environ["RESUMING_ITEM_S"])

def one(number):
    time.sleep(ITEM_S)
    return {"number": number, "square": number * number}

@stage(on_error="drop")
def picky(number):
    time.sleep(ITEM_S)
    if number % 13 == 5:
        raise ValueError(f"{number} is not wanted")
    return SKIP if number % 7 == 3 else number

def many(number):
    for part in range(number % 4):
        time.sleep(ITEM_S / 4)
        yield number, part

def told(pair):
    return list(pair)

ordered = unordered = Pipeline(range(ITEMS)) >> one
failing = Pipeline(range(ITEMS)) >> picky >> one
fanning = fanning_unordered = Pipeline(range(ITEMS)) >> picky >> many >> told
"""
KINDS = ("ordered", "unordered", "failing", "fanning", "fanning_unordered")


@dataclass
class Verdict:
    """What became of one job.

    Attributes:
        kind: which.
        kills: how often its coordinator was killed.
        beginnings: how often that was before it had done anything new.
        lines: of its output.
        wrong: what was not as it should be.
        took_s: seconds.
    """

    kind: str
    kills: int = 0
    beginnings: int = 0
    lines: int = 0
    wrong: list[str] = field(default_factory=list)
    took_s: float = 0.0


class Job:
    """A job in a folder of its own.

    Args:
        folder: for its files.
        kind: one of ``KINDS``.
        items: how many.
        item_s: seconds that each takes.
        workers: how many.
    """

    def __init__(self, folder: Path, kind: str, items: int, item_s: float, workers: int) -> None:
        self._folder = folder
        self._kind = kind
        self._workers = workers
        self.output, self.journal = folder / "out.jsonl", folder / "journal.db"
        (folder / "resumed_jobs.py").write_text(MODULE)
        self._environ = {
            **os.environ,
            "RESUMING_ITEMS": str(items),
            "RESUMING_ITEM_S": str(item_s),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }

    def start(self, *more: str, output: Path | None = None) -> subprocess.Popen[str]:
        """Start the job's program, with further arguments."""
        command = [sys.executable, "-m", "mpengine", "run", f"resumed_jobs:{self._kind}", "-q"]
        command += ["-w", str(self._workers), "--output", str(output or self.output), *more]
        command += ["--unordered"] if "unordered" in self._kind else []
        return subprocess.Popen(
            command, cwd=self._folder, env=self._environ, stderr=subprocess.PIPE, text=True
        )  # fmt: skip

    def resume(self) -> subprocess.Popen[str]:
        """Start it, or go on with it."""
        return self.start("--journal", str(self.journal), "--resume")

    def undisturbed(self) -> bytes:
        """Run it in one go, without a journal, and return its output."""
        output = self._folder / "undisturbed.jsonl"
        end(self.start(output=output))
        return output.read_bytes()

    def touched(self) -> int:
        """Return when the output was last written or cut back."""
        return self.output.stat().st_mtime_ns if self.output.exists() else 0

    def settled(self) -> int:
        """Return how many items the journal has as done or failed."""
        if not self.journal.exists():
            return 0
        connection = sqlite3.connect(f"{self.journal.absolute().as_uri()}?mode=ro", uri=True, timeout=60)
        try:
            return int(connection.execute("SELECT count(*) FROM items").fetchone()[0])
        except sqlite3.OperationalError:  # it was killed before there were tables
            return 0
        finally:
            connection.close()


def is_over(pidfd: int, within_s: float) -> bool:
    """Whether a process ends within so many seconds."""
    return bool(select.select([pidfd], [], [], within_s)[0])


def end(process: subprocess.Popen[str]) -> str:
    """Wait for a program, and return what it has told."""
    _, told = process.communicate(timeout=HANG_S)
    return told


def kill_and_resume(job: Job, kind: str, kills: int, longest_s: float, chance: random.Random) -> Verdict:
    """Kill a job's coordinator at random moments, ``kills`` times, and compare its output.

    Args:
        job: not begun yet.
        kind: what it is.
        kills: how often.
        longest_s: a run is killed so long at most after it was started, or (three of four) after it has opened its
            output, which takes some time on a busy machine.
        chance: for the moments.
    """
    began_at = time.monotonic()
    expected = job.undisturbed()
    verdict = Verdict(kind)
    before = 0
    while verdict.kills < kills:
        touched = job.touched()
        with job.resume() as process:
            pidfd = os.pidfd_open(process.pid)
            try:
                if chance.random() < 0.75:  # noqa: PLR2004 - most of them
                    until = time.monotonic() + HANG_S
                    while job.touched() == touched and not is_over(pidfd, 0.002) and time.monotonic() < until:
                        pass
                has_ended = is_over(pidfd, chance.uniform(0.0, longest_s))
            finally:
                os.close(pidfd)
            process.send_signal(signal.SIGKILL)
            told = end(process)
        if has_ended:
            if process.returncode not in (0, 1):
                verdict.wrong.append(f"kill {verdict.kills}: it has ended by itself: {process.returncode} {told}")
            break
        verdict.kills += 1
        settled = job.settled()
        verdict.beginnings += settled == before
        if settled < before:
            verdict.wrong.append(f"kill {verdict.kills}: the journal had {before} items, and now has {settled}")
        before = settled
    with job.resume() as process:
        told = end(process)
    if process.returncode not in (0, 1) or "Traceback" in told:
        verdict.wrong.append(f"it ends with {process.returncode}: {told}")
    content = job.output.read_bytes()
    verdict.lines = content.count(b"\n")
    verdict.wrong += differences(content, expected, is_ordered="unordered" not in kind)
    verdict.took_s = time.monotonic() - began_at
    return verdict


def differences(content: bytes, expected: bytes, *, is_ordered: bool) -> list[str]:
    """Return what is wrong with an output."""
    wrong = []
    found, wanted = Counter(content.splitlines()), Counter(expected.splitlines())
    if found != wanted:
        missing, more = wanted - found, found - wanted
        wrong.append(
            f"{missing.total()} lines are missing: {list(missing)[:5]}, {more.total()} too many: {list(more)[:5]}"
        )
    if is_ordered and content != expected:
        wrong.append("the bytes are not those of an undisturbed run")
    if content and not content.endswith(b"\n"):
        wrong.append("the last line is not whole")
    return wrong


# ---------------------------------------------------------------------- at every step


class CountingConnection(sqlite3.Connection):
    """A connection to SQLite whose every call is a step, before it and behind it."""

    steps: Steps

    def execute(self, *args: Any) -> sqlite3.Cursor:
        """See ``sqlite3.Connection``."""
        self.steps.step()
        try:
            return super().execute(*args)
        finally:
            self.steps.step()

    def executemany(self, *args: Any) -> sqlite3.Cursor:
        """See ``sqlite3.Connection``."""
        self.steps.step()
        try:
            return super().executemany(*args)
        finally:
            self.steps.step()


def count_in_here(steps: Steps) -> None:
    """Have what this process does to journals and to its output be steps; half a line is one, too."""
    from mpengine.sinks.inorder import FileSink

    CountingConnection.steps = steps
    connect = sqlite3.connect
    sqlite3.connect = lambda *args, **options: connect(*args, factory=CountingConnection, **options)  # type: ignore[assignment]
    write = FileSink.write_bytes

    def write_in_halves(sink: FileSink, content: bytes) -> None:
        middle = len(content) // 2
        write(sink, content[:middle])
        sink.position(is_last=False)
        write(sink, content[middle:])

    FileSink.write_bytes = write_in_halves  # type: ignore[method-assign]
    for name in ("begin", "position", "sync", "rewind"):
        setattr(FileSink, name, _counted(getattr(FileSink, name), steps))


def _counted(method: Callable[..., Any], steps: Steps) -> Callable[..., Any]:
    def counted(*args: Any, **options: Any) -> Any:
        steps.step()
        try:
            return method(*args, **options)
        finally:
            steps.step()

    return counted


def import_all(folder: Path) -> None:
    """Import what a run needs, so that the processes that are forked for one need not."""
    import mpengine.cli.figures  # noqa: F401
    from mpengine import Engine

    Engine(backend="inline").run([[1], str], journal=folder / "first.db").unwrap()


def run_here(folder: Path, kind: str, items: int, steps: Steps | None, *more: str) -> int:
    """Run a job inline, in a process forked for it, and return how that ended."""
    pid = os.fork()
    if pid == 0:
        status = 3
        try:
            os.chdir(folder)
            sys.path.insert(0, str(folder))
            os.environ.update(RESUMING_ITEMS=str(items), RESUMING_ITEM_S="0")
            from mpengine.cli import main

            if steps is not None:
                count_in_here(steps)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            status = main(["run", f"resumed_jobs:{kind}", "-q", "--backend", "inline", *more])
        finally:
            os._exit(status)
    pidfd = os.pidfd_open(pid)
    try:
        if not select.select([pidfd], [], [], HANG_S)[0]:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_at_steps(
    folder: Path, kind: str, items: int, *, stride: int = 1, offset: int = 0
) -> tuple[int, int, list[str]]:
    """Kill a job at each of its steps, and what resumes it as well, and see that the third run has all of it.

    Args:
        folder: for its files.
        kind: of the job.
        items: how many.
        stride: take every so many-th step.
        offset: of the first.

    Returns:
        How many steps there are, at how many the job was killed, and what was wrong.
    """
    (folder / "resumed_jobs.py").write_text(MODULE)
    output, journal = folder / "out.jsonl", folder / "journal.db"
    import_all(folder)
    wrong: list[str] = []
    hit = 0
    steps = Steps.create()
    try:
        run_here(folder, kind, items, None, "--output", str(output))
        expected = output.read_bytes()
        steps.choose(0)
        arguments = ("--output", str(output), "--journal", str(journal), "--resume")
        run_here(folder, kind, items, steps, *arguments)
        count = steps.count
        for at in range(1 + offset, count + 1, stride):
            for path in folder.glob("journal.db*"):
                path.unlink()
            output.write_bytes(b"of before\n")
            ends = []
            for chosen in (at, 1 + at * 7919 % count, 0):  # the second one anywhere
                steps.choose(chosen)
                ends.append(run_here(folder, kind, items, steps, *arguments))
            told = differences(output.read_bytes(), expected, is_ordered=True)
            if ends[-1] not in (0, 1):
                told.append(f"the last run ended with {ends[-1]}")
            hit += ends[0] == -signal.SIGKILL  # how many records are written at once differs from run to run
            wrong += [f"step {at}: {one}" for one in told]
    finally:
        steps.close()
    return count, hit, wrong
