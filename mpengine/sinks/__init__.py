"""Where values go: files and tables that a run writes, and that another one can go on with where it was killed.

==============  ===============================================================
``base``        what every sink has; ``write(values, sink)``
``inorder``     a file that is written in order: compressed, atomic, cut off
``text``        ``jsonl(path)``, ``lines(path)`` and ``csv(path)``
``columnar``    ``parquet(path)``
``database``    ``sqlite(path, table)``
``folders``     ``files(folder)``: each value a file of its own
==============  ===============================================================

Names are loaded when they are first used: no run pays for outputs that it does not have.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpengine.sinks.base import Sink, SinkClosedError, SinkError, write
    from mpengine.sinks.columnar import parquet
    from mpengine.sinks.database import sqlite
    from mpengine.sinks.folders import files
    from mpengine.sinks.text import JsonLinesSink, csv, jsonl, lines

_HOME = {
    "JsonLinesSink": "text",
    "Sink": "base",
    "SinkClosedError": "base",
    "SinkError": "base",
    "csv": "text",
    "files": "folders",
    "jsonl": "text",
    "lines": "text",
    "parquet": "columnar",
    "sqlite": "database",
    "write": "base",
}

__all__ = [
    "JsonLinesSink",
    "Sink",
    "SinkClosedError",
    "SinkError",
    "csv",
    "files",
    "jsonl",
    "lines",
    "parquet",
    "sqlite",
    "write",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for."""
    home = _HOME.get(name)
    if home is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    thing = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = thing
    return thing
