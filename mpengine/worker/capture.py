"""What an item prints, kept for its error: by Python, by C code, and by programs that it starts.

    descriptors 1 and 2 ---> a memory file each ---> when the item is through: what they were before, and its error

There is none of this unless the engine has ``keep_output``.  Then the descriptors point at two memory files for as long
as the worker lives, so that an item costs no system call for being redirected, only a look at the files' sizes.

V1. The files are the coordinator's.  It looks into them when the worker's process is gone: what was printed before
    ``os._exit`` or SIGKILL is there, as far as it had been handed to the system.  To that end lines are not buffered.
V2. What an item has printed goes to where it would have gone without this as soon as the item is through; what a dead
    worker's had printed stays with its error.
V3. Where no such file can be had, nothing is kept, and nothing else changes.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, Self

CHUNK_BYTES: Final = 1 << 16


class Capture:
    """The descriptors of one worker.

    Args:
        files: descriptors of the two memory files.
        limit_bytes: how much of each is kept of an item.
    """

    def __init__(self, files: tuple[int, int], limit_bytes: int) -> None:
        """Redirect both."""
        self._limit_bytes = limit_bytes
        self._streams: list[tuple[int, int, int]] = []  # the file, where it goes on to, and its number
        self._flush_c = _line_buffered()
        for number, file in zip((1, 2), files, strict=True):
            flush(number)
            self._streams.append((file, os.dup(number), number))
            os.dup2(file, number)  # inheritable: programs print there as well
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):  # the user's own, or none
                stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]

    @classmethod
    def of(cls, coordinator: int, numbers: tuple[int, int], limit_bytes: int) -> Self | None:
        """Return a capture into files that another process has open; None where they cannot be had (V3)."""
        with contextlib.ExitStack() as on_error, contextlib.suppress(OSError):
            files = []
            for number in numbers:
                files.append(os.open(f"/proc/{coordinator}/fd/{number}", os.O_RDWR | os.O_APPEND | os.O_CLOEXEC))
                on_error.callback(os.close, files[-1])
            made = cls((files[0], files[1]), limit_bytes)
            on_error.pop_all()
            return made
        return None

    def take(self) -> str:
        """Return the end of what was printed since the last call, and send all of it on (V2)."""
        flush(1)
        flush(2)
        self._flush_c()
        told = ""
        for file, onward, _ in self._streams:
            size = os.lseek(file, 0, os.SEEK_END)  # the cheapest way to ask; writers append, wherever that is
            if size:
                told = joined(told, tail_of(file, size, self._limit_bytes))
                _send_on(file, size, onward)
                os.ftruncate(file, 0)
        return told

    def close(self) -> None:
        """Send on what is left, and put the descriptors back."""
        self.take()
        for file, onward, number in self._streams:
            os.dup2(onward, number)
            os.close(onward)
            os.close(file)
        self._streams.clear()


def flush(number: int) -> None:
    """Write out what Python has buffered for descriptor 1 or 2."""
    stream = sys.stdout if number == 1 else sys.stderr
    try:  # noqa: SIM105 - for every item
        stream.flush()
    except (OSError, ValueError, AttributeError):  # closed or broken: the user's own business
        pass


def tail_of(file: int, size: int, limit_bytes: int) -> str:
    """Return the last so many bytes of a file, as text."""
    start = max(0, size - limit_bytes)
    return os.pread(file, size - start, start).decode("utf-8", "replace")


def joined(out: str, err: str) -> str:
    """Return what was printed to one descriptor, and behind it what was printed to the other."""
    return f"{out}\n{err}" if out and err and not out.endswith("\n") else out + err


def _send_on(file: int, size: int, onward: int) -> None:
    place = 0
    with contextlib.suppress(OSError):  # nobody reads it, which is no reason for an item to fail
        while place < size:
            chunk = os.pread(file, min(CHUNK_BYTES, size - place), place)
            if not chunk:
                break
            place += os.write(onward, chunk)


def _line_buffered() -> Callable[[], object]:
    """Have the C library write out each line of standard output (V1); return what writes out the rest."""
    try:
        import ctypes

        library = ctypes.PyDLL(None)  # a call costs half of what one does that others may overtake
        stdout = ctypes.c_void_p.in_dll(library, "stdout")
        library.setlinebuf(stdout)
        return functools.partial(library.fflush, stdout)
    except (ImportError, OSError, AttributeError, ValueError):
        return lambda: None
