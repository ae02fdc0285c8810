"""The control block: one memory file with the cancel flag and one slot for each worker.

A slot has one writer, the worker it belongs to.  The coordinator reads it and takes no lock, so a worker killed at any
instruction leaves nothing locked.  What it can leave is a record half written; hence:

C1. ``seq`` is odd while a record is being written, and even when it is whole.
C2. A reader that meets an odd or changed ``seq`` tries again, READ_TRIES times at most, then believes nothing of it.
C3. Only the coordinator clears a slot, and only when the worker's exit status has been collected.
C4. Every word is eight bytes and aligned, so that it is written and read in one piece.

The file has no name (``memfd_create``), so nothing of it can be left behind, whoever dies when.  Behind the slots are
the workers' last words (see ``lastwords``), and behind those is the arena (see ``arena``).
"""

from __future__ import annotations

import mmap
import os
import time

from mpengine.ipc.arena import Geometry, whole_pages
from mpengine.ipc.lastwords import REGION_BYTES
from mpengine.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

READ_TRIES: Final = 8
HEADER_BYTES: Final = 4096
SLOT_WORDS: Final = 64
SLOT_BYTES: Final = SLOT_WORDS * 8
CANCEL_OFFSET: Final = 64
ARENA_LIMIT: Final = 16  # a word of the header

(
    SEQ, STATE, BATCH, POSITION, STAGE, BEGAN_NS, HEARTBEAT_NS, BATCHES, ITEMS, TEXT_BYTES, ATTEMPT, DEADLINE_NS,
) = range(12)  # fmt: skip
TEXT_START: Final = 12 * 8
MAX_TEXT_BYTES: Final = SLOT_BYTES - TEXT_START

NOTHING, IN_SETUP, IN_BATCH, IN_ITEM = range(4)


@dataclass(frozen=True, slots=True)
class SlotRecord:
    """What a worker says it is at.

    Attributes:
        batch_id: the batch; None when it is at none.
        position: the item's place in the batch's payload; None when the worker names none.
        stage: the stage, within the chain.
        began_at: monotonic time at which it began that item, in seconds.
        heartbeat_at: monotonic time of its last sign of life, in seconds.
        batches: batches it has finished.
        items: items it has finished.
        in_setup: whether it is building the stages that the batch needs, and has not begun with the batch itself.
        text: the item in words, if the worker was asked for that.
        attempt: number of the attempt that the item is in, from 1.
    """

    batch_id: int | None
    position: int | None
    stage: int
    began_at: float
    heartbeat_at: float
    batches: int
    items: int
    in_setup: bool = False
    text: str = ""
    attempt: int = 1


class Slot:
    """A worker's own record."""

    def __init__(self, words: memoryview) -> None:
        """Bind the slot to its words."""
        self._words = words
        self._text = words.cast("B")[TEXT_START:SLOT_BYTES]

    def begin_setup(self, batch_id: int) -> None:
        """Name the batch whose stages are built."""
        self._name(batch_id, IN_SETUP)

    def begin_batch(self, batch_id: int) -> None:
        """Name the batch that is begun, and no item of it."""
        self._name(batch_id, IN_BATCH)

    def _name(self, batch_id: int, state: int) -> None:
        words = self._words
        words[SEQ] += 1
        words[BATCH] = batch_id
        words[STATE] = state
        words[ATTEMPT] = 1
        words[DEADLINE_NS] = 0
        words[BEGAN_NS] = words[HEARTBEAT_NS] = time.monotonic_ns()
        words[SEQ] += 1

    def begin_item(self, position: int, stage: int) -> None:
        """Name the item that is begun."""
        words = self._words
        words[SEQ] += 1
        words[POSITION] = position
        words[STAGE] = stage
        words[STATE] = IN_ITEM
        words[TEXT_BYTES] = 0
        words[ATTEMPT] = 1
        words[DEADLINE_NS] = 0
        words[BEGAN_NS] = words[HEARTBEAT_NS] = time.monotonic_ns()
        words[SEQ] += 1

    def describe(self, text: str) -> None:
        """Say what the named item is, for whoever has to tell of it should this process die."""
        content = text.encode("utf-8", "replace")[:MAX_TEXT_BYTES]
        self._words[SEQ] += 1
        self._text[: len(content)] = content
        self._words[TEXT_BYTES] = len(content)
        self._words[SEQ] += 1

    def begin_stage(self, stage: int) -> None:
        """Name the stage that the named item is in now; one word, so that no record is broken."""
        self._words[STAGE] = stage

    def begin_attempt(self, stage: int, attempt: int, timeout_s: float) -> None:
        """Say that a call has begun, and when it is to be over; the deadline is the last word written."""
        words = self._words
        words[STAGE] = stage
        words[ATTEMPT] = attempt
        words[DEADLINE_NS] = time.monotonic_ns() + int(timeout_s * 1e9)

    def end_attempt(self) -> bool:
        """Say that the call is over, unless it is so too late; return whether that is so."""
        if time.monotonic_ns() > self._words[DEADLINE_NS] > 0:
            return True
        self._words[DEADLINE_NS] = 0
        return False

    @property
    def heartbeat_at(self) -> float:
        """When the worker last gave a sign of life, in seconds of the monotonic clock; 0 before the first."""
        return self._words[HEARTBEAT_NS] / 1e9

    @property
    def deadline_at(self) -> float:
        """When the call that goes on is to be over, in seconds of the monotonic clock; 0 when none goes on."""
        return self._words[DEADLINE_NS] / 1e9

    def end_batch(self, items: int) -> None:
        """Name nothing any more, and count what was done."""
        words = self._words
        words[SEQ] += 1
        words[STATE] = NOTHING
        words[BATCHES] += 1
        words[ITEMS] += items
        words[HEARTBEAT_NS] = time.monotonic_ns()
        words[SEQ] += 1

    def read(self) -> SlotRecord | None:
        """Return the record, or None when it is not whole (C2)."""
        for _ in range(READ_TRIES):
            before = self._words[SEQ]
            words = self._words[:SLOT_WORDS].tolist()
            text = bytes(self._text[: min(words[TEXT_BYTES], MAX_TEXT_BYTES)])
            if before % 2 == 0 and self._words[SEQ] == before:
                state = words[STATE]
                return SlotRecord(
                    words[BATCH] if state != NOTHING else None,
                    words[POSITION] if state == IN_ITEM else None,
                    words[STAGE],
                    words[BEGAN_NS] / 1e9,
                    words[HEARTBEAT_NS] / 1e9,
                    words[BATCHES],
                    words[ITEMS],
                    in_setup=state == IN_SETUP,
                    text=text.decode("utf-8", "replace") if state == IN_ITEM else "",
                    attempt=max(1, words[ATTEMPT]),
                )
        return None

    def clear(self) -> None:
        """Empty the slot for the next worker (C3)."""
        for word in range(SLOT_WORDS):
            self._words[word] = 0

    def release(self) -> None:
        """Let go of the memory."""
        self._text.release()
        self._words.release()


