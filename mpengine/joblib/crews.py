"""The workers of calls: an executor that calls of one kind share, warm between them.

C1. Calls that want the same, ``Wanted``, share one crew, also when they run at the same time in several threads.  One
    that wants something else gets another crew, and the one before it ends with the last of its calls.
C2. A call that is given up ends what runs of it, and nothing else: the workers that were at it are replaced.
C3. A crew that no call has wanted for ``idle_worker_timeout`` seconds ends; so do all when the program ends, whatever
    they are at.
C4. A forked child knows nothing of its parent's crews.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import wait
from pickle import PicklingError

from mpengine.executor import Executor
from mpengine.executor.packing import MOST_BUFFERS, CallPacker
from mpengine.ipc.codec import leave_out_large
from mpengine.joblib.remote import depth, dump, run
from mpengine.records import dataclass
from mpengine.worker import calls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from typing import Any, Literal

    from mpengine.ipc.messages import Buffer
    from mpengine.joblib.arrays import Dump

PATIENCE_S = 5.0
"""How long a call that is given up waits for the end of what ran of it."""

_PRELOADED = ("mpengine.joblib.remote", "joblib", "numpy", "pandas")
_LIBRARY = "sklearn."


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a call wants of its workers.

    Attributes:
        n_jobs: how many there are.
        environ: their variables, on top of this process's.
        initializer: called in each, before anything else; None: nothing is.
        initargs: with what.
        on_worker_death: see ``Executor``.
        crash_retries: the same.
        memory_limit: the same.
        max_tasks_per_child: the same.
        start_method: the same.
    """

    n_jobs: int
    environ: tuple[tuple[str, str], ...]
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    on_worker_death: Literal["break", "retry"] = "retry"
    crash_retries: int = 1
    memory_limit: int | None = None
    max_tasks_per_child: int | None = None
    start_method: Literal["forkserver", "spawn", "fork"] | None = None


class _Packer(CallPacker):
    """Packs batches as their calls want it."""

    def pack(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Buffer]:
        """See ``CallPacker``.

        Raises:
            PicklingError: the batch will not travel.
        """
        batch, *rest = args
        thing, reducers = (function, (batch.call, *rest), kwargs), batch.dump.reducers()
        large: list[Buffer] = []
        try:
            content = dump(thing, reducers, leave_out_large(large))
            if len(large) > MOST_BUFFERS:
                large = []
                content = dump(thing, reducers, None)
        except Exception as error:
            raise PicklingError("Could not pickle the task to send to the workers.") from error
        batch.size_bytes = len(content) + sum(memoryview(buffer).nbytes for buffer in large)
        return calls.frame_of(calls.CALL, 0, [content, *large])


@dataclass(slots=True)
class _Batch:
    """A batch of joblib's that is packed: where its arrays are kept, and what it weighs in the end."""

    call: Callable[[], Any]
    dump: Dump
    size_bytes: int = 0


class Crew:
    """The workers that some calls share.

    Args:
        wanted: what they want.

    Attributes:
        wanted: the same.
        executor: runs batches.
        calls: who is using it.
        idle_since: since when nobody has; by the monotonic clock.
    """

    def __init__(self, wanted: Wanted) -> None:
        """Start nothing before the first batch."""
        self.wanted = wanted
        self.executor = Executor(
            wanted.n_jobs, None, wanted.initializer, wanted.initargs, start_method=wanted.start_method,
            on_worker_death=wanted.on_worker_death, crash_retries=wanted.crash_retries,
            memory_limit=wanted.memory_limit, max_tasks_per_child=wanted.max_tasks_per_child,
            environ=dict(wanted.environ), preload=_to_preload(),
        )  # fmt: skip
        self.executor._packer = _Packer(main_by_value=True)  # noqa: SLF001 - ours to the last
        self.calls: set[Call] = set()
        self.idle_since = 0.0

    @property
    def is_usable(self) -> bool:
        """Whether another call may begin."""
        return not self.executor._broken and not self.executor._is_shut  # noqa: SLF001 - as above

    def end(self, *, at_once: bool) -> None:
        """Let the workers go, and wait until they have gone."""
        if at_once:
            self.executor.kill_workers()
        self.executor.shutdown(wait=True)


def _to_preload() -> tuple[str, ...]:
    """Return what workers start with: they are forked from a process that has imported it once for all of them.

    That is what this process has of a few libraries; of scikit-learn it is the parts, each of which takes a second.
    """
    parts = [
        name
        for name, module in list(sys.modules.items())
        if name.startswith(_LIBRARY) and name[len(_LIBRARY)].isalpha() and name.count(".") == 1
        and hasattr(module, "__path__")
    ]  # fmt: skip
    return (*(name for name in _PRELOADED if name in sys.modules), *sorted(parts))


