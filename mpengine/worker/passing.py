"""Pairs of sockets that pass descriptors, between a registry and what it has launched.

``socket.py`` is a slow import, in two processes one after the other, and what it adds (names for numbers, files) is not
needed here.  This is the half of it that is; private is neither.
"""

from __future__ import annotations

import sys
from _socket import (
    AF_UNIX,
    CMSG_LEN,
    MSG_CMSG_CLOEXEC,
    SCM_RIGHTS,
    SHUT_WR,
    SOCK_SEQPACKET,
    SOL_SOCKET,
    socketpair,
)
from _socket import (
    socket as Socket,  # noqa: N812 - a class
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

__all__ = ["SHUT_WR", "Socket", "adopt", "make_pair", "recv_fds", "send_fds"]

_INT_BYTES: Final = 4


def make_pair() -> tuple[Socket, Socket]:
    """Return two ends that keep messages whole; neither is inherited.

    Raises:
        OSError: this process has no descriptors left.
    """
    return socketpair(AF_UNIX, SOCK_SEQPACKET)


def adopt(fd: int) -> Socket:
    """Return the socket whose descriptor this process was given; closing it closes the descriptor."""
    return Socket(fileno=fd)


def send_fds(link: Socket, content: bytes, fds: Sequence[int]) -> None:
    """Send a message that is not empty, with descriptors.

    Raises:
        OSError: as ``sendmsg`` does.
    """
    numbers = b"".join([fd.to_bytes(_INT_BYTES, sys.byteorder) for fd in fds])
    link.sendmsg([content], [(SOL_SOCKET, SCM_RIGHTS, numbers)])


def recv_fds(link: Socket, size: int, most: int) -> tuple[bytes, list[int]]:
    """Receive a message of up to ``size`` bytes with up to ``most`` descriptors, which programs do not inherit.

    Returns:
        The message, empty when the other end is gone, and the descriptors: fewer where this process can have no more.

    Raises:
        OSError: as ``recvmsg`` does.
    """
    content, ancillary, _, _ = link.recvmsg(size, CMSG_LEN(most * _INT_BYTES), MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, numbers in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            whole = len(numbers) - len(numbers) % _INT_BYTES
            fds += memoryview(numbers[:whole]).cast("i").tolist()
    return content, fds