class ControlBlock:
    """The memory file, mapped.

    Args:
        fd: the file; kept open, since workers get it when they start.
        slots: how many slots it has.
    """

    def __init__(self, fd: int, slots: int) -> None:
        """Map the file."""
        self.fd = fd
        self.slots = slots
        self._map = mmap.mmap(fd, HEADER_BYTES + slots * SLOT_BYTES)
        self._bytes = memoryview(self._map)
        self._words = self._bytes.cast("Q")

    @classmethod
    def create(cls, slots: int, arena_limit: int = 0) -> ControlBlock:
        """Return a new, empty control block.

        Args:
            slots: how many.
            arena_limit: bytes of payloads that the arena behind it may hold; 0: there is to be none.
        """
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("mpengine-control", os.MFD_CLOEXEC)
        else:
            arena_limit = 0  # a file system's blocks are no memory
            import tempfile

            with tempfile.TemporaryFile() as file:  # has no name either, once it is open
                fd = os.dup(file.fileno())
        try:
            geometry = _geometry(slots, arena_limit)
            try:
                os.ftruncate(fd, geometry.end if arena_limit else geometry.start)  # sparse
            except OSError:  # files may only be so large here (RLIMIT_FSIZE)
                arena_limit = 0
                os.ftruncate(fd, geometry.start)
            block = cls(fd, slots)
        except BaseException:
            os.close(fd)
            raise
        block._words[ARENA_LIMIT] = arena_limit
        return block

    @property
    def buffer(self) -> memoryview:
        """The bytes, for the cancel flag at ``CANCEL_OFFSET``."""
        return self._bytes

    @property
    def geometry(self) -> Geometry:
        """Where the arena is in the file."""
        return _geometry(self.slots, self._words[ARENA_LIMIT])

    def words_start(self, worker_id: int) -> int:
        """Return where in the file a worker's last words go (see ``lastwords``)."""
        return HEADER_BYTES + self.slots * SLOT_BYTES + worker_id * REGION_BYTES

    def slot(self, worker_id: int) -> Slot:
        """Return the slot of a worker."""
        start = (HEADER_BYTES + worker_id * SLOT_BYTES) // 8
        return Slot(self._words[start : start + SLOT_WORDS])

    def close(self) -> None:
        """Unmap and close the file; slots handed out must be released first."""
        if self.fd == -1:
            return
        fd, self.fd = self.fd, -1
        try:
            self._words.release()
            self._bytes.release()
            self._map.close()
        finally:
            os.close(fd)


def _geometry(slots: int, arena_limit: int) -> Geometry:
    """Return where the arena is behind so many slots; it has a region for each, and one for the coordinator."""
    return Geometry(whole_pages(HEADER_BYTES + slots * (SLOT_BYTES + REGION_BYTES)), slots + 1, arena_limit)
