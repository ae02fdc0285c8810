"""Items to payloads and back.

One pickle holds a whole batch, which costs a tenth of a pickle an item.  What that gives up, telling one bad item from
its good mates, is won back when it is needed, and costs nothing while all goes well:

- What will not pickle is found by pickling the items one at a time.
- What will not unpickle is found by a slow unpickler that puts a ``Broken`` in the place of whatever raised.

Large payloads, and the buffers of arrays, go into the arena where there is one: pickle's protocol 5 leaves the buffers
out of the pickle (PEP 574), and they are copied once, straight to where whoever unpickles them looks at them.

Plain pickle is tried first.  cloudpickle takes over where it fails, and where a payload names ``__main__``: workers do
not import the main module again, so what lives there has to travel by value.
"""

from __future__ import annotations

import contextlib
import sys

from mpengine import pickling
from mpengine.errors import StageError
from mpengine.ipc.arena import LARGE_BYTES, parts_of
from mpengine.ipc.views import Shared
from mpengine.pickling import MAIN, by_name, by_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Final, Protocol

    from mpengine.ipc.messages import Buffer
else:
    Protocol = object


class Broken:
    """What stands in the place of something that could not be unpickled; of a private kind, never a user's value."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        """Keep the error."""
        self.error = error


class Salvaged(list["Any"]):
    """Items some of which are ``Broken``."""


class Codec(Protocol):
    """How a batch's items become what travels, and back."""

    def pack(self, items: list[Any]) -> Any:
        """Return ``items`` as one payload; raises whatever pickling them raises."""

    def check(self, items: list[Any]) -> None:
        """Raise what ``pack`` would raise, and keep nothing."""

    def unpack(self, payload: Any) -> list[Any]:
        """Return the items of ``payload``.

        Where one could not be unpickled, a ``Salvaged`` with a ``Broken`` in its place; a ``StageError`` is raised when
        nothing of the payload can be made out.
        """

    def weigh(self, payload: Any) -> int:
        """Return what ``payload`` weighs, in bytes."""


class Shelf(Protocol):
    """Where large payloads are put."""

    def store(self, parts: Sequence[Buffer]) -> Any:
        """Keep a pickle and its buffers; return what stands for them, or None if there is no room."""


class PickleCodec:
    """Payloads are bytes, or in the arena; but for lists that never leave this process.

    Args:
        main_by_value: whether the reader has another ``__main__`` than the writer.
        dumps: pickles by name; as ``pickle.dumps``.

    Attributes:
        shelf: where large payloads go; None: they are bytes like the others.
    """

    def __init__(self, *, main_by_value: bool, dumps: Callable[..., bytes] = pickling.dumps) -> None:
        """Keep the choice."""
        self._main_by_value = main_by_value
        self._dumps = dumps
        self.shelf: Shelf | None = None

    def pack(self, items: list[Any]) -> Any:
        """See ``Codec``."""
        if self.shelf is None:
            return self._dump(items, None)
        buffers = _Buffers()
        payload = self._dump(_with_buffers(items), buffers)
        if not buffers.large and len(payload) < LARGE_BYTES:
            return payload
        stored = self.shelf.store([payload, *buffers.large])
        if stored is not None:
            return stored
        return self._dump(items, None) if buffers.large else payload

    def check(self, items: list[Any]) -> None:
        """See ``Codec``."""
        self._dump(items, None)

    def take_apart(self, thing: object) -> tuple[bytes, list[Buffer]]:
        """Return ``thing`` pickled, and the large buffers that are left out of the pickle; raises what that raises."""
        buffers = _Buffers()
        return self._dump(thing, buffers), buffers.large

    def _dump(self, items: Any, buffers: _Buffers | None) -> bytes:
        leave_out = None if buffers is None else buffers.leave_out
        payload = None
        with contextlib.suppress(Exception):  # whatever pickle cannot do, cloudpickle may; if not, its error is raised
            payload = self._dumps(items, 5, buffer_callback=leave_out)
        if payload is None or (self._main_by_value and MAIN in payload):
            if buffers is not None:
                buffers.large.clear()  # those of the first try
            return by_value(items, leave_out)
        return payload

    def unpack(self, payload: Any) -> list[Any]:
        """See ``Codec``; a list or range comes from a thread of this process, and has never been packed."""
        if isinstance(payload, list | range):
            return payload  # type: ignore[return-value]  # a range is as good as the list that it stands for
        if isinstance(payload, Shared):
            return self._load(*parts_of(payload.look(), payload.block.sizes))
        return self._load(payload, ())

    @staticmethod
    def _load(payload: Any, buffers: Sequence[Buffer]) -> list[Any]:
        try:
            items: list[Any] = pickling.loads(payload, buffers=buffers)  # our own workers' bytes
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # told item by item
            from mpengine.ipc.salvage import salvage  # with pickle's twin in Python; all is well nearly always

            items = salvage(payload, buffers)
            if not isinstance(error, Exception) and not any(type(item) is Broken for item in items):
                raise  # no item's doing: a signal handler of the program wants it to end
        return items

    def weigh(self, payload: Any) -> int:
        """See ``Codec``."""
        return payload.nbytes if isinstance(payload, Shared) else len(payload)