class Call:
    """One call's hold on a crew.

    Args:
        crew: runs it.
        dump: keeps its large arrays.

    Attributes:
        sent_bytes: what its batches have weighed so far.
    """

    def __init__(self, crew: Crew, dump: Dump) -> None:
        """Begin without a batch."""
        self.sent_bytes = 0
        self._crew = crew
        self._dump = dump
        self._futures: set[Future[Any]] = set()

    def submit(self, batch: Callable[[], Any]) -> Future[Any]:
        """Have a batch run; what it gives, or why it failed, is told by the future."""
        packed: Any = _Batch(batch, self._dump)
        future: Future[Any] = self._crew.executor.submit(run, packed, depth() + 1)
        self.sent_bytes += packed.size_bytes
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future

    def begin(self) -> None:
        """Another call of the same ``with Parallel()`` begins."""
        self._dump.close()
        self.sent_bytes = 0

    def release(self) -> None:
        """The call is over."""
        self._dump.close()
        _crews.leave(self._crew, self)

    def abort(self) -> None:
        """The call is given up: end what runs of it (C2)."""
        if self._futures:
            self._crew.executor.call_off(set(self._futures))
            wait(set(self._futures), PATIENCE_S)  # those that were cancelled have left by now
        self.release()


class _Crews:
    """All crews of this process."""

    def __init__(self) -> None:
        """Begin without one."""
        self._changed = threading.Condition()
        self._crew: Crew | None = None
        self._used: set[Crew] = set()
        self._idle_s = 0.0
        self._keeper: threading.Thread | None = None

    def join(self, wanted: Wanted, dump: Dump, idle_s: float) -> Call:
        """Return a call's hold on the crew it wants (C1)."""
        before = None
        with self._changed:
            crew = self._crew
            if crew is None or crew.wanted != wanted or not crew.is_usable:
                before, crew = crew, Crew(wanted)
                self._crew = crew
            call = Call(crew, dump)
            crew.calls.add(call)
            self._used.add(crew)
            self._idle_s = idle_s
            before = None if before in self._used else before
        if before is not None:
            before.end(at_once=False)
        return call

    def leave(self, crew: Crew, call: Call) -> None:
        """A call is over."""
        with self._changed:
            crew.calls.discard(call)
            if crew.calls or crew not in self._used:
                return
            self._used.discard(crew)
            crew.idle_since = time.monotonic()
            if crew is self._crew:
                self._keep()
                return
        crew.end(at_once=False)

    def end(self) -> None:
        """End all crews, whatever they are at."""
        with self._changed:
            crews = {*self._used, *filter(None, [self._crew])}
            self._crew, self._used = None, set()
            keeper, self._keeper = self._keeper, None
            self._changed.notify_all()
        for crew in crews:
            crew.end(at_once=bool(crew.calls))
        if keeper is not None and keeper is not threading.current_thread():
            keeper.join()

    def _keep(self) -> None:
        """Have the crew ended once it has been idle for long enough (C3)."""
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._watch, name="mpengine-joblib", daemon=True)
            self._keeper.start()

    def _watch(self) -> None:
        while (crew := self._wait_idle()) is not None:
            crew.end(at_once=False)

    def _wait_idle(self) -> Crew | None:
        """Return a crew that has been idle for long enough; None when there is nothing to wait for any more."""
        with self._changed:
            while self._keeper is threading.current_thread() and self._crew is not None:
                left_s = self._crew.idle_since + self._idle_s - time.monotonic()
                if self._crew in self._used:
                    left_s = self._idle_s
                elif left_s <= 0:
                    crew, self._crew = self._crew, None
                    return crew
                self._changed.wait(left_s)
            if self._keeper is threading.current_thread():
                self._keeper = None
            return None


_crews = _Crews()


def join(wanted: Wanted, dump: Dump, idle_s: float) -> Call:
    """Return a call's hold on the crew that it wants.

    Args:
        wanted: what it wants.
        dump: keeps its large arrays; is closed when the call is over.
        idle_s: seconds after which a crew ends that nobody uses.
    """
    return _crews.join(wanted, dump, idle_s)


def shutdown() -> None:
    """End all crews, whatever they are at."""
    _crews.end()


def _forget() -> None:
    global _crews  # noqa: PLW0603 - the parent's are none of ours (C4)
    _crews = _Crews()


os.register_at_fork(after_in_child=_forget)
threading._register_atexit(shutdown)  # type: ignore[attr-defined]  # noqa: SLF001 - as concurrent.futures does
