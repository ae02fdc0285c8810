"""What the items of the fault table do: a few milliseconds of work each, and one of them goes wrong.

Workers of every library import this module by its name, so it needs nothing but the standard library.
"""

from __future__ import annotations

import collections
import ctypes
import hashlib
import itertools
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WORKERS = 2
ITEMS = 300
MANY = 2000  # where the consumer stops early: so many that nobody can be done with them by then
POISON = 37
TAKEN = 10
FIRST_BUSY = 8
ITEM_S = 0.004
TIMEOUT_S = 5.0

CONTROL = "0"
FAULTS = {
    "1": "killed once",
    "2": "always killed",
    "3": "os._exit(0)",
    "4": "SIGSEGV",
    "5": "result will not unpickle",
    "6": "result will not pickle",
    "7": "exception will not unpickle",
    "8": "never returns, in C",
    "9": "SIGSTOP",
    "10": "parent killed",
    "11a": "Ctrl-C, parent only",
    "11b": "Ctrl-C, the group",
    "12": "source raises",
    "13": "consumer stops",
}
PARENT_KILLED, SIGINT_ALONE, SIGINT_GROUP, SOURCE_RAISES, CONSUMER_STOPS = "10", "11a", "11b", "12", "13"
FROM_OUTSIDE = (PARENT_KILLED, SIGINT_ALONE, SIGINT_GROUP)
TIMED = ("8", "9")
SURVIVABLE = ("1",)  # nothing has to be lost


def plain(item: int) -> int:
    """Return what an item gives when all is well."""
    return item * 3 + 1


def source(fault: str) -> Iterator[int]:
    """Yield the items."""
    for item in range(MANY if fault == CONSUMER_STOPS else ITEMS):
        if fault == SOURCE_RAISES and item == POISON:
            raise OSError("the source broke")
        yield item


def work(fault: str, folder: str, item: int) -> Any:
    """Do an item; ``folder`` is where calls are counted and marks are left."""
    with Path(folder, "calls").open("ab", buffering=0) as calls:
        calls.write(b".")
    until = time.perf_counter() + ITEM_S
    digest = hashlib.sha256()
    while time.perf_counter() < until:
        digest.update(bytes(2000))
    if fault in FROM_OUTSIDE and item >= FIRST_BUSY:
        _be_busy(Path(folder), deaf=fault != PARENT_KILLED)
    if item == POISON and fault in _AT_ITEM:
        return _AT_ITEM[fault](Path(folder))
    return plain(item)


def _never_return() -> None:
    """Loop in C code, which neither gives the interpreter's lock away nor looks for signals."""
    collections.deque(itertools.repeat(None), maxlen=0)


def _be_busy(folder: Path, *, deaf: bool) -> None:
    """Start a process, say so, and never return; ``deaf``: to SIGINT and SIGTERM."""
    subprocess.Popen(["sleep", "600"])  # noqa: S607 - wherever it is
    if deaf:
        libc = ctypes.CDLL(None)  # signal.signal() is for main threads alone
        for number in (signal.SIGINT, signal.SIGTERM):
            libc.signal(int(number), ctypes.c_void_p(int(signal.SIG_IGN)))
    (folder / f"busy-{os.getpid()}").touch()
    _never_return()


def _killed_once(folder: Path) -> int:
    try:
        (folder / "killed").touch(exist_ok=False)
    except FileExistsError:
        return plain(POISON)
    return _killed(folder)


def _killed(_: Path) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def _exited(_: Path) -> None:
    os._exit(0)


def _crashed(_: Path) -> None:
    ctypes.string_at(0)


def _explode() -> None:
    raise ValueError("this does not unpickle")


class Unloadable:
    """A result that raises where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _explode, ()


class PickyError(Exception):
    """An exception that cannot be made again from its ``args``."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(one + other)


def _raised(_: Path) -> None:
    raise PickyError("hard ", "to please")


def _hung(_: Path) -> None:
    _never_return()


def _stopped(_: Path) -> int:
    os.kill(os.getpid(), signal.SIGSTOP)
    return plain(POISON)


_AT_ITEM: dict[str, Callable[[Path], Any]] = {
    "1": _killed_once,
    "2": _killed,
    "3": _exited,
    "4": _crashed,
    "5": lambda _: Unloadable(),
    "6": lambda _: threading.Lock(),
    "7": _raised,
    "8": _hung,
    "9": _stopped,
}
