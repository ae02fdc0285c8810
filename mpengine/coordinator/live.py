"""What goes on in this program, and how it is ended: runs when the interpreter exits, and backends."""

from __future__ import annotations

import atexit
import contextlib
import weakref

from mpengine import backends
from mpengine.coordinator.signals import sigpipe_blocked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mpengine.backends.base import Backend
    from mpengine.coordinator.run import Run

LIVE: weakref.WeakSet[Run] = weakref.WeakSet()


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
