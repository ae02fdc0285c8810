"""What the stages of a soak do.  Workers import this module by name, so it is light.

An item is ``(path, number, ballast)``.  The path begins with the item's index in the source, and each generator adds
the number of the copy; so no two items are the same, and one that is lost or doubled can be named.

The same stages serve as the reference, run inline: there they pretend, which means that they take no time, and that
what would end the process raises ``Poisoned`` instead.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import pickle
import signal
import sys
import time
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mpengine import SKIP

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from mpengine import WorkerState

Item = tuple[tuple[int, ...], int, "Ballast"]

DUMP = signal.SIGUSR2
DEADLY = ("SIGKILL", "SIGSEGV", "SIGABRT", "os._exit", "sys.exit")
HANGING = ("sleeps", "holds the lock")
FOREVER_S = 300.0


class Ballast:
    """Weight, whose content tells which item it belongs to; unpickled, it is a view of what has travelled."""

    __slots__ = ("_content",)

    def __init__(self, content: Any) -> None:
        self._content = content

    @classmethod
    def of(cls, index: int, size: int) -> Ballast:
        """Return the ballast of an item."""
        return cls(bytes([index % 251 + 1]) * size)

    def __reduce__(self) -> tuple[Any, ...]:
        return Ballast, (pickle.PickleBuffer(self._content),)

    def checksum(self) -> int:
        """Return what differs where a byte does."""
        return zlib.crc32(self._content)


class Poisoned(Exception):  # noqa: N818 - what became of the item, not what went wrong
    """An item has met its poison, in a run that only pretends; the argument says which."""


def die(how: str) -> None:
    """End this process, or never come back, as ``how`` says; or raise."""
    if how == "raises":
        raise ValueError(how)
    if how == "sys.exit":
        sys.exit(4)
    if how == "os._exit":
        os._exit(3)
    if how == "sleeps":
        time.sleep(FOREVER_S)
    if how == "holds the lock":
        ctypes.PyDLL(None).sleep(int(FOREVER_S))
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(FOREVER_S)


async def sleep(seconds: float) -> None:
    """Let others go on for so long."""
    import asyncio  # not by every worker

    await asyncio.sleep(seconds)


def spend(seconds: float) -> None:
    """Take so long: asleep where it is long, busy where it is short."""
    if seconds >= 0.001:  # noqa: PLR2004 - a sleep is not exact below
        time.sleep(seconds)
    elif seconds:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            pass


@dataclass(frozen=True)
class Form:
    """What every stage has; those below differ in what they give.

    Args:
        name: the stage's.
        number: varies what it does.
        cost_s: how long an item takes.
        poison: which items of the source end whom, and how.
        notes: where each execution is noted; None: nowhere.
        stacks: where workers show their stacks when they are asked.
        pretends: whether this is the reference.
    """

    name: str
    number: int
    cost_s: float = 0.0
    poison: Mapping[int, str] = field(default_factory=dict)
    notes: str | None = None
    stacks: str | None = None
    pretends: bool = False

    def begin(self, item: Item) -> None:
        """Note that the stage runs for this item, let it do its harm, and take the time that it takes."""
        how = self.poison.get(item[0][0])
        if self.pretends:
            if how is not None:
                raise Poisoned(how)
            return
        _show_stacks(self.stacks)
        if self.notes is not None:
            note(self.notes, f"{self.name} {'.'.join(map(str, item[0]))}\n")
        if how is not None:
            die(how)
        spend(self.cost_s)

    def change(self, item: Item) -> Item:
        """Return what comes of an item."""
        path, number, ballast = item
        return path, number + self.number, ballast


def note(path: str, line: str) -> None:
    """Add a line to a file, whole, whoever else does the same."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


_shown: set[int] = set()


def _show_stacks(path: str | None) -> None:
    if path is not None and os.getpid() not in _shown and signal.getsignal(DUMP) == signal.SIG_DFL:
        _shown.add(os.getpid())
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
        faulthandler.register(DUMP, os.fdopen(fd, "w"), all_threads=True)


# ---------------------------------------------------------------------- the forms


class Plain(Form):
    """A function of an item."""

    def __call__(self, item: Item) -> Item:
        """Change it."""
        self.begin(item)
        return self.change(item)


class Once(Plain):
    """The same, of a stage that must not run twice."""


class Filter(Form):
    """Lets some items go no further."""

    def __call__(self, item: Item) -> Any:
        """Change it or skip it."""
        self.begin(item)
        return SKIP if item[1] % self.number == 0 else self.change(item)


class Failing(Form):
    """Raises at some items."""

    def __call__(self, item: Item) -> Item:
        """Change it or fail."""
        self.begin(item)
        if item[1] % (self.number + 20) == 0:
            raise ValueError(item[0])
        return self.change(item)


class Flaky(Form):
    """Keeps a state that a ``setup`` has made, and fails the first time that a worker meets some items."""

    def __call__(self, item: Item, state: WorkerState) -> Item:
        """Change it, the second time at the latest."""
        if not state.get("is set up"):
            raise RuntimeError("the stage was not set up")
        if item[1] % self.number == 0 and state.get("last") != item[0]:
            state.update(last=item[0])
            raise OSError(item[0])
        self.begin(item)
        state.update(last=None)
        return self.change(item)


def set_up(state: WorkerState) -> None:
    """Prepare a ``Flaky``."""
    state.values["is set up"] = True


def tear_down(state: WorkerState) -> None:
    """Check what ``set_up`` has left."""
    if not state.get("is set up"):
        raise RuntimeError("torn down, but not set up")


def built(form: Form) -> type:
    """Return a class that each worker builds; it travels by value, since it is local."""

    class Built:
        def __init__(self) -> None:
            self._is_open = True

        def __call__(self, item: Item) -> Item:
            if not self._is_open:
                raise RuntimeError("called after its end")
            form.begin(item)
            return form.change(item)

        def close(self) -> None:
            self._is_open = False

    return Built


class Many(Form):
    """A generator."""

    def __call__(self, item: Item) -> Iterator[Item]:
        """Give none, one or some."""
        self.begin(item)
        path, number, ballast = item
        for copy in range(number % (self.number + 1)):
            yield (*path, copy), number + copy, ballast


class ManyLater(Form):
    """A generator with ``await`` in it."""

    async def __call__(self, item: Item) -> AsyncIterator[Item]:
        """Give none, one or some."""
        self.begin(item)
        path, number, ballast = item
        for copy in range(number % (self.number + 1)):
            await sleep(0)
            yield (*path, copy), number + copy, ballast


class Later(Form):
    """A coroutine."""

    async def __call__(self, item: Item) -> Item:
        """Change it, with others at the same time."""
        await sleep(0 if self.pretends else self.cost_s)
        self.begin(item)
        return self.change(item)


class Listed(Form):
    """Gets lists."""

    def __call__(self, items: list[Item]) -> list[Item]:
        """Change them all."""
        for item in items:
            self.begin(item)
        return [self.change(item) for item in items]


class Merge(Form):
    """Puts together what the functions of a mix have given."""

    def __call__(self, items: list[Item]) -> Item:
        """Add the numbers up."""
        if len({item[0] for item in items}) != 1:
            raise RuntimeError(f"a mix has mixed up {[item[0] for item in items]}")
        self.begin(items[0])
        return items[0][0], sum(item[1] for item in items), items[0][2]
