"""The names of files: those that match a pattern, and those of a whole folder.

Folder by folder, each in the order of its names, so that two runs see the same order, and that no more than the names
of one folder after the other are in memory.
"""

from __future__ import annotations

import fnmatch
import os
from typing import TYPE_CHECKING, Any

from mpengine.errors import SourceError
from mpengine.reading import Malformed, Reader, Source, malformed

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = frozenset("*?[")
ANY_DEPTH = "**"


class NameReader(Reader):
    """The names that ``found`` gives.

    Args:
        found: gives them, one after the other, and what cannot be read among them.
    """

    def __init__(self, found: Iterator[str | Malformed]) -> None:
        self._found = found
        self._is_over = False

    def __next__(self) -> Any:
        if self._is_over:
            raise StopIteration
        return next(self._found)

    def interrupt(self) -> None:
        """End it with the next name: none is waited for long."""
        self._is_over = True

    def close(self) -> None:
        """End it."""
        self._is_over = True


def entries_of(folder: str) -> tuple[list[os.DirEntry[str]], Malformed | None]:
    """Return what is in a folder, by name; and what fails in its place where that cannot be told."""
    try:
        with os.scandir(folder or ".") as found:
            return sorted(found, key=lambda entry: entry.name), None
    except OSError as error:
        where = f"the folder {folder}"
        return [], Malformed(malformed(where, f"cannot be read: {error.strerror}", folder))


def _is_folder(entry: os.DirEntry[str], *, follow: bool = False) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow)
    except OSError:
        return False


def walk(folder: str, pattern: str) -> Iterator[str | Malformed]:
    """Yield the files below a folder; links to folders are not followed, since they may lead back.

    Args:
        folder: where to begin.
        pattern: of the file's own name.
    """
    entries, problem = entries_of(folder)
    if problem is not None:
        yield problem
    for entry in entries:
        if _is_folder(entry):
            yield from walk(entry.path, pattern)
        elif not _is_folder(entry, follow=True) and fnmatch.fnmatchcase(entry.name, pattern):
            yield entry.path


def expand(folder: str, parts: tuple[str, ...]) -> Iterator[str | Malformed]:
    """Yield the files below a folder that match a pattern.

    Args:
        folder: where to begin; empty is the current one.
        parts: the pattern, cut at its slashes.
    """
    part, rest = parts[0], parts[1:]
    if not MAGIC & set(part):
        path = os.path.join(folder, part)  # noqa: PTH118 - names stay as they were given
        if rest:
            yield from expand(path, rest)
        elif os.path.lexists(path) and not os.path.isdir(path):  # noqa: PTH112 - the same
            yield path
        return
    if part == ANY_DEPTH and not rest:
        rest = ("*",)
    if part == ANY_DEPTH:
        yield from _expand_any_depth(folder, rest)
        return
    if folder and not os.path.isdir(folder):  # noqa: PTH112 - the same
        return
    entries, problem = entries_of(folder)
    if problem is not None:
        yield problem
    for entry in entries:
        if not _is_hidden(entry, part) and fnmatch.fnmatchcase(entry.name, part):
            yield from _matched(os.path.join(folder, entry.name), entry, rest)  # noqa: PTH118 - the same


def _matched(path: str, entry: os.DirEntry[str], rest: tuple[str, ...]) -> Iterator[str | Malformed]:
    """Yield what matches of an entry that matches: the file itself, or what is in the folder."""
    if _is_folder(entry, follow=True):
        if rest:
            yield from expand(path, rest)
    elif not rest:
        yield path


def _expand_any_depth(folder: str, rest: tuple[str, ...]) -> Iterator[str | Malformed]:
    """Yield what matches here, and then what does in each folder below."""
    yield from expand(folder, rest)
    entries, _ = entries_of(folder)
    for entry in entries:
        if _is_folder(entry) and not entry.name.startswith("."):
            yield from _expand_any_depth(os.path.join(folder, entry.name), rest)  # noqa: PTH118 - the same


def _is_hidden(entry: os.DirEntry[str], part: str) -> bool:
    return entry.name.startswith(".") and not part.startswith(".")


class Glob(Source):
    """See ``glob``."""

    def __init__(self, pattern: str | os.PathLike[str], *, missing_ok: bool) -> None:
        self._pattern = os.fspath(pattern)
        self._missing_ok = missing_ok

    def open(self) -> NameReader:
        """Begin to look.

        Raises:
            SourceError: nothing matches.
        """
        parts = tuple(part for part in self._pattern.split("/") if part)
        found = expand("/" if self._pattern.startswith("/") else "", parts) if parts else iter(())
        for first in found:
            return NameReader(_behind(first, found))
        if not self._missing_ok:
            raise SourceError(f"no file matches {self._pattern!r}")
        return NameReader(iter(()))

    def __repr__(self) -> str:
        return f"glob({self._pattern!r})"


def _behind(first: str | Malformed, others: Iterator[str | Malformed]) -> Iterator[str | Malformed]:
    yield first
    yield from others


class Tree(Source):
    """See ``tree``."""

    def __init__(self, folder: str | os.PathLike[str], pattern: str) -> None:
        self._folder = os.fspath(folder)
        self._pattern = pattern

    def open(self) -> NameReader:
        """Begin to look.

        Raises:
            OSError: there is no such folder.
        """
        with os.scandir(self._folder):
            pass
        return NameReader(walk(self._folder, self._pattern))

    def __repr__(self) -> str:
        return f"tree({self._folder!r})"


def glob(pattern: str | os.PathLike[str], *, missing_ok: bool = False) -> Source:
    """Return the names of the files that match a pattern as a source, folder by folder and sorted in each.

    Args:
        pattern: as a shell has it; ``**`` is any number of folders; names that begin with a dot are left out unless the
            pattern has the dot.  Folders are not given.
        missing_ok: whether it may be that there is none; else that is an error, since it mostly is a slip of the pen.
    """
    return Glob(pattern, missing_ok=missing_ok)


def tree(folder: str | os.PathLike[str], pattern: str = "*") -> Source:
    """Return the names of all files below a folder as a source, folder by folder and sorted in each.

    A folder that cannot be read is an item that fails.  Links to folders are not followed.

    Args:
        folder: where to begin.
        pattern: of the files' own names: ``"*.png"``.
    """
    return Tree(folder, pattern)
