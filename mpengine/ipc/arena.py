"""Where large payloads are: the tail of the control block's file, in one region for each process that writes.

    [ cancel flag, slots, last words | tables | region 0 | region 1 | ... | the coordinator's region ]

A region is an address, not memory: the file is sparse, and only what was written takes any.  A worker writes its
results into blocks of its own region, and a reference to the block travels in place of the payload.  Nobody copies it
on the way, the coordinator does not even map it.

R1. A region has one writer, and so has each word of its table: ``used`` is the writer's, the others the coordinator's.
R2. A block belongs to its writer until the reference has been sent, and to the coordinator until that writes the
    block's number of use into the table.  Nothing is locked, so nobody can die while holding a lock.
R3. What a killed writer had not told of is in nobody's books.  The coordinator gives back all of a dead worker's region
    that is not in its own.
R4. Regions are as large as ``max_bytes`` allows all of them to be together, twice; a writer that finds the sum of
    ``used`` at the limit writes nothing, and the payload travels inside its message.
"""

from __future__ import annotations

import mmap
import struct

from mpengine.ipc.messages import ProtocolError
from mpengine.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from mpengine.ipc.messages import Buffer

PAGE: Final = mmap.PAGESIZE
TABLE_BYTES: Final = PAGE
TABLE_WORDS: Final = TABLE_BYTES // 8
BLOCKS: Final = 504
USED: Final = 0
FREED: Final = 8
LARGE_BYTES: Final = 1 << 16
"""Payloads, and buffers of them, of this size and above go into the arena; see docs/performance.rst."""

_HEAD: Final = struct.Struct("<4sHHQQI")
_MAGIC: Final = b"\0mpe"
_ALIGNMENT: Final = 64


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where everything is in the file.

    Attributes:
        start: where the tables begin.
        regions: how many there are; the coordinator's is the last.
        limit: bytes that all blocks may have together; 0 where there is no arena.
    """

    start: int
    regions: int
    limit: int

    @property
    def window(self) -> int:
        """Where region 0 begins."""
        return self.start + self.regions * TABLE_BYTES

    @property
    def region_bytes(self) -> int:
        """How large a region is."""
        return 2 * whole_pages(self.limit)

    @property
    def end(self) -> int:
        """How large the file is."""
        return self.window + self.regions * self.region_bytes


@dataclass(frozen=True, slots=True)
class Block:
    """A payload in the arena: its pickle, and behind it the buffers that the pickle refers to.

    Attributes:
        region: whose.
        number: of the block in its region.
        use: how often a block of this number was used before, and once more.
        offset: where it begins, within the region.
        sizes: bytes of the pickle, and of each buffer.
    """

    region: int
    number: int
    use: int
    offset: int
    sizes: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many bytes it has, with the gaps."""
        return places(self.sizes)[-1]

    def fields(self) -> tuple[int, int, int, int, tuple[int, ...]]:
        """Return the block as it travels by itself."""
        return (self.region, self.number, self.use, self.offset, self.sizes)

    def encode(self) -> bytes:
        """Return the reference that travels in place of the payload."""
        head = _HEAD.pack(_MAGIC, self.region, self.number, self.use, self.offset, len(self.sizes))
        return head + struct.pack(f"<{len(self.sizes)}Q", *self.sizes)


def is_reference(payload: Buffer) -> bool:
    """Whether a payload is a reference to a block; no pickle begins like that."""
    return len(payload) > 0 and payload[0] == 0


def decode_block(payload: Buffer) -> Block:
    """Return the block that a reference means.

    Raises:
        ProtocolError: it is none.
    """
    try:
        magic, region, number, use, offset, count = _HEAD.unpack_from(payload)
        sizes = struct.unpack_from(f"<{count}Q", payload, _HEAD.size)
    except struct.error as error:
        msg = f"a reference that does not parse: {error}"
        raise ProtocolError(msg) from None
    if magic != _MAGIC or not sizes:
        msg = f"no reference begins with {bytes(payload[: _HEAD.size])!r}"
        raise ProtocolError(msg)
    return Block(region, number, use, offset, sizes)


def places(sizes: Sequence[int]) -> list[int]:
    """Return where each part of a block begins, and where the last one ends."""
    found = [0]
    for size in sizes[:-1]:
        found.append(_aligned(found[-1] + size))
    found.append(found[-1] + sizes[-1])
    return found


def parts_of(view: memoryview, sizes: Sequence[int]) -> tuple[memoryview, list[memoryview]]:
    """Return a block's pickle, and its buffers."""
    pickle, *buffers = [view[place : place + size] for place, size in zip(places(sizes), sizes, strict=False)]
    return pickle, buffers


def whole_pages(size: int) -> int:
    """Return ``size`` in bytes, rounded up to whole pages."""
    return -(-size // PAGE) * PAGE


def _aligned(place: int) -> int:
    return -(-place // _ALIGNMENT) * _ALIGNMENT
