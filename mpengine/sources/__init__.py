"""Where items come from: descriptions of inputs, which are opened when a run begins and closed when it ends.

==============  ===============================================================
``cutting``     a file or standard input, cut into lines that can be waited for
``text``        ``lines(path)`` and ``jsonl(path)``
``delimited``   ``csv(path)``
``columnar``    ``parquet(path)``
``database``    ``sqlite(path, query)``
``trees``       ``glob(pattern)`` and ``tree(folder)``
==============  ===============================================================

Names are loaded when they are first used: no run pays for inputs that it does not have.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpengine.reading import Reader, Source
    from mpengine.sources.columnar import parquet
    from mpengine.sources.database import sqlite
    from mpengine.sources.delimited import csv
    from mpengine.sources.text import LineSource, jsonl, lines
    from mpengine.sources.trees import glob, tree

_HOME = {
    "LineSource": "mpengine.sources.text",
    "Reader": "mpengine.reading",
    "Source": "mpengine.reading",
    "csv": "mpengine.sources.delimited",
    "glob": "mpengine.sources.trees",
    "jsonl": "mpengine.sources.text",
    "lines": "mpengine.sources.text",
    "parquet": "mpengine.sources.columnar",
    "sqlite": "mpengine.sources.database",
    "tree": "mpengine.sources.trees",
}

__all__ = ["LineSource", "Reader", "Source", "csv", "glob", "jsonl", "lines", "parquet", "sqlite", "tree"]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for."""
    home = _HOME.get(name)
    if home is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    thing = getattr(import_module(home), name)
    globals()[name] = thing
    return thing
