"""The one run behind an executor, from its first call to its end, and the thread that takes its results.

The thread unpickles results and settles futures, both of which is the user's code.  It holds the desk and the run and
nothing of the executor, so that one that nobody holds any more can go, and its workers with it.
"""

from __future__ import annotations

import threading
import weakref
from concurrent.futures.process import BrokenProcessPool, _RemoteTraceback

from mpengine.backends import close_backend, make_backend
from mpengine.backends.cores import available_cores
from mpengine.coordinator.run import Run
from mpengine.coordinator.runoptions import RunOptions
from mpengine.coordinator.scribe import Scribe
from mpengine.executor.desk import Desk
from mpengine.ipc.codec import load_error
from mpengine.plan import make_plan
from mpengine.policies import ErrorPolicy
from mpengine.records import replace
from mpengine.results import Err, ItemError
from mpengine.stages import Stage
from mpengine.worker.calls import Failure, Value, perform, perform_or_leave

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mpengine.results import Ok
    from mpengine.settings import EngineOptions

SESSIONS: weakref.WeakSet[Session] = weakref.WeakSet()


class Session:
    """A run that calls are put into.

    Args:
        desk: where calls wait.
        options: the engine's.
        setup: what a worker does before its first call; None: nothing.
        breaks: whether a worker's death ends it.

    Attributes:
        run: the run.
        broken: why no call can be made any more; None while that is not so.

    Raises:
        EngineError, PipelineError: it cannot begin.
    """

    def __init__(
        self, desk: Desk, options: EngineOptions, setup: Callable[[Any], None] | None, *, breaks: bool
    ) -> None:  # fmt: skip
        """Start the workers."""
        self._desk = desk
        self._breaks = breaks
        self.broken: str | None = None
        workers = options.workers or available_cores()
        stage = Stage(
            perform_or_leave if breaks else perform, name="call", on_error=ErrorPolicy.EMIT, setup=setup, singly=True
        )  # fmt: skip
        plan = make_plan(
            [stage], default_buffer=options.items_waiting, default_policy=ErrorPolicy.EMIT, threads=workers
        )
        self._scribe = Scribe()
        backend, head = make_backend(options, workers, available_cores(), plan)
        run_options = replace(
            RunOptions.chosen(options, workers, keep=False, scribe=self._scribe),
            endures_deaths=not breaks, is_prompt=True,
        )  # fmt: skip
        self.run = Run(plan, desk, backend, run_options, self._end, head)
        self.thread = threading.Thread(target=self._serve, name="mpengine-executor", daemon=True)
        try:
            self.run.start()
        except BaseException:
            self._end(self.run)
            raise
        SESSIONS.add(self)
        self.thread.start()

    def _end(self, run: Run) -> None:
        close_backend(run.backend)
        self._scribe.close()

    def _serve(self) -> None:
        problem: BaseException | None = None
        try:
            while (answers := self.run.next_batch()) is not None:
                while answers:
                    self._settle(answers.pop())
        except BaseException as error:  # noqa: BLE001 - told by every future that waits
            problem = error
            self.run.cancel(f"a result could not be used: {type(error).__name__}", error)
            self.run.hurry()
        self._conclude(self.run.conclude(), problem)

    def _conclude(self, result: Ok | Err, problem: BaseException | None) -> None:
        if isinstance(result, Err):
            self.broken = result.reason
            problem = problem or result.cause
        for future in self._desk.take_all():
            error = BrokenProcessPool(
                f"a worker process died, or the executor was ended, while the call was pending: {self.broken}"
            )
            error.__cause__ = problem
            future.set_exception(error)

    def _settle(self, answer: Value | Failure | ItemError) -> None:
        if isinstance(answer, ItemError):
            future = self._desk.take_given(answer.index)
            if future is not None:
                future.set_exception(answer.error)
            return
        future = self._desk.take_given(answer.number)
        if future is None:
            return
        if isinstance(answer, Failure):
            error = load_error(answer.error, answer.summary)
            error.__cause__ = _RemoteTraceback(f'\n"""\n{answer.traceback}"""')
            future.set_exception(error)
            return
        try:
            value = answer.load()
        except BaseException as error:
            future.set_exception(error if not self._breaks else BrokenProcessPool("a result could not be unpickled"))
            if self._breaks:
                raise
            return
        future.set_result(value)

    def join(self) -> None:
        """Wait for the end; at once where this is the very thread that brings it about."""
        if threading.current_thread() is not self.thread:
            self.thread.join()

    def finish(self) -> None:
        """Make what waits, and end."""
        self._desk.close_to_new()

    def cancel(self, reason: str) -> None:
        """End at once."""
        self.run.cancel(reason)
        self.run.hurry()


def _at_exit() -> None:
    sessions = list(SESSIONS)
    for session in sessions:
        session.finish()
    for session in sessions:
        session.join()


threading._register_atexit(_at_exit)  # type: ignore[attr-defined]  # noqa: SLF001 - as concurrent.futures does
