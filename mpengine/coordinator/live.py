"""What goes on in this program, and how it is ended: runs when the interpreter exits, and backends."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import weakref

from mpengine import backends
from mpengine.coordinator.signals import sigpipe_blocked
from mpengine.errors import EngineClosedError, EngineError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mpengine.backends.base import Backend
    from mpengine.coordinator.run import Run

LIVE: weakref.WeakSet[Run] = weakref.WeakSet()


def check_free(run: Run | None, pid: int, *, is_closed: bool) -> None:
    """See whether an engine may begin a run.

    Args:
        run: the one that it has.
        pid: of the process that the engine belongs to.
        is_closed: whether it has been closed.

    Raises:
        EngineError: it may not.
    """
    if is_closed:
        raise EngineClosedError("the engine is closed")
    if os.getpid() != pid:
        msg = "this engine belongs to the process that this one was forked from; make one of its own"
    elif sys.is_finalizing():  # a thread that is started now never runs, and would be waited for
        msg = "the interpreter is shutting down, and no run begins any more; atexit is not too late for one"
    elif run is not None:
        msg = "this engine runs a pipeline already; it runs one at a time (an iterator that is still open is a run)"
    else:
        return
    raise EngineError(msg)


def close_backend(backend: Backend | None) -> None:
    """Let everything of a backend go."""
    if backend is not None:
        with sigpipe_blocked():  # pills are written, and who is to read them may have died
            backends.close_backend(backend)


def _end_live_runs() -> None:
    """The interpreter is about to exit: end what nobody has ended."""
    with contextlib.ExitStack() as stack:  # whatever one of them raises, the others are ended too
        for run in [run for run in LIVE if run.is_here]:
            run.cancel("the interpreter exits")
            run.hurry()
            stack.callback(run.conclude)


# Here, and not in the module of runs, which is imported late: what a program has registered after it has imported the
# engine comes first, and may still run pipelines.
atexit.register(_end_live_runs)
