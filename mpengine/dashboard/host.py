"""The process that the web server lives in: a fresh interpreter, started by `mpengine.dashboard.hostprocess`.

It holds nothing that anybody else waits for (K1), and ends with the program whose run it shows, by its lifeline; or
when that hangs up.  It gives way to workers: it is nicer than they are, and the kernel takes it first when memory runs
out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import socket
from typing import TYPE_CHECKING, Final, NoReturn

from mpengine.dashboard.hub import Hub
from mpengine.dashboard.wire import HEAD_BYTES, read_head
from mpengine.records import dataclass
from mpengine.worker import boot, lifeline

if TYPE_CHECKING:
    from uvicorn import Server

NICER_BY: Final = 5
MAX_CONNECTIONS: Final = 64
MAX_HEAD_BYTES: Final = 16_384
KEEP_ALIVE_S: Final = 5
LEAVE_S: Final = 1


@dataclass(frozen=True, slots=True)
class HostBoot:
    """All it knows when it starts.

    Attributes:
        lifeline_fd: read end of a pipe of its own.
        link_fd: its half of the socket pair.
        listener_fd: where browsers connect.
        token: what they have to know.
        names: what they may call this machine; see ``site.Guard``.
    """

    lifeline_fd: int
    link_fd: int
    listener_fd: int
    token: str
    names: tuple[str, ...]


def run_host(parcel: bytes) -> NoReturn:
    """Serve the page; ``parcel`` is a pickled ``HostBoot`` from the parent's own memory file."""
    orders: HostBoot = pickle.loads(parcel)  # noqa: S301 - written by the parent, in a file without a name
    boot.hide_from_programs(orders.lifeline_fd, orders.link_fd, orders.listener_fd)
    lifeline.arm(orders.lifeline_fd)
    boot.reset_signals()
    boot.go_first()
    os.nice(NICER_BY)
    logging.disable()  # what strangers send is not to fill somebody's terminal
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(orders))
    raise SystemExit


async def _serve(orders: HostBoot) -> None:
    plug = socket.socket(fileno=orders.link_fd)
    reader, writer = await asyncio.open_connection(sock=plug)
    hub = Hub(lambda request: writer.write(request.as_line()))
    server = _server(orders, hub)
    listener = socket.socket(fileno=orders.listener_fd)
    serving = asyncio.create_task(server.serve([listener]))
    hearing = asyncio.create_task(_hear(reader, hub))
    await asyncio.wait((serving, hearing), return_when=asyncio.FIRST_COMPLETED)
    hub.end()
    with contextlib.suppress(asyncio.TimeoutError):
        await hub.wait_empty(LEAVE_S)
    server.should_exit = True
    await asyncio.wait((serving,), timeout=LEAVE_S)
    writer.close()


def _server(orders: HostBoot, hub: Hub) -> Server:
    from uvicorn import Config, Server

    from mpengine.dashboard.site import make_site

    return Server(
        Config(
            make_site(hub, orders.token, orders.names),
            http="h11",
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=LEAVE_S,
        )
    )


async def _hear(reader: asyncio.StreamReader, hub: Hub) -> None:
    """Hand on what the program tells, until it says that this was all, or hangs up."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while not hub.is_over:
            kind, size = read_head(await reader.readexactly(HEAD_BYTES))
            hub.take(kind, await reader.readexactly(size))
