"""Large payloads for somebody else's object store: a pickle and its buffers as one value, which that store keeps.

B1. The buffers leave the pickle of a bale as they have left the pickle that is in it (PEP 574): a store that knows the
    protocol copies each once, and hands them out again without a copy.
B2. What a store hands out may not be written to.  What was writable before is copied when a bale is opened, so that a
    stage may change the array it is given, wherever it runs.
"""

from __future__ import annotations

from mpengine.ipc.codec import PickleCodec
from mpengine.pickling import PickleBuffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mpengine.ipc.messages import Buffer


class Bale:
    """A pickle and the buffers that were left out of it.

    Args:
        parts: the pickle, then the buffers.
        writable: for each buffer, whether it could be written to.
    """

    __slots__ = ("_parts", "_writable")

    def __init__(self, parts: Sequence[Any], writable: Sequence[bool]) -> None:
        """Keep them as they are."""
        self._parts = parts
        self._writable = writable

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave everything large out of the pickle (B1)."""
        return Bale, ([PickleBuffer(part) for part in self._parts], self._writable)

    @property
    def nbytes(self) -> int:
        """What it weighs, in bytes."""
        return sum([memoryview(part).nbytes for part in self._parts])

    def open(self) -> tuple[Any, list[Any]]:
        """Return the pickle, and the buffers as they were (B2)."""
        pickle, *buffers = self._parts
        pairs = zip(buffers, self._writable, strict=True)
        return pickle, [bytearray(buffer) if is_writable else buffer for buffer, is_writable in pairs]


class Baler:
    """A shelf (see ``codec.Shelf``) that makes a bale of what is large, and leaves the rest to others."""

    @staticmethod
    def store(parts: Sequence[Buffer]) -> Bale:
        """Return a bale of a pickle and its buffers."""
        return Bale(list(parts), [not memoryview(part).readonly for part in parts[1:]])


class BaleCodec(PickleCodec):
    """Payloads are bytes, or bales where they are large."""

    def __init__(self, *, main_by_value: bool) -> None:
        """Have large ones baled."""
        super().__init__(main_by_value=main_by_value)
        self.shelf = Baler()

    def unpack(self, payload: Any) -> list[Any]:
        """See ``Codec``."""
        if type(payload) is Bale:
            return self._load(*payload.open())
        return super().unpack(payload)

    def weigh(self, payload: Any) -> int:
        """See ``Codec``."""
        return payload.nbytes if type(payload) is Bale else super().weigh(payload)
