"""A file mapped into memory without a descriptor of its own, and buffers in it that tell when nobody looks any more.

``mmap.mmap`` keeps a copy of the descriptor until the last view is gone, which may be as long as the program lives.
Here nothing is kept but the memory.

G1. ``view`` hands out a ``ctypes`` array, which every memoryview, array or frame made from it refers to, slices of
    slices too.  A weak reference to that array fires when the last of them is gone.  (That a memoryview was released
    tells nothing: it can be, under a live array.)
G2. A view outlives this object: it keeps the mapping.
G3. The collector finalizes what it has found in any order, so that a mapping may go before whoever refers to it.  What
    finalizers call does nothing then.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
import weakref
from typing import TYPE_CHECKING, Final

from mpengine.ipc.arena import PAGE, whole_pages

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpengine.ipc.messages import Buffer

_NORESERVE: Final = 0x4000
_DONTNEED: Final = 4
_REMOVE: Final = 9
_FAILED: Final = ctypes.c_void_p(-1).value
_PAGE_BITS: Final = (1 << 63, 1 << 61, 1 << 62)  # is present, is the file's and not this process's own, is swapped out

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_longlong,
)  # fmt: skip
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.memcpy.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_libc.memcpy.restype = None


class Mapping:
    """A part of a file in memory.

    Args:
        fd: the file; may be closed afterwards.
        start: where the part begins, a multiple of the page size.
        size: bytes.
        private: whether what is written here stays here, and is seen by nobody else.

    Raises:
        OSError: there is no room for it.
    """

    _address = 0  # of one that could not be made

    def __init__(self, fd: int, start: int, size: int, *, private: bool) -> None:
        """Map it."""
        self._size = size
        flags = mmap.MAP_PRIVATE | _NORESERVE if private else mmap.MAP_SHARED
        address = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, start)
        if address is None or address == _FAILED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._address = address

    def __del__(self) -> None:
        """Unmap it; whoever has a view keeps this object.  An interpreter that exits leaves that to the system."""
        if self._address and not sys.is_finalizing():
            address, self._address = self._address, 0
            _libc.munmap(address, self._size)

    @property
    def is_mapped(self) -> bool:
        """Whether it may be used (G3)."""
        return self._address != 0

    def words(self, offset: int, count: int) -> memoryview:
        """Return eight-byte words of it, to be read and written; not to be used longer than this object."""
        return memoryview((ctypes.c_uint64 * count).from_address(self._address + offset)).cast("B").cast("Q")

    def view(self, offset: int, size: int, on_gone: Callable[[], object]) -> memoryview:
        """Return bytes of it; ``on_gone`` is called once the last view of them is gone, on whatever thread (G1)."""
        array = (ctypes.c_ubyte * size).from_address(self._address + offset)
        weakref.finalize(array, _tell_gone, self, on_gone).atexit = False
        return memoryview(array).cast("B")

    def copy(self, offset: int, size: int) -> bytearray:
        """Return a copy of bytes of it."""
        return bytearray((ctypes.c_ubyte * size).from_address(self._address + offset))

    def write(self, offset: int, content: Buffer) -> None:
        """Copy ``content`` into it; other threads run meanwhile."""
        view = memoryview(content)
        size = view.nbytes
        target = self._address + offset
        if view.readonly:
            if isinstance(content, bytes):
                _libc.memcpy(target, ctypes.cast(ctypes.c_char_p(content), ctypes.c_void_p), size)
            else:  # ctypes takes no address of what must not be written to
                memoryview((ctypes.c_ubyte * size).from_address(target)).cast("B")[:] = view.cast("B")
        else:
            _libc.memcpy(target, ctypes.addressof(ctypes.c_char.from_buffer(view.cast("B"))), size)

    def forget_writes(self, offset: int, size: int) -> None:
        """Have a private mapping show what is in the file again, where somebody has written to it."""
        address = self._address + offset
        if self.is_mapped and _was_written(address, size):
            _libc.madvise(address, whole_pages(size), _DONTNEED)

    def give_back(self, offset: int, size: int) -> None:
        """Give the memory of whole pages back to the system; they read as zeros after that."""
        if self.is_mapped:
            _libc.madvise(self._address + offset, size, _REMOVE)


def _tell_gone(mapping: Mapping, on_gone: Callable[[], object]) -> None:  # noqa: ARG001 - keeps it until now (G2)
    on_gone()


def _was_written(address: int, size: int) -> bool:
    """Whether a page of a private mapping is this process's own by now; True where the kernel does not tell.

    See ``Documentation/admin-guide/mm/pagemap.rst`` of Linux.
    """
    pages = whole_pages(size) // PAGE
    try:
        fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        told = os.pread(fd, 8 * pages, address // PAGE * 8)
    except OSError:
        return True
    finally:
        os.close(fd)
    if len(told) != 8 * pages:
        return True
    # All of them at once: a loop would cost more than the copy it saves.
    entries, (present, file, swapped) = int.from_bytes(told, "little"), _bits_of(pages)
    return bool(entries & swapped or (entries & present) >> 2 & ~(entries & file))


@functools.lru_cache(maxsize=64)
def _bits_of(pages: int) -> tuple[int, ...]:
    """Return, for the entries of so many pages, where each of ``_PAGE_BITS`` is."""
    return tuple([int.from_bytes(bit.to_bytes(8, "little") * pages, "little") for bit in _PAGE_BITS])


def keep_freed_memory(limit: int) -> None:
    """Have the allocator keep freed memory for the next array instead of giving it back, up to ``limit`` bytes.

    Memory that is fresh from the system is cleared and mapped page by page when it is first touched, which takes
    several times as long as writing to it does.  For glibc, see mallopt(3); others are left as they are.
    """
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(mmap_threshold, 32 << 20)  # the most that it takes
        mallopt(trim_threshold, limit)
