"""Publishes snapshots on the metrics board, off everybody's way.

    run --- begin(take), end(last) --->  this thread  --- update() --->  the board's process

A thread of its own waits for the next moment; everything that may take time, or may never come back, happens on it.

A1. Nothing is started for a run that is over within ``interval_s`` but this thread; nor within ``UNASKED`` times that
    where nobody has asked for the board: to start its process takes as much of a core as a second's batches do.
A2. The board's process stays until ``close``.  If it dies before that, the run goes on without a board; the next run
    starts another.
A3. Nobody waits for this thread but ``end``, ``END_S`` at most, so that the last snapshot is there when the run is
    over; and ``close``, which kills the board's process first and with it whatever the thread waits for.
A4. What others may see of a run, and ask of it, goes the same way on the same thread: see ``lookout``, which is loaded
    when a run gets its first snapshot on a board.
"""

from __future__ import annotations

import threading
import time

from mpengine.coordinator.scribe import WARNING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from mpengine.coordinator.lookout import Lookout, Watched
    from mpengine.coordinator.scribe import Scribe
    from mpengine.metrics import Snapshot
    from mpengine.monitor.board import BoardAddress, BoardProxy
    from mpengine.processes.boardprocess import BoardProcess

UNASKED: Final = 4
READY_S: Final = 30.0
HEED_S: Final = 1.0
"""What was asked of a run is looked for this often, though snapshots may be further apart."""
END_S: Final = 0.5
JOIN_S: Final = 5.0


