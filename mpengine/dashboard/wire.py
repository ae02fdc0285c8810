"""What goes between the program that runs a pipeline and the web server's process: over one socket pair.

Frames go out, a kind and a payload each; the payload is JSON that the web server never reads, only hands on.  Requests
come back, a line of JSON each.  The program's side never blocks: what the socket does not take is kept until it does,
and whoever makes frames makes none meanwhile (``is_clear``), so that no more than one turn's frames ever wait.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import struct
from typing import Any, Final

from mpengine.records import dataclass

MAX_REQUEST_BYTES: Final = 4096
MAX_FRAME_BYTES: Final = 16 << 20
MAX_REASON: Final = 200
_HEAD: Final = struct.Struct("!BI")
_READ_BYTES: Final = 16_384


class Frame(enum.Enum):
    """What a payload is."""

    STEP = 1  # what has changed since the step before
    FULL = 2  # everything, as of the last step
    BYE = 3  # nothing more will come: the last step was the last


class WireError(Exception):
    """What came is not what may come (K9)."""


def framed(kind: Frame, payload: bytes = b"") -> bytes:
    """Return a frame as it is sent."""
    return _HEAD.pack(kind.value, len(payload)) + payload


HEAD_BYTES: Final = _HEAD.size


def read_head(head: bytes) -> tuple[Frame, int]:
    """Return a frame's kind and the size of its payload.

    Raises:
        WireError: it is no head of a frame.
    """
    number, size = _HEAD.unpack(head)
    try:
        kind = Frame(number)
    except ValueError:
        kind = None
    if kind is None or size > MAX_FRAME_BYTES:
        raise WireError(f"no frame begins with {head!r}")
    return kind, size


@dataclass(frozen=True, slots=True)
class Request:
    """What the web server's process asks for.

    Attributes:
        viewers: how many look at the run now; None: says nothing of that.
        wants_full: whether one of them has to be told everything.
        cancel: the reason to cancel the run with; None: it is not to be cancelled.
    """

    viewers: int | None = None
    wants_full: bool = False
    cancel: str | None = None

    def as_line(self) -> bytes:
        """Return the request as it is sent."""
        fields = {"viewers": self.viewers, "wants_full": self.wants_full, "cancel": self.cancel}
        return json.dumps(fields).encode() + b"\n"

    @classmethod
    def read(cls, line: bytes) -> Request:
        """Return the request that was sent.

        Raises:
            WireError: it is none.
        """
        fields: Any = None
        with contextlib.suppress(ValueError, RecursionError):  # a text that is not UTF-8 is the former, too
            fields = json.loads(line)
        match fields:
            case {"viewers": int() | None as viewers, "wants_full": bool() as full, "cancel": str() | None as reason}:
                return cls(viewers, full, None if reason is None else reason[:MAX_REASON])
            case _:
                raise WireError(f"no request: {line[:100]!r}")


class Link:
    """The program's end.

    Args:
        fd: its half of the socket pair, by number, so that no copy of this object closes it in a forked child.
    """

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self._unsent = bytearray()
        self._unread = bytearray()

    @property
    def is_clear(self) -> bool:
        """Whether all frames so far have been taken."""
        return not self._unsent

    def send(self, frame: bytes) -> None:
        """Send a frame, or as much of it as is taken; ``flush`` sends the rest.

        Raises:
            OSError: there is nobody at the other end.
        """
        self._unsent += frame
        self.flush()

    def flush(self) -> None:
        """Send what was not taken before, as far as it is now.

        Raises:
            OSError: there is nobody at the other end.
        """
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                del self._unsent[: os.write(self.fd, self._unsent)]

    def requests(self) -> list[Request]:
        """Return what has come.

        Raises:
            EOFError: there is nobody at the other end any more.
            OSError: as ``EOFError``.
            WireError: what came is no request.
        """
        try:
            content = os.read(self.fd, _READ_BYTES)
        except BlockingIOError:
            return []
        if not content:
            raise EOFError
        self._unread += content
        *lines, rest = bytes(self._unread).split(b"\n")
        self._unread = bytearray(rest)
        if len(rest) > MAX_REQUEST_BYTES:
            raise WireError("a request without an end")
        return [Request.read(line) for line in lines]