FEW: Final = 64
"""Where a payload has more items, none of them is large enough to be looked for."""


class _AsBuffer:
    """A large bytes object, or bytearray, which pickle would copy twice; unpickles as what it is."""

    __slots__ = ("_content",)

    def __init__(self, content: bytes | bytearray) -> None:
        self._content = content

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self._content), (pickling.PickleBuffer(self._content),)


def _with_buffers(items: Any) -> Any:
    """Return ``items``, the large bytes among them as buffers that are left out of the pickle."""
    if len(items) > FEW or not any(_is_large_bytes(item) for item in items):
        return items
    return [_AsBuffer(item) if _is_large_bytes(item) else item for item in items]


def _is_large_bytes(item: object) -> bool:
    return type(item) in (bytes, bytearray) and len(item) >= LARGE_BYTES  # type: ignore[arg-type]  # it is one of both


class _Buffers:
    """The buffers of one pickle that are left out of it."""

    __slots__ = ("large",)

    def __init__(self) -> None:
        self.large: list[Buffer] = []

    def leave_out(self, buffer: pickling.PickleBuffer) -> bool:
        """Return whether a buffer is to be in the pickle; pickle's ``buffer_callback``."""
        try:
            raw = buffer.raw()
        except BufferError:  # neither order: pickle tells what is wrong with it
            return True
        if raw.nbytes < LARGE_BYTES:
            return True
        # An array that must not be written to is unpickled as one: that is in the pickle itself.
        self.large.append(raw)
        return False


def leave_out_large(kept: list[Buffer]) -> Callable[[pickling.PickleBuffer], bool]:
    """Return a ``buffer_callback`` that keeps the large buffers, which are then not in the pickle."""
    buffers = _Buffers()
    buffers.large = kept
    return buffers.leave_out


class PlainCodec:
    """Payloads are the lists themselves: for a backend in the same process."""

    def pack(self, items: list[Any]) -> list[Any]:
        """See ``Codec``; what will never pickle on purpose is refused here too."""
        reading = sys.modules.get("mpengine.reading")  # where nobody has loaded it, nothing is
        if reading is not None and reading.Malformed in map(type, items):
            raise next(item.error for item in items if type(item) is reading.Malformed)
        return items

    def check(self, items: list[Any]) -> None:
        """See ``Codec``."""
        self.pack(items)

    def unpack(self, payload: list[Any]) -> list[Any]:
        """See ``Codec``."""
        return payload

    def weigh(self, payload: list[Any]) -> int:  # noqa: ARG002 - nothing travels
        """See ``Codec``."""
        return 0


def dump_error(error: BaseException) -> bytes | None:
    """Return ``error`` pickled, or None when it will not pickle."""
    try:
        dumped = by_name(error)
        return by_value(error) if dumped is None else dumped
    except Exception:  # noqa: BLE001 - an exception may hold anything; the caller has its text
        return None


def load_error(dumped: Buffer | None, summary: str) -> BaseException:
    """Return the exception, or a ``StageError`` with ``summary`` when it did not survive the trip."""
    if dumped is not None:
        try:
            error: BaseException = pickling.loads(dumped)  # our own workers' bytes
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
            codec.check([item])
        except BaseException as error:  # noqa: BLE001 - that is what is looked for
            bad[place] = error
        else:
            good.append(item)
    return good, bad
