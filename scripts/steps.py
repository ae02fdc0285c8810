"""The steps at which a process could be killed, counted: what ``scripts/kill-everywhere`` is made of.

A worker's steps are what it does to its channels and to its slot: each read, each write, the middle of a write, each
word of shared memory, each half of a payload in it.  To be killed behind one is to be killed before the next.  The
worker runs with a channel and a slot that count, and that kill their own process when the step with a given number is
come to.  The coordinator's steps are its calls into the kernel, before each and behind each, in any of its threads.
Nothing in the package knows of this.
"""

from __future__ import annotations

import logging
import mmap
import os
import signal
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mpengine.worker.boot import WorkerBoot

COUNT, AT, SIGNUM = range(3)
FILE = "STEPS_FILE"


class Steps:
    """A count of steps in memory that is shared with all workers: who comes to the one that was chosen gets a signal.

    Args:
        fd: a file for it; kept open by whoever has made it.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, 64)
        self._words = memoryview(self._map).cast("Q")

    @classmethod
    def create(cls) -> Steps:
        """Return a new count."""
        fd = os.memfd_create("steps")
        os.ftruncate(fd, 64)
        return cls(fd)

    def choose(self, at: int, signum: int = signal.SIGKILL) -> None:
        """Begin to count anew; the step with this number, from 1, gets the signal.  0: none does."""
        self._words[COUNT], self._words[AT], self._words[SIGNUM] = 0, at, signum

    @property
    def count(self) -> int:
        """How many steps there were since the last choice."""
        return self._words[COUNT]

    def step(self) -> None:
        """A step is about to be taken."""
        self._words[COUNT] += 1
        if self._words[COUNT] == self._words[AT]:
            os.kill(os.getpid(), self._words[SIGNUM])

    def close(self) -> None:
        """Let go of the file."""
        self._words.release()
        self._map.close()
        os.close(self.fd)


# ---------------------------------------------------------------------- a worker's steps


class CountingOs:
    """The calls of ``os`` that a channel makes; everything else is as it is."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def read(self, fd: int, count: int) -> bytes:
        """Read, with a step before it."""
        self._steps.step()
        return os.read(fd, count)

    def readv(self, fd: int, buffers: Sequence[Any]) -> int:
        """Read, with a step before it."""
        self._steps.step()
        return os.readv(fd, buffers)

    def write(self, fd: int, content: Any) -> int:
        """Write in two parts, with a step before each."""
        return self.writev(fd, [content])

    def posix_fallocate(self, fd: int, offset: int, size: int) -> None:
        """Get memory, with a step before it."""
        self._steps.step()
        os.posix_fallocate(fd, offset, size)

    def writev(self, fd: int, buffers: Sequence[Any]) -> int:
        """Write in two parts, with a step before each."""
        content = b"".join(map(bytes, buffers))
        self._steps.step()
        half = os.write(fd, content[: len(content) // 2]) if len(content) > 1 else 0
        self._steps.step()
        return half + os.write(fd, content[half:])


class CountingWords:
    """The words of a slot, each written with a step before it."""

    def __init__(self, words: memoryview, steps: Steps) -> None:
        self._words = words
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._words, name)

    def __getitem__(self, key: Any) -> Any:
        found = self._words[key]
        return CountingWords(found, self._steps) if isinstance(key, slice) else found

    def __setitem__(self, key: Any, value: Any) -> None:
        self._steps.step()
        self._words[key] = value


def count_mapping(steps: Steps) -> None:
    """Have everything count that is done to the arena: what is written is written in two parts, a step before each."""
    from mpengine.ipc.mapping import Mapping

    words, write, forget, give_back = Mapping.words, Mapping.write, Mapping.forget_writes, Mapping.give_back

    def words_counted(mapping: Mapping, offset: int, count: int) -> Any:
        return CountingWords(words(mapping, offset, count), steps)

    def write_counted(mapping: Mapping, offset: int, content: Any) -> None:
        half = len(content) // 2
        steps.step()
        write(mapping, offset, bytes(content[:half]))
        steps.step()
        write(mapping, offset + half, bytes(content[half:]))

    def forget_counted(mapping: Mapping, offset: int, size: int) -> None:
        steps.step()
        forget(mapping, offset, size)

    def give_back_counted(mapping: Mapping, offset: int, size: int) -> None:
        steps.step()
        give_back(mapping, offset, size)

    Mapping.words, Mapping.write = words_counted, write_counted
    Mapping.forget_writes, Mapping.give_back = forget_counted, give_back_counted


def run_counted(boot: WorkerBoot) -> None:
    """Run a worker whose channel, slot and part of the arena count; an entry like the worker's own."""
    from mpengine.ipc import controlblock, mpqueue, region
    from mpengine.worker import main, outbox

    steps = Steps(os.open(os.environ[FILE], os.O_RDWR | os.O_CLOEXEC))
    mpqueue.os = outbox.os = region.os = CountingOs(steps)
    count_mapping(steps)
    bind = controlblock.Slot.__init__

    def bind_counted(slot: Any, words: memoryview) -> None:
        bind(slot, words)
        slot._words = CountingWords(slot._words, steps)  # noqa: SLF001 - nobody else is to know of it

    controlblock.Slot.__init__ = bind_counted
    main.run_worker(boot)


def count_workers(steps: Steps) -> Callable[[], None]:
    """Have all workers that this process starts from now on count; returns what undoes that."""
    from mpengine.backends.links import Link

    boot_of = Link.boot

    def boot_counted(link: Link, **about: int) -> WorkerBoot:
        return replace(boot_of(link, **about), entry=f"{__name__}:run_counted")

    Link.boot = boot_counted
    # The file is reached through this process, which has it open as long as there are workers.
    os.environ[FILE] = f"/proc/{os.getpid()}/fd/{steps.fd}"

    def undo() -> None:
        Link.boot = boot_of
        del os.environ[FILE]

    return undo


# ---------------------------------------------------------------------- the coordinator's steps

KERNEL = {"posix", "_posixsubprocess", "select", "fcntl", "_socket", "mmap", "_signal"}


def count_here(steps: Steps) -> None:
    """Have every call into the kernel, of every thread of this process, count from now on."""

    def profile(_: Any, event: str, what: Any) -> None:
        if event.startswith("c_") and is_kernels(what):
            steps.step()

    threading.setprofile(profile)
    sys.setprofile(profile)


def is_kernels(what: Any) -> bool:
    """Whether a function written in C is one that calls into the kernel."""
    module = getattr(what, "__module__", None) or type(getattr(what, "__self__", None)).__module__
    return module in KERNEL


# ---------------------------------------------------------------------- what is run


LOGGED = 2
REFUSED = 2
LARGE = 1 << 16


def first(number: int) -> int:
    """Log once."""
    if number == LOGGED:
        logging.getLogger("steps").warning("item %d", number)
    return number + 1


def expand(number: int) -> Iterator[int]:
    """Give none, one or two."""
    for copy in range(number % 3):
        yield 10 * number + copy


def pairs(numbers: list[int]) -> list[int]:
    """Take a list."""
    return [number + 1 for number in numbers]


def refuse_some(number: int) -> int:
    """Fail now and then."""
    if number % 10 == REFUSED:
        raise ValueError(number)
    return number


def swell(number: int) -> tuple[int, bytes]:
    """Give something that travels by shared memory, or else in its message."""
    return number, bytes([number % 256]) * (LARGE if number % 2 else 10)


def shrink(swollen: tuple[int, bytes]) -> tuple[int, int]:
    """Give what tells whether all of it has come through."""
    number, content = swollen
    return number, sum(content)


def reference(stage: Callable[..., Any]) -> list[Any]:
    """Return a pipeline with something of everything: items that are named and timed, a fan-out, lists, failures."""
    return [
        list(range(7)),
        stage(first, workers=1, timeout=60),
        stage(expand, buffer=4),
        stage(pairs, batch=2),
        stage(refuse_some, on_error="drop"),
        stage(swell, buffer=4),
        stage(shrink, buffer=4),
    ]
