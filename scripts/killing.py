"""Kill a process at each of its steps, one run for each, and see what becomes of the run and of all the others.

See ``steps.py`` for what a step is.  Workers: the results are those of the inline backend, the books balance, and
nothing is left, whichever step it was.  Coordinator: a second later there is no process, no name in shared memory and
no temporary file.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from steps import Steps, count_here, count_workers, reference

from mpengine import Engine, stage
from mpengine.backends import stillness

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

START_METHODS = ("forkserver", "spawn", "fork")
HANG_S = 60.0
GONE_S = 1.0
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - only looked at
NAMES_S = 5.0
_PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Tally:
    """What came of an enumeration.

    Attributes:
        steps: how many there are.
        hit: at how many of them a process was killed or stopped.
        wrong: what was not as it should be.
        slowest_s: the longest time until all were gone.
    """

    steps: int = 0
    hit: int = 0
    wrong: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


# ---------------------------------------------------------------------- workers


def kill_workers(start_method: str, *, stride: int = 1, offset: int = 0, signum: int = signal.SIGKILL) -> Tally:
    """Kill or stop a worker at every step of a run of a warm engine.

    Args:
        start_method: of the engine.
        stride: take every so many-th step.
        offset: of the first.
        signum: what the worker gets.
    """
    with counting() as steps, Engine(1, start_method=start_method, metrics_interval_s=0) as engine:
        expected = expect()
        for _ in range(3):  # the sizes of batches are learnt; the last count is the usual one
            steps.choose(0)
            engine.run(reference(stage)).unwrap()
        tally = Tally(steps.count)
        for at in range(1 + offset, tally.steps + 1, stride):
            steps.choose(at, signum)
            with watchdog(f"{start_method}, step {at}"):
                judge(tally, at, steps, engine.run(reference(stage)), expected)
            if len(engine.pids()) > 1:
                tally.wrong.append(f"step {at}: {len(engine.pids())} workers are alive")
    tally.wrong += [f"left behind: {left}" for left in psutil.Process().children(recursive=True)]
    return tally


def kill_new_workers(start_method: str, at_ends: int, *, stride: int = 1) -> Tally:
    """Kill a worker at the first and the last steps of its life, each in a new engine.

    Args:
        start_method: of the engines.
        at_ends: how many steps to take at either end.
        stride: take every so many-th step.
    """
    with counting() as steps:
        expected = expect()
        steps.choose(0)
        Engine(1, start_method=start_method, metrics_interval_s=0).run(reference(stage)).unwrap()
        tally = Tally(steps.count)
        last = max(at_ends, tally.steps - at_ends) + 1
        for at in (*range(1, at_ends + 1, stride), *range(last, tally.steps + 1, stride)):
            steps.choose(at)
            with watchdog(f"{start_method}, a new engine, step {at}"):
                result = Engine(1, start_method=start_method, metrics_interval_s=0).run(reference(stage))
            judge(tally, at, steps, result, expected)
            tally.wrong += [f"step {at}: left behind: {left}" for left in psutil.Process().children(recursive=True)]
    return tally


def expect() -> Any:
    """Return how the run ends that nothing is done to."""
    return Engine(backend="inline").run(reference(stage)).unwrap()


def judge(tally: Tally, at: int, steps: Steps, result: Any, expected: Any) -> None:
    """Compare a run with one that nothing was done to; that its books balance, it has checked itself."""
    tally.hit += steps.count >= at
    if not result.is_ok:
        tally.wrong.append(f"step {at}: {result.reason}")
        return
    report = result.report
    if report.values != expected.values:
        tally.wrong.append(f"step {at}: {report.values}")
    if [error.index for error in report.errors] != [error.index for error in expected.errors]:
        tally.wrong.append(f"step {at}: {report.errors}")
    told = [(book.succeeded, book.failed, book.skipped) for book in report.snapshot.stages]
    if told != [(book.succeeded, book.failed, book.skipped) for book in expected.snapshot.stages]:
        tally.wrong.append(f"step {at}: {told}")


@contextlib.contextmanager
def counting() -> Iterator[Steps]:
    """Have workers count; without what they log, and without long waits for those that are stopped."""
    steps = Steps.create()
    undo = count_workers(steps)
    disabled, logging.root.manager.disable = logging.root.manager.disable, logging.ERROR
    look_s, stillness.LOOK_S = stillness.LOOK_S, 0.02
    try:
        yield steps
    finally:
        logging.disable(disabled)
        stillness.LOOK_S = look_s
        undo()
        steps.close()


@contextlib.contextmanager
def watchdog(what: str) -> Iterator[None]:
    """End this process with all stacks, should it hang."""
    faulthandler.dump_traceback_later(HANG_S, exit=True, file=sys.__stderr__)
    try:
        yield
    except BaseException as error:
        error.add_note(what)
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()


# ---------------------------------------------------------------------- the coordinator


def with_family(number: int, state: dict[str, Any]) -> int:
    """Have grandchildren in the group and out of it; now and then be a worker that heeds no signal."""
    if not state:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        sleep = [sys.executable, "-S", "-E", "-c", "import signal; signal.pause()"]
        state["program"] = subprocess.Popen(sleep)
        state["session"] = subprocess.Popen(sleep, start_new_session=True)
        if os.fork() == 0:
            os.setsid()
            signal.pause()
    return number


def coordinate(start_method: str, steps: Steps) -> None:
    """Be a coordinator, in a process forked for it, all of whose steps count."""
    logging.disable(logging.ERROR)
    count_here(steps)
    engine = Engine(2, start_method=start_method, metrics_interval_s=0, grace_s=0.2)
    source, *stages = reference(stage)
    engine.run([source, stage(with_family, workers=2), *stages])
    os._exit(0)


def kill_coordinators(start_method: str, at: Iterable[int] | None = None, *, stride: int = 1) -> Tally:
    """Kill a coordinator at every step of a run.

    Args:
        start_method: of its engine.
        at: which steps; None: all.
        stride: take every so many-th step.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # whatever is orphaned becomes a child of this process
    steps = Steps.create()
    try:
        steps.choose(0)
        run_coordinator(start_method, steps)
        tally = Tally(steps.count)
        for step in range(1, tally.steps + 1, stride) if at is None else at:
            steps.choose(step)
            names = names_of_ours()
            run_coordinator(start_method, steps)
            tally.hit += steps.count >= step
            gone_s, left = wait_alone()
            tally.slowest_s = max(tally.slowest_s, gone_s)
            if left:
                tally.wrong.append(f"step {step}: {left} are there {GONE_S} s later")
            tally.wrong += [f"step {step}: {name} is left" for name in sorted(names_that_stay(names))]
    finally:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        steps.close()
    return tally


