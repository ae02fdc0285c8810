"""Calls of an executor as they travel: frames on a pipe, a function with its arguments one way, what came of it back.

    header: kind, number, how many parts | the length of each part | the parts: a pickle, then its large buffers

Each call is a pickle of its own, so that no two of them share an object, and one that will not pickle fails alone.
"""

from __future__ import annotations

import os
import struct

from mpengine import pickling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Final

    from mpengine.ipc.messages import Buffer

CALL: Final = 1
"""Parent to worker: (function, args, kwargs), pickled together."""
CALL_OF: Final = 2
"""Parent to worker: a function, pickled for many calls, known by the frame's number; then (args, kwargs)."""
STOP: Final = 3
"""Parent to worker: there will be no more calls."""
READY: Final = 4
"""Worker to parent: it waits for calls."""
VALUE: Final = 5
"""Worker to parent: what the call has returned."""
FAILURE: Final = 6
"""Worker to parent: (error, summary, traceback) of what it has raised, the error a pickle of its own."""
LAST: Final = 128
"""Added to an answer: this worker takes no more calls."""

_HEAD: Final = struct.Struct("<BQI")
_MOST_AT_ONCE: Final = 512
READ_BYTES: Final = 1 << 16


def frame_of(kind: int, number: int = 0, parts: Sequence[Buffer] = ()) -> list[Buffer]:
    """Return a frame, as pieces to be written one after the other."""
    head = _HEAD.pack(kind, number, len(parts))
    if not parts:
        return [head]
    sizes = struct.pack(f"<{len(parts)}Q", *[memoryview(part).nbytes for part in parts])
    return [b"".join((head, sizes)), *parts]


def write_some(fd: int, pieces: list[Buffer]) -> list[Buffer]:
    """Write what the pipe takes now, and return what is left.

    Raises:
        BlockingIOError: it takes nothing, and is not to be waited for.
    """
    written = os.writev(fd, pieces[:_MOST_AT_ONCE])
    for place, piece in enumerate(pieces):
        size = memoryview(piece).nbytes
        if written < size:
            return [memoryview(piece).cast("B")[written:], *pieces[place + 1 :]]
        written -= size
    return []


class Frame:
    """What has come.

    Attributes:
        kind: see above.
        number: of what kind of thing depends on that.
        parts: a pickle and its buffers, or two pickles and the buffers of the second.
    """

    __slots__ = ("kind", "number", "parts")

    def __init__(self, kind: int, number: int, parts: list[Buffer]) -> None:
        """Keep all of it."""
        self.kind = kind
        self.number = number
        self.parts = parts


class FrameReader:
    """Reads frames from a pipe, none of them by more than it has to.

    Args:
        fd: the pipe.
    """

    def __init__(self, fd: int) -> None:
        """Begin at the beginning of a frame."""
        self.fd = fd
        self._seen = b""
        self._frame: Frame | None = None  # what is known of one that is under way, and too large to come at once
        self._sizes: tuple[int, ...] = ()
        self._body = bytearray()
        self._filled = 0

    def read(self) -> Frame | None:
        """Read once; return a frame if there is a whole one now.

        Raises:
            EOFError: nobody writes any more.
            BlockingIOError: nothing is there, and it is not to be waited for.
        """
        if self._frame is None:
            frame = self._parse() if self._seen else None
            if frame is not None or self._frame is not None:
                return frame
            more = os.read(self.fd, READ_BYTES)
            if not more:
                raise EOFError
            self._seen += more
            return self._parse()
        got = os.readv(self.fd, [memoryview(self._body)[self._filled :]])
        if not got:
            raise EOFError
        self._filled += got
        if self._filled < len(self._body):
            return None
        frame, self._frame = self._frame, None
        frame.parts = _cut(memoryview(self._body), self._sizes)
        self._body = bytearray()
        return frame

    def _parse(self) -> Frame | None:
        """Return the frame at the head of what was seen, or begin with one of which more has to come."""
        seen = self._seen
        if len(seen) < _HEAD.size:
            return None
        kind, number, count = _HEAD.unpack_from(seen)
        start = _HEAD.size + 8 * count
        if len(seen) < start:
            return None
        sizes = struct.unpack_from(f"<{count}Q", seen, _HEAD.size)
        total = sum(sizes)
        self._seen = seen[start + total :]
        if len(seen) >= start + total:
            return Frame(kind, number, _cut(memoryview(seen)[start:], sizes))
        self._frame = Frame(kind, number, [])
        self._sizes = sizes
        self._body = bytearray(total)
        self._filled = len(seen) - start
        self._body[: self._filled] = memoryview(seen)[start:]
        return None


def _cut(body: memoryview, sizes: Sequence[int]) -> list[Buffer]:
    parts: list[Buffer] = []
    start = 0
    for size in sizes:
        parts.append(body[start : start + size])
        start += size
    return parts


def load(parts: Sequence[Buffer]) -> Any:
    """Return what a pickle and its buffers hold; raises whatever unpickling that raises."""
    return pickling.loads(parts[0], buffers=parts[1:])
