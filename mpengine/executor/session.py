"""The run behind an executor, from its first call to its end.

Its items are turns of workers: a thread takes those that have ended and tells the clerk.  Nothing here holds the
executor itself, so that one that nobody holds any more can go, and its workers with it.
"""

from __future__ import annotations

import os
import threading
import weakref

from mpengine.backends import close_backend, make_backend
from mpengine.backends.cores import available_cores
from mpengine.coordinator.run import Run
from mpengine.coordinator.runoptions import RunOptions
from mpengine.coordinator.scribe import Scribe
from mpengine.executor.clerk import Clerk
from mpengine.plan import make_plan
from mpengine.policies import ErrorPolicy
from mpengine.records import replace
from mpengine.results import Err, ItemError
from mpengine.stages import Stage
from mpengine.worker.turns import serve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mpengine.executor.desk import Desk
    from mpengine.settings import EngineOptions
    from mpengine.worker.turns import Initializer

_LIVE: weakref.WeakSet[Session] = weakref.WeakSet()


class Session:
    """A run that calls are put into.

    Args:
        desk: the calls.
        options: the engine's.
        setup: what a worker does before its first call; None: nothing.
        most_deaths: so many deaths of its workers a call survives; None: the first death of any worker ends everything.

    Attributes:
        broken: why no call can be made any more; None while that is not so.

    Raises:
        EngineError, PipelineError: it cannot begin.
    """

    def __init__(self, desk: Desk, options: EngineOptions, setup: Initializer | None, most_deaths: int | None) -> None:
        """Start the workers."""
        self._pid = os.getpid()
        self._desk = desk
        self._setup = setup
        self.broken: str | None = None
        cores = available_cores()
        workers = options.workers or cores
        stage = Stage(serve, name="turn", on_error=ErrorPolicy.EMIT, setup=setup, singly=True, idempotent=False)
        plan = make_plan(
            [stage], default_buffer=options.items_waiting, default_policy=ErrorPolicy.EMIT, threads=workers
        )
        self._scribe = Scribe()
        backend, head = make_backend(options, workers, cores, plan)
        chosen = RunOptions.chosen(options, workers, keep=False, scribe=self._scribe)
        chosen = replace(chosen, endures_deaths=most_deaths is not None, is_prompt=True)
        desk.open()
        self._run = Run(plan, desk, backend, chosen, self._end, head)
        self._clerk = Clerk(desk, most_deaths, self.fail)
        self._thread = threading.Thread(target=self._watch_turns, name="mpengine-turns", daemon=True)
        self.pids = backend.pids
        try:
            self._run.start()
        except BaseException:
            self._end(self._run)
            self._clerk.dismiss()
            raise
        self._clerk.thread.start()
        _LIVE.add(self)
        self._thread.start()

    def _end(self, run: Run) -> None:
        try:
            close_backend(run.backend)
        finally:
            self._scribe.close()
            if self._setup is not None:
                self._setup.forget()

    def _watch_turns(self) -> None:
        reason, cause = "the executor has ended", None
        try:
            while (turns := self._run.next_batch()) is not None:
                for turn in turns:
                    if isinstance(turn, ItemError):
                        self._clerk.tell_over(turn.index, turn.error)
                    else:
                        self._clerk.tell_over(turn, None)
        finally:
            result = self._run.conclude()
            if isinstance(result, Err):
                self.broken, cause = result.reason, result.cause
                reason = self.broken
            self._clerk.tell_end(reason, cause)

    def fail(self, reason: str, error: BaseException | None = None) -> None:
        """End everything at once; what is under way fails.  From any thread."""
        self.broken = self.broken or reason
        self._run.cancel(reason, error)
        self._run.hurry()

    @property
    def is_here(self) -> bool:
        """Whether this is the process that it belongs to, and not a child that was forked from it."""
        return self._pid == os.getpid()

    def finish(self) -> None:
        """Take no more calls, make those that wait, and end."""
        self._desk.close_to_new()

    def join(self) -> None:
        """Wait until nothing is left; not at all on a thread that is needed for that."""
        me = threading.current_thread()
        if me in (self._thread, self._clerk.thread):
            return
        try:
            self._clerk.thread.join()
            self._thread.join()
        except KeyboardInterrupt:  # calls go on behind it, and would have to be waited for once more
            self.fail("SIGINT")
            raise


def _finish_all() -> None:
    """The interpreter is about to exit: let every executor do what it was asked to, as ``concurrent.futures`` does."""
    sessions = [session for session in _LIVE if session.is_here]
    for session in sessions:
        session.finish()
    for session in sessions:
        session.join()


# Earlier than atexit, where no thread can be started any more.
threading._register_atexit(_finish_all)  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public name for it
