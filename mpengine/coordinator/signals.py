"""Ctrl-C and SIGTERM while a run waits in the main thread: the first cancels in order, the next one at once.

None is lost: one that comes too late to cancel anything is an ending all the same (``Run.with_interrupt``), and one
that comes while something is being seen off is raised when that is done.  (But what is raised while the collector sees
an iterator off that nobody has closed, Python itself writes to standard error, and goes on.)
"""

from __future__ import annotations

import contextlib
import signal
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

SIGTERM_STATUS = 128 + signal.SIGTERM


@contextlib.contextmanager
def sigpipe_blocked() -> Iterator[None]:
    """Have a write to a worker that has died raise, even where the program has SIGPIPE at its default."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        yield
    finally:
        if signal.SIGPIPE not in before:
            signal.sigtimedwait({signal.SIGPIPE}, 0)  # else it would be delivered now
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def graceful_signals(
    cancel: Callable[[str, BaseException], None],
    hurry: Callable[[], None],
    runs_user_code: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Have signals cancel a run, as long as the context lasts.

    Only in the main thread, and only where the program has left a signal at its default: handlers of its own stay.
    Our own code is never interrupted half-way: what it keeps in step would get out of step.

    Args:
        cancel: called with the signal's name and the exception that stands for it, in the signal handler.
        hurry: called for every further signal.
        runs_user_code: whether this thread is in a stage function or the source at this moment; they are interrupted by
            the exception itself, as they would be without an engine.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []

    def on_signal(signum: int, _frame: object) -> None:
        if seen:
            hurry()
            return
        seen.append(signum)
        error: BaseException = KeyboardInterrupt() if signum == signal.SIGINT else SystemExit(SIGTERM_STATUS)
        cancel(signal.Signals(signum).name, error)
        if runs_user_code():
            raise error

    before: dict[int, Any] = {}
    try:
        signum: int
        for signum, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
            if signal.getsignal(signum) is default:
                before[signum] = signal.signal(signum, on_signal)
        yield
    finally:
        # The last to be taken over is the first to be given back: once Ctrl-C raises again, it may do so right here.
        for signum, handler in reversed(before.items()):
            signal.signal(signum, handler)


@contextlib.contextmanager
def signals_held(hurry: Callable[[], None]) -> Iterator[None]:
    """Have what ends something come to its end: a signal makes it hurry, and is raised when the context is left.

    Only where a signal is at its default, as for ``graceful_signals``.

    Args:
        hurry: called for every signal, in the signal handler.

    Raises:
        KeyboardInterrupt, SystemExit: SIGINT or SIGTERM came meanwhile.
    """
    held: list[BaseException] = []

    def hold(_: str, error: BaseException) -> None:
        held.append(error)
        hurry()

    try:
        with graceful_signals(hold, hurry):
            yield
    finally:
        if held:
            raise held[0]
