"""The scribe: a thread of its own for what is logged, since log handlers are user code (T2).

    loop, consumer --- note ------+
                                  +--> bounded queue --> this thread --> logging
    workers --- Logged --- loop --+

Y1. ``note`` and ``hand_on`` never wait for a handler and run nothing of the user's; from any thread.
Y2. The queue is bounded, in records and in characters.  Where handlers do not keep up the oldest records are dropped,
    and a line says how many, once a second at most.
Y3. A handler that raises is told about on stderr, once for each engine, and changes nothing else.
Y4. ``flush`` waits ``FLUSH_S`` at most; after that nobody waits again until the handler has come back.
Y5. The first record starts the thread and ``close`` ends it.  One that is stuck in a handler is left to itself, and
    ends when the handler comes back; what had not been written by then is dropped.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from mpengine.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from typing import Final

    from mpengine.ipc.messages import Logged

WARNING: Final = 30
ERROR: Final = 40
"""As ``logging`` has them, which is imported when there is something to write."""

MAX_RECORDS: Final = 10_000
MAX_CHARS: Final = 16 << 20
FLUSH_S: Final = 2.0
TELL_EVERY_S: Final = 1.0

_NAME: Final = "mpengine"


@dataclass(frozen=True, slots=True)
class Note:
    """A line of the engine's own."""

    level: int
    text: str
    args: tuple[object, ...]
    stage: str | None
    worker_id: int | None
    run_id: int | None
    index: int | None
    created: float


@dataclass(frozen=True, slots=True)
class Parcel:
    """What a worker has logged, and which worker in which run."""

    logged: Logged
    worker_id: int
    run_id: int
    index: int | None


