"""Where a worker is, told while it goes on: a file in its own memory that others of the same user may open.

    viewer --- signal ---> worker: faulthandler writes frames, from C ---> memory file <--- /proc/PID/fd/N --- viewer

The coordinator has no part in it: so it works on a run whose coordinator hangs, and costs one that nobody looks at a
descriptor and a few microseconds for each worker.

S1. The file is the worker's own, apart from its last words (see ``lastwords``): those are read once, when it is dead,
    and must not be pushed aside.  It is written to at its end (``O_APPEND``) and emptied by whoever asks.
S2. Its name says whose it is and by which number ``faulthandler`` writes to it.  A child that was forked from the
    worker has the file too, but not that process number; a worker whose user code has closed the number, or put another
    file there, is not asked.
S3. ``FRAMES`` tells of the main thread, where stage functions run.  ``THREADS`` tells of all: to walk the frames of a
    thread that runs meanwhile is not quite safe, so nobody does it unless told to.
S4. Nobody may send either signal to a process that does not catch it: that would end it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

FRAMES: Final = signal.SIGRTMAX - 3 if hasattr(signal, "SIGRTMAX") else signal.SIGUSR2
THREADS: Final = signal.SIGRTMAX - 4 if hasattr(signal, "SIGRTMAX") else signal.SIGUSR1
PREFIX: Final = "mpengine-stack"


def name_for(pid: int, fd: int) -> str:
    """Return what the file of a worker is called (S2)."""
    return f"{PREFIX}-{pid}-{fd}"


def open_stack_file() -> None:
    """Have this process tell where it is whenever it is asked; quietly not where that cannot be.

    Called before the worker has a second thread: the number that the next descriptor will have is known then.
    """
    with contextlib.suppress(OSError, RuntimeError, ValueError, AttributeError):
        number = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.close(number)
        fd = os.memfd_create(name_for(os.getpid(), number), os.MFD_CLOEXEC)
        if fd != number:
            os.close(fd)
            return
        import fcntl

        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
        faulthandler.register(FRAMES, file=fd, all_threads=False, chain=False)
        faulthandler.register(THREADS, file=fd, all_threads=True, chain=False)
