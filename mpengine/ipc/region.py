"""One writer's region of the arena: finds room for a payload, copies it there, and uses again what has been freed.

Memory that was used before is written at the speed of memory; fresh pages come from the system one by one, cleared,
which takes many times as long.  So a freed block stays as it is until something of about its size comes.
"""

from __future__ import annotations

import os

from mpengine.ipc.arena import BLOCKS, FREED, TABLE_BYTES, TABLE_WORDS, USED, Block, places, whole_pages
from mpengine.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Final

    from mpengine.ipc.arena import Geometry
    from mpengine.ipc.messages import Buffer

SLACK: Final = 2
"""A freed block is used for what has at least so small a part of its size."""


@dataclass(slots=True)
class _Room:
    number: int
    offset: int
    capacity: int
    use: int


class Region:
    """The region.

    Args:
        fd: the arena's file.
        geometry: of the arena.
        number: which region.
        taken: blocks that somebody still looks at, and that another process wrote.

    Raises:
        OSError: there is no room for it in this process.
    """

    def __init__(self, fd: int, geometry: Geometry, number: int, taken: Iterable[Block] = ()) -> None:
        """Map it."""
        from mpengine.ipc.mapping import Mapping

        self._fd = fd
        self._geometry = geometry
        self._number = number
        self._start = geometry.window + number * geometry.region_bytes
        self._mapping = Mapping(fd, self._start, geometry.region_bytes, private=False)
        self._tables = Mapping(fd, geometry.start, geometry.regions * TABLE_BYTES, private=False)
        self._all_words = self._tables.words(0, geometry.regions * TABLE_WORDS)
        self._words = self._all_words[number * TABLE_WORDS : (number + 1) * TABLE_WORDS]
        self._given = {
            block.number: _Room(block.number, block.offset, whole_pages(block.size), block.use) for block in taken
        }
        self._idle: list[_Room] = []  # what was freed last is last, and most likely still in a cache
        self._free_numbers = [index for index in range(BLOCKS - 1, -1, -1) if index not in self._given]
        self._note_used()

    def store(self, parts: Sequence[Buffer]) -> Block | None:
        """Copy a pickle and its buffers into a block.

        Returns:
            The block, or None if there is no room for it.
        """
        sizes = tuple([memoryview(part).nbytes for part in parts])
        where = places(sizes)
        room = self._find(where[-1])
        if room is None:
            return None
        for place, part in zip(where, parts, strict=False):
            self._mapping.write(room.offset + place, part)
        return Block(self._number, room.number, room.use, room.offset, sizes)

    # ------------------------------------------------------------------ room

    def _find(self, size: int) -> _Room | None:
        self._take_back()
        for place in range(len(self._idle) - 1, -1, -1):
            if size <= self._idle[place].capacity <= SLACK * whole_pages(size):
                return self._give(self._idle.pop(place))
        capacity = whole_pages(size + size // 16)  # the next one may be a little larger
        while self._idle and (self._total() + capacity > self._geometry.limit or not self._free_numbers):
            self._drop(0)
        if not self._free_numbers or self._total() + capacity > self._geometry.limit:
            return None
        offset = self._gap(capacity)
        if offset is None or not self._allocate(offset, capacity):
            return None
        index = self._free_numbers.pop()
        return self._give(_Room(index, offset, capacity, self._words[FREED + index]))

    def _give(self, room: _Room) -> _Room:
        room.use += 1
        self._given[room.number] = room
        self._note_used()
        return room

    def _take_back(self) -> None:
        """Take in what the coordinator has freed (R2)."""
        words = self._words
        for room in [room for room in self._given.values() if words[FREED + room.number] == room.use]:
            del self._given[room.number]
            self._idle.append(room)
        # What others may want as well is not kept for ever.
        while len(self._idle) > 1 and self._idle_bytes() > self._geometry.limit // self._geometry.regions:
            self._drop(0)

    def _drop(self, place: int) -> None:
        room = self._idle.pop(place)
        self._mapping.give_back(room.offset, room.capacity)
        self._free_numbers.append(room.number)
        self._note_used()

    def _gap(self, capacity: int) -> int | None:
        """Return where in the region there is room for a new block."""
        end = 0
        for room in sorted([*self._given.values(), *self._idle], key=lambda room: room.offset):
            if room.offset - end >= capacity:
                return end
            end = room.offset + room.capacity
        return end if self._geometry.region_bytes - end >= capacity else None

    def _allocate(self, offset: int, capacity: int) -> bool:
        """Get the memory now: writing where the system has none would end this process (SIGBUS)."""
        try:
            os.posix_fallocate(self._fd, self._start + offset, capacity)
        except OSError:
            self._mapping.give_back(offset, capacity)
            return False
        return True

    # ------------------------------------------------------------------ figures

    def _note_used(self) -> None:
        self._words[USED] = sum([room.capacity for room in self._given.values()]) + self._idle_bytes()

    def _idle_bytes(self) -> int:
        return sum([room.capacity for room in self._idle])

    def _total(self) -> int:
        """Return what all regions use together; others may be at it, so it is only nearly so."""
        return sum([self._all_words[number * TABLE_WORDS + USED] for number in range(self._geometry.regions)])
