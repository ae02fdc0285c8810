"""A worker's outbox for two kinds of mail: messages of the main loop, and log records, which come at any moment.

O1. Only the main thread writes.  What other threads log is queued, and sent the next time the main thread is here.
O2. Nothing is written while something else is half written: a signal handler, or the collector, that logs in between
    finds the outbox busy, and its record is queued.
O3. A signal handler may also raise, at any instruction of ours.  So how much of a record has been written is noted by
    the very call that writes it, and whoever is here next writes the rest: the reader never meets half a record.
O4. Records that wait are bounded; the oldest are dropped, and counted.
"""

from __future__ import annotations

import os
import threading
from collections import deque

from mpengine.ipc.messages import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from mpengine.ipc.messages import Message
    from mpengine.ipc.mpqueue import MPQueue

MAX_WAITING: Final = 1_000


class Outbox:
    """The outbox.

    Args:
        queue: its writing end.
    """

    def __init__(self, queue: MPQueue) -> None:
        """Start with nothing to send."""
        self._queue = queue
        self._busy = False
        self._waiting: deque[bytes] = deque()
        self._half: tuple[memoryview, list[int]] | None = None  # a record, and how much was written in each call (O3)
        self.dropped = 0

    def put(self, message: Message) -> None:
        """Write a message of the main loop, and before it all records that wait."""
        self._busy = False  # nobody is at it beneath the main loop, even if an exception has left it like that
        if self._waiting or self._half is not None:
            self.send_records()
        self._busy = True
        try:
            self._queue.put(message)
        finally:
            self._busy = False
        if self._waiting:
            self.send_records()  # logged by a signal handler meanwhile

    def put_record(self, message: Message) -> None:
        """Send a record now, if this is the main thread and nothing is half written; else when that is so."""
        frame = b"".join(map(bytes, encode(message)))
        while len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(frame)
        if threading.current_thread() is threading.main_thread():
            self.send_records()

    def send_records(self) -> None:
        """Write all records that wait; in the main thread."""
        if self._busy or not self._queue.is_flushed:
            return  # a message is half written; should it stay like that, this process is on its way out
        try:
            self._busy = True
            self._finish_half()
            while self._waiting:
                self._half = (memoryview(self._waiting.popleft()), [])
                self._finish_half()
        finally:
            self._busy = False

    def _finish_half(self) -> None:
        while self._half is not None:
            frame, written = self._half
            rest = frame[sum(written) :]
            if rest.nbytes == 0:
                self._half = None
                return
            # One call into C, which writes and notes: no signal handler can come in between (O3).
            written.extend(map(os.write, (self._queue.writer_fd,), (rest,)))
