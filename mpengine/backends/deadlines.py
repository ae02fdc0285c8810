"""Calls whose time is up: found without asking their workers, which may hang in C code or be stopped.

A worker notes in its slot when the call that it is in has to be over.  Here is who looks, and when:

D1. A worker is looked at when the call that its slot named last is due, or, where it named none, one timeout later:
    what has begun meanwhile cannot be due before.  So nothing is polled.
D2. One whose call is overdue is asked for its frames, and killed ``DUMP_S`` later.  (The signal that asks may end a
    wait in C code early.  The worker looks at the same clock: a call that comes back late goes no further.)
D3. It is killed group and all; its death is told like any other, with the word that its time was up.
"""

from __future__ import annotations

from mpengine.ipc.lastwords import DUMP
from mpengine.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mpengine.backends.fleet import Fleet

DUMP_S = 0.1
"""What a worker gets to write its frames; it takes well under a millisecond where it is not stopped."""


@dataclass(slots=True)
class _Watched:
    batches: dict[int, float]  # the shortest timeout of each batch that is timed
    look_at: float
    overdue: float = 0.0  # the deadline that has passed; 0 while none has

    @property
    def timeout_s(self) -> float:
        return min(self.batches.values())


class Deadlines:
    """Watches the workers of a fleet that run calls with a timeout."""

    def __init__(self) -> None:
        """Watch nobody yet."""
        self._watched: dict[int, _Watched] = {}
        self._killed: set[tuple[int, int]] = set()
        self._leaving: dict[int, float] = {}

    @property
    def has_any(self) -> bool:
        """Whether anybody is watched at all."""
        return bool(self._watched or self._leaving)

    def watch(self, worker_id: int, batch_id: int, timeout_s: float, at: float) -> None:
        """A worker is sent a batch with calls that may take ``timeout_s`` seconds at the shortest."""
        watched = self._watched.setdefault(worker_id, _Watched({}, at + timeout_s))
        watched.batches[batch_id] = timeout_s
        watched.look_at = min(watched.look_at, at + timeout_s)

    def forget(self, worker_id: int, batch_id: int) -> None:
        """A worker is done with a batch, or has put it aside."""
        watched = self._watched.get(worker_id)
        if watched is not None:
            watched.batches.pop(batch_id, None)
            if not watched.batches:
                del self._watched[worker_id]

    def expect_end(self, worker_id: int, at: float) -> None:
        """A worker was asked to leave, and is killed if it is still there at ``at``."""
        self._leaving[worker_id] = at

    def bury(self, worker_id: int, generation: int) -> bool:
        """A worker's process is gone; return whether it was killed since its time was up."""
        self._watched.pop(worker_id, None)
        self._leaving.pop(worker_id, None)
        was_killed = (worker_id, generation) in self._killed
        self._killed.discard((worker_id, generation))
        return was_killed

    def wait_s(self, at: float) -> float | None:
        """Return the seconds until somebody has to be looked at; None when there is nobody."""
        due = [*(watched.look_at for watched in self._watched.values()), *self._leaving.values()]
        return max(0.0, min(due) - at) if due else None

    def enforce(self, fleet: Fleet, at: float) -> None:
        """Look at those whose time to be looked at has come (D1), and see to it that what is overdue ends (D2)."""
        for worker_id in [worker_id for worker_id, due in self._leaving.items() if due <= at]:
            del self._leaving[worker_id]
            late = fleet.links.get(worker_id)
            if late is not None:
                fleet.kill(late)
        for worker_id, watched in self._watched.items():
            link = fleet.links.get(worker_id)
            if watched.look_at > at or link is None:
                continue
            deadline_at = link.slot.deadline_at
            if not 0 < deadline_at <= at:
                watched.overdue = 0.0
                watched.look_at = deadline_at if deadline_at > 0 else at + watched.timeout_s
            elif watched.overdue != deadline_at:
                watched.overdue = deadline_at
                watched.look_at = at + DUMP_S
                fleet.send_signal(link, DUMP)
            else:
                self._killed.add((worker_id, link.generation))
                watched.look_at = at + watched.timeout_s
                fleet.kill(link)  # D3
