"""Items to payloads and back.

One pickle holds a whole batch, which costs a tenth of a pickle an item.  What that gives up, telling one bad item from
its good mates, is won back when it is needed, and costs nothing while all goes well:

- What will not pickle is found by pickling the items one at a time.
- What will not unpickle is found by a slow unpickler that puts a ``Broken`` in the place of whatever raised.

Plain pickle is tried first.  cloudpickle takes over where it fails, and where a payload names ``__main__``: workers do
not import the main module again, so what lives there has to travel by value.
"""

from __future__ import annotations

import contextlib
import io
import pickle
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from mpengine.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpengine.ipc.messages import Buffer

MAIN: Final = b"__main__"


class Broken:
    """What stands in the place of something that could not be unpickled; of a private kind, never a user's value."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        """Keep the error."""
        self.error = error


class Salvaged(list[Any]):
    """Items some of which are ``Broken``."""


class Codec(Protocol):
    """How a batch's items become what travels, and back."""

    def pack(self, items: list[Any]) -> Any:
        """Return ``items`` as one payload; raises whatever pickling them raises."""

    def unpack(self, payload: Any) -> list[Any]:
        """Return the items of ``payload``.

        Where one could not be unpickled, a ``Salvaged`` with a ``Broken`` in its place; a ``StageError`` is raised when
        nothing of the payload can be made out.
        """

    def weigh(self, payload: Any) -> int:
        """Return what ``payload`` weighs, in bytes."""


class PickleCodec:
    """Payloads are bytes, but for lists that never leave this process.

    Args:
        main_by_value: whether the reader has another ``__main__`` than the writer.
    """

    def __init__(self, *, main_by_value: bool) -> None:
        """Keep the choice."""
        self._main_by_value = main_by_value

    def pack(self, items: list[Any]) -> bytes:
        """See ``Codec``."""
        payload = None
        with contextlib.suppress(Exception):  # whatever pickle cannot do, cloudpickle may; if not, its error is raised
            payload = pickle.dumps(items, 5)
        if payload is None or (self._main_by_value and MAIN in payload):
            return _by_value(items)
        return payload

    def unpack(self, payload: Buffer | list[Any]) -> list[Any]:
        """See ``Codec``; a list comes from a thread of this process, and has never been packed."""
        if isinstance(payload, list):
            return payload
        try:
            items: list[Any] = pickle.loads(payload)  # noqa: S301 - our own workers' bytes
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # told item by item
            items = salvage(payload)
            if not isinstance(error, Exception) and not any(type(item) is Broken for item in items):
                raise  # no item's doing: a signal handler of the program wants it to end
        return items

    def weigh(self, payload: Buffer) -> int:
        """See ``Codec``."""
        return len(payload)


class PlainCodec:
    """Payloads are the lists themselves: for a backend in the same process."""

    def pack(self, items: list[Any]) -> list[Any]:
        """See ``Codec``."""
        return items

    def unpack(self, payload: list[Any]) -> list[Any]:
        """See ``Codec``."""
        return payload

    def weigh(self, payload: list[Any]) -> int:  # noqa: ARG002 - nothing travels
        """See ``Codec``."""
        return 0


def _by_value(thing: object) -> bytes:
    import cloudpickle

    dumped: bytes = cloudpickle.dumps(thing, 5)
    return dumped


def dump(thing: object) -> bytes:
    """Return ``thing`` pickled by value where need be; for functions and chains."""
    return _by_value(thing)


def dump_error(error: BaseException) -> bytes | None:
    """Return ``error`` pickled, or None when it will not pickle."""
    try:
        dumped = pickle.dumps(error, 5)
        if MAIN not in dumped:
            return dumped
    except Exception:  # noqa: BLE001, S110 - cloudpickle may do it
        pass
    try:
        return _by_value(error)
    except Exception:  # noqa: BLE001 - an exception may hold anything; the caller has its text
        return None


def load_error(dumped: Buffer | None, summary: str) -> BaseException:
    """Return the exception, or a ``StageError`` with ``summary`` when it did not survive the trip."""
    if dumped is not None:
        try:
            error: BaseException = pickle.loads(dumped)  # noqa: S301 - our own workers' bytes
            if issubclass(type(error), BaseException):  # isinstance() would ask what is none for its __class__
                return error
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001, S110 - a picky __init__ raises what it likes; the stand-in tells the name
            pass
    return StageError(summary)


def pack_apart(codec: Codec, items: list[Any]) -> tuple[list[Any], dict[int, BaseException]]:
    """Find the items that will not pack.

    Returns:
        The items that pack, and the error of each of the others by its place.
    """
    good: list[Any] = []
    bad: dict[int, BaseException] = {}
    for place, item in enumerate(items):
        try:
            codec.pack([item])
        except BaseException as error:  # noqa: BLE001 - that is what is looked for
            bad[place] = error
        else:
            good.append(item)
    return good, bad