class Publisher:
    """Publishes for one engine, run after run.

    Args:
        interval_s: how long a run lasts before it gets a board (A1), and between two snapshots on it; 0: never.
        scribe: logs.
    """

    def __init__(self, interval_s: float, scribe: Scribe) -> None:
        """Start nothing yet."""
        self._interval_s = min(interval_s, threading.TIMEOUT_MAX / (2 * UNASKED))
        self._scribe = scribe
        self._wake = threading.Event()
        self._is_told = threading.Event()
        self._lock = threading.RLock()
        # Under the lock:
        self._take: Callable[[], Snapshot] | None = None
        self._last: tuple[Snapshot, Lookout | None] | None = None
        self._due_at = 0.0
        self._began_at = 0.0
        self._is_asked_for = False
        self._thread: threading.Thread | None = None
        self._process: BoardProcess | None = None
        self._board: BoardProxy | None = None
        self._run: Watched | None = None
        self._lookout: Lookout | None = None  # made for the first snapshot on a board
        self._publish_at = 0.0
        self._has_failed = False

    # ------------------------------------------------------------------ the engine's side

    def begin(self, take: Callable[[], Snapshot], run: Watched | None = None) -> None:
        """A run has begun, whose snapshots ``take`` takes; others may see ``run``, and ask things of it."""
        if self._interval_s <= 0:
            return
        with self._lock:
            self._take = take
            self._run, self._lookout = run, None
            self._began_at = time.monotonic()
            is_late = self._board is None and not self._is_asked_for
            self._due_at = self._began_at + self._interval_s * (UNASKED if is_late else 1)
            self._has_failed = False
            if self._thread is None:
                self._thread = threading.Thread(target=self._publish_all, name="mpengine-publisher", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:  # the interpreter is on its way out
                    self._thread = None
        self._wake.set()

    def end(self, last: Snapshot) -> None:
        """The run is over; see that its last snapshot is on the board, if there is one (A3)."""
        with self._lock:
            self._take = None
            if self._board is None and not (self._lookout is not None and self._lookout.is_listed):
                return
            self._last = (last, self._lookout)  # which the next run has another of
            self._is_told.clear()
        self._wake.set()
        if threading.current_thread() is not self._thread:
            self._is_told.wait(END_S)

    def close(self) -> None:
        """End the board's process and the thread; another run starts others."""
        with self._lock:
            thread, self._thread = self._thread, None
        self._wake.set()
        self._bury()
        if thread is not None and thread is not threading.current_thread():
            thread.join(JOIN_S)
        if self._lookout is not None:
            self._lookout.remove()

    @property
    def board(self) -> BoardProxy | None:
        """The board; None until there is one.  To ask is to want it."""
        board = self._board
        if board is None:
            self._ask_for_it()
        return board

    @property
    def address(self) -> BoardAddress | None:
        """What another process needs to find the board; None until there is one."""
        with self._lock:
            if self._board is not None and self._process is not None:
                return self._process.where
        self._ask_for_it()
        return None

    def _ask_for_it(self) -> None:
        with self._lock:
            if self._is_asked_for:
                return
            self._is_asked_for = True
            self._due_at = min(self._due_at, self._began_at + self._interval_s)
        self._wake.set()

    # ------------------------------------------------------------------ the thread

    def _publish_all(self) -> None:
        while self._is_current():
            self._wake.wait(self._left_s())
            self._wake.clear()
            try:
                self._take_turn()
            except (TimeoutError, BlockingIOError):
                pass  # the board's process is stopped, or has no time; the next snapshot may get through
            except Exception as error:  # noqa: BLE001 - a line in the log; the run needs no board (A2)
                self._give_up(error)
            finally:
                with self._lock:
                    if self._last is None:  # else it came during this turn, and the next one tells it
                        self._is_told.set()

    def _is_current(self) -> bool:
        """Whether this thread is still to publish, and has not been closed."""
        return self._thread is threading.current_thread()

    def _left_s(self) -> float | None:
        with self._lock:
            return None if self._take is None else max(0.0, self._due_at - time.monotonic())

    def _take_turn(self) -> None:
        with self._lock:
            take, last, self._last = self._take, self._last, None
            at = time.monotonic()
            if take is not None and at < self._due_at:
                take = None
            elif take is not None:
                self._due_at = at + min(self._interval_s, HEED_S)
        if last is not None:
            self._publish_last(*last)
        if take is not None:
            self._open()
            self._publish(take, at)

    def _publish_last(self, last: Snapshot, lookout: Lookout | None) -> None:
        if lookout is not None:
            lookout.end(last)
        board = self._board
        if board is not None:
            board.update(last.as_dict())

    def _publish(self, take: Callable[[], Snapshot], at: float) -> None:
        with self._lock:
            board, process = self._board, self._process
            if board is None or self._take is not take:
                return
            lookout = self._lookout = self._lookout or self._look_out()
        is_due = at >= self._publish_at or self._interval_s <= HEED_S
        if is_due:
            self._publish_at = at + self._interval_s
        if lookout is not None and process is not None:
            lookout.publish(board, process.where, take, is_due=is_due)
        elif is_due:
            board.update(take().as_dict())

    def _look_out(self) -> Lookout | None:
        from mpengine.coordinator.lookout import Lookout

        return None if self._run is None else Lookout(self._run, self._interval_s, self._scribe)

    def _open(self) -> None:
        """Start the board's process, unless there is one, or was one that has failed."""
        if self._board is not None or self._has_failed or not self._is_current():
            return
        from mpengine.monitor.board import attach
        from mpengine.processes.boardprocess import BoardProcess

        process = BoardProcess.start()
        with self._lock:
            if not self._is_current():
                process.bury()
                return
            self._process = process
        if not process.wait_ready(READY_S):
            msg = f"its process has died, or did not start within {READY_S:.0f} s"
            raise RuntimeError(msg)
        board = attach(*process.where)
        with self._lock:
            if self._process is process:
                self._board = board

    def _give_up(self, error: Exception) -> None:
        if self._is_current():
            self._has_failed = True
            self._bury()
            text = "the run goes on without a metrics board: %s: %s"
            self._scribe.note(WARNING, text, type(error).__name__, str(error))

    def _bury(self) -> None:
        """End the board's process, if there is one; in any thread."""
        with self._lock:
            process, self._process, self._board = self._process, None, None
        if process is None:
            return
        from mpengine.monitor.board import forget

        is_gone = process.bury()
        forget(process.where.address)
        if not is_gone:
            self._scribe.note(WARNING, "the metrics board's process is left behind: %s", str(process.identity))
