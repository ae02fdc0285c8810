"""Looking at payloads in the arena, without copying them.

V1. A payload may be looked at as long as anything refers to it, an item's array in somebody's state included; its block
    is not used for anything else before.
V2. What is looked at may be written to, as what was unpickled may always be: the mapping is private, so that a mate,
    another branch of a mix, or a worker that runs the item again, sees what was sent.
V3. So a payload is looked at once at a time in a process; whoever comes second gets a copy of what was sent.
V4. Where much is looked at already, all get copies: what somebody keeps is no concern of the arena's.
V5. Where the arena cannot be mapped, since the process may not have so many addresses, payloads are read from its file.
"""

from __future__ import annotations

import functools
import os
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mpengine.ipc.arena import Block, Geometry
    from mpengine.ipc.mapping import Mapping


class Viewer:
    """This process's eye on the arena.

    Args:
        fd: the arena's file.
        geometry: of the arena.
        limit: bytes that may be looked at; above that, they are copied (V4).
    """

    def __init__(self, fd: int, geometry: Geometry, limit: int) -> None:
        """Map nothing yet: most runs have no large payloads."""
        self._fd = fd
        self._geometry = geometry
        self._limit = limit
        self._private: Mapping | None = None
        self._shared: Mapping | None = None
        self._looked_at: dict[tuple[int, int], int] = {}  # bytes, by region and number
        self._looking = threading.Lock()  # for those who begin; finalizers end it, at any moment

    def prepare(self) -> None:
        """Map the arena, while the file is still open.

        Raises:
            OSError: there is no room for it in this process.
        """
        if self._private is None:
            from mpengine.ipc.mapping import Mapping

            geometry = self._geometry
            size = geometry.regions * geometry.region_bytes
            self._shared = Mapping(self._fd, geometry.window, size, private=False)
            self._private = Mapping(self._fd, geometry.window, size, private=True)

    def forget_file(self) -> None:
        """The file is about to be closed, and its number may be somebody else's."""
        self._fd = -1

    def look(self, payload: Shared) -> memoryview:
        """Return the bytes of a payload; it is kept as long as anything refers to them (V1), unless they are a copy.

        Raises:
            OSError: they cannot be had.
        """
        block = payload.block
        key, size = (block.region, block.number), block.size
        offset = block.region * self._geometry.region_bytes + block.offset
        with self._looking:
            try:
                self.prepare()
            except OSError:
                return self._read(offset, size)
            assert self._private is not None  # noqa: S101 - that is what prepare() is for
            assert self._shared is not None  # noqa: S101 - the same
            if key in self._looked_at or sum(self._looked_at.values()) > self._limit:
                return memoryview(self._shared.copy(offset, size))
            self._looked_at[key] = size
        return self._private.view(offset, size, functools.partial(self._close, key, offset, size, payload))

    def _read(self, offset: int, size: int) -> memoryview:
        """Return a copy of what is in the file (V5)."""
        view = memoryview(bytearray(size))
        done = 0
        while done < size:
            done += os.preadv(self._fd, [view[done:]], self._geometry.window + offset + done)
        return view

    def _close(self, key: tuple[int, int], offset: int, size: int, payload: Shared) -> None:  # noqa: ARG002 - is kept until now (V1)
        if self._private is not None:
            self._private.forget_writes(offset, size)
        del self._looked_at[key]


class Shared:
    """A payload in the arena; what it means to have one is told by those who make them.

    Args:
        block: where it is.
        viewer: this process's.
    """

    __slots__ = ("block", "viewer")

    def __init__(self, block: Block, viewer: Viewer) -> None:
        """Look at nothing yet."""
        self.block = block
        self.viewer = viewer

    @property
    def nbytes(self) -> int:
        """What it weighs."""
        return sum(self.block.sizes)

    def look(self) -> memoryview:
        """Return its bytes, to be kept as long as one likes."""
        return self.viewer.look(self)
