"""Calls of an executor: a function with its arguments on the way to a worker, and what comes of it on the way back.

Each is a pickle of its own, made where it was asked for, so that calls that travel together share no object, and one
that will not pickle fails alone.  The engine sees items of one kind, and results of another.
"""

from __future__ import annotations

from mpengine import pickling
from mpengine.bounded import stand_in
from mpengine.ipc.arena import LARGE_BYTES
from mpengine.ipc.codec import PickleCodec, dump_error
from mpengine.worker.chain import format_traceback, summarize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mpengine.ipc.messages import Buffer


class Parcel:
    """A pickle on its way, with the buffers that were left out of it.

    Attributes:
        number: of the call.
        content: the pickle.
        buffers: what was left out of it.
    """

    __slots__ = ("buffers", "content", "number")

    def __init__(self, number: int, content: Buffer, *buffers: Buffer) -> None:
        """Keep all of it."""
        self.number = number
        self.content = content
        self.buffers: Sequence[Buffer] = buffers

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what it is made of; what is large goes beside the pickle that this one is put into."""
        content = pickling.PickleBuffer(self.content) if len(self.content) >= LARGE_BYTES else self.content
        return type(self), (self.number, content, *map(pickling.PickleBuffer, self.buffers))

    def __repr__(self) -> str:
        """Return which one it is."""
        return f"<{type(self).__name__.lower()} {self.number}>"

    def load(self) -> Any:
        """Return what it holds; raises whatever unpickling that raises."""
        return pickling.loads(self.content, buffers=self.buffers)


class Call(Parcel):
    """A function, its arguments and its keyword arguments."""

    __slots__ = ()


class Value(Parcel):
    """What a call has returned."""

    __slots__ = ()


class Failure:
    """What a call has raised.

    Attributes:
        number: of the call.
        error: the exception, pickled.
        summary: the exception in one line.
        traceback: as text.
    """

    __slots__ = ("error", "number", "summary", "traceback")

    def __init__(self, number: int, error: bytes | None, summary: str, traceback: str) -> None:
        """Keep all of it."""
        self.number = number
        self.error = error
        self.summary = summary
        self.traceback = traceback

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what it is made of."""
        return Failure, (self.number, self.error, self.summary, self.traceback)


_codec = PickleCodec(main_by_value=False)  # what a worker's own __main__ lacks does not pickle by name anyway


def perform(call: Call) -> Value | Failure:
    """Make a call; the function of the stage that serves an executor.

    Whatever the function raises belongs to the call, SystemExit too, and what it returns has no meaning for the engine.
    """
    try:
        function, args, kwargs = call.load()
    except BaseException as error:  # noqa: BLE001 - the call's own error
        return _failed(call.number, error)
    return _made(call.number, function, args, kwargs)


def perform_or_leave(call: Call) -> Value | Failure:
    """Make a call, as ``perform``; one that cannot be unpickled ends this process, as in ``concurrent.futures``."""
    try:
        function, args, kwargs = call.load()
    except BaseException as error:
        if not isinstance(error, SystemExit):
            import traceback

            traceback.print_exc()
        raise SystemExit(1) from error
    return _made(call.number, function, args, kwargs)


def _made(number: int, function: Any, args: Any, kwargs: Any) -> Value | Failure:
    try:
        value = function(*args, **kwargs)
        content, buffers = _codec.take_apart(value)
    except BaseException as error:  # noqa: BLE001 - the call's own error
        return _failed(number, error)
    return Value(number, content, *buffers)


def _failed(number: int, error: BaseException) -> Failure:
    dumped = dump_error(error)
    if dumped is None:
        dumped = dump_error(stand_in(error))
    return Failure(number, dumped, summarize(error), format_traceback(error))


class Initializer:
    """Runs an executor's ``initializer`` in a worker, before its first call.

    Args:
        function: what to call.
        args: with what.
    """

    def __init__(self, function: Any, args: tuple[Any, ...]) -> None:
        """Keep both."""
        self._function = function
        self._args = args

    def __call__(self, _: object) -> None:
        """Call it; what it raises is logged here, where ``concurrent.futures`` would log it, and ends the executor."""
        try:
            self._function(*self._args)
        except BaseException:
            import logging

            logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=True)
            raise
