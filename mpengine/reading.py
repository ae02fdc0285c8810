"""Inputs: what a source is, what it is when it is open, and what it may give in the place of a plain item.

A ``Source`` is a description: nothing is open, and every run that begins with it begins anew.  A ``Reader`` is an input
that is open, once; whoever has opened it closes it.  So:

L1. ``interrupt()`` may be called from any thread or signal handler, any number of times, and ends a wait at once: the
    reader sees the end.
L2. ``close()`` may be called so as well.  What a thread is reading at that moment is closed by that thread, so that
    none ever waits for a descriptor's number that another file has got meanwhile.

What it gives is an item, or

    Record      is read later: what stands in the file travels, and a worker makes an item of it
    Malformed   cannot be read: it fails in the pipeline's first stage, under that stage's policy, and nothing else does

A ``Malformed`` will not be packed, which is how an item fails before any function has seen it; the error is its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mpengine.errors import MalformedError
from mpengine.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, Self

MAX_RAW = 10_000
"""Characters of malformed input that are kept with its error."""


class Interruptible(Iterator["Any"]):
    """An iterator whose wait for the next item can be ended."""

    def interrupt(self) -> None:
        """End it, now and from now on; from any thread or signal handler."""
        raise NotImplementedError


class Record:
    """An item as it stands in the input."""

    __slots__ = ()

    def content(self) -> Any:
        """Return what stands there: what tells it from others, wherever in its input it stands."""
        raise NotImplementedError

    def read(self) -> Any:
        """Return the item.

        Raises:
            MalformedError: there is none in it.
        """
        raise NotImplementedError


class Malformed:
    """Stands for a part of the input that is no item.

    Args:
        error: says which part, and why.
    """

    __slots__ = ("error",)

    def __init__(self, error: MalformedError) -> None:
        self.error = error

    def __repr__(self) -> str:
        return f"<{self.error.where}>"

    def __reduce__(self) -> NoReturn:
        raise self.error


@dataclass(frozen=True, slots=True)
class Reading:
    """The stage that makes items of a source's records.

    Attributes:
        name: of the stage.
        function: what it runs.
    """

    name: str
    function: Callable[[Any], Any]


def read(item: Any) -> Any:
    """Return what a record holds; anything else as it is.

    Raises:
        MalformedError: there is no item in it.
    """
    if isinstance(item, Record):
        return item.read()
    if type(item) is Malformed:
        raise item.error
    return item


def content_of(item: Any) -> Any:
    """Return what tells an item from others: of a record its content, wherever in its input it stands."""
    if isinstance(item, Record):
        return item.content()
    if type(item) is Malformed:
        return item.error.where if item.error.raw is None else item.error.raw
    return item


def name_of(item: Any, key: Callable[[Any], Any] | None) -> Any:
    """Return what whoever remembers items is to call one.

    Args:
        item: as a source gave it.
        key: makes a name of an item that has been read; None: its content is its name.

    Raises:
        Exception: whatever ``key`` raises.
    """
    if key is None:
        return content_of(item)
    try:
        found = read(item)
    except MalformedError:
        return content_of(item)
    return key(found)


def malformed(where: str, what: str, raw: str | list[str] | None = None) -> MalformedError:
    """Return the error of a part of the input that is no item.

    Args:
        where: which part: ``"line 7 of in.jsonl"``.
        what: what is wrong with it; the end of a sentence that begins with ``where``.
        raw: what stands there.
    """
    error = MalformedError(f"{where} {what}")
    error.where = where
    if isinstance(raw, list) and sum(map(len, raw)) > MAX_RAW:
        raw = " ".join(raw)
    error.raw = raw[:MAX_RAW] if isinstance(raw, str) else raw
    return error


class Reader(Interruptible):
    """An open input, whose items can be had once.

    A context manager, which closes it.

    Attributes:
        reading: the stage that makes items of its records; None where it gives items.
        given_share: how much of it has been given, 0 to 1; None where that cannot be told.
    """

    reading: Reading | None = None

    @property
    def given_share(self) -> float | None:
        """How much of it has been given, 0 to 1; None where that cannot be told."""
        return None

    def fileno(self) -> int | None:
        """Return the number of its descriptor; None where it has none, or several."""
        return None

    def interrupt(self) -> None:
        """End a wait for the next item (L1); nothing to do where none can be long."""

    def close(self) -> None:
        """Close what is open (L2)."""

    def __iter__(self) -> Self:
        """Return the reader itself."""
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Source(Iterable["Any"]):
    """The description of an input, for the head of a pipeline; it can be read any number of times.

    Iterating over it gives its items here and now, and raises a ``MalformedError`` at what is none.  In a pipeline that
    is the failure of one item, and records are read by the workers.
    """

    reading: Reading | None = None
    """The stage that makes items of its records; None where it gives items."""

    def open(self) -> Reader:
        """Open the input.

        Raises:
            OSError: it cannot be opened.
            SourceError: it cannot be read.
        """
        raise NotImplementedError

    def __iter__(self) -> Iterator[Any]:
        """Yield its items."""
        with self.open() as reader:
            yield from map(read, reader)


class ReadHere(Reader):
    """A reader whose records are read here, for want of a stage that does it.

    Args:
        reader: whose.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def __next__(self) -> Any:
        try:
            return read(next(self._reader))
        except MalformedError as error:
            return Malformed(error)

    def interrupt(self) -> None:
        """End a wait for the next item."""
        self._reader.interrupt()

    def close(self) -> None:
        """Close what is open."""
        self._reader.close()
