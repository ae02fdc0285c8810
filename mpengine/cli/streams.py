"""The files of a run: what it reads, what it writes, and what neither may be.

W1. Where a standard file is closed, something holds its number: else a pipe of the engine would get it, and a worker
    that prints would write into that.  (``backends.standard`` sees to that, from the beginning on.)
W2. Nothing of the output file is lost to a command that never ran: it is emptied when the run has begun.
W3. What is read is never what is written, by whatever names: the run would eat what it makes.
W4. Standard output is for values alone.  While code of the user's may run, here or in a worker, the number 1 is
    standard error, and the sink has a number of its own.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpengine.cli.speech import rendered
from mpengine.sinks import JsonLinesSink
from mpengine.sources import LineSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

STANDARD = Path("-")


@contextlib.contextmanager
def prints_diverted() -> Iterator[None]:
    """Have what is printed meanwhile, by whatever means, go to standard error (W4)."""
    kept = os.dup(1)
    _flush()
    os.dup2(2, 1)
    try:
        yield
    finally:
        _flush()
        os.dup2(kept, 1)
        os.close(kept)


def _flush() -> None:
    with contextlib.suppress(OSError, ValueError):  # whether what was printed can be read changes nothing
        if sys.stdout is not None:
            sys.stdout.flush()


def open_source(path: Path) -> LineSource:
    """Open what is read.

    Raises:
        UsageError: it cannot be.
    """
    if path == STANDARD and sys.__stdin__ is None:
        raise click.UsageError("cannot read standard input: it is closed")
    try:
        return LineSource(None if path == STANDARD else path)
    except OSError as error:
        raise click.UsageError(f"cannot read {_name(path, 'input')}: {error.strerror}") from error


def open_sink(path: Path, source: LineSource | None) -> JsonLinesSink:
    """Open what is written, but empty it not yet (W2).

    Args:
        path: the file, or ``STANDARD``.
        source: what is read.

    Raises:
        UsageError: it cannot be.
    """
    if path == STANDARD and sys.__stdout__ is None:
        raise click.UsageError("cannot write standard output: it is closed")
    try:
        if path == STANDARD:
            # A descriptor of its own: Python has nothing to flush into a broken pipe when it ends.
            sink = JsonLinesSink(os.dup(1))
        else:
            sink = JsonLinesSink(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666), replaces=True)
    except OSError as error:
        raise click.UsageError(f"cannot write {_name(path, 'output')}: {error.strerror}") from error
    if source is not None and _is_same_file(source.fileno(), sink.fileno()):
        sink.close()
        raise click.UsageError(f"{_name(path, 'output')} cannot be input and output at once")
    return sink


def write_tables(*things: RenderableType) -> None:
    """Write to standard output what rich can render.

    Raises:
        UsageError: it is closed.
        SinkError: it takes nothing.
    """
    from rich.console import Console

    console = Console()
    text = rendered(console, *things).encode(console.encoding, "replace")
    with open_sink(STANDARD, None) as sink:
        sink.write_bytes(text)


def is_where_errors_go(fd: int) -> bool:
    """Whether standard error is the same file, pipe or terminal as ``fd``."""
    return os.path.sameopenfile(fd, 2)


def _is_same_file(one: int, other: int) -> bool:
    """Whether both are the same regular file (W3); a terminal, for one, is read and written at once every day."""
    return stat.S_ISREG(os.fstat(one).st_mode) and os.path.sameopenfile(one, other)


def _name(path: Path, role: str) -> str:
    return f"standard {role}" if path == STANDARD else str(path)
