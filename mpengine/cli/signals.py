"""SIGINT and SIGTERM while the command line runs a pipeline."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import FrameType

    from mpengine.engine import Engine
    from mpengine.reading import Reader


class StoppedError(BaseException):
    """A signal stopped the command; if that was in a run, it has been cleaned up since.

    It may come out of anything that is under way, like ``KeyboardInterrupt``, and is nobody's mistake there.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.status = 128 + signum


class Signals:
    """While entered, SIGINT and SIGTERM end the source and cancel the run, which is then cleaned up after as always.

    SIGINT raises ``KeyboardInterrupt`` too while the engine waits for workers: it is prepared for that, and hurries
    when there is a second one.  While it starts a run, or works in this thread, the first one is not raised into it.
    Where SIGINT was ignored it still is.

    Attributes:
        received: the first signal that came; None before.
        may_raise: whether only this module's own code is running, which may wait for a reader who has stopped reading;
            a signal raises ``StoppedError`` there.
    """

    def __init__(self, engine: Engine, source: Reader | None) -> None:
        self._engine = engine
        self._source = source
        self._may_interrupt = False
        self._before: dict[int, Any] = {}
        self.received: int | None = None
        self.may_raise = False

    def __enter__(self) -> Self:
        self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._on_signal)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def run_has_started(self, *, in_this_thread: bool) -> None:
        """Cancel the run if a signal came before there was one to cancel; know from now on what SIGINT may do."""
        self._may_interrupt = not in_this_thread
        if self.received is not None:
            self._cancel(self.received)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        is_first, self.received = self.received is None, self.received or signum
        self._cancel(signum)
        if self.may_raise:
            raise StoppedError(signum)
        if signum == signal.SIGINT and (self._may_interrupt or not is_first):
            signal.default_int_handler(signum, frame)

    def _cancel(self, signum: int) -> None:
        self._engine.cancel(signal.Signals(signum).name)
        if self._source is not None:
            self._source.interrupt()
