"""A worker's end of the switchboard, and what is said on a wire.

A wire is a socket pair that keeps messages apart.  A worker asks and is answered; besides that the parent may say any
of its words at any time, so a worker looks at the wire whenever it waits for anything.  It never waits for another
worker: whoever dies leaves nothing but the end of its wire (K1).
"""

from __future__ import annotations

import array
import contextlib
import select
import socket
import struct
from typing import TYPE_CHECKING, Final

from mpengine.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

ASK: Final = b"?"
DONE: Final = b"."
FILE: Final = b"F"
GO: Final = b"G"
STOP: Final = b"S"
LIMIT: Final = b"L"
END: Final = b"E"
LIMIT_FIELDS: Final = struct.Struct("=d")
FILE_FIELDS: Final = struct.Struct("=qB")
MESSAGE_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class Address:
    """Where a switchboard is.

    Attributes:
        name: of its socket, in the kernel's own list: it is in no folder, and gone with its process.
        token: what a worker says first; others of this machine do not know it.
    """

    name: bytes
    token: bytes


class Wire:
    """Says and hears.

    Args:
        address: where the switchboard is.

    Attributes:
        limit_s: how long a job may take; 0: any time.
        is_stopped: whether no further job is to start.
        is_to_end: whether the job that runs is to end, and to run again later.

    Raises:
        OSError: it is not there.
    """

    def __init__(self, address: Address) -> None:
        """Connect."""
        self.limit_s = 0.0
        self.is_stopped = False
        self.is_to_end = False
        self._may_go = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.connect(address.name)
            self._socket.send(address.token)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor, which is readable when there is something to hear."""
        return self._socket.fileno()

    def hear(self) -> None:
        """Take in what was said; waits for nothing."""
        while True:
            try:
                message = self._socket.recv(MESSAGE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            match message[:1]:
                case b"G":
                    self._may_go = True
                case b"S":
                    self.is_stopped = True
                case b"L":
                    (self.limit_s,) = LIMIT_FIELDS.unpack(message[1:])
                case b"E":
                    self.is_to_end = True
                case _:
                    self.is_stopped = True  # nobody is there any more
                    return

    def may_start(self, cancel_fd: int) -> bool:
        """Ask whether a job may start, and wait for the answer.

        Args:
            cancel_fd: becomes readable when the run is cancelled, which ends the wait.
        """
        self._may_go = self.is_to_end = False
        self._say(ASK)
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if cancel_fd != -1:
            poll.register(cancel_fd, select.POLLIN)
        while not self._may_go:
            if self.is_stopped or any(fd == cancel_fd for fd, _ in poll.poll()):
                return False
            self.hear()
        return True

    def done(self) -> None:
        """Say that the job has ended."""
        self._say(DONE)

    def hand_over(self, seq: int, files: Sequence[tuple[int, int]]) -> None:
        """Hand files over.

        Args:
            seq: the job that has written them.
            files: which each is, 1 for standard output and 2 for standard error, and its descriptor.

        Raises:
            OSError: they could not be; nobody has them then.
        """
        for which, fd in files:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
            self._socket.sendmsg([FILE + FILE_FIELDS.pack(seq, which)], [rights])

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _say(self, message: bytes) -> None:
        with contextlib.suppress(OSError):  # nobody is there any more, which hear() finds out
            self._socket.send(message)
