"""The slow unpickler: what of a payload can be unpickled, with a ``Broken`` in the place of whatever raised."""

from __future__ import annotations

import io
import pickle

from mpengine.errors import StageError
from mpengine.ipc.codec import Broken, Salvaged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, ClassVar

    from mpengine.ipc.messages import Buffer


def salvage(payload: Buffer, buffers: Sequence[Buffer] = ()) -> Salvaged:
    """Unpickle a list item by item, with a ``Broken`` in the place of each that raises.

    Raises:
        StageError: not even the list could be made out.
    """
    unpickler = _Salvager(io.BytesIO(bytes(payload)), buffers=buffers)
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
