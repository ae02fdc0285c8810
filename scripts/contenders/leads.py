"""How far a source gets ahead of a slow consumer, and how much memory that takes; a way for ``seat``.

The consumer sleeps for a millisecond after every 200 results, until it has had enough: those that read all of a source
are told from those that do not within a few seconds.  The iterator is held until the end, and nobody waits for it: some
peers go on until their source is exhausted.
"""

from __future__ import annotations

import dataclasses
import signal
import time
from typing import TYPE_CHECKING, Any

import psutil

from contenders import jobs
from contenders.field import Entry, entry
from contenders.seat import contender_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from contenders.scoring import Results

COUNT = 2_000_000
WINDOW = 100


def contenders(*, quick: bool) -> list[Entry]:
    """Return those that give results as they come; who wants all of a source first gets a shorter one."""
    most = 20_000 if quick else COUNT
    few = min(most, 100_000)
    return [
        entry("mpengine", "as they come", stream=True, items=most),
        entry("pool", items=most),
        entry("pool", "1024 a chunk", chunk=1024, items=most),
        entry("executor", items=few),
        entry("loky", items=few),
        entry("joblib", "as they come", returns="generator", items=most),
        entry("mpire", items=most),
        entry("pebble", items=few),
        entry("pypeln", items=most),
        entry("pypeln", f"maxsize {WINDOW}", maxsize=WINDOW, items=most),
        entry("pipevine", items=most),
        entry("pyper", items=most),
        entry("pyper", f"throttle {WINDOW}", throttle=WINDOW, items=most),
        entry("streamable", items=most),
        entry("faster_fifo", items=most),
        entry("dask", f"{WINDOW} at a time", window=WINDOW, items=few),
        entry("ray_tasks", f"{WINDOW} at a time", window=WINDOW, items=few),
        entry("ray_data", items=few),
    ]


def lead(order: dict[str, Any], tell: Callable[..., None]) -> None:
    """Be a slow consumer for so many seconds."""
    plain = jobs.make(order["job"], order["count"], order["workers"])
    pulled = 0

    def counted(low: int, high: int) -> Iterable[int]:
        nonlocal pulled
        for item in range(low, high):
            pulled += 1
            yield item

    with contender_of(order)(plain) as run:
        for _ in run(jobs.make(order["job"], 100, order["workers"])):
            pass
        tell(ready=True)
        ahead = taken = 0
        most_bytes, at_first = 0, _resident()
        until = time.monotonic() + order["for_s"]
        results = iter(run(dataclasses.replace(plain, items=counted)))
        for taken, _ in enumerate(results, 1):
            ahead = max(ahead, pulled - taken)
            if taken % 200 == 0:
                time.sleep(0.001)
            if taken % 5000 == 0:
                most_bytes = max(most_bytes, _resident() - at_first)
            if time.monotonic() > until:
                break
        most_bytes = max(most_bytes, _resident() - at_first)
        tell(fault="", seconds=order["for_s"], lead=ahead, taken=taken, pulled=pulled, grown_mb=most_bytes / 1e6)
        tell(ended=True)
        signal.pause()  # it is ended from outside, which sees what it holds and tidies that up


def _resident() -> int:
    """Return the memory of this process and all below it; what is shared counts for each."""
    total = 0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def rows(results: Results, titles: Iterable[str]) -> list[list[str]]:
    """Return, for each contender, its lead, how many results it gave and by how much it has grown."""
    found = []
    for title in titles:
        for told in (turns[title] for turns in results.rounds if title in turns):
            if told.get("fault"):
                found.append([f"{title}: {told['fault']}", "..", "..", ".."])
            else:
                found.append([title, f"{told['lead']:,}", f"{told['taken']:,}", f"{told['grown_mb']:,.1f}"])
    return found
