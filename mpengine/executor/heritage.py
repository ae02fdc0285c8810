"""What an executor's ``initializer`` is called with: may be what workers can only inherit, as locks and queues.

Those of ``multiprocessing`` refuse to be pickled but for a process that is being started.  Here processes start apart
from what they are set up with; what such an object asks of the process that is being started is answered all the same:

H1. A lock goes by its name.
H2. A pipe is opened anew, by its number in the process that has it; hence that has to keep it open meanwhile.
H3. With the start method ``fork`` nothing is pickled: each worker has its own copy from the start.
"""

from __future__ import annotations

import collections
import fcntl
import io
import os
import stat
from multiprocessing import context
from multiprocessing.reduction import ForkingPickler

from mpengine.pickling import MAIN
from mpengine.worker.turns import DescriptorOf, Initializer, inherit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def initializer_for(method: str, function: Callable[..., object], args: tuple[Any, ...]) -> Initializer:
    """Return what runs ``function`` in workers that start by ``method``.

    Raises:
        Exception: whatever pickling it raises.
    """
    if method == "fork":
        return Initializer(b"", inherit((function, args)))
    return Initializer(_dump((function, args)))


def _dump(thing: object) -> bytes:
    before = context.get_spawning_popen()
    context.set_spawning_popen(_Started())  # type: ignore[arg-type]  # it answers what is asked here
    try:
        try:
            dumped = bytes(ForkingPickler.dumps(thing))
        except Exception:  # noqa: BLE001 - cloudpickle may do better; if not, its error is raised
            dumped = MAIN
        return _dump_by_value(thing) if MAIN in dumped else dumped
    finally:
        context.set_spawning_popen(before)


def _dump_by_value(thing: object) -> bytes:
    import cloudpickle

    extra = ForkingPickler._extra_reducers  # type: ignore[attr-defined]  # noqa: SLF001 - those of pipes and locks

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
        dispatch_table = collections.ChainMap(extra, cloudpickle.Pickler.dispatch_table)  # noqa: RUF012 - never changed

    file = io.BytesIO()
    Pickler(file, 5).dump(thing)
    return file.getvalue()


class _Started:
    """Stands for the process that is being started."""

    def duplicate_for_child(self, fd: int) -> int:
        """Return the number that a descriptor has there: it is asked for by its number here."""
        return fd

    def DupFd(self, fd: int) -> DescriptorOf:  # noqa: N802 - what it is called in multiprocessing
        """Return what a descriptor is there."""
        status = os.fstat(fd)
        if not stat.S_ISFIFO(status.st_mode):
            msg = "of what is open, initargs may hold pipes alone: a socket, or a Pipe(duplex=True), has to be sent"
            raise TypeError(msg)
        mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
        return DescriptorOf(os.getpid(), fd, status.st_ino, mode)
