"""``pickle``'s functions, and what takes over where pickling by name is not enough.

They come without what ``pickle.py`` has beside them: the same once more in Python, which is used where C code is
missing, and ``re`` for that.  The two are a tenth of what a fork server would import.
"""

from __future__ import annotations

import contextlib
import sys

try:
    from _pickle import PickleBuffer, dumps, loads
except ImportError:
    from pickle import PickleBuffer, dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

__all__ = ["MAIN", "PROTOCOL", "PickleBuffer", "by_name", "by_value", "dump", "dumps", "loads"]

PROTOCOL: Final = 5
"""The newest one that all supported versions of Python know."""

MAIN: Final = b"__main__"
"""What a pickle names that workers cannot import."""


def by_value(thing: object, leave_out: Callable[[PickleBuffer], object] | None = None) -> bytes:
    """Return ``thing`` pickled by cloudpickle; raises what that raises."""
    import cloudpickle

    dumped: bytes = cloudpickle.dumps(thing, 5, buffer_callback=leave_out)
    return dumped


def by_name(thing: object) -> bytes | None:
    """Return ``thing`` pickled, or None where that takes cloudpickle."""
    with contextlib.suppress(Exception):
        dumped = dumps(thing, 5)
        if MAIN not in dumped:
            return dumped
    return None


def dump(thing: object) -> bytes:
    """Return ``thing`` pickled by value where need be; for functions and chains.

    What lives in modules goes without cloudpickle, which is a slow import, unless it was told to take some by value.
    """
    known = sys.modules.get("cloudpickle")
    is_registered = known is not None and bool(known.list_registry_pickle_by_value())
    dumped = None if is_registered else by_name(thing)
    return by_value(thing) if dumped is None else dumped
