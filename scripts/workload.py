"""The work that is measured by the benchmarks beside this file, and the bare processes that do it without an engine.

Workers import this module afresh, so what was chosen and how much of it makes a millisecond comes to them through the
environment.
"""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import os
import time
from typing import Any

STAGES_MS = (1.0, 4.0, 0.5)

fork = multiprocessing.get_context("fork")

BLOCK = bytes(2000)  # hashlib gives the GIL away for 2,048 bytes or more
WORK = os.environ.get("BENCH_WORK", "hash")
UNITS_PER_MS = int(os.environ.get("BENCH_UNITS_PER_MS", "0"))


def turn(units: int) -> None:
    """Do so many units of fixed work: blocks to hash, or turns of an empty loop."""
    if WORK == "loop":
        for _ in itertools.repeat(None, units):
            pass
        return
    update = hashlib.sha256().update
    for _ in itertools.repeat(None, units):
        update(BLOCK)


def busy(ms: float) -> None:
    """Work for ``ms``: fixed work, or ("clock") until the time has passed, whoever had the core.

    "hash" is what the target is measured with: where this was written, an empty loop took 4.7 to 8.4 ms, often for as
    long as a process lived and whatever had started it, where hashing took 3.0 to 3.9.  Why was not found out.
    """
    if WORK == "clock":
        until = time.perf_counter() + ms / 1000
        while time.perf_counter() < until:
            pass
        return
    turn(int(ms * UNITS_PER_MS))


def choose(work: str) -> int:
    """Take this kind of work, and return how many units take a millisecond of a thread's CPU time, at best."""
    global UNITS_PER_MS, WORK  # noqa: PLW0603 - one kind of work for a whole process, and for those it starts
    WORK = work
    units, best = 2000 if WORK == "hash" else 500_000, float("inf")
    for _ in range(30):
        began = time.thread_time()
        turn(units)
        best = min(best, time.thread_time() - began)
    UNITS_PER_MS = int(units / best / 1000)
    os.environ.update(BENCH_WORK=WORK, BENCH_UNITS_PER_MS=str(UNITS_PER_MS))
    return UNITS_PER_MS


def first(item: int) -> int:
    """Be the pipeline's first stage."""
    busy(STAGES_MS[0])
    return item + 1


def second(item: int) -> int:
    """Be its second stage."""
    busy(STAGES_MS[1])
    return item + 1


def third(item: int) -> int:
    """Be its third stage."""
    busy(STAGES_MS[2])
    return item + 1


def fused(item: int) -> int:
    """Be all three, as one would write it by hand."""
    return third(second(first(item)))


def add_one(item: int) -> int:
    """Do next to nothing."""
    return item + 1


def add_three(item: int) -> int:
    """Do three times next to nothing, fused by hand."""
    return add_one(add_one(add_one(item)))


def ten_ms(item: int) -> int:
    """Be busy for a while."""
    busy(10)
    return item


class Bare:
    """The same work split by hand over forked processes: a share each, results sent back once, no transport between."""

    def __init__(self, workers: int) -> None:
        """Fork the processes; they wait for their share."""
        self._ends = []
        self._processes = []
        for _ in range(workers):
            here, there = fork.Pipe()
            process = fork.Process(target=self._serve, args=(there,), daemon=True)
            process.start()
            there.close()
            self._ends.append(here)
            self._processes.append(process)

    @staticmethod
    def _serve(end: Any) -> None:
        while (share := end.recv()) is not None:
            end.send([fused(item) for item in share])

    def run(self, items: range) -> list[int]:
        """Do all items."""
        workers = len(self._ends)
        cuts = [len(items) * number // workers for number in range(workers + 1)]
        for end, low, high in zip(self._ends, cuts, cuts[1:], strict=False):
            end.send(items[low:high])
        return [result for end in self._ends for result in end.recv()]

    def __enter__(self) -> Bare:  # noqa: PYI034 - Self is not in every Python that gets as far as move_house()
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let the processes go."""
        for end in self._ends:
            end.send(None)
        for process in self._processes:
            process.join()