# ---------------------------------------------------------------------- the slow unpickler


def salvage(payload: Buffer) -> Salvaged:
    """Unpickle a list item by item, with a ``Broken`` in the place of each that raises.

    Raises:
        StageError: not even the list could be made out.
    """
    unpickler = _Salvager(io.BytesIO(bytes(payload)))
    try:
        items = unpickler.load()
    except Exception as error:
        msg = f"a payload could not be unpickled: {type(error).__name__}: {error}"
        raise StageError(msg) from error
    if not isinstance(items, list):
        msg = f"a payload is no list but a {type(items).__name__}"
        raise StageError(msg)
    return Salvaged(_checked(item) for item in items)


def _checked(item: object) -> object:
    """Return ``item``, or the ``Broken`` that it is or holds."""
    if type(item) is Broken:
        return item
    import cloudpickle

    class Finder(cloudpickle.Pickler):  # type: ignore[misc]
        """Pickles into the void, and raises when it meets a ``Broken``."""

        def persistent_id(self, thing: object) -> None:
            if type(thing) is Broken:
                raise _FoundError(thing)

    try:
        Finder(io.BytesIO(), 5).dump(item)
    except _FoundError as found:
        return found.broken
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - what will not pickle again is whole all the same
        return item
    return item


class _FoundError(Exception):
    def __init__(self, broken: Broken) -> None:
        super().__init__()
        self.broken = broken


class _Salvager(pickle._Unpickler):  # noqa: SLF001 - the documented pure-Python twin of pickle.Unpickler
    """The pure-Python unpickler, which goes on after user code raised."""

    has_met = False  # whether anything has raised yet; before that, nothing needs to be looked through
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)  # noqa: SLF001

    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - told at the item
            self.has_met = True
            return Broken(error)


def _tolerant(code: bytes, arguments: int) -> Callable[[Any], None]:
    """Return the opcode's function, made to leave a ``Broken`` where it raises or meets one.

    Args:
        code: the opcode.
        arguments: how many things on the stack it takes beside the one it leaves.
    """
    original = pickle._Unpickler.dispatch[code[0]]  # noqa: SLF001

    def run(unpickler: Any) -> None:
        stack = unpickler.stack
        depth = len(stack)
        met = None
        if unpickler.has_met:  # what holds a Broken is broken too: no user code may ever be called with one
            operands = map(_checked, stack[depth - arguments - 1 :])
            met = next((thing for thing in operands if type(thing) is Broken), None)
        if met is None:
            try:
                original(unpickler)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - told at the item; a sys.exit() as well, or its mates go with it
                unpickler.has_met = True
                met = Broken(error)
            else:
                return
        stack = unpickler.stack
        del stack[depth - arguments - 1 :]
        stack.append(met)

    return run


def _tolerant_of_mark(code: bytes) -> Callable[[Any], None]:
    """Return the function of an opcode that adds everything above the last mark to a container."""
    original = pickle._Unpickler.dispatch[code[0]]  # noqa: SLF001

    def run(unpickler: Any) -> None:
        container = unpickler.metastack[-1][-1]
        met = _bars(container, unpickler.stack)
        if met is not None:
            unpickler.pop_mark()
            unpickler.stack[-1] = met
            return
        try:
            original(unpickler)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a container with a mind of its own
            unpickler.has_met = True
            unpickler.stack[-1] = Broken(error)

    return run


def _tolerant_of_one(code: bytes, arguments: int) -> Callable[[Any], None]:
    """Return the function of an opcode that adds the topmost one or two things to the container below them."""
    original = pickle._Unpickler.dispatch[code[0]]  # noqa: SLF001

    def run(unpickler: Any) -> None:
        stack = unpickler.stack
        met = _bars(stack[-arguments - 1], stack[-arguments:])
        if met is not None:
            stack[-arguments - 1 :] = [met]
            return
        depth = len(stack)
        try:
            original(unpickler)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a container with a mind of its own
            unpickler.has_met = True
            stack[depth - arguments - 1 :] = [Broken(error)]

    return run


def _bars(container: object, added: list[Any]) -> Broken | None:
    """Return the ``Broken`` that keeps ``added`` from being added to ``container``, if there is one.

    A plain container takes a ``Broken`` and is looked through later.  Any other would run user code with it.
    """
    if type(container) is Broken:
        return container
    if type(container) in (list, dict, set):
        return None
    return next((thing for thing in map(_checked, added) if type(thing) is Broken), None)


for _code, _arguments in ((b"R", 1), (b"b", 1), (b"\x81", 1), (b"\x92", 2)):
    _Salvager.dispatch[_code[0]] = _tolerant(_code, _arguments)
for _code, _arguments in ((b"a", 1), (b"s", 2)):
    _Salvager.dispatch[_code[0]] = _tolerant_of_one(_code, _arguments)
for _code in (b"e", b"u", b"\x90"):
    _Salvager.dispatch[_code[0]] = _tolerant_of_mark(_code)
