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

from mpengine.cli.formats import sink_of, source_of
from mpengine.cli.speech import rendered
from mpengine.errors import SourceError
from mpengine.sinks.inorder import FileSink

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from mpengine.reading import Reader
    from mpengine.sinks.base import Sink

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


def open_source(path: Path, format_name: str | None = None) -> Reader:
    """Open what is read.

    Args:
        path: the file, or ``STANDARD``.
        format_name: its format; None: by its name.

    Raises:
        UsageError: it cannot be.
        PipelineError: something that it takes is not installed.
    """
    if path == STANDARD and sys.__stdin__ is None:
        raise click.UsageError("cannot read standard input: it is closed")
    source = source_of(str(path), format_name)
    try:
        return source.open()
    except OSError as error:
        raise click.UsageError(f"cannot read {_name(path, 'input')}: {error.strerror or error}") from error
    except SourceError as error:
        raise click.UsageError(str(error)) from error


def open_sink(path: Path, source: Reader | None, format_name: str | None = None) -> Sink:
    """Open what is written, but empty it not yet (W2).

    Args:
        path: the file, or ``STANDARD``.
        source: what is read.
        format_name: the output's format; None: by its name.

    Raises:
        UsageError: it cannot be.
        PipelineError: something that it takes is not installed.
    """
    if path == STANDARD and sys.__stdout__ is None:
        raise click.UsageError("cannot write standard output: it is closed")
    sink = sink_of(str(path), format_name)
    try:
        sink.open()
    except OSError as error:
        raise click.UsageError(f"cannot write {_name(path, 'output')}: {error.strerror or error}") from error
    written = sink.fileno()
    read = None if source is None else source.fileno()
    if read is not None and written is not None and _is_same_file(read, written):
        sink.abort()
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
    write_bytes(rendered(console, *things).encode(console.encoding, "replace"))


def write_bytes(content: bytes) -> None:
    """Write to standard output what is no value of a run.

    Raises:
        UsageError: it is closed.
        SinkError: it takes nothing.
    """
    if sys.__stdout__ is None:
        raise click.UsageError("cannot write standard output: it is closed")
    with FileSink(STANDARD) as sink:
        sink.begin()
        sink.write_bytes(content)


def is_where_errors_go(fd: int | None) -> bool:
    """Whether standard error is the same file, pipe or terminal as ``fd``."""
    return fd is not None and os.path.sameopenfile(fd, 2)


def _is_same_file(one: int, other: int) -> bool:
    """Whether both are the same regular file (W3); a terminal, for one, is read and written at once every day."""
    return stat.S_ISREG(os.fstat(one).st_mode) and os.path.sameopenfile(one, other)


def _name(path: Path, role: str) -> str:
    return f"standard {role}" if path == STANDARD else str(path)
