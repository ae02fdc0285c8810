"""The coordinator's books on the arena: which blocks are in use, by whom.

A payload in the arena is a ``Stored``.  Whoever in this process needs it refers to it: a batch of the scheduler's, a
delivery, an array that the consumer has kept; a worker that was sent it is entered here.  When the last of them lets go
of it, its block is free.

D1. Nobody counts.  The block's life is that of the object, in the one process that decides.
D2. A worker's loans end when it says so, or when it is dead.
D3. A process that was forked from this one has copies of all this, which do nothing.
"""

from __future__ import annotations

import contextlib
import os
import threading

from mpengine.ipc.arena import (
    BLOCKS,
    FREED,
    TABLE_BYTES,
    TABLE_WORDS,
    USED,
    Block,
    decode_block,
    is_reference,
    whole_pages,
)
from mpengine.ipc.messages import ProtocolError
from mpengine.ipc.region import Region
from mpengine.ipc.views import Shared, Viewer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mpengine.ipc.arena import Geometry
    from mpengine.ipc.mapping import Mapping
    from mpengine.ipc.messages import Buffer


class Stored(Shared):
    """A payload in the arena; its block is free once this is gone (D1)."""

    __slots__ = ("_arena",)

    def __init__(self, block: Block, arena: Arena) -> None:
        """Take the block into the books."""
        super().__init__(block, arena.viewer)
        self._arena = arena

    def __del__(self) -> None:
        """Free the block."""
        self._arena.free(self.block)


