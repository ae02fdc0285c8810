"""Where a dashboard listens, and the URL that leads there."""

from __future__ import annotations

import socket
from typing import Final

from mpengine.records import dataclass

LOOPBACK: Final = "127.0.0.1"
BACKLOG: Final = 64
MAX_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class Place:
    """Where to listen.

    Attributes:
        host: a name or an IP address of this machine.
        port: 0 is any that is free.
    """

    host: str = LOOPBACK
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read ``HOST:PORT``, ``HOST``, ``:PORT`` or ``PORT``; an IPv6 address stands in brackets.

        Raises:
            ValueError: it is none of these; the message says so.
        """
        host, port = _split(text.strip())
        if not port.isascii() or not port.isdigit() or int(port) > MAX_PORT or not _is_host(host):
            raise ValueError(f"{text!r} is not HOST:PORT, such as {LOOPBACK}:8000 or [::1]:8000")
        return cls(host, int(port))


def _split(text: str) -> tuple[str, str]:
    """Return host and port as they are written; a port that cannot be read is for the caller to refuse."""
    if text.isdigit():
        return LOOPBACK, text
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest[1:] if rest.startswith(":") else rest or "0"
    host, colon, port = text.rpartition(":")
    if ":" in host:
        return host, ""  # an IPv6 address without brackets: nobody knows where its port begins
    return (host or LOOPBACK, port) if colon else (text or LOOPBACK, "0")


def _is_host(host: str) -> bool:
    return host.isprintable() and not set(host) & set(" /\\#?@[]'\"<>,")


def listen(place: Place) -> socket.socket:
    """Return a socket that listens there.

    Raises:
        OSError: it cannot; the message names the place.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen(BACKLOG)
            listener.setblocking(False)  # noqa: FBT003 - takes no names
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        told = error.strerror or str(error)
        raise type(error)(error.errno, f"the dashboard cannot listen on {place.host}:{place.port}: {told}") from error
    return listener


def url_of(listener: socket.socket, place: Place, token: str) -> str:
    """Return the address to type into a browser, the token with it (W5)."""
    host = place.host
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - what the user has asked for
        host = socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/#{token}"


def is_loopback(listener: socket.socket) -> bool:
    """Whether nobody but this machine can connect."""
    host = str(listener.getsockname()[0])
    return host.startswith("127.") or host == "::1"
