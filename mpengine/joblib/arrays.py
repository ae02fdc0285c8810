"""Large arrays on their way to workers: written once in a call, and mapped by each worker that gets them.

That is what joblib's own backends do, with one difference.  Theirs write each array into a file of a temporary folder,
which a process of its own has to remove should the program be killed.  Here all of a call's are in one file, in memory
and without a name, which is gone when nobody has it open any more.  Only where a folder is asked for, by
``temp_folder`` or ``JOBLIB_TEMP_FOLDER``, there is a file with a name, in a folder of its own in that one.

A1. An array is written once in a call, however many of its batches it is an argument of.
A2. What workers see of it is a ``numpy.memmap`` of the mode that the call has asked for; ``"r"`` if none.
A3. The file stays until the call is over, or for calls of one ``with Parallel()`` until the next one begins; so does
    the folder.  One that a killed program has left is removed by the next call that is given the same place.
A4. A worker that comes too late, with a call that is over, is told so: it never sees another file.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import weakref
import zlib
from pathlib import Path

from mpengine.processes.identity import ProcessIdentity, machine_mark

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Reducer = Callable[[Any], tuple[Any, ...]]

FOLDER = "joblib_memmapping_folder_mpengine"
_ALIGNED = 4096


class Dump:
    """The arrays of one call.

    Args:
        max_nbytes: what is larger is written; None: nothing is.
        mmap_mode: how workers map it; None: nothing is written.
        temp_folder: where the file is to be; None: in memory.
    """

    def __init__(self, max_nbytes: int | None, mmap_mode: str | None, temp_folder: str | None) -> None:
        """Write nothing yet."""
        self._max_nbytes = None if mmap_mode is None else max_nbytes
        self._mode = "r+" if mmap_mode == "w+" else mmap_mode or "r"  # nothing that was written is to be emptied
        self._place = temp_folder or os.environ.get("JOBLIB_TEMP_FOLDER")
        self._file: _File | None = None
        self._known: dict[int, tuple[weakref.ref[Any], tuple[Any, ...]]] = {}

    def reducers(self) -> dict[type, Reducer]:
        """Return what arrays become when they are pickled; nothing where nobody has loaded numpy."""
        numpy = sys.modules.get("numpy")
        return {} if numpy is None else {numpy.ndarray: self._reduce, numpy.memmap: self._reduce}

    def _reduce(self, array: Any) -> tuple[Any, ...]:
        import numpy as np
        from joblib import _memmapping_reducer as joblibs

        base = joblibs._get_backing_memmap(array)  # noqa: SLF001 - how joblib's own backends tell
        if isinstance(base, np.memmap):
            return joblibs._reduce_memmap_backed(array, base)  # type: ignore[no-any-return]  # noqa: SLF001 - the same
        if self._max_nbytes is None or array.nbytes <= self._max_nbytes or array.dtype.hasobject:
            return array.__reduce_ex__(5)  # type: ignore[no-any-return]
        known = self._known.get(id(array))
        if known is not None and known[0]() is array:
            return _look, known[1]
        if self._file is None:
            self._file = _File(self._place)
        order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
        where = (self._file.write(array, order), self._mode, array.dtype, array.shape, order)
        key, kept = id(array), self._known
        kept[key] = (weakref.ref(array, lambda ref: _forget(kept, key, ref)), where)
        return _look, where

    def close(self) -> None:
        """Let go of all of it (A3)."""
        self._known = {}
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _forget(kept: dict[int, Any], key: int, ref: object) -> None:
    """An array is gone, and its number may be another's."""
    found = kept.get(key)
    if found is not None and found[0] is ref:
        del kept[key]


class _File:
    """What arrays are written into, one behind the other.

    Args:
        place: the folder in which it is to have one of its own; None: it is in memory.
    """

    def __init__(self, place: str | None) -> None:
        self._end = 0
        self._folder: str | None = None
        if place is None:
            self._fd = os.memfd_create("mpengine-joblib", os.MFD_CLOEXEC)
            self._path = f"/proc/{os.getpid()}/fd/{self._fd}"
        else:
            place = str(Path(place).expanduser().absolute())
            _sweep(place)
            self._folder = tempfile.mkdtemp(prefix=_prefix(os.getpid()), dir=place)
            self._path = str(Path(self._folder) / "arrays")
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._inode = os.fstat(self._fd).st_ino
        self._finalizer = weakref.finalize(self, _remove, self._fd, self._folder, os.getpid())

    def write(self, array: Any, order: str) -> tuple[str, int, int]:
        """Append an array; return the path, the inode, and where it begins."""
        import numpy as np

        begin = self._end
        os.ftruncate(self._fd, begin + array.nbytes)
        self._end = -(-(begin + array.nbytes) // _ALIGNED) * _ALIGNED
        own: Any = f"/proc/self/fd/{self._fd}"
        kept = np.memmap(own, dtype=array.dtype, mode="r+", offset=begin, shape=array.shape, order=order)  # type: ignore[call-overload]
        kept[...] = array
        return self._path, self._inode, begin

    def close(self) -> None:
        self._finalizer()


def _remove(fd: int, folder: str | None, pid: int) -> None:
    if os.getpid() != pid:
        return  # a forked child's copy
    os.close(fd)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _prefix(pid: int) -> str:
    """Return how the names of the folders of a process begin; the place may be shared with other machines."""
    return f"{_own_prefix()}{pid}_{ProcessIdentity.of(pid).start:.0f}_"


def _own_prefix() -> str:
    return f"{FOLDER}_{zlib.crc32(machine_mark().encode()):x}_"


def _sweep(place: str) -> None:
    """Remove what killed programs of this machine have left (A3)."""
    for name in [path.name for path in Path(place).iterdir()]:
        found = re.fullmatch(f"{_own_prefix()}([0-9]+)_([0-9]+)_.*", name)
        if found and not ProcessIdentity.known(int(found[1]), float(found[2])).is_there():
            shutil.rmtree(Path(place) / name, ignore_errors=True)


def _look(where: tuple[str, int, int], mode: str, dtype: Any, shape: Any, order: str) -> Any:
    """Return an array that was written, mapped; in a worker."""
    path, inode, begin = where
    import numpy as np
    from joblib import _memmapping_reducer as joblibs

    try:
        found: int | None = Path(path).stat().st_ino
    except FileNotFoundError:
        found = None
    if found != inode:
        raise RuntimeError("an array came with a call that is over, and is not there any more")  # A4
    array = np.memmap(path, dtype=dtype, mode=mode, offset=begin, shape=shape, order=order)  # type: ignore[call-overload]
    joblibs.JOBLIB_MMAPS.add(array.filename)
    return array


def backward_reducers() -> dict[type, Reducer]:
    """Return what arrays in results become when they are pickled."""
    import numpy as np

    return {np.ndarray: _reduce_back, np.memmap: _reduce_back}


def _reduce_back(array: Any) -> tuple[Any, ...]:
    import numpy as np
    from joblib import _memmapping_reducer as joblibs

    base = joblibs._get_backing_memmap(array)  # noqa: SLF001 - how joblib's own backends tell
    if not isinstance(base, np.memmap):
        return array.__reduce_ex__(5)  # type: ignore[no-any-return]
    if base.filename in joblibs.JOBLIB_MMAPS:
        return np.array(array, subok=False).__reduce_ex__(5)  # type: ignore[return-value]
    return joblibs._reduce_memmap_backed(array, base)  # type: ignore[no-any-return]  # noqa: SLF001 - the same
