"""Lines and tables for the person at the terminal: to standard error, where one that is broken changes nothing."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO, cast

import click

from mpengine.bounded import bounded_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console, RenderableType
    from rich.table import Table


def say(line: str) -> None:
    """Say one line."""
    _put(f"mpengine: {one_line(line)}\n")


def show(*things: RenderableType) -> None:
    """Show what rich can render."""
    from rich.console import Console

    _put(rendered(Console(stderr=True), *things))


def rendered(like: Console, *things: RenderableType) -> str:
    """Return ``things`` as the console ``like`` would write them.

    It does not touch its file: a console that meets a broken pipe ends the program, and one that captures flushes.
    """
    from rich.console import Console

    paper = _Paper(like.encoding)
    console = Console(
        file=paper,
        force_terminal=like.is_terminal,
        color_system=cast("Any", like.color_system),  # one of the names that it takes
        no_color=like.no_color,
        width=like.width,
        height=like.height,
    )
    for thing in things:
        console.print(thing)
    return paper.getvalue()


class _Paper(io.StringIO):
    """Text that says how it is going to be encoded, so that nothing is drawn that cannot be."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]  # the base has none
        return self._encoding


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str | None = None) -> Table:
    """Return a table whose first column is of words and whose other columns are of figures."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    made = Table(box=SIMPLE_HEAD, caption=caption, caption_justify="left")
    for number, head in enumerate(heads):
        made.add_column(head, justify="right" if number else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(Text, row))  # as text, so that brackets in a name are no markup
    return made


def in_one_line(error: BaseException) -> str:
    """Return the error's type and message."""
    return one_line(f"{type(error).__name__}: {bounded_text(error)}")


def one_line(text: str) -> str:
    """Return ``text`` without line ends, and without anything a terminal would take for a command."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def give_up_broken_streams() -> None:
    """Let go of what could not be written to the standard streams: Python would fail with it once more when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            _divert(stream)


def _put(text: str) -> None:
    # Nobody can be told that nobody can be told; what is left of it, give_up_broken_streams() sees to.
    with contextlib.suppress(OSError, ValueError):
        click.echo(text, nl=False, err=True)


def _divert(stream: TextIO) -> None:
    """Have what ``stream`` still holds end nowhere."""
    with contextlib.suppress(OSError, ValueError):
        fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.dup2(fd, stream.fileno())
        finally:
            os.close(fd)
        stream.flush()
