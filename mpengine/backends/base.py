"""The contract between the coordinator's loop and whatever runs batches.

The loop is the only caller, in one thread, but for ``wake``, ``hurry`` and ``pids``, which anybody may call from any
thread or signal handler.

A backend is used like this::

    begin(plan) -> start_worker, dispatch, resume, wait, wait, ... -> [cancel] -> finish -> begin(next) ... -> close
"""

from __future__ import annotations

import itertools

from mpengine.records import dataclass
from mpengine.scheduler.events import Ending, Failure
from mpengine.settings import DEFAULT_MAX_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Final, Protocol

    from mpengine.ipc.codec import Codec
    from mpengine.ipc.controlblock import SlotRecord
    from mpengine.ipc.messages import Logged
    from mpengine.plan import Plan
    from mpengine.scheduler.commands import Dispatch, Resume
    from mpengine.scheduler.events import Event
else:
    Protocol = object


run_ids: Final = itertools.count(1)
"""Where a backend takes the number of a run that begins; it differs from run to run in this process."""


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """What a backend is made with.

    Attributes:
        workers: how many slots; 0: as many as there are CPUs, where that is known only once there is a connection.
        start_method: how processes are started, where there are any.
        preload: modules to import before workers are forked, where that is how they start.
        cores: how many cores the workers share; their numeric libraries get that many threads together.
        memory_limit: bytes of resident memory that a worker process may have; None: any number.
        max_bytes: what the payloads in shared memory may weigh together.
        keep_output: bytes of what an item prints that are kept for its error.
        environ: variables that worker processes have besides this process's, or in their place.
    """

    workers: int
    start_method: str = "forkserver"
    preload: Sequence[str] = ()
    cores: int = 1
    memory_limit: int | None = None
    max_bytes: int = DEFAULT_MAX_BYTES
    keep_output: int = 0
    environ: Mapping[str, str] | None = None


class Backend(Protocol):
    """Runs batches."""

    workers: int
    """How many slots; what was asked for, or what there is on a cluster."""

    codec: Codec
    """Packs what goes to workers and unpacks what comes from them."""

    in_caller: bool
    """Whether stage functions run in the thread that calls ``wait``, which is then the consumer's own."""

    runs_user_code: bool
    """Whether a stage function runs in the caller's thread at this moment."""

    run_id: int
    """The number of the run that goes on, or of the last one."""

    keeps_times: bool
    """Whether the runs that begin from now on are to keep the times of items, for observers."""

    on_record: Callable[[Logged, int, int], object]
    """Gets the log records of workers, each with worker and run number; in the thread that calls ``wait``."""

    on_warning: Callable[[str], object]
    """Gets what the user ought to know of processes and memory, in words; in the thread that calls ``wait``."""

    def begin(self, plan: Plan) -> None:
        """Get ready for a run.

        Raises:
            PipelineError: the plan's functions will not travel.
        """

    def start_worker(self, worker_id: int) -> None:
        """Let a worker hold that slot; one that holds it already and waits for work will do."""

    def dispatch(self, command: Dispatch) -> None:
        """Send a batch; the scheduler's credit sees to it that there is room."""

    def resume(self, command: Resume) -> None:
        """Let a worker go on with a batch that it has put aside."""

    def wait(self, timeout_s: float | None) -> list[Event]:
        """Return what has happened, waiting for it if need be; nothing when the time is up or ``wake`` was called."""

    def retire(self, worker_id: int, grace_s: float) -> None:
        """Let a worker that holds nothing tear its stages down and leave; its end is told like a death.

        Args:
            worker_id: the worker.
            grace_s: seconds before it is made to.
        """

    def kill(self, worker_id: int) -> None:
        """End the process of a worker, group and all; its death is told like any other."""

    def wake(self) -> None:
        """Let ``wait`` return.  From any thread or signal handler; costs little when nobody waits."""

    def cancel(self) -> None:
        """Tell all workers to stop: the flag first, then pills that get through whatever is queued."""

    def hurry(self) -> None:
        """Give up all patience with workers that are to leave.  From any thread or signal handler."""

    def finish(self, *, keep: bool, grace_s: float) -> list[str]:
        """End the run: tear stages down, and let the workers go unless they are to be kept.

        Args:
            keep: whether workers stay for another run; never after ``cancel``.
            grace_s: seconds for those that are to leave, before they are made to.

        Returns:
            What went wrong with tearing down, one line each.
        """

    def pids(self) -> list[int]:
        """Return the process numbers of the live workers."""

    def pid_of(self, worker_id: int) -> int | None:
        """Return the process number of the worker in a slot."""

    def record_of(self, worker_id: int) -> SlotRecord | None:
        """Return what a worker says it is at; None where none says anything."""

    def close(self) -> None:
        """Let everything go; idempotent."""


def failure_from(fields: tuple[Any, ...]) -> Failure:
    """Return the failure that a worker's report tells of.

    Raises:
        TypeError, ValueError: the fields are not what they should be.
    """
    position, stage, summary, error, item, traceback, attempts, how, output = fields
    return Failure(position, stage, summary, error, item, traceback, attempts, Ending(how), output=str(output))
