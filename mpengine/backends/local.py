"""Workers beside the coordinator: threads of this process, for stages of ``kind="thread"`` or ``"async"``.

They run the very jobs that worker processes run.  Nothing is pickled on the way to them or back, unless it comes from a
process or goes to one.

H1. A worker thread belongs to one chain of one run, and ends with it; nothing of it stays warm.
H2. It takes orders from a queue of its own and posts events; it touches nothing else of the coordinator's.
H3. Nobody can end a thread.  One that does not give control back in time is left to itself, and a line says so; what it
    still tells is not heard any more.
H4. What user code raises to end its process ends its thread, which is told as a worker's death, and replaced.  What the
    thread had built is torn down all the same: here no process goes that would take it along.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING

from mpengine.backends.here import NoSlot, returned
from mpengine.backends.parcels import take_apart
from mpengine.cancelevent import CancelEvent
from mpengine.cancellation import bind_flag_here
from mpengine.ipc.assembly import put_together
from mpengine.ipc.codec import PlainCodec
from mpengine.scheduler import events
from mpengine.scheduler.commands import Dispatch
from mpengine.worker.chain import BrokenStageError, Chain, Site, summarize
from mpengine.worker.jobs import Job, Window
from mpengine.worker.packing import pack_results
from mpengine.worker.reports import DONE, SUSPENDED

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpengine.ipc.codec import Codec
    from mpengine.plan import ChainPlan, Plan
    from mpengine.scheduler.commands import Resume
    from mpengine.worker.reports import Report


class LocalWorkers:
    """The threads of one run.

    Args:
        plan: whose chains.
        codec: unpacks what comes from processes, and packs what goes to them.
        post: gets the events, from other threads.
        keeps_times: whether observers want the times of items.
    """

    def __init__(
        self, plan: Plan, codec: Codec, post: Callable[[events.Event], None], *, keeps_times: bool = False
    ) -> None:  # fmt: skip
        """Start nothing yet."""
        self._plan = plan
        self._codec = codec
        self._post = post
        self._keeps_times = keeps_times
        self._flag = CancelEvent(bytearray(1), 0)
        self._ended = threading.Condition()
        self._is_hurried = False
        self._is_over = False
        self._workers: dict[int, _LocalWorker] = {}
        self._all: list[_LocalWorker] = []

    def start(self, worker_id: int, chain: ChainPlan) -> None:
        """Start a thread for a slot that runs ``chain``."""
        site = Site(_Naming(), self._flag.is_set, self._flag.wait, self._flag.fileno())
        codec = PlainCodec() if self._plan.keeps_plain(chain) else self._codec
        worker = _LocalWorker(worker_id, chain, site, (self._codec, codec), self._tell, self._note_end)
        worker.keeps_times = self._keeps_times
        self._workers[worker_id] = worker
        self._all.append(worker)
        worker.thread.start()

    def order(self, command: Dispatch | Resume) -> None:
        """Send a worker what it is to do."""
        self._workers[command.worker_id].inbox.put(command)

    def cancel(self) -> None:
        """Have every worker stop as soon as it looks."""
        self._flag.set()

    def hurry(self) -> None:
        """Wait for nobody any more."""
        self._is_hurried = True
        with self._ended:
            self._ended.notify_all()

    def _tell(self, event: events.Event) -> None:
        with self._ended:
            if not self._is_over:  # else it would be taken for news of the next run
                self._post(event)

    def _note_end(self, worker: _LocalWorker) -> None:
        with self._ended:
            worker.has_ended = True
            self._ended.notify_all()
            self._close_flag()

    def _close_flag(self) -> None:
        """Close the flag if nobody looks at it any more."""
        if self._is_over and all(worker.has_ended for worker in self._all):
            self._flag.close()

    def finish(self, grace_s: float) -> list[str]:
        """Let every worker tear its chain down and leave; return what went wrong with that, one line each."""
        for worker in self._all:
            worker.inbox.put(None)
        with self._ended:
            self._ended.wait_for(lambda: self._is_hurried or all(w.has_ended for w in self._all), grace_s)
            self._is_over = True
            ended = [worker for worker in self._all if worker.has_ended]
            self._close_flag()
        for worker in ended:
            worker.thread.join()
        problems = [problem for worker in ended for problem in worker.problems]
        late = sorted({worker.name for worker in self._all if worker not in ended})
        return problems + [
            f"a thread of stage {name!r} does not give control back; it is left to itself" for name in late
        ]


class _Naming(NoSlot):
    """Remembers the item that is begun, should its thread end of it."""

    batch_id: int | None = None
    position: int | None = None
    stage = 0
    text = ""
    in_setup = False

    def begin_batch(self, batch_id: int, *, in_setup: bool = False) -> None:
        self.batch_id, self.position, self.stage, self.text = batch_id, None, 0, ""
        self.in_setup = in_setup

    def begin_item(self, position: int, stage: int) -> None:
        self.position, self.stage = position, stage

    def begin_stage(self, stage: int) -> None:
        self.stage = stage

    def describe(self, text: str) -> None:
        self.text = text


class _LocalWorker:
    """One thread, and what it has to remember."""

    def __init__(
        self,
        worker_id: int,
        chain: ChainPlan,
        site: Site,
        codecs: tuple[Codec, Codec],
        post: Callable[[events.Event], None],
        note_end: Callable[[_LocalWorker], None],
    ) -> None:
        self._worker_id = worker_id
        self._plan = chain
        self._site = site
        self._unpacks, self._packs = codecs
        self._post = post
        self._note_end = note_end
        self._chain: Chain | None = None
        self._job: Job | None = None
        self._suspended: dict[int, Job] = {}
        self.name = chain.stages[0].name
        self.inbox: queue.SimpleQueue[Dispatch | Resume | None] = queue.SimpleQueue()
        self.problems: list[str] = []
        self.has_ended = False
        self.keeps_times = False
        self.thread = threading.Thread(target=self._serve, name=f"mpengine-{chain.kind}-{worker_id}", daemon=True)

    def _serve(self) -> None:
        bind_flag_here(self._site.is_cancelled)
        self._post(events.WorkerReady(time.monotonic(), self._worker_id))
        try:
            while (command := self.inbox.get()) is not None:
                if not self._site.is_cancelled():
                    self._carry_out(command)
        except BaseException as error:  # noqa: BLE001 - told as the worker's death (H4)
            self._post(self._death(error))
        try:
            self._tear_down()
        except BaseException as error:  # noqa: BLE001 - told to the coordinator, which logs it
            self.problems.append(f"stage {self.name!r}: tear-down failed: {summarize(error)}")
        finally:
            self._note_end(self)

    @property
    def _naming(self) -> _Naming:
        naming = self._site.slot
        assert isinstance(naming, _Naming)  # noqa: S101 - LocalWorkers.start() has made it
        return naming

    def _death(self, error: BaseException) -> events.WorkerDied:
        named = self._naming
        return events.WorkerDied(
            time.monotonic(), self._worker_id, type(error).__name__, named.batch_id, named.position, named.stage,
            named.text, named.in_setup,
        )  # fmt: skip

    def _carry_out(self, command: Dispatch | Resume) -> None:
        batch_id = command.batch_id
        self._naming.begin_batch(batch_id, in_setup=self._chain is None)
        job = self._begin(command) if isinstance(command, Dispatch) else self._suspended.pop(batch_id)
        if job is None:
            return
        self._job = job
        self._naming.begin_batch(batch_id)
        budget = command.budget
        while True:
            report = job.advance(budget)
            if report.abandoned:
                break
            if not job.careful:
                self._naming.begin_batch(batch_id)  # packing may end us too, which no one item is to blame for
            self._tell(batch_id, job, report, command.out_size)
            budget -= len(report.results)
            if report.progress == SUSPENDED:
                self._suspended[batch_id] = job
                self._job = None
                return
            if report.progress == DONE or report.kill is not None:
                break
        job.close()
        self._job = None

    def _begin(self, command: Dispatch) -> Job | None:
        try:
            if self._chain is None:
                self._chain = Chain(self._plan.stages, self._worker_id)
                if self.keeps_times:
                    self._chain.keep_times()
        except BrokenStageError as broken:
            stage = self._plan.first_stage + broken.stage
            self._post(events.StageBroken(time.monotonic(), self._worker_id, stage, str(broken), broken.error))
            return None
        items = put_together(self._unpacks, *take_apart(command.payload))
        window = Window(command.lo, command.hi, command.skip, command.careful, command.attempted)
        return Job(self._chain, items, window, self._site)

    def _tell(self, batch_id: int, job: Job, report: Report, out_size: int) -> None:
        chunks, payloads = pack_results(job, report, self._packs, out_size)
        self._post(returned(self._worker_id, batch_id, report, chunks, payloads))

    def _tear_down(self) -> None:
        for job in (self._job, *self._suspended.values()):
            if job is not None:
                job.close()
        if self._chain is not None:
            self.problems = self._chain.close()
