"""Calls, pickled where they are asked for: what is changed afterwards changes nothing of them.

A function that workers cannot import, of the main module or a lambda, goes by value.  To pickle one takes a hundred
times as long as to name one, so what was pickled is kept, as long as the globals that it names are what they were.
"""

from __future__ import annotations

import _pickle
import copyreg
import io
import itertools
import types
from collections import OrderedDict
from multiprocessing.reduction import ForkingPickler
from pickle import PicklingError

from mpengine.ipc.codec import PickleCodec
from mpengine.pickling import by_name, by_value, dumps
from mpengine.worker import calls
from mpengine.worker.chain import summarize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from typing import Any, Final

    from mpengine.ipc.messages import Buffer

KEPT: Final = 64
MOST_BUFFERS: Final = 256
_MISSING: Final = object()
_numbers: Final = itertools.count(1)  # of functions that were pickled by value, in this process


class Errand:
    """A call on its way.

    Attributes:
        future: of what comes of it.
        pieces: the frame that asks a worker for it.
        has_begun: whether a worker may be at it, so that it cannot be cancelled any more.
        is_promised: whether it counts as begun with, since a worker for it is on its way.
        is_called_off: whether nobody wants to know what comes of it, and its worker is about to be ended.
        deaths: workers that have died at it.
    """

    __slots__ = ("deaths", "future", "has_begun", "is_called_off", "is_promised", "pieces")

    def __init__(self, future: Future[Any], pieces: list[Buffer]) -> None:
        """Begin with no deaths."""
        self.future = future
        self.pieces = pieces
        self.has_begun = self.is_promised = self.is_called_off = False
        self.deaths = 0


class Function:
    """A function that was pickled by value.

    Attributes:
        number: tells it from all others, also from itself as it was before.
        content: the pickle.
    """

    __slots__ = ("_named", "content", "number")

    def __init__(self, function: types.FunctionType, called: Callable[..., Any] | None = None) -> None:
        """Pickle it, or ``called``, which calls it."""
        self._named = _globals_of(function)
        self.content = by_value(called or function)
        self.number = next(_numbers)

    def is_still(self) -> bool:
        """Whether the globals that it names are what they were."""
        return all(names.get(name, _MISSING) is value for names, name, value in self._named)


def unpicklable(error: BaseException) -> PicklingError:
    """Return the error of a call that something else than an error has kept from being pickled, as ``sys.exit()``."""
    made = PicklingError(f"the call could not be pickled: {summarize(error)}")
    made.__cause__ = error
    return made


def _globals_of(function: types.FunctionType) -> list[tuple[dict[str, Any], str, Any]]:
    """Return the globals that a function and those that it calls by name look at, as far as they go by value too."""
    found: list[tuple[dict[str, Any], str, Any]] = []
    todo, seen = [function], {function}
    while todo:
        one = todo.pop()
        for name in one.__code__.co_names:
            value = one.__globals__.get(name, _MISSING)
            found.append((one.__globals__, name, value))
            if type(value) is types.FunctionType and value not in seen and value.__module__ == "__main__":
                seen.add(value)
                todo.append(value)
    return found


def _dumps(thing: object, protocol: int, *, buffer_callback: Callable[[Any], object] | None = None) -> bytes:
    """Pickle with what ``multiprocessing`` knows of pipes and sockets, which would go wrong without a word else."""
    file = io.BytesIO()
    pickler = _pickle.Pickler(file, protocol, buffer_callback=buffer_callback)
    pickler.dispatch_table = _reducers()
    pickler.dump(thing)
    return file.getvalue()


_known: dict[type, Any] = {}


def _reducers() -> dict[type, Any]:
    """Return how some types are pickled; a dict of its own, since pickle looks most quickly into that."""
    extra = ForkingPickler._extra_reducers  # type: ignore[attr-defined]  # noqa: SLF001 - what register() has told
    if len(_known) < len(copyreg.dispatch_table) + len(extra):
        _known.update({**copyreg.dispatch_table, **extra})
    return _known


class CallPacker:
    """Pickles calls.

    Args:
        main_by_value: whether workers have another ``__main__`` than this process.
    """

    def __init__(self, *, main_by_value: bool) -> None:
        """Keep nothing yet."""
        self._main_by_value = main_by_value
        self._codec = PickleCodec(main_by_value=main_by_value, dumps=_dumps)
        self._kept: OrderedDict[types.FunctionType, Function] = OrderedDict()

    def pack(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Buffer]:
        """Return the frame of a call; raises whatever pickling it raises."""
        known = self._by_value(function) if type(function) is types.FunctionType else None
        if known is not None:
            return self.pack_for(known, args, kwargs)
        return calls.frame_of(calls.CALL, 0, self._parts((function, args, kwargs)))

    def pack_for(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Buffer]:
        """Return the frame of a call of a function that was pickled already; raises what pickling the others raises."""
        return calls.frame_of(calls.CALL_OF, function.number, [function.content, *self._parts((args, kwargs))])

    def for_many(self, function: Callable[..., Any], called: Callable[..., Any]) -> Function | None:
        """Return ``called``, which calls ``function``, pickled for many calls; None where each call may name it."""
        if type(function) is not types.FunctionType or not self._main_by_value or by_name(function) is not None:
            return None
        try:
            return Function(function, called)
        except Exception:  # noqa: BLE001 - each call will tell
            return None

    def _parts(self, thing: object) -> list[Buffer]:
        content, buffers = self._codec.take_apart(thing)
        if len(buffers) > MOST_BUFFERS:
            return [dumps(thing, 5)] if not self._main_by_value else [by_value(thing)]
        return [content, *buffers]

    def _by_value(self, function: types.FunctionType) -> Function | None:
        """Return a function as it travels by value; None where naming it is enough, or its cells may hold anything."""
        is_global = "<locals>" not in function.__qualname__ and function.__qualname__ != "<lambda>"
        if function.__closure__ is not None or not self._main_by_value or not is_global:
            return None
        if function.__module__ != "__main__":
            return None
        kept = self._kept.get(function)
        if kept is None or not kept.is_still():
            kept = self._kept[function] = Function(function)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return kept
