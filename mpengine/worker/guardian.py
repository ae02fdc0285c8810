"""The guardian of workers that are the coordinator's own children: it ends what they have started elsewhere.

Workers of the start method ``fork`` have no nursery above them, so nothing is re-parented to anybody who knows of it.
This process finds it by its cookie (rule A2 of `mpengine.worker.descent`) among all processes of the machine.

    registry --- the cookie of a worker that is gone --->  guardian --- SIGKILL --->  what bears it
             --- end of file: it has gone itself, or is done: all that bears the registry's cookie --->

Z1. It holds nothing that anybody waits for, and answers nothing (K1).  The end of its socket says that it is done.
Z2. What has been given an environment of its own and has left the worker's process group is not found.
"""

import contextlib
import os
import pickle
import select
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NoReturn

from mpengine.worker import boot
from mpengine.worker.descent import bearers_of, kill

COOKIE_LIMIT_BYTES: Final = 256
_PATIENCE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class GuardianBoot:
    """All it knows when it starts.

    Args:
        socket_fd: Where it is told of deaths.
        cookie: The registry's.
    """

    socket_fd: int
    cookie: str


def run_guardian(parcel: bytes) -> NoReturn:
    """Serve until the socket ends; `parcel` is a pickled `GuardianBoot` from the parent's own memory file."""
    orders: GuardianBoot = pickle.loads(parcel)  # noqa: S301 - written by the parent, in a file without a name
    boot.hide_from_programs(orders.socket_fd)
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    with socket.socket(fileno=orders.socket_fd) as link:
        try:
            while content := link.recv(COOKIE_LIMIT_BYTES):
                kill_bearers(content.decode())
        except ConnectionResetError:
            pass  # the registry went with something unread; as good as the end
        kill_bearers(orders.cookie)
    os._exit(0)


def kill_bearers(cookie: str) -> None:
    """Kill all that bears a cookie, and what they have started meanwhile, until nothing does."""
    give_up_at = time.monotonic() + _PATIENCE_S
    while time.monotonic() < give_up_at and (found := bearers_of(cookie)):
        for pid in found:
            with contextlib.suppress(ProcessLookupError), _watched(pid) as ended:
                kill(pid)
                ended.poll(max(0.0, give_up_at - time.monotonic()) * 1000)


@contextlib.contextmanager
def _watched(pid: int) -> Iterator[select.poll]:
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        yield poll
    finally:
        os.close(pidfd)
