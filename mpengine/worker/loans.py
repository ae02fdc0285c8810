"""Payloads in the arena, as a worker has them: its own region, and what it was sent.

L1. What comes in is a loan from the moment its message is here, whatever becomes of the batch; it is given back when
    nothing in this process refers to the payload any more.
L2. The main loop tells of that, once it is done with a message.  Finalizers only take note: they run at any moment.
L3. The allocator is told to keep what is freed once arrays are seen here, and not before.
"""

from __future__ import annotations

from collections import deque

from mpengine.ipc.arena import Block, decode_block, is_reference
from mpengine.ipc.region import Region
from mpengine.ipc.views import Shared, Viewer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from mpengine.ipc.arena import Geometry
    from mpengine.ipc.messages import Buffer

KEPT_BYTES = 256 << 20


class Loan(Shared):
    """A payload that this worker was sent; given back once this is gone."""

    __slots__ = ("_ended",)

    def __init__(self, block: Block, viewer: Viewer, ended: deque[tuple[int, int]]) -> None:
        """Look at nothing yet."""
        super().__init__(block, viewer)
        self._ended = ended

    def __del__(self) -> None:
        """Take note (L2)."""
        self._ended.append((self.block.region, self.block.number))


class Loans:
    """This worker's side of the arena.

    Args:
        fd: the arena's file.
        geometry: of the arena.
        worker_id: the number of its region.
    """

    def __init__(self, fd: int, geometry: Geometry, worker_id: int) -> None:
        """Map nothing yet: most runs have no large payloads."""
        self._fd = fd
        self._geometry = geometry
        self._worker_id = worker_id
        self._viewer = Viewer(fd, geometry, geometry.limit // (4 * geometry.regions))
        self._taken: tuple[Block, ...] | None = None
        self._region: Region | None = None
        self._is_off = geometry.limit == 0
        self._is_tuned = False
        self._ended: deque[tuple[int, int]] = deque()

    def begin(self, taken: Iterable[Sequence[Any]]) -> None:
        """Hear which blocks of the region are in use, which another process wrote; counts once."""
        if self._taken is None:
            self._taken = tuple(Block(*fields) for fields in taken)

    def store(self, parts: Sequence[Buffer]) -> bytes | None:
        """Copy a pickle and its buffers into the region; return the reference, or None if there is no room."""
        if self._is_off:
            return None
        self._tune()
        if self._region is None:
            try:
                self._region = Region(self._fd, self._geometry, self._worker_id, self._taken or ())
            except OSError:
                self._is_off = True
                return None
        block = self._region.store(parts)
        return None if block is None else block.encode()

    def accept(self, payload: Buffer) -> Buffer | Loan:
        """Return a payload as what it is (L1)."""
        if not is_reference(payload):
            return payload
        self._tune()
        return Loan(decode_block(payload), self._viewer, self._ended)

    def take_ended(self) -> tuple[tuple[int, int], ...]:
        """Return the blocks, by region and number, that nobody here looks at any more and that were not told of."""
        ended = []
        while self._ended:
            ended.append(self._ended.popleft())
        return tuple(ended)

    def _tune(self) -> None:
        if not self._is_tuned:
            from mpengine.ipc.mapping import keep_freed_memory

            self._is_tuned = True
            keep_freed_memory(KEPT_BYTES)  # L3
