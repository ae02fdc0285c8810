"""Lines of text, and lines of JSON.

The parent only cuts a JSON Lines file into lines; each worker parses those that it gets.  So the parent, which there is
one of, is not what holds the others up.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from mpengine.reading import Malformed, Reader, Reading, Record, Source, malformed, read
from mpengine.sources.cutting import MAX_LINE_BYTES, NumberedLines

if TYPE_CHECKING:
    import os

STANDARD = "-"


class LineBased(Reader):
    """What all have that cut a file into lines."""

    def __init__(self, path: Path | None, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._lines = NumberedLines(path, max_line_bytes)

    @property
    def given_share(self) -> float | None:
        """How much of the file its lines have come of, 0 to 1; None where that cannot be told."""
        return self._lines.given_share

    def fileno(self) -> int:
        """Return the number of the file's descriptor."""
        return self._lines.file.fileno()

    def interrupt(self) -> None:
        """End the source, also for a thread that is waiting for the next line."""
        self._lines.file.interrupt()

    def close(self) -> None:
        """End the source, also for a thread that is waiting for the next line, and close its file."""
        self._lines.file.give_up()

    def _too_long(self) -> Malformed:
        return Malformed(malformed(self._lines.where, self._lines.too_long()))


class LineSource(LineBased):
    """The lines of an open file without their line ends, as text.

    Lines end with LF or CRLF.  The text is UTF-8; other bytes come through as surrogates and can be encoded back.

    Args:
        path: the file; None reads standard input.
        max_line_bytes: a longer line is malformed.

    Raises:
        OSError: the file cannot be opened, or is a folder.
    """

    def __next__(self) -> str | Malformed:
        line = self._lines.next_line()
        if line:
            return line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "surrogateescape")
        if line is None:
            return self._too_long()
        raise StopIteration

    def release(self) -> None:
        """End the source and close its file."""
        self.close()


class JsonLine(Record):
    """A line of JSON, yet to be parsed.

    Args:
        line: the line.
        number: its number, from 1.
        name: of the file.
    """

    __slots__ = ("_line", "_name", "_number")

    def __init__(self, line: bytes, number: int, name: str) -> None:
        self._line = line
        self._number = number
        self._name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return JsonLine, (self._line, self._number, self._name)

    def __repr__(self) -> str:
        return f"line {self._number} of {self._name}: {self._line[:200].decode('utf-8', 'replace')}"

    def content(self) -> bytes:
        """Return the line."""
        return self._line

    def read(self) -> Any:
        """Return the value.

        Raises:
            MalformedError: it is none.
        """
        try:
            return _parse(self._line.decode("utf-8"))
        except UnicodeDecodeError as error:
            what = f"is not UTF-8: byte {error.start + 1} is 0x{self._line[error.start]:02x}"
        except json.JSONDecodeError as error:
            what = f"is not JSON: {error.msg} at column {error.colno}"
        except (ValueError, RecursionError) as error:
            what = f"is not JSON that can be read: {error}"
        raise malformed(f"line {self._number} of {self._name}", what, self._line.decode("utf-8", "replace"))


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_parse: Final = json.JSONDecoder(parse_constant=_refuse).decode


class JsonLineReader(LineBased):
    """The lines of an open file, each a value of JSON; blank ones are left out.

    Args:
        path: the file; None reads standard input.
        max_line_bytes: a longer line is malformed.

    Raises:
        OSError: the file cannot be opened, or is a folder.
    """

    reading = Reading("jsonl", read)

    def __next__(self) -> JsonLine | Malformed:
        lines = self._lines
        while True:
            line = lines.next_line()
            if line is None:
                return self._too_long()
            if not line:
                raise StopIteration
            if not line.isspace():
                return JsonLine(line.rstrip(b"\r\n"), lines.number, lines.name)


class Lines(Source):
    """See ``lines``."""

    def __init__(self, path: str | os.PathLike[str], max_line_bytes: int) -> None:
        self._path = _path(path)
        self._max_line_bytes = max_line_bytes

    def open(self) -> LineSource:
        """Open the file."""
        return LineSource(self._path, self._max_line_bytes)

    def __repr__(self) -> str:
        return f"lines({str(self._path or STANDARD)!r})"


class JsonLines(Source):
    """See ``jsonl``."""

    reading = JsonLineReader.reading

    def __init__(self, path: str | os.PathLike[str], max_line_bytes: int) -> None:
        self._path = _path(path)
        self._max_line_bytes = max_line_bytes

    def open(self) -> JsonLineReader:
        """Open the file."""
        return JsonLineReader(self._path, self._max_line_bytes)

    def __repr__(self) -> str:
        return f"jsonl({str(self._path or STANDARD)!r})"


def lines(path: str | os.PathLike[str], *, max_line_bytes: int = MAX_LINE_BYTES) -> Source:
    """Return the lines of a file as a source, as text and without their ends.

    Lines end with LF or CRLF, the last one may end with the file.  The text is UTF-8, with or without a mark at its
    beginning; other bytes come through as surrogates and can be encoded back.

    Args:
        path: the file; ``"-"`` is standard input; by ``.gz``, ``.xz`` or ``.zst`` at its end it is compressed.
        max_line_bytes: a longer line is an item that fails.
    """
    return Lines(path, max_line_bytes)


def jsonl(path: str | os.PathLike[str], *, max_line_bytes: int = MAX_LINE_BYTES) -> Source:
    """Return the values of a JSON Lines file as a source: one value of JSON a line, in UTF-8; blank lines do not count.

    The lines are parsed by the workers, in a stage ``jsonl`` that comes first.  One that is no JSON fails there, with a
    ``MalformedError`` that names it, under the policy of the pipeline's own first stage.

    Args:
        path: the file; ``"-"`` is standard input; by ``.gz``, ``.xz`` or ``.zst`` at its end it is compressed.
        max_line_bytes: a longer line is an item that fails.
    """
    return JsonLines(path, max_line_bytes)


def _path(path: str | os.PathLike[str]) -> Path | None:
    return None if str(path) == STANDARD else Path(path)
