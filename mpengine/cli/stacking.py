"""``stack``: where every worker is.

The workers are asked from here, each by a signal: the coordinator has no part in it, so that one that hangs is no
obstacle.  Which they are its board tells; where that does not answer, they are looked for among its descendants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpengine.cli.frames import clock
from mpengine.cli.speech import one_line, say
from mpengine.cli.streams import write_bytes
from mpengine.processes.stacks import SilentError, ask_stack
from mpengine.runs import GoneError, View, attach

if TYPE_CHECKING:
    from mpengine.processes.stacks import Frame, ThreadStack
    from mpengine.runs import KnownRun, Watch

FAILED = 1
SIGHT_S = 5.0


def tell_stacks(run: KnownRun, *, threads: bool, full: bool, with_parent: bool) -> int:
    """Write where the workers of ``run`` are.

    Args:
        run: which.
        threads: of each worker all threads.
        full: the engine's own frames, too.
        with_parent: the coordinator's threads, too.

    Returns:
        The exit status: 1 when somebody who should have did not tell.
    """
    if run.is_alive is False:
        say(f"run {run.run_id} is dead: its process {run.entry.pid} is gone")
        return FAILED
    told: list[str] = []
    is_well = True
    try:
        with attach(run) as watch:
            for title, pid in _workers(watch):
                lines, has_told = _of_worker(pid, threads=threads, full=full)
                told += [one_line(f"{title}{lines[0]}"), *map(_clean, lines[1:]), ""]
                is_well = is_well and has_told
            if with_parent:
                lines, has_told = _of_parent(watch)
                told += [f"coordinator, pid {run.entry.pid}{lines[0]}", *map(_clean, lines[1:]), ""]
                is_well = is_well and has_told
    except GoneError as error:
        say(str(error))
        return FAILED
    write_bytes("".join(f"{line}\n" for line in told[:-1]).encode("utf-8", "replace"))
    return 0 if is_well else FAILED


def _workers(watch: Watch) -> list[tuple[str, int | None]]:
    """Return the workers, each with what is known of it."""
    try:
        view = sighted(watch, SIGHT_S)
    except GoneError as error:
        say(f"{error}; its workers are looked for among what it has started")
        return [(f"a worker, pid {pid}", pid) for pid in _descendants(watch.run.entry.pid)]
    stages = [stage.name for stage in view.snapshot.stages]
    sights = {} if view.sights is None else {sight.worker_id: sight for sight in view.sights.workers}
    told: list[tuple[str, int | None]] = []
    for worker in view.snapshot.workers:
        sight = sights.get(worker.worker_id)
        text = (
            f"worker {worker.worker_id}" + ("" if worker.pid is None else f", pid {worker.pid}") + f", {worker.state}"
        )
        if sight is not None and sight.stage is not None:
            text += f" in {stages[sight.stage]}"
            text += f", item {sight.item}" if sight.item is not None else ""
            text += f", for {clock(sight.since_s)}" if sight.since_s is not None else ""
        told.append((text, worker.pid))
    return told


def sighted(watch: Watch, patience_s: float) -> View:
    """Return a view in which it is told what workers are at, if there is one in time.

    Raises:
        GoneError: the run does not answer.
    """
    import time

    deadline_at = time.monotonic() + patience_s
    view = watch.look()
    while view.sights is None and time.monotonic() < deadline_at:
        view = watch.look(view.number, 0.5)
    return view


def _descendants(pid: int) -> list[int]:
    import psutil

    from mpengine.processes.stacks import is_worker

    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True) if is_worker(child.pid)]
    except psutil.Error:
        return []


def _of_worker(pid: int | None, *, threads: bool, full: bool) -> tuple[list[str], bool]:
    """Return what a worker tells: the rest of its first line, and the others; and whether it has told anything."""
    if pid is None:
        return [": no process of its own"], True
    try:
        found = ask_stack(pid, threads=threads)
    except SilentError as error:
        return [f": {error}"], False
    if not found:
        return [": it has told nothing that can be read"], False
    lines = [""]
    for stack in found:
        if threads:
            lines.append(f"  {stack.which}")
        lines += _lines(stack, full=full)
    return lines, True


def _lines(stack: ThreadStack, *, full: bool) -> list[str]:
    """Return the frames in the order of tracebacks, the innermost last."""
    frames = list(reversed(stack.frames))
    if full:
        return [_line(frame) for frame in frames]
    ours = [number for number, frame in enumerate(frames) if "/mpengine/worker/" in frame.file]
    users = frames[ours[-1] + 1 :] if ours else frames
    if any("/mpengine/" not in frame.file for frame in users):
        return [_line(frame) for frame in users]
    return [_line(frames[-1]) + "  (the engine's own; --full has all)"] if frames else ["  (no Python code)"]


def _line(frame: Frame) -> str:
    return f'  File "{frame.file}", line {frame.line}, in {frame.name}'


def _of_parent(watch: Watch) -> tuple[list[str], bool]:
    try:
        text = watch.parent_stacks()
    except GoneError as error:
        return [f": {error}"], False
    if text is None:
        return [": does not answer; its interpreter's lock may be held, or it is stopped"], False
    return ["", *text.splitlines()], True


def _clean(line: str) -> str:
    """Return ``line`` without anything that a terminal would take for a command."""
    return "".join(character if character.isprintable() else " " for character in line.rstrip())
