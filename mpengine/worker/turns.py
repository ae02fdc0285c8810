"""A worker's turn of an executor: it makes calls, one at a time, until it is told to stop or has made enough of them.

To the engine a turn is one item.  Its calls come on a pipe of the turn's own and go back on another one: to have each
of them scheduled would cost several times as much.

N1. The pipes are made for one turn and are the coordinator's; the worker opens them by number, and sees by their inode
    that they are still what was meant.  So what a killed worker has half written harms no other turn.
N2. A worker has one call at a time.  No call waits behind another one while somebody is free, whatever they wait for.
N3. An answer is written before anything else is begun.
N4. Between two calls it hears of the run's end as well as of the next call.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
from collections import OrderedDict

from mpengine.bounded import stand_in
from mpengine.cancellation import bound_flag
from mpengine.ipc.codec import PickleCodec, dump_error
from mpengine.pickling import dumps, loads
from mpengine.records import dataclass
from mpengine.worker import calls
from mpengine.worker.chain import format_traceback, summarize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from mpengine.ipc.messages import Buffer

KNOWN_FUNCTIONS: Final = 64
"""Functions that were sent by value, and that a worker remembers."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Where a worker's turn takes place.

    Attributes:
        number: of the turn.
        coordinator: the process that has the pipes.
        calls: number and inode of the end where calls come out.
        results: number and inode of the end where results go in.
        most: so many calls at most; None: any number.
        most_bytes: no further call once this process has more resident memory; None: any amount.
        leaves: whether the process ends when a call cannot be unpickled, as in ``concurrent.futures``.
    """

    number: int
    coordinator: int
    calls: tuple[int, int]
    results: tuple[int, int]
    most: int | None = None
    most_bytes: int | None = None
    leaves: bool = False


def serve(turn: Turn) -> int:
    """Make calls until the turn is over; the function of the stage behind an executor."""
    with contextlib.ExitStack() as stack:
        try:
            calls_fd = open_end(turn.coordinator, turn.calls, os.O_RDONLY)
            stack.callback(os.close, calls_fd)
            results_fd = open_end(turn.coordinator, turn.results, os.O_WRONLY)
            stack.callback(os.close, results_fd)
        except OSError:
            return turn.number  # it was over before it began
        _Server(turn, calls_fd, results_fd).serve()
    return turn.number


def open_end(pid: int, end: tuple[int, int], mode: int) -> int:
    """Return a descriptor of a pipe's end that another process has open.

    Raises:
        OSError: it is not there any more.
    """
    fd = os.open(f"/proc/{pid}/fd/{end[0]}", mode | os.O_CLOEXEC)
    if os.fstat(fd).st_ino != end[1]:
        os.close(fd)
        raise OSError("the number is another file's by now")
    return fd


class _Server:
    def __init__(self, turn: Turn, calls_fd: int, results_fd: int) -> None:
        self._turn = turn
        self._reader = calls.FrameReader(calls_fd)
        self._results_fd = results_fd
        self._codec = PickleCodec(main_by_value=False)  # what a worker's __main__ lacks goes by value anyway
        self._functions: OrderedDict[int, Callable[..., Any]] = OrderedDict()
        self._poll = select.poll()
        self._poll.register(calls_fd, select.POLLIN)
        self._flag = bound_flag()
        if self._flag is not None:
            self._poll.register(self._flag.fileno(), select.POLLIN)

    def serve(self) -> None:
        from mpengine.worker.main import flush_streams  # which every worker has, and the parent has no use for

        self._write(calls.frame_of(calls.READY))
        made = 0
        while (frame := self._next()) is not None:
            kind, parts = self._answer(frame)
            del frame
            made += 1
            is_last = self._is_last(made)
            self._write(calls.frame_of(kind | calls.LAST if is_last else kind, made, parts))
            if is_last:
                return
            flush_streams()  # the next call may be long, or this process killed

    def _is_last(self, made: int) -> bool:
        turn = self._turn
        if turn.most is not None and made >= turn.most:
            return True
        return turn.most_bytes is not None and _resident_bytes() > turn.most_bytes

    def _next(self) -> calls.Frame | None:
        """Wait for the next call; None when there will be none (N4)."""
        while True:
            self._poll.poll()
            if self._flag is not None and self._flag.is_set():
                return None
            try:
                frame = self._reader.read()
            except EOFError:
                return None
            if frame is not None:
                return None if frame.kind == calls.STOP else frame

    def _answer(self, frame: calls.Frame) -> tuple[int, list[Buffer]]:
        try:
            function, args, kwargs = self._load(frame)
        except BaseException as error:  # noqa: BLE001 - the call's own error
            if self._turn.leaves:
                _leave(error)
            return _failure(error)
        try:
            value = function(*args, **kwargs)
            content, buffers = self._codec.take_apart(value)
        except BaseException as error:  # noqa: BLE001 - the call's own error, SystemExit too
            return _failure(error)
        return calls.VALUE, [content, *buffers]

    def _load(self, frame: calls.Frame) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        if frame.kind == calls.CALL:
            loaded: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]] = calls.load(frame.parts)
            return loaded
        functions = self._functions
        function = functions.get(frame.number)
        if function is None:
            function = functions[frame.number] = loads(frame.parts[0])
            if len(functions) > KNOWN_FUNCTIONS:
                functions.popitem(last=False)
        args, kwargs = calls.load(frame.parts[1:])
        return function, args, kwargs

    def _write(self, pieces: list[Buffer]) -> None:
        while pieces:
            pieces = calls.write_some(self._results_fd, pieces)


def _failure(error: BaseException) -> tuple[int, list[Buffer]]:
    dumped = dump_error(error)
    if dumped is None:
        dumped = dump_error(stand_in(error))
    return calls.FAILURE, [dumps((dumped, summarize(error), format_traceback(error)), 5)]


def _leave(error: BaseException) -> None:
    """End this process, as a worker of ``concurrent.futures`` ends that cannot unpickle what it is to do."""
    if not isinstance(error, SystemExit):
        import traceback

        with contextlib.suppress(OSError, ValueError, AttributeError):  # no stderr, which is the user's own business
            traceback.print_exception(error)
    raise SystemExit(1) from error


def _resident_bytes() -> int:
    fd = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(fd, 200).split()[1]) * os.sysconf("SC_PAGESIZE")
    finally:
        os.close(fd)


_inherited: dict[int, tuple[Callable[..., object], tuple[Any, ...]]] = {}
_numbers = itertools.count(1)


def inherit(setup: tuple[Callable[..., object], tuple[Any, ...]]) -> int:
    """Keep something for workers that will be forked from this very process; return its number."""
    number = next(_numbers)
    _inherited[number] = setup
    return number


class DescriptorOf:
    """A pipe's end that another process has open.

    Args:
        pid: of that process.
        fd: its number there.
        inode: the pipe's.
        mode: which end.
    """

    def __init__(self, pid: int, fd: int, inode: int, mode: int) -> None:
        """Open nothing yet."""
        self._where = (pid, fd, inode, mode)

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what it is made of."""
        return DescriptorOf, self._where

    def detach(self) -> int:
        """Return a descriptor of one's own."""
        pid, fd, inode, mode = self._where
        return open_end(pid, (fd, inode), mode)


class Initializer:
    """Runs an executor's ``initializer`` in a worker, before its first call.

    Args:
        content: it and its arguments, pickled.
        number: of what this process has inherited, if nothing had to be pickled.
    """

    def __init__(self, content: bytes, number: int = 0) -> None:
        """Keep both."""
        self._content = content
        self._number = number

    def forget(self) -> None:
        """There will be no more workers to inherit anything."""
        _inherited.pop(self._number, None)

    def __call__(self, _: object) -> None:
        """Call it; what it raises is logged here, where ``concurrent.futures`` would log it, and ends the executor."""
        try:
            function, args = _inherited[self._number] if self._number else loads(self._content)
            function(*args)
        except BaseException:
            import logging

            logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=True)
            raise
