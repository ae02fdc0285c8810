"""Which format a file has: as was asked for, or by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mpengine.compression import plain_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpengine.reading import Source
    from mpengine.sinks.base import Sink

INPUTS = ("lines", "jsonl", "csv", "parquet", "glob", "tree", "deadletter")
OUTPUTS = ("jsonl", "lines", "csv", "parquet")
_BY_SUFFIX = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}


def format_of(path: str, default: str) -> str:
    """Return the format that a file's name tells of, or the one that is meant where it tells of none."""
    return _BY_SUFFIX.get(plain_name(path).suffix.lower(), default)


def source_of(path: str, format_name: str | None) -> Source:
    """Return the input that ``--input`` names.

    Args:
        path: what it names.
        format_name: what ``--input-format`` names; None: by the file's name.

    Raises:
        PipelineError: something that it takes is not installed.
    """
    from mpengine import sources

    delimiter = "\t" if plain_name(path).suffix.lower() == ".tsv" else ","
    make: dict[str, Callable[[], Source]] = {
        "lines": lambda: sources.lines(path),
        "jsonl": lambda: sources.jsonl(path),
        "csv": lambda: sources.csv(path, delimiter=delimiter),
        "parquet": lambda: sources.parquet(path),
        "glob": lambda: sources.glob(path),
        "tree": lambda: sources.tree(path),
        "deadletter": lambda: _dead_letters(path),
    }
    return make[format_name or format_of(path, "lines")]()


def _dead_letters(path: str) -> Source:
    from mpengine.deadletters import dead_letters

    return dead_letters(path)


def sink_of(path: str, format_name: str | None) -> Sink:
    """Return the output that ``--output`` names.

    Args:
        path: what it names.
        format_name: what ``--output-format`` names; None: by the file's name.

    Raises:
        PipelineError: something that it takes is not installed.
    """
    from mpengine import sinks

    kind = format_name or format_of(path, "jsonl")
    if kind == "lines":
        return sinks.lines(path)
    if kind == "csv":
        delimiter = "\t" if plain_name(path).suffix.lower() == ".tsv" else ","
        return sinks.csv(path, delimiter=delimiter)
    if kind == "parquet":
        if path == "-":
            raise click.UsageError("cannot write Parquet to standard output: it takes a file")
        return sinks.parquet(path)
    return sinks.jsonl(path)
