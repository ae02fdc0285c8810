"""What user code says of its objects, as text of a bounded length.  Raises nothing but what is to end the process."""

from __future__ import annotations

import reprlib
import threading

from mpengine.errors import StageError

MAX_REPR = 200


def wants_out(error: BaseException) -> bool:
    """Whether ``error``, raised by whatever was called, is to end this process.

    In the main thread that may be a signal's handler, or user code in a worker.  In any other it would only end the
    thread, in silence, and whoever waits for that would wait for ever.
    """
    return isinstance(error, SystemExit | KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


def bounded_repr(item: object) -> str:
    """Return a ``repr`` of at most ``MAX_REPR`` characters that raises nothing but what ``wants_out``."""
    try:
        text = _BOUNDED.repr(item)
    except BaseException as error:  # user code runs in repr; its failure is what the text then tells
        if wants_out(error):
            raise
        text = f"<{type(item).__name__}, whose repr raised {type(error).__name__}>"
    return text if len(text) <= MAX_REPR else text[: MAX_REPR - 3] + "..."


_BOUNDED = reprlib.Repr()
_BOUNDED.maxstring = _BOUNDED.maxother = _BOUNDED.maxlong = MAX_REPR


def stand_in(error: BaseException) -> StageError:
    """Return an error that travels and names ``error``, for one that does not."""
    return StageError(f"{type(error).__module__}.{type(error).__qualname__}: {bounded_text(error)}")


def bounded_text(error: BaseException) -> str:
    """Return ``str(error)``, which is user code and may raise, within bounds."""
    try:
        text = str(error)
    except BaseException as raised:  # user code runs in str; its failure is what the text then tells
        if wants_out(raised):
            raise
        text = f"<its str() raised {type(raised).__name__}>"
    return text if len(text) <= 10 * MAX_REPR else text[: 10 * MAX_REPR] + "..."
