"""The process that the metrics board lives in: a fresh interpreter, started by `mpengine.processes.boardprocess`.

It holds nothing that anybody else waits for (K1), and ends with the coordinator, by its lifeline.
"""

import os
import pickle
from typing import NoReturn

from mpengine.records import dataclass
from mpengine.worker import boot, lifeline


@dataclass(frozen=True, slots=True)
class BoardBoot:
    """All it knows when it starts.

    Args:
        address: Where to listen.
        authkey: What callers have to know.
        lifeline_fd: Read end of a pipe of its own.
        ready_fd: Where to write a byte once it listens.
    """

    address: str
    authkey: bytes
    lifeline_fd: int
    ready_fd: int


def run_board(parcel: bytes) -> NoReturn:
    """Serve the board; `parcel` is a pickled `BoardBoot` from the parent's own memory file."""
    orders: BoardBoot = pickle.loads(parcel)  # noqa: S301 - written by the parent, in a file without a name
    boot.hide_from_programs(orders.lifeline_fd, orders.ready_fd)
    lifeline.arm(orders.lifeline_fd)
    boot.reset_signals()

    from mpengine.monitor import board

    def announce() -> None:
        os.write(orders.ready_fd, b"!")
        os.close(orders.ready_fd)

    board.serve(board.BoardAddress(orders.address, orders.authkey), announce)
