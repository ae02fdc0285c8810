"""The backend without processes: everything runs in the caller's thread, one batch at a time.

For debugging: ``breakpoint()`` in a stage function works, tracebacks are whole, nothing is pickled.  Chains, jobs,
reports, scheduler and policies are the very same as with processes; only the transport is left out.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from mpengine.backends.base import run_ids
from mpengine.backends.here import NoSlot, returned
from mpengine.backends.parcels import take_apart
from mpengine.cancelevent import CancelEvent
from mpengine.cancellation import bind_flag
from mpengine.errors import InternalError
from mpengine.ipc.assembly import put_together
from mpengine.ipc.codec import PlainCodec
from mpengine.scheduler import events
from mpengine.worker.chain import BrokenStageError, Chain, Site
from mpengine.worker.jobs import Job, Window
from mpengine.worker.packing import pack_results
from mpengine.worker.reports import DONE

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpengine.backends.base import BackendOptions
    from mpengine.ipc.codec import Codec
    from mpengine.ipc.messages import Logged
    from mpengine.plan import Plan
    from mpengine.scheduler.commands import Dispatch, Resume


class InlineBackend:
    """See ``Backend``.

    Args:
        options: only ``workers`` matters: so many slots, each with its own ``WorkerState``, take turns.
    """

    codec: Codec = PlainCodec()
    in_caller = True

    def __init__(self, options: BackendOptions) -> None:
        """Start without a run."""
        self._options = options
        self.workers = options.workers
        self.runs_user_code = False
        self.run_id = 0
        self.keeps_times = False
        self.on_warning: Callable[[str], object] = lambda _: None
        self.on_record: Callable[[Logged, int, int], object] = lambda *_: None  # records go where they always go
        self._plan: Plan | None = None
        self._flag: CancelEvent | None = None
        self._flagging = threading.RLock()  # another thread may cancel while the run ends; or a signal handler, in this
        self._happened: deque[events.Event] = deque()
        self._to_do: deque[tuple[int, int, int, int]] = deque()
        self._site: Site | None = None
        self._problems: list[str] = []
        self._jobs: dict[int, Job] = {}
        self._chains: dict[tuple[int, int], Chain] = {}

    def begin(self, plan: Plan) -> None:
        """See ``Backend``."""
        self._plan = plan
        self.run_id = next(run_ids)
        self._flag = CancelEvent(bytearray(1), 0)
        self._site = Site(NoSlot(), self._flag.is_set, self._flag.wait, self._flag.fileno())

    def start_worker(self, worker_id: int) -> None:
        """See ``Backend``."""
        self._happened.append(events.WorkerReady(time.monotonic(), worker_id))

    def dispatch(self, command: Dispatch) -> None:
        """See ``Backend``."""
        try:
            chain = self._chain(command.worker_id, command.chain)
        except BrokenStageError as broken:
            assert self._plan is not None  # noqa: S101 - _chain has looked
            stage = self._plan.chains[command.chain].first_stage + broken.stage
            event = events.StageBroken(time.monotonic(), command.worker_id, stage, str(broken), broken.error)
            self._happened.append(event)
            return
        assert self._site is not None  # noqa: S101 - begin() comes first
        items = put_together(self.codec, *take_apart(command.payload))
        window = Window(command.lo, command.hi, command.skip, command.careful, command.attempted)
        job = Job(chain, items, window, self._site)
        self._jobs[command.batch_id] = job
        self._to_do.append((command.worker_id, command.batch_id, command.out_size, command.budget))

    def resume(self, command: Resume) -> None:
        """See ``Backend``."""
        self._to_do.append((command.worker_id, command.batch_id, command.out_size, command.budget))

    def wait(self, timeout_s: float | None) -> list[events.Event]:  # noqa: ARG002 - there is always something to do
        """See ``Backend``; runs a part of one batch."""
        if not self._happened and self._to_do:
            self._run_next()
        happened = list(self._happened)
        self._happened.clear()
        return happened

    def _run_next(self) -> None:
        worker_id, batch_id, out_size, budget = self._to_do.popleft()
        job = self._jobs[batch_id]
        bind_flag(self._flag)
        self.runs_user_code = True
        try:
            report = job.advance(budget)
        finally:
            self.runs_user_code = False
            bind_flag(None)
        if report.abandoned:
            return
        chunks, payloads = pack_results(job, report, self.codec, out_size)
        self._happened.append(returned(worker_id, batch_id, report, chunks, payloads))
        if report.progress == DONE:
            del self._jobs[batch_id]
        elif report.progress != events.Progress.SUSPENDED.value and report.kill is None:
            self._to_do.appendleft((worker_id, batch_id, out_size, budget - len(report.results)))

    def _chain(self, worker_id: int, number: int) -> Chain:
        assert self._plan is not None  # noqa: S101 - begin() comes first
        key = (worker_id, number)
        if key not in self._chains:
            self._chains[key] = Chain(self._plan.chains[number].stages, worker_id)
            if self.keeps_times:
                self._chains[key].keep_times()
        return self._chains[key]

    def retire(self, worker_id: int, grace_s: float) -> None:  # noqa: ARG002 - nobody would be made to
        """See ``Backend``."""
        for key in [key for key in self._chains if key[0] == worker_id]:
            self._problems += self._chains.pop(key).close()
        self._happened.append(events.WorkerDied(time.monotonic(), worker_id, "retired"))

    def kill(self, worker_id: int) -> None:
        """See ``Backend``; what is not to be believed here is this very process."""
        msg = f"worker {worker_id} is this process"
        raise InternalError(msg)

    def wake(self) -> None:
        """See ``Backend``; nobody ever sleeps."""

    def cancel(self) -> None:
        """See ``Backend``."""
        with self._flagging:
            if self._flag is not None:
                self._flag.set()

    def hurry(self) -> None:
        """See ``Backend``; there is nobody to be impatient with."""

    def finish(self, *, keep: bool, grace_s: float) -> list[str]:  # noqa: ARG002 - nobody stays, nobody has to leave
        """See ``Backend``."""
        for job in self._jobs.values():
            job.close()
        problems = self._problems + [problem for chain in self._chains.values() for problem in chain.close()]
        self._problems = []
        self._jobs.clear()
        self._chains.clear()
        self._to_do.clear()
        self._happened.clear()
        with self._flagging:
            flag, self._flag = self._flag, None
            if flag is not None:
                flag.close()
        return problems

    def pids(self) -> list[int]:
        """See ``Backend``; there are none."""
        return []

    def pid_of(self, worker_id: int) -> int | None:  # noqa: ARG002 - there are none
        """See ``Backend``; there are none."""
        return None

    def record_of(self, worker_id: int) -> None:
        """See ``Backend``; nobody could look while there is anything to say."""

    def close(self) -> None:
        """See ``Backend``."""
        self.finish(keep=False, grace_s=0)
