"""The clerk: the one thread of an executor that hears workers, unpickles results and settles futures.

Done callbacks run here, so they may submit, and may shut the executor down, but for waiting for that.
"""

from __future__ import annotations

import concurrent.futures
import os
import select
import threading
from collections import deque
from concurrent.futures.process import BrokenProcessPool, _RemoteTraceback

from mpengine.errors import WorkerDiedError
from mpengine.ipc.codec import load_error
from mpengine.pickling import loads
from mpengine.processes.spawning import close_in_forked_children, close_parent_only
from mpengine.worker import calls
from mpengine.worker.chain import summarize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mpengine.executor.desk import Desk
    from mpengine.executor.lanes import Lane
    from mpengine.executor.packing import Errand


class Clerk:
    """Hears what workers say.

    Args:
        desk: the calls and lanes.
        most_deaths: so many deaths of its workers a call survives; None: the first one ends everything.
        fail: ends the run, with a reason and an error.
    """

    def __init__(
        self, desk: Desk, most_deaths: int | None, fail: Callable[[str, BaseException], None]
    ) -> None:  # fmt: skip
        """Begin without a thread."""
        self._desk = desk
        self._most_deaths = most_deaths
        self._fail = fail
        self._told: deque[tuple[int, BaseException | None]] = deque()
        self._end: tuple[str, BaseException | None] | None = None
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        close_in_forked_children(self._bell)
        desk.poll.register(self._bell, select.EPOLLIN)
        self._has_end = threading.Event()
        self.thread = threading.Thread(target=self._live, name="mpengine-executor", daemon=True)

    def dismiss(self) -> None:
        """There will be no run, and no thread."""
        self._desk.poll.close()
        close_parent_only(self._bell)

    # ------------------------------------------------------------------ whoever sees turns end

    def tell_over(self, turn: int, error: BaseException | None) -> None:
        """A turn is over; ``error`` is what its worker has died of."""
        self._told.append((turn, error))
        os.eventfd_write(self._bell, 1)

    def tell_end(self, reason: str, error: BaseException | None) -> None:
        """The run is over; there will be nothing more."""
        self._end = reason, error
        self._has_end.set()
        os.eventfd_write(self._bell, 1)

    # ------------------------------------------------------------------ the thread

    def _live(self) -> None:
        try:
            while self._end is None:
                self._step()
        except BaseException as error:  # noqa: BLE001 - nobody else would hear of it, and all would wait for ever
            self._fail(f"a bug: {type(error).__name__}: {error}", error)
            self._has_end.wait()
        assert self._end is not None  # noqa: S101 - what was waited for
        self._conclude(*self._end)

    def _step(self) -> None:
        for fd, happened in self._desk.poll.poll():
            if fd == self._bell:
                os.eventfd_read(fd)
                continue
            lane = self._desk.lane_of(fd)
            if lane is None:
                continue  # removed meanwhile
            if fd == lane.results_fd:
                self._hear(lane)
            elif happened & select.EPOLLOUT:
                self._desk.flush(lane)
        while self._told:
            self._see_off(*self._told.popleft())

    def _hear(self, lane: Lane) -> bool:
        """Take in one thing that a worker has said; return whether there was any."""
        try:
            while (frame := lane.reader.read()) is None:
                pass
        except BlockingIOError:
            return False
        except EOFError:
            self._desk.deafen(lane)
            return False
        if frame.kind == calls.READY:
            self._desk.note_ready(lane)
            return True
        errand = self._desk.answered(lane, is_last=bool(frame.kind & calls.LAST))
        if errand is not None:
            self._settle(errand, frame)
        return True

    def _settle(self, errand: Errand, frame: calls.Frame) -> None:
        if frame.kind & ~calls.LAST == calls.FAILURE:
            dumped, summary, traceback = loads(frame.parts[0])
            error = load_error(dumped, summary)
            error.__cause__ = remote_traceback(traceback)
            self._set(errand.future.set_exception, error)
            return
        try:
            value = calls.load(frame.parts)
        except BaseException as error:  # noqa: BLE001 - the call's own error, or everybody's
            if self._most_deaths is None:
                story = f"a result could not be unpickled: {summarize(error)}"
                self._fail(story, error)
                error = broken(story, error)
            self._set(errand.future.set_exception, error)
            return
        self._set(errand.future.set_result, value)

    def _set(self, setter: Callable[[Any], None], value: Any) -> None:
        """Settle a future; what its callbacks raise beyond what it swallows itself ends nothing here."""
        try:
            setter(value)
        except BaseException:
            import logging

            logging.getLogger("concurrent.futures").exception("exception calling callback")

    def _see_off(self, turn: int, error: BaseException | None) -> None:
        """A turn is over, in peace or by its worker's death."""
        lane = self._desk.lane_for(turn)
        if lane is None:
            return
        lane.is_over = True
        while self._hear(lane):  # what its worker had said before it died counts
            pass
        has_begun = lane.has_begun
        errand = self._desk.remove(lane)
        if errand is None:
            return
        errand.deaths += has_begun
        if errand.is_called_off:
            self._desk.give_up()
            self._set(errand.future.set_exception, concurrent.futures.CancelledError("the call was called off"))
            return
        if self._most_deaths is not None and errand.deaths <= self._most_deaths:
            self._desk.put_back(errand)
            return
        self._desk.give_up()
        self._set(errand.future.set_exception, _error_of(errand, error))

    def _conclude(self, reason: str, error: BaseException | None) -> None:
        left = self._desk.clear()
        close_parent_only(self._bell)
        for errand in left:
            self._set(errand.future.set_exception, broken(f"the call was not finished: {reason}", error))


def broken(story: str, cause: BaseException | None) -> BrokenProcessPool:
    """Return the error of an executor that cannot go on."""
    error = BrokenProcessPool(story)
    error.__cause__ = cause
    return error


def remote_traceback(text: str) -> BaseException:
    """Return a worker's traceback as the cause that the standard library's own executor gives."""
    made: BaseException = _RemoteTraceback(f'\n"""\n{text}"""')  # type: ignore[arg-type]  # it keeps any text
    return made


def _error_of(errand: Errand, error: BaseException | None) -> BaseException:
    """Return the error of a call that too many workers have died of."""
    if not isinstance(error, WorkerDiedError):
        return error or WorkerDiedError("its worker has left without an answer")
    times = f", {errand.deaths} times with this call" if errand.deaths > 1 else ""
    died = WorkerDiedError(f"the worker died ({error.how}){times}")
    died.how, died.peak_rss = error.how, error.peak_rss
    for note in getattr(error, "__notes__", ()):
        died.add_note(note)
    return died
