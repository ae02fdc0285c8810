"""The coordinator's end of one actor: calls go out, and a thread of its own listens to what they give.

N1. Only that thread waits for the actor, one call after the other, as they were made; the loop gets news (K7).
N2. It takes reports and never what they leave apart, but for what is wanted here (P3 of ``objects``).
N3. Whatever becomes of the actor ends its calls with an error: that is told once, as ``Gone``, and the thread ends.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from typing import TYPE_CHECKING

from mpengine.backends.ray.objects import Kept
from mpengine.records import dataclass, replace
from mpengine.scheduler import events
from mpengine.worker.asactor import Told, Unbuilt

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any

    from mpengine.backends.ray.objects import KeepingCodec
    from mpengine.backends.ray.wardens import WardenLink
    from mpengine.ipc.messages import Logged
    from mpengine.worker.asactor import Greeting


WORD_S = 2.0
"""How long a warden may take to tell of the end of a worker that is gone."""


@dataclass(frozen=True, slots=True)
class Greeted:
    """A worker is there."""

    link: Link
    greeting: Greeting


@dataclass(frozen=True, slots=True)
class Heard:
    """A worker reports; ``kept`` is what the report leaves apart."""

    link: Link
    told: Told
    kept: tuple[Kept, ...]


@dataclass(frozen=True, slots=True)
class Broken:
    """A chain could not be built in a worker."""

    link: Link
    unbuilt: Unbuilt


@dataclass(frozen=True, slots=True)
class Missed:
    """A batch could not be begun: some of its payload was lost."""

    link: Link
    batch_id: int
    ref: str  # its number, where that is known


@dataclass(frozen=True, slots=True)
class Ended:
    """A worker has torn a run down."""

    link: Link
    run_id: int
    problems: tuple[str, ...]
    logged: tuple[Logged, ...]


@dataclass(frozen=True, slots=True)
class Gone:
    """Nothing more comes from a worker."""

    link: Link
    error: BaseException | None


News = Greeted | Heard | Broken | Missed | Ended | Gone


class Link:
    """One actor that holds a slot.

    Args:
        ray: the module.
        worker_id: the slot's number.
        generation: how many actors held it before.
        actor: the handle.
        codec: fetches what is wanted here.
        post: gets the news, from the thread that listens.

    Attributes:
        greeting: what it has said; None before.
        warden: who sees to it; None before that is so.
        is_ready: whether it can be given work.
        is_killed: whether it was killed from here.
        is_gone: whether nothing more comes from it.
        death: what its warden tells of its end.
        gone_at: when it was found to be gone.
        items: how many it has done, in this run and before.
        served: the number of the last run that it has torn down.
        leave_by: when it is to be made to leave, if it was asked to.
    """

    def __init__(
        self, ray: Any, worker_id: int, generation: int, actor: Any, codec: KeepingCodec,
        post: Callable[[Any], None],
    ) -> None:  # fmt: skip
        """Ask for the greeting, and listen."""
        self._ray = ray
        self._codec = codec
        self._post = post
        self._asked: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.worker_id = worker_id
        self.generation = generation
        self.actor = actor
        self.greeting: Greeting | None = None
        self.warden: WardenLink | None = None
        self.is_ready = False
        self.is_killed = False
        self.is_gone = False
        self.death: events.WorkerDied | None = None
        self.gone_at = 0.0
        self.items = 0
        self.served = 0
        self.leave_by: float | None = None
        self._thread = threading.Thread(target=self._listen, name=f"mpengine-ray-{worker_id}", daemon=True)
        greeting = actor.greet.remote()
        self._asked.put(lambda: self._post(Greeted(self, self._ray.get(greeting))))
        self._thread.start()

    # ------------------------------------------------------------------ the loop's thread

    def begin(self, keeps_times: bool, levels: Any, dumped: Any) -> None:  # noqa: FBT001 - handed on as it is
        """Have it get ready for a run."""
        begun = self.actor.begin.remote(keeps_times, levels, dumped)
        self._asked.put(lambda: self._ray.get(begun))

    def run(self, order: Any, apart: list[Any], *, is_wanted: bool, is_once: bool = False) -> None:
        """Have it run a batch.

        Args:
            order: of the batch.
            apart: references of what is sent beside it.
            is_wanted: whether what comes of it is wanted here.
            is_once: whether it must not be run twice, so that the actor goes on when a report has been heard, and not
                when it is sent: one that is lost with the actor would leave nobody knowing what has been done.
        """
        call = self.actor.run.options(_generator_backpressure_num_objects=1) if is_once else self.actor.run
        stream = call.remote(order, *apart)
        self._asked.put(lambda: self._hear(order.batch_id, stream, is_wanted=is_wanted))

    def resume(self, batch_id: int, out_size: int, budget: int, *, is_wanted: bool, is_once: bool = False) -> None:
        """Have it go on with a batch; see ``run``."""
        call = self.actor.resume.options(_generator_backpressure_num_objects=1) if is_once else self.actor.resume
        stream = call.remote(batch_id, out_size, budget)
        self._asked.put(lambda: self._hear(batch_id, stream, is_wanted=is_wanted))

    def end(self, run_id: int) -> None:
        """Have it tear a run down."""
        ended = self.actor.end.remote()
        self._asked.put(lambda: self._post(Ended(self, run_id, *self._ray.get(ended))))

    def kill(self) -> None:
        """End its process, by all means there are."""
        self.is_killed = True
        if self.warden is not None:
            self.warden.kill(self.worker_id, self.generation)
        self.let_go()

    def let_go(self) -> None:
        """Have Ray forget the actor, so that whatever waits for it comes to its end."""
        with contextlib.suppress(Exception):  # gone, or Ray is
            self._ray.kill(self.actor, no_restart=True)

    def end_told(self, at: float) -> events.WorkerDied:
        """Return the event of its end; where its warden says nothing, nobody knows what it was at."""
        if self.death is not None:
            return replace(self.death, at=at)
        return events.WorkerDied(at, self.worker_id, "lost with its machine", is_torn=self.is_ready)

    def stop_listening(self) -> None:
        """Have the thread end when all that was asked is answered."""
        self._asked.put(None)

    def join(self, timeout_s: float) -> None:
        """Wait for the thread's end."""
        self._thread.join(timeout_s)

    # ------------------------------------------------------------------ its own thread

    def _is_loss(self, error: Any) -> bool:
        """Whether that is what an actor answers an order with whose payload cannot be had, for whatever reason."""
        known = self._ray.exceptions
        return isinstance(error, known.RayTaskError) and isinstance(error.cause, known.RayError)

    @property
    def _machine(self) -> str:
        return "" if self.greeting is None else self.greeting.machine

    def _listen(self) -> None:
        error: BaseException | None = None
        try:
            while (asked := self._asked.get()) is not None:
                asked()
                del asked  # or what it holds would be held until the next one comes
        except BaseException as raised:  # noqa: BLE001 - told as its end (N3)
            error = raised
        self._post(Gone(self, error))

    def _hear(self, batch_id: int, stream: Any, *, is_wanted: bool) -> None:
        has_begun = False
        try:
            for ref in stream:
                told = self._ray.get(ref)
                del ref
                has_begun = True
                if type(told) is Unbuilt:
                    self._post(Broken(self, told))
                    continue
                sizes = [payload for payload in told.payloads if type(payload) is int]
                kept = tuple([Kept(next(stream), nbytes, machine=self._machine) for nbytes in sizes])
                if is_wanted:
                    for each in kept:
                        self._codec.fetch(each)
                self._post(Heard(self, told, kept))
        except self._ray.exceptions.RayError as error:
            # Asked for once more, or Ray writes to stderr that nobody has heard of it.
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.get(stream.completed())
            if has_begun or not self._is_loss(error):
                raise
            self._post(Missed(self, batch_id, getattr(error.cause, "object_ref_hex", "")))


def wait_s(links: Collection[Link], timeout_s: float | None) -> float | None:
    """Return the seconds until one of ``links`` has to be looked at, or ``timeout_s`` if that is less."""
    due = [link.gone_at + WORD_S for link in links if link.is_gone]
    due += [link.leave_by for link in links if link.leave_by is not None]
    waits_s = [max(0.0, at - time.monotonic()) for at in due]
    return min(waits_s if timeout_s is None else [*waits_s, timeout_s], default=None)
