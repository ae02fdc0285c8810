"""Standard files that are closed: something holds their numbers for as long as engines have descriptors of their own.

Else a pipe of an engine would get the number 1, in this process or in a worker, and whoever prints there, a program
that a stage has started among them, would write into what the engine tells its workers.
"""

from __future__ import annotations

import os
import stat
import threading

_lock = threading.RLock()  # a signal handler may close an engine
_holders = 0
_held: list[int] = []


def hold_standard_files() -> None:
    """Put the null device in the place of every standard file that is closed."""
    global _holders  # noqa: PLW0603 - the files are the whole process's
    with _lock:
        _holders += 1
        for fd, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
            try:
                os.fstat(fd)
            except OSError:
                # The lowest free number is this one: those below are open by now.
                _held.append(os.open(os.devnull, flags))
                os.set_inheritable(_held[-1], True)  # noqa: FBT003 - as the standard files are


def release_standard_files() -> None:
    """Take ``hold_standard_files`` back, once for each call of it; what somebody else has put there by now stays."""
    global _holders  # noqa: PLW0603 - the files are the whole process's
    with _lock:
        _holders -= 1
        if _holders:
            return
        for fd in _held:
            if _is_null_device(fd):
                os.close(fd)
        _held.clear()


def _is_null_device(fd: int) -> bool:
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == os.stat(os.devnull).st_rdev  # noqa: PTH116 - pathlib is a slow import