class Arena:
    """The books, and the coordinator's own region.

    Args:
        fd: the file; not this object's.
        geometry: of the arena.
    """

    def __init__(self, fd: int, geometry: Geometry) -> None:
        """Map nothing yet: most runs have no large payloads."""
        self._fd = fd
        self._geometry = geometry
        self.viewer = Viewer(fd, geometry, geometry.limit // 4)
        self._in_use: dict[tuple[int, int], Block] = {}
        self._loans: dict[int, dict[tuple[int, int], list[Stored]]] = {}
        self._own: Region | None = None
        self._tables: Mapping | None = None
        self._words: memoryview | None = None
        self._window: Mapping | None = None
        self._is_off = geometry.limit == 0
        self._is_closed = False
        # Threads beside the coordinator pack payloads too.  Blocks are freed without it: that happens in finalizers.
        self._storing = threading.Lock()
        self._pid = os.getpid()

    # ------------------------------------------------------------------ payloads

    def store(self, parts: Sequence[Buffer]) -> Stored | None:
        """Copy a pickle and its buffers into the coordinator's region; None if there is no room for them."""
        with self._storing:
            if self._is_off or self._is_closed or not self._prepare():
                return None
            if self._own is None:
                try:
                    self._own = Region(self._fd, self._geometry, self._geometry.regions - 1)
                except OSError:
                    self._is_off = True
                    return None
            block = self._own.store(parts)
        return None if block is None else self._enter(block)

    def adopt(self, worker_id: int, payload: Buffer) -> Buffer | Stored:
        """Return a payload that a worker has sent, as what it is.

        Raises:
            ProtocolError: it refers to what cannot be (K9).
        """
        if not is_reference(payload):
            return payload
        block = decode_block(payload)
        good = (
            block.region == worker_id
            and block.number < BLOCKS
            and (block.region, block.number) not in self._in_use
            and block.offset + block.size <= self._geometry.region_bytes
        )
        if not good or not self._prepare():
            msg = f"a reference to what cannot be: {block!r:.200}"
            raise ProtocolError(msg)
        return self._enter(block)

    def _enter(self, block: Block) -> Stored:
        self._in_use[block.region, block.number] = block
        return Stored(block, self)

    def free(self, block: Block) -> None:
        """A block is in use no more; on any thread, in a finalizer too."""
        if os.getpid() != self._pid:  # D3
            return
        self._in_use.pop((block.region, block.number), None)
        if self._is_closed:  # what the program had kept until now
            if self._window is not None:
                self._window.give_back(self._place(block), whole_pages(block.size))
        elif self._tables is not None and self._words is not None and self._tables.is_mapped:
            self._words[block.region * TABLE_WORDS + FREED + block.number] = block.use

    # ------------------------------------------------------------------ loans

    def lend(self, worker_id: int, stored: Stored) -> bytes:
        """A worker is sent a payload; return the reference."""
        loans = self._loans.setdefault(worker_id, {})
        loans.setdefault((stored.block.region, stored.block.number), []).append(stored)
        return stored.block.encode()

    def take_back(self, worker_id: int, blocks: Iterable[tuple[int, int]]) -> None:
        """A worker does not look at some blocks any more.

        Raises:
            ProtocolError: it was never sent one of them.
        """
        loans = self._loans.get(worker_id, {})
        for key in blocks:
            held = loans.get(key)
            if not held:
                msg = f"a worker returns a block that it has not: {key!r:.100}"
                raise ProtocolError(msg)
            held.pop()
            if not held:
                del loans[key]

    def bury(self, worker_id: int) -> None:
        """A worker's process is gone: so are its loans, and what it has written and not told of (R3)."""
        self._loans.pop(worker_id, None)
        if self._words is None:
            return
        kept, size = self.taken(worker_id), self._geometry.region_bytes
        self._give_back_all_but(kept, worker_id * size, (worker_id + 1) * size)
        # Nobody else writes it at this moment (R1).
        self._words[worker_id * TABLE_WORDS + USED] = sum(whole_pages(block.size) for block in kept)

    def taken(self, worker_id: int) -> list[Block]:
        """Return the blocks of a worker's region that are in use."""
        return [block for block in self._in_use.copy().values() if block.region == worker_id]

    def bytes_at(self, worker_id: int) -> int:
        """Return what a worker has written and was sent, and may therefore have in its memory."""
        if self._words is None:
            return 0
        loans = [stored.nbytes for held in self._loans.get(worker_id, {}).values() for stored in held[:1]]
        return self._words[worker_id * TABLE_WORDS + USED] + sum(loans)

    # ------------------------------------------------------------------ memory

    def close(self) -> None:
        """Give back all that nobody refers to; the rest follows when it is let go of.  Idempotent."""
        with self._storing:
            if self._is_closed:
                return
            if self._in_use:
                with contextlib.suppress(OSError):
                    self.viewer.prepare()  # what nobody has looked at yet may be looked at still
            self.viewer.forget_file()
            self._loans.clear()
            self._own = None
            self._is_closed = True
        if self._window is not None:
            kept = self._in_use.copy().values()
            self._give_back_all_but(kept, 0, self._geometry.regions * self._geometry.region_bytes)

    def _place(self, block: Block) -> int:
        return block.region * self._geometry.region_bytes + block.offset

    def _give_back_all_but(self, kept: Iterable[Block], start: int, end: int) -> None:
        """Give back the window from ``start`` to ``end``, but for some blocks in it."""
        assert self._window is not None  # noqa: S101 - the callers have looked
        for block in sorted(kept, key=self._place):
            if self._place(block) > start:
                self._window.give_back(start, self._place(block) - start)
            start = self._place(block) + whole_pages(block.size)
        if end > start:
            self._window.give_back(start, end - start)

    def _prepare(self) -> bool:
        """Map what is written here; return whether that could be done."""
        if self._words is not None:
            return True
        from mpengine.ipc.mapping import Mapping

        geometry = self._geometry
        try:
            window = Mapping(self._fd, geometry.window, geometry.regions * geometry.region_bytes, private=False)
            tables = Mapping(self._fd, geometry.start, geometry.regions * TABLE_BYTES, private=False)
        except OSError:
            self._is_off = True
            return False
        self._window, self._tables = window, tables
        self._words = tables.words(0, geometry.regions * TABLE_WORDS)
        return True
