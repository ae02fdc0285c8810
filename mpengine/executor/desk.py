"""Which call goes to which worker, and what becomes of its future.

    submit --> waiting --(a lane is free)--> at a worker --(answer)--> the clerk settles its future
                  ^                              |
                  +---- its worker has died -----+---- too often, or it breaks the executor: its future fails

D1. A call waits here until a worker is free for it; until then its future can be cancelled.  But while workers are on
    their way, the first calls are theirs and count as begun with.
D2. Whoever comes second sends: the thread that submits where somebody is free already, else the clerk.
D3. All of it is under one lock, under which no code of the user's runs: calls come pickled, futures are settled by the
    clerk.
D4. Each worker's turn is an item of the engine's, made when the loop asks for one, which it does when a worker has
    nothing to do (``is_prompt``).
D5. A worker whose call is called off is sent nothing more, and ended: so no other call is ever under way there.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque

from mpengine.coordinator.feed import pack
from mpengine.coordinator.feeds import FeedsItself
from mpengine.executor.lanes import Lane
from mpengine.scheduler import events
from mpengine.worker import calls
from mpengine.worker.turns import Turn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from concurrent.futures import Future
    from typing import Any

    from mpengine.executor.packing import Errand
    from mpengine.ipc.codec import Codec
    from mpengine.ipc.messages import Buffer


class Desk(FeedsItself):
    """The calls and the lanes of one executor; the source of its run, and that source's feed.

    Args:
        workers: how many there are to be.
        most: calls that a worker makes before it is replaced; None: any number.
        most_bytes: resident memory with which a worker makes no further call; None: any amount.
        leaves: whether a call that cannot be unpickled ends its worker.

    Attributes:
        poll: what there is to be heard: lanes' ends.
    """

    runs_user_code = False
    threads: Sequence[threading.Thread] = ()

    def __init__(self, *, workers: int, most: int | None, most_bytes: int | None, leaves: bool) -> None:
        """Begin without a call."""
        self.poll: select.epoll
        self._workers = workers
        self._most = most
        self._most_bytes = most_bytes
        self._leaves = leaves
        self._pid = os.getpid()
        self._lock = threading.RLock()  # the collector may call close_to_new() in the middle of anything
        self._waiting: deque[Errand] = deque()
        self._free: list[Lane] = []
        self._lanes: dict[int, Lane] = {}
        self._by_fd: dict[int, Lane] = {}
        self._under_way = 0
        self._promised = 0
        self._count = 0
        self._is_closing = False
        self._has_stopped = False
        self._codec: Codec | None = None
        self._post: Callable[[events.Event], None] = lambda _: None

    def open(self) -> None:
        """Get ready for a run.

        Raises:
            OSError: this process has no descriptors left.
        """
        self.poll = select.epoll()
        self._codec = None
        self._has_stopped = False  # as a run that did not begin has left it

    # ------------------------------------------------------------------ whoever submits

    def put(self, errand: Errand) -> bool:
        """Send a call, or let it wait; return whether any are taken."""
        with self._lock:
            if self._is_closing:
                return False
            self._waiting.append(errand)
            self._send_waiting()
            if self._under_way + self._promised < self._workers and not errand.has_begun:
                self._promise(errand)
        return True

    def _promise(self, errand: Errand) -> None:
        """A worker for a call is on its way (D1)."""
        if errand.future.set_running_or_notify_cancel():
            errand.has_begun = errand.is_promised = True
            self._promised += 1

    def close_to_new(self) -> None:
        """Take no more calls; those that wait are still made."""
        if os.getpid() != self._pid:
            return  # a forked child drops its copy, whose lock nobody may ever let go
        with self._lock:
            self._is_closing = True
            self._stop_if_done()

    def take_waiting(self) -> list[Errand]:
        """Return all calls that nobody has begun with, which are not made."""
        with self._lock:
            taken = [errand for errand in self._waiting if not errand.has_begun]
            self._waiting = deque([errand for errand in self._waiting if errand.has_begun])
            self._stop_if_done()
        return taken

    def call_off(self, futures: Collection[Future[Any]]) -> list[Errand]:
        """Have the workers ended that are at calls nobody wants (D5); return those of them that wait and have begun."""
        with self._lock:
            at = [lane for lane in self._lanes.values() if lane.errand is not None and lane.errand.future in futures]
            for lane in at:
                assert lane.errand is not None  # noqa: S101 - as was asked a line above
                lane.errand.is_called_off = lane.is_over = True
            if at:
                turns = frozenset(lane.number for lane in at)
                self._post(events.ItemsCalledOff(time.monotonic(), turns))
            taken = [errand for errand in self._waiting if errand.future in futures]
            self._waiting = deque([errand for errand in self._waiting if errand.future not in futures])
            self._promised -= sum(errand.is_promised for errand in taken)
            self._stop_if_done()
        return [errand for errand in taken if errand.has_begun or errand.future.set_running_or_notify_cancel()]

    def _send_waiting(self) -> None:
        while self._free and self._waiting:
            self._send_next(self._free[-1])
            if self._free[-1].errand is not None:
                self._free.pop()

    def _send_next(self, lane: Lane) -> None:
        """Send a free lane the first call that waits and that nobody has cancelled."""
        while self._waiting:
            errand = self._waiting.popleft()
            if errand.has_begun or errand.future.set_running_or_notify_cancel():
                self._promised -= errand.is_promised
                errand.has_begun, errand.is_promised = True, False
                lane.errand = errand
                self._under_way += 1
                self._send(lane, errand.pieces)
                return

    def _send(self, lane: Lane, pieces: list[Buffer]) -> None:
        if not lane.send(list(pieces)):
            self.poll.modify(lane.calls_fd, select.EPOLLOUT)

    def _stop_if_done(self) -> None:
        """Once everything is done and nothing more will come, end all turns."""
        if not self._is_closing or self._has_stopped or self._waiting or self._under_way or self._codec is None:
            return
        self._has_stopped = True
        for lane in self._lanes.values():
            self._send(lane, calls.frame_of(calls.STOP))
        self._post(events.SourceEnded(time.monotonic()))

    # ------------------------------------------------------------------ the clerk

    def lane_of(self, fd: int) -> Lane | None:
        """Return the lane that has an end of that number."""
        return self._by_fd.get(fd)

    def flush(self, lane: Lane) -> None:
        """Send what a lane's pipe takes by now."""
        with self._lock:
            if lane.calls_fd in self._by_fd and lane.flush():
                self.poll.modify(lane.calls_fd, 0)

    def note_ready(self, lane: Lane) -> None:
        """A lane's worker has come."""
        with self._lock:
            lane.note_ready()
            if not lane.is_over:
                self._free.append(lane)
                self._send_waiting()
            self._stop_if_done()  # what waited may have been cancelled, all of it

    def answered(self, lane: Lane, *, is_last: bool) -> Errand | None:
        """A lane's worker has answered: return whose call that was, and send it the next one unless it ``is_last``."""
        with self._lock:
            errand, lane.errand = lane.errand, None
            self._under_way -= errand is not None
            lane.is_over |= is_last
            if not lane.is_over:
                self._send_next(lane)
                if lane.errand is None:
                    self._free.append(lane)
            self._stop_if_done()
        return errand

    def deafen(self, lane: Lane) -> None:
        """A lane's worker says no more, and is sent no more; what has become of it, the engine will tell."""
        with self._lock:
            lane.is_over = True
            if self._by_fd.pop(lane.results_fd, None) is not None:
                self.poll.unregister(lane.results_fd)
            if lane in self._free:
                self._free.remove(lane)

    def lane_for(self, number: int) -> Lane | None:
        """Return a lane whose turn is over."""
        return self._lanes.get(number)

    def remove(self, lane: Lane) -> Errand | None:
        """Forget a lane whose turn is over; return the call that its worker was at."""
        with self._lock:
            del self._lanes[lane.number]
            if lane in self._free:
                self._free.remove(lane)
            for fd in (lane.calls_fd, lane.results_fd):
                if self._by_fd.pop(fd, None) is not None:
                    self.poll.unregister(fd)
            errand, lane.errand = lane.errand, None
            lane.close()
            return errand

    def put_back(self, errand: Errand) -> None:
        """A call's worker has died: make it again, before all others."""
        with self._lock:
            self._under_way -= 1
            self._waiting.appendleft(errand)
            self._send_waiting()

    def give_up(self) -> None:
        """A call's worker has died, and it is not made again."""
        with self._lock:
            self._under_way -= 1
            self._stop_if_done()

    def clear(self) -> list[Errand]:
        """The run has ended: close everything, and return the calls that nothing has come of."""
        with self._lock:
            self._has_stopped = self._is_closing = True
            left = [errand for lane in list(self._lanes.values()) if (errand := self.remove(lane)) is not None]
            waiting, self._waiting = self._waiting, deque()
            self._under_way = 0
            self.poll.close()
        left += [one for one in waiting if one.has_begun or one.future.set_running_or_notify_cancel()]
        return left

    # ------------------------------------------------------------------ the loop

    def feed(self, codec: Codec, post: Callable[[events.Event], None]) -> Desk:
        """See ``FeedsItself``."""
        self._codec = codec
        self._post = post
        return self

    def pull(self, count: int, batch_size: int) -> None:  # noqa: ARG002 - a turn is a batch
        """See ``Feed``."""
        with self._lock:
            self._stop_if_done()  # it may have been closed before there was a loop
            for _ in range(0 if self._has_stopped else count):
                self._make_turn()

    def _make_turn(self) -> None:
        lane = Lane(self._count)
        self._count += 1
        self._lanes[lane.number] = lane
        self._by_fd[lane.results_fd] = self._by_fd[lane.calls_fd] = lane
        self.poll.register(lane.results_fd, select.EPOLLIN)
        self.poll.register(lane.calls_fd, 0)
        turn = Turn(
            lane.number, os.getpid(), lane.calls_end, lane.results_end, self._most, self._most_bytes, self._leaves
        )
        assert self._codec is not None  # noqa: S101 - who asks has made the feed
        for event in pack(self._codec, [turn]):
            self._post(event)

    def close(self) -> None:
        """See ``Feed``."""
        with self._lock:
            self._has_stopped = True

    def interrupt(self) -> None:
        """See ``Feed``."""

    def join(self, timeout_s: float) -> bool:  # noqa: ARG002 - there is nothing to wait for
        """See ``Feed``."""
        return True
