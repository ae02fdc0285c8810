"""The guardian of workers that are the coordinator's own children: it ends what they have started elsewhere.

Workers of the start method ``fork`` have no nursery above them, so nothing is re-parented to anybody who knows of it.
This process finds it by its cookie (rule A2 of `mpengine.worker.descent`) among all processes of the machine.

    registry --- the cookie of a worker that is gone --->  guardian --- SIGKILL --->  what bears it
             --- end of file: it has gone itself, or is done: all that bears the registry's cookie --->

Z1. It holds nothing that anybody waits for, and answers nothing (K1).  The end of its socket says that it is done.
Z2. What has left the worker's process group is not found where it was given an environment of its own, or was forked,
    started no program, and has closed its descriptors, the lifelines with them (as daemons do).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from mpengine import pickling
from mpengine.records import dataclass
from mpengine.worker import passing
from mpengine.worker.descent import kill_bearers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, NoReturn

COOKIE_LIMIT_BYTES: Final = 8_192
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
    orders: GuardianBoot = pickling.loads(parcel)  # written by the parent, in a file without a name
    os.set_inheritable(orders.socket_fd, False)  # noqa: FBT003 - takes no names
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    with contextlib.closing(passing.adopt(orders.socket_fd)) as link:
        try:
            while content := link.recv(COOKIE_LIMIT_BYTES):
                kill_bearers(content.decode(), time.monotonic() + _PATIENCE_S)
        except ConnectionResetError:
            pass  # the registry went with something unread; as good as the end
        kill_bearers(orders.cookie, time.monotonic() + _PATIENCE_S)
    os._exit(0)