def run_coordinator(start_method: str, steps: Steps) -> None:
    """Fork a coordinator, and wait until it is gone; it is killed when it hangs."""
    pid = os.fork()
    if pid == 0:
        try:
            coordinate(start_method, steps)
        finally:
            os._exit(1)
    pidfd = os.pidfd_open(pid)
    try:
        if not select.select([pidfd], [], [], HANG_S)[0]:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    finally:
        os.close(pidfd)


def wait_alone() -> tuple[float, list[str]]:
    """Wait until this process has no children any more.

    Returns:
        How long that took, and who was still there after ``GONE_S``; they are killed then.
    """
    began_at = time.monotonic()
    while time.monotonic() < began_at + GONE_S:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.001)
        except ChildProcessError:
            return time.monotonic() - began_at, []
    children = psutil.Process().children(recursive=True)
    told = [f"{child.pid} {child.name()} ({child.status()})" for child in children]
    with contextlib.suppress(ChildProcessError):
        while True:
            for child in psutil.Process().children():
                child.kill()
            os.waitpid(-1, 0)
    return time.monotonic() - began_at, told


def names_that_stay(before: set[str]) -> set[str]:
    """Return the new names that are there ``NAMES_S`` later as well: others' programs have some for a moment."""
    until = time.monotonic() + NAMES_S
    while (new := names_of_ours() - before) and time.monotonic() < until:
        time.sleep(0.05)
    return new


def names_of_ours() -> set[str]:
    """Return the names in shared memory, and of temporary files that could be ours."""
    found = {str(path) for path in SHARED_MEMORY.iterdir()} if SHARED_MEMORY.is_dir() else set()
    return found | {str(path) for path in Path(tempfile.gettempdir()).glob("mpengine*")}