class Scribe:
    """Logs for one engine.

    Attributes:
        run_id: the number of the run that goes on, or of the last one; None before the first.
    """

    def __init__(self) -> None:
        """Start nothing yet."""
        self._changed = threading.Condition(threading.RLock())  # the collector may log in between
        self.run_id: int | None = None
        # Under the condition's lock:
        self._entries: deque[tuple[Note | Parcel, int]] = deque()
        self._chars = 0
        self._dropped = 0
        self._told_at = float("-inf")
        self._thread: threading.Thread | None = None
        self._is_writing = False
        self._is_closing = False
        self._is_stuck = False
        # The thread's own:
        self._has_complained = False

    # ------------------------------------------------------------------ from anywhere

    def note(
        self, level: int, text: str, *args: object,
        stage: str | None = None, worker_id: int | None = None, index: int | None = None,
    ) -> None:  # fmt: skip
        """Log a line of the engine's own.

        Args:
            level: as in ``logging``.
            text: with a place for each of ``args``.
            args: plain strings and numbers.
            stage: what becomes ``record.stage``.
            worker_id: what becomes ``record.worker_id``.
            index: what becomes ``record.item_index``.
        """
        weight = len(text) + sum(len(arg) for arg in args if isinstance(arg, str))
        self._add(Note(level, text, args, stage, worker_id, self.run_id, index, time.time()), weight)

    def hand_on(self, logged: Logged, worker_id: int, run_id: int, index: int | None = None) -> None:
        """Log what a worker has sent, perhaps while it was at the source's item ``index``."""
        extra = sum(len(value) for _, value in logged.extra if isinstance(value, str))
        weight = len(logged.message) + len(logged.exc_text or "") + len(logged.stack or "") + extra
        self._add(Parcel(logged, worker_id, run_id, index), weight)

    def _add(self, entry: Note | Parcel, weight: int) -> None:
        with self._changed:
            self._entries.append((entry, weight))
            self._chars += weight
            while len(self._entries) > MAX_RECORDS or (self._chars > MAX_CHARS and len(self._entries) > 1):
                self._chars -= self._entries.popleft()[1]
                self._dropped += 1
            self._is_closing = False
            if self._thread is None:
                self._start()
            self._changed.notify_all()

    def _start(self) -> None:
        thread = threading.Thread(target=self._write_all, name="mpengine-scribe", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is on its way out: flush() writes
            return
        self._thread = thread

    # ------------------------------------------------------------------ the end of a run

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait until everything is written; return whether it is (Y4)."""
        if threading.current_thread() is self._thread:
            return False  # a handler ends a run
        with self._changed:
            if self._thread is None:
                while self._entries:
                    self._write(self._take())
                return True
            if not self._is_stuck:
                self._is_stuck = not self._changed.wait_for(
                    lambda: not (self._entries or self._is_writing or self._dropped), timeout_s
                )
            return not self._is_stuck

    def close(self) -> None:
        """Flush, then end the thread (Y5); a later record starts another."""
        is_flushed = self.flush()
        with self._changed:
            thread = self._thread
            self._is_closing = True
            self._dropped += len(self._entries)
            self._entries.clear()
            self._chars = 0
            self._changed.notify_all()
        if thread is not None and is_flushed:
            thread.join(FLUSH_S)

    # ------------------------------------------------------------------ the thread

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._entries or self._dropped or self._is_closing)
                if not (self._entries or self._dropped):
                    self._thread = None
                    return
                self._is_writing = True
                entry = self._take()
            self._write(entry)
            self._is_stuck = False

    def _take(self) -> Note | Parcel:
        """Take the next entry off the queue, or how many there are no more (Y2); the caller holds the lock."""
        at = time.monotonic()
        if self._dropped and (at >= self._told_at + TELL_EVERY_S or not self._entries):
            self._told_at = at
            dropped, self._dropped = self._dropped, 0
            text = "%d log record%s dropped: handlers do not keep up"
            args = (dropped, " was" if dropped == 1 else "s were")
            return Note(WARNING, text, args, None, None, self.run_id, None, time.time())
        entry, weight = self._entries.popleft()
        self._chars -= weight
        return entry

    def _write(self, entry: Note | Parcel) -> None:
        try:
            if isinstance(entry, Note):
                _write_note(entry)
            else:
                _write_parcel(entry)
        except BaseException:  # noqa: BLE001 - a handler's own affair (Y3), even if it wants to leave
            import logging
            import traceback

            if not self._has_complained and logging.raiseExceptions:
                self._has_complained = True
                traceback.print_exc()


def _write_note(note: Note) -> None:
    import logging

    logger = logging.getLogger(_NAME)
    if logger.isEnabledFor(note.level):
        record = logger.makeRecord(_NAME, note.level, __file__, 0, note.text, note.args, None)
        _date(record, note.created)
        vars(record).update(
            stage=note.stage, worker_id=note.worker_id, run_id=note.run_id, item_index=note.index
        )  # fmt: skip
        logger.handle(record)


def _write_parcel(parcel: Parcel) -> None:
    import logging

    logged = parcel.logged
    record = logging.makeLogRecord({"name": logged.name, "msg": logged.message, "args": None})
    # Neither a standard field nor a method: what a worker sends must not make a record something else (K9).
    known = {*vars(record), *dir(logging.LogRecord)}
    vars(record).update((name, value) for name, value in logged.extra if name not in known)
    vars(record).update(
        levelno=logged.level,
        levelname=logged.level_name,
        pathname=logged.path,
        filename=logged.path.rpartition("/")[2],
        module=logged.path.rpartition("/")[2].partition(".")[0],
        lineno=logged.line,
        funcName=logged.function,
        exc_text=logged.exc_text,
        stack_info=logged.stack,
        thread=logged.thread,
        threadName=logged.thread_name,
        process=logged.process,
        processName=logged.process_name,
        stage=logged.stage,
        worker_id=parcel.worker_id,
        run_id=parcel.run_id,
        item_index=parcel.index,
    )
    _date(record, logged.created)
    logging.getLogger(logged.name).handle(record)


def _date(record: logging.LogRecord, created: float) -> None:
    """Say when a record came to be, which was not now."""
    record.relativeCreated += (created - record.created) * 1000
    record.created = created
    record.msecs = created % 1 * 1000
