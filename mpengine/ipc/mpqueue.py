"""A bounded queue of messages over a pipe: one writer, one reader, and nothing between them that could be locked.

``multiprocessing.Queue`` shares a lock between its readers and another between its writers; a process killed while it
holds one stops everybody else.  Here each worker has an inbox and an outbox of its own, so a SIGKILL at any instruction
harms that worker's two queues and no others (K1).

Q1. One process writes, one other reads.  The coordinator's end never blocks; the worker's end may.
Q2. At most ``maxsize`` messages that ask for work are in the queue or being worked on: the reader's answer makes room.
    A pipe's own size bounds the bytes that the kernel holds; the rest of a large message waits on the writer's side.
Q3. A pill always gets through: it takes no room, and everything that was not begun to be written can be thrown away
    in its favour.  What was begun is finished first, so that the reader never meets half a message.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections import deque

from mpengine.ipc.messages import Buffer, Message, Pill, decode, encode, frame_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

PIPE_BYTES: Final = 1 << 20
READ_BYTES: Final = 1 << 18
MAX_IOV: Final = 64


class MPQueue:
    """One end, or both, of a bounded queue of messages.

    Args:
        maxsize: how many messages may be unanswered; 0: any number, for a queue whose reader answers nothing.
        reader_fd: read end of a pipe; -1 in the process that writes.
        writer_fd: write end of a pipe; -1 in the process that reads.
    """

    def __init__(self, maxsize: int = 0, *, reader_fd: int = -1, writer_fd: int = -1) -> None:
        """Bind the queue to its ends."""
        self._maxsize = maxsize
        self._unanswered = 0
        self.reader_fd = reader_fd
        self.writer_fd = writer_fd
        self._unsent: deque[list[memoryview]] = deque()  # messages, each what is left of its buffers
        self._begun = False  # whether a part of the first of them is in the pipe
        self._rest = b""
        self._large: memoryview | None = None
        self._filled = 0
        self._arrived: deque[Message] = deque()

    @classmethod
    def pipe(cls, maxsize: int = 0) -> MPQueue:
        """Return a queue that has both ends, on a new pipe, as large as the kernel allows up to 1 MiB."""
        reader_fd, writer_fd = os.pipe2(os.O_CLOEXEC)
        with contextlib.suppress(OSError, AttributeError):
            # A user's pipes share a limit; where it is reached, an ordinary pipe does, with more trips.
            fcntl.fcntl(writer_fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return cls(maxsize, reader_fd=reader_fd, writer_fd=writer_fd)

    # ------------------------------------------------------------------ the writer's side

    def put(self, message: Message) -> None:
        """Write ``message``, waiting for the pipe as long as that takes; for an end that may block (Q1)."""
        self._queue(encode(message))
        while self._unsent:
            self._write()

    def put_nowait(self, message: Message, *, asks: bool = False) -> None:
        """Write what the pipe takes of ``message`` now; ``flush`` writes the rest.

        Args:
            message: any message.
            asks: whether it asks for work, so that it takes room until it is answered (Q2).

        Raises:
            queue.Full: ``maxsize`` messages are unanswered.
        """
        if asks:
            if self._maxsize and self._unanswered >= self._maxsize:
                import queue  # a slow import, for a mistake

                raise queue.Full
            self._unanswered += 1
        self._queue(encode(message))
        self.flush()

    def answered(self) -> None:
        """Note that the reader has answered a message that asked for work."""
        self._unanswered -= 1

    def put_pill(self, *, at_once: bool = False) -> None:
        """Write a pill (Q3).

        Args:
            at_once: throw away what was not begun to be written.
        """
        if at_once:
            self._forget_unsent()
        self._queue(encode(Pill()))
        self.flush()

    def flush(self) -> bool:
        """Write what the pipe takes now.

        Returns:
            Whether nothing is left to be written.
        """
        try:
            while self._unsent:
                self._write()
        except BlockingIOError:
            return False
        except BrokenPipeError:
            self._unsent.clear()  # the reader is gone; its death is noticed elsewhere
            self._begun = False
        return True

    @property
    def is_flushed(self) -> bool:
        """Whether nothing is left to be written."""
        return not self._unsent

    def _queue(self, buffers: list[Buffer]) -> None:
        self._unsent.append([view for buffer in buffers if (view := memoryview(buffer).cast("B")).nbytes])

    def _write(self) -> None:
        message = self._unsent[0]
        written = os.writev(self.writer_fd, message[:MAX_IOV])
        whole = 0
        while whole < len(message) and written >= message[whole].nbytes:
            written -= message[whole].nbytes
            whole += 1
        del message[:whole]
        if message:
            message[0] = message[0][written:]
        else:
            self._unsent.popleft()
        self._begun = bool(message)

    def _forget_unsent(self) -> None:
        while len(self._unsent) > self._begun:
            self._unsent.pop()

    # ------------------------------------------------------------------ the reader's side

    def get(self) -> Message:
        """Return the next message, waiting for it; for an end that may block (Q1).

        Raises:
            EOFError: the writer is gone.
            ProtocolError: what arrived is no message.
        """
        while not self._arrived:
            self._arrived.extend(self.receive())
        return self._arrived.popleft()

    @property
    def has_arrived(self) -> bool:
        """Whether a message is here that ``get`` would return at once."""
        return bool(self._arrived)

    def receive(self) -> list[Message]:
        """Read once from the pipe and return the messages that are whole now.

        Raises:
            EOFError: the writer is gone.
            BlockingIOError: there is nothing to read.
            ProtocolError: what arrived is no message.
        """
        if self._large is not None:
            return self._receive_large(self._large)
        some = os.read(self.reader_fd, READ_BYTES)
        if not some:
            raise EOFError
        return self._parse(self._rest + some if self._rest else some)

    def _receive_large(self, large: memoryview) -> list[Message]:
        count = os.readv(self.reader_fd, [large[self._filled :]])
        if count == 0:
            raise EOFError
        self._filled += count
        if self._filled < large.nbytes:
            return []
        self._large = None
        return [decode(large)]

    def _parse(self, arrived: bytes) -> list[Message]:
        if frame_size(arrived) == len(arrived):  # as it mostly is
            self._rest = b""
            return [decode(arrived)]
        messages: list[Message] = []
        start = 0
        view = memoryview(arrived)
        while (size := frame_size(view[start:])) is not None and start + size <= len(arrived):
            messages.append(decode(arrived[start : start + size]))
            start += size
        if size is not None and size > READ_BYTES:  # read the rest of it where it belongs
            self._large = memoryview(bytearray(size))
            self._filled = len(arrived) - start
            self._large[: self._filled] = view[start:]
            start = len(arrived)
        self._rest = arrived[start:]
        return messages

    # ------------------------------------------------------------------ both

    def close(self) -> None:
        """Close the ends this process has; idempotent."""
        for fd in (self.reader_fd, self.writer_fd):
            if fd != -1:
                os.close(fd)
        self.reader_fd = self.writer_fd = -1
        self._unsent.clear()
        self._begun = False

    def close_reader(self) -> None:
        """Close the read end, which another process has."""
        if self.reader_fd != -1:
            os.close(self.reader_fd)
            self.reader_fd = -1

    def close_writer(self) -> None:
        """Close the write end, which another process has."""
        if self.writer_fd != -1:
            os.close(self.writer_fd)
            self.writer_fd = -1
