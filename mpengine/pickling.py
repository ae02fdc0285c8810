"""``pickle``'s functions, without what ``pickle.py`` has beside them.

Its other half is the same once more in Python, which is used where C code is missing, and imports ``re`` for that.  The
two together are a tenth of what a fork server imports.
"""

from __future__ import annotations

try:
    from _pickle import PickleBuffer, dumps, loads
except ImportError:
    from pickle import PickleBuffer, dumps, loads

__all__ = ["PROTOCOL", "PickleBuffer", "dumps", "loads"]

PROTOCOL = 5
"""The newest one that all supported versions of Python know."""
