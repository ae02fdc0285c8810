"""A command with places for its arguments, as GNU parallel writes them.

======================  =====================================================================
``{}``                  the argument; of several, each as a word of its own where it stands alone
``{.}``                 without its extension
``{/}``                 its last part, without folders
``{//}``                its folder; ``.`` where it names none
``{/.}``                its last part without extension
``{#}``                 the number of the job, from 1
``{%}``                 the number of the slot that runs it, from 1
``{2}``, ``{2/.}``      the second argument, and so on; ``{-1}`` is the last
======================  =====================================================================

M1. A command of words starts a program without a shell: an argument is one word, whatever it holds.
M2. A line is for the shell, and each argument is quoted in it: none is ever read as anything but an argument.
M3. A command with no place for an argument gets all of them at its end.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from mpengine.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SHELL = "/bin/sh"
_PLACE = re.compile(r"\{(?:(?P<count>[#%])|(?P<number>-?[1-9]\d*)?(?P<part>\.|/\.|//|/)?)\}")


def without_extension(text: str) -> str:
    """Return ``text`` up to the last dot of its last part."""
    dot = text.rfind(".")
    return text if dot <= text.rfind("/") else text[:dot]


def last_part(text: str) -> str:
    """Return what stands behind the last slash."""
    return text[text.rfind("/") + 1 :]


def folder_of(text: str) -> str:
    """Return what stands before the last slash; ``.`` where there is none."""
    head, slash, _ = text.rpartition("/")
    return (head.rstrip("/") or "/") if slash else "."


_PARTS: dict[str, Callable[[str], str]] = {
    "": lambda text: text,
    ".": without_extension,
    "/": last_part,
    "//": folder_of,
    "/.": lambda text: without_extension(last_part(text)),
}


@dataclass(frozen=True, slots=True)
class _Place:
    """A place in a command.

    Attributes:
        count: ``#`` or ``%``; empty for an argument.
        number: which argument; 0 for all.
        part: which part of it.
    """

    count: str
    number: int
    part: str

    def values(self, seq: int, slot: int, args: Sequence[str]) -> list[str]:
        if self.count:
            return [str(seq if self.count == "#" else slot)]
        if self.number:
            index = self.number - 1 if self.number > 0 else self.number
            args = args[index : index + 1 or None]
        shorten = _PARTS[self.part]
        return [shorten(arg) for arg in args]


_Word = tuple[str | _Place, ...]


@dataclass(frozen=True, slots=True)
class Template:
    """A command to be filled in.

    Attributes:
        words: of a program and what it is given; or one line for the shell.
        is_line: whether it is that line.
        is_whole: whether the argument is itself the line, as it stands.
    """

    words: tuple[str, ...]
    is_line: bool = False
    is_whole: bool = False

    @property
    def has_places(self) -> bool:
        """Whether there is any place for an argument."""
        return any(_PLACE.search(word) for word in self.words)

    def filler(self) -> Callable[[int, int, Sequence[str]], list[str]]:
        """Return the function that makes, of a job's number, its slot and its arguments, the words of a command."""
        if self.is_whole:
            return lambda _seq, _slot, args: [SHELL, "-c", args[0]]
        words = [_parse(word) for word in self.words]
        if not self.has_places:  # M3
            everything = _Place("", 0, "")
            if self.is_line:
                words = [(*words[0], " ", everything)]
            else:
                words.append((everything,))
        if self.is_line:
            line = words[0]
            return lambda seq, slot, args: [SHELL, "-c", "".join(_quoted(part, seq, slot, args) for part in line)]
        return lambda seq, slot, args: [filled for word in words for filled in _filled(word, seq, slot, args)]

    def text(self, words: Sequence[str]) -> str:
        """Return the words of a command as a line that a shell would take."""
        return words[-1] if self.is_line else shlex.join(words)


def _parse(word: str) -> _Word:
    parts: list[str | _Place] = []
    end = 0
    for found in _PLACE.finditer(word):
        parts.append(word[end : found.start()])
        parts.append(_Place(found["count"] or "", int(found["number"] or 0), found["part"] or ""))
        end = found.end()
    parts.append(word[end:])
    return tuple(part for part in parts if part)


def _filled(word: _Word, seq: int, slot: int, args: Sequence[str]) -> list[str]:
    if len(word) == 1 and isinstance(word[0], _Place):
        return word[0].values(seq, slot, args) or ([] if not word[0].number else [""])
    return ["".join(part if isinstance(part, str) else " ".join(part.values(seq, slot, args)) for part in word)]


def _quoted(part: str | _Place, seq: int, slot: int, args: Sequence[str]) -> str:
    return part if isinstance(part, str) else " ".join(map(shlex.quote, part.values(seq, slot, args)))
