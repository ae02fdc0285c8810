"""What a worker's process was at when it was killed or crashed: its Python frames, written by ``faulthandler``.

Each worker has a region behind the slots of the control block, and writes to it through a descriptor with a position of
its own.  ``faulthandler`` writes from C, in a signal handler: it needs no lock, and gets through while C code holds the
interpreter's.  The coordinator reads the region when the process is gone, and empties it.

O1. ``DUMP`` makes a worker write its main thread's frames and go on.
O2. A fatal signal (SIGSEGV and its like) does the same before it ends the process.
O3. What cannot be read is no frames: a story that is not there is no reason to fail.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal

from mpengine.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

DUMP: Final = signal.SIGRTMAX - 2 if hasattr(signal, "SIGRTMAX") else signal.SIGUSR2
REGION_BYTES: Final = 1 << 16
_FRAME: Final = r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)$'
_OURS: Final = r"[/\\]mpengine[/\\]worker[/\\]"


@dataclass(frozen=True, slots=True)
class Stack:
    """Where a process was.

    Attributes:
        where: the innermost frame, as the end of a sentence; empty when nothing is known.
        trace: all frames of user code as a traceback, the innermost last.
    """

    where: str = ""
    trace: str = ""


def leave_words(control_fd: int, start: int) -> None:
    """Have this process write its frames to the region at ``start`` (O1, O2); quietly not where that cannot be."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        fd = os.open(f"/proc/self/fd/{control_fd}", os.O_WRONLY | os.O_CLOEXEC)  # open for good: faulthandler holds it
        os.lseek(fd, start, os.SEEK_SET)
        faulthandler.enable(file=fd, all_threads=False)
        faulthandler.register(DUMP, file=fd, all_threads=False, chain=False)


def read_words(control_fd: int, start: int) -> Stack:
    """Return what was last written to the region at ``start``, and empty it."""
    try:
        content = os.pread(control_fd, REGION_BYTES, start).partition(b"\0")[0]
        if not content:
            return Stack()
        os.pwrite(control_fd, bytes(len(content)), start)
    except OSError:
        return Stack()
    return parse(content.decode("utf-8", "replace"))


def parse(text: str) -> Stack:
    """Return the stack that ``faulthandler`` has written; of several the last."""
    import re  # a slow import, for when a process has come to a bad end

    frames = []
    for line in text.rpartition("most recent call first")[2].splitlines():
        found = re.match(_FRAME, line)
        if found and re.search(_OURS, found["file"]):
            break  # from here on it is the worker's own
        if found:
            frames.append(found)
    if not frames:
        return Stack()
    lines = [f'  File "{frame["file"]}", line {frame["line"]}, in {frame["name"]}\n' for frame in reversed(frames)]
    first = frames[0]
    where = f"; it was in {first['name']} ({first['file']}:{first['line']})"
    return Stack(where, "".join(["Traceback (most recent call last):\n", *lines]))
