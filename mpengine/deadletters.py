"""Dead letters: items that failed for good, kept in a file so that they can be run again.

Each is one line of JSON, with these keys:

    run             names the ``DeadLetter`` that has written it
    stage, index, attempts, worker_id, error, message, traceback     as in its ``ItemError``; ``error`` is the type
    item            the item as the source gave it, where it is plain JSON
    pickled         the item, pickled and in base64, where it is not
    malformed       in the place of an item, what was none: ``where`` it stood, and what it was, ``raw``
    output          the end of what it had printed, where the engine keeps that
    repr            the item in words, cut off; all that there is of one that cannot be pickled

D1. A line is written at once, in one piece, under a lock that other processes heed too.  What a full disk leaves of one
    is taken back; what a loss of power leaves of one is cut off before the next is written.
D2. Nothing is open between two letters.
D3. An item that has become many, and failed in several of them, has several letters; it is given again once.
D4. A file that is read is read as far as it went when it was opened: a run over its own dead letters has an end.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import math
import os
import pickle
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mpengine.bounded import bounded_text
from mpengine.errors import MalformedError, PipelineError
from mpengine.reading import Malformed, Reader, Source, malformed, read
from mpengine.sinks.base import write_all
from mpengine.sources.cutting import MAX_LINE_BYTES, NumberedLines

if TYPE_CHECKING:
    from mpengine.results import ItemError

MAX_DEPTH: Final = 100
TAIL_BYTES: Final = 1 << 16


class DeadLetter:
    """An error handler that keeps failed items in a file, to be looked at, and run again.

    ``Stage(f, on_error="side", error_handler=DeadLetter("failed.jsonl"))``; several stages may share one, and several
    runs.  Letters are added to what the file holds.  ``dead_letters(path)`` is the source that gives the items again.

    What is kept is the item as the source gave it, whichever stage it failed in: what a pipeline can be run with again.

    Args:
        path: the file, which is made when the first item fails.
        sync: have each letter on the disk before the run goes on, so that not even a loss of power loses it; without
            it, letters outlive this process however it ends.

    Raises:
        PipelineError: there is no such folder, or the path is a folder's.
    """

    def __init__(self, path: str | os.PathLike[str], *, sync: bool = False) -> None:
        self.path = Path(path).absolute()
        self.sync = sync
        self._run = os.urandom(8).hex()
        self._writing = threading.Lock()
        if not self.path.parent.is_dir():
            raise PipelineError(f"dead letters cannot be kept in {path}: there is no folder {self.path.parent}")
        if self.path.is_dir():
            raise PipelineError(f"dead letters cannot be kept in {path}: it is a folder")

    def __call__(self, item_error: ItemError, item: Any) -> None:
        """Keep one.

        Args:
            item_error: how it failed.
            item: as the source gave it.

        Raises:
            OSError: it cannot be written; the run ends with that.
        """
        letter = {"run": self._run, **letter_of(item_error, item)}
        content = json.dumps(letter).encode("ascii") + b"\n"
        with self._writing:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                _append(fd, content)
                if self.sync:
                    os.fsync(fd)
            finally:
                os.close(fd)

    def __repr__(self) -> str:
        return f"DeadLetter({str(self.path)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _dead_letter, (str(self.path), self.sync)


def _dead_letter(path: str, sync: bool) -> DeadLetter:  # noqa: FBT001 - pickle gives arguments by place
    return DeadLetter(path, sync=sync)


def _append(fd: int, content: bytes) -> None:
    """Write a line behind the last whole one (D1)."""
    size = os.fstat(fd).st_size
    end = _end_of_last_line(fd, size)
    if end < size:
        os.ftruncate(fd, end)
    try:
        write_all(fd, content)
    except OSError:
        os.ftruncate(fd, end)
        raise


def _end_of_last_line(fd: int, size: int) -> int:
    """Return where the last line that has an end has it."""
    end = size
    while end:
        start = max(0, end - TAIL_BYTES)
        place = os.pread(fd, end - start, start).rfind(b"\n")
        if place >= 0:
            return start + place + 1
        end = start
    return 0


def letter_of(item_error: ItemError, item: Any) -> dict[str, Any]:
    """Return what is kept of a failed item.

    Args:
        item_error: how it failed.
        item: as the source gave it; None where nobody has it.
    """
    letter: dict[str, Any] = {
        "stage": item_error.stage,
        "index": item_error.index,
        "attempts": item_error.attempts,
        "worker_id": item_error.worker_id,
        "error": type(item_error.error).__name__,
        "message": bounded_text(item_error.error),
        "traceback": item_error.traceback,
        "repr": item_error.item,
    }
    if item_error.output:
        letter["output"] = item_error.output
    try:
        item = read(item)
    except MalformedError as error:
        return letter | {"malformed": {"where": error.where, "raw": error.raw}}
    if _is_json(item):
        return letter | {"item": item}
    pickled = _pickled(item)
    return letter if pickled is None else letter | {"pickled": base64.b64encode(pickled).decode("ascii")}


def _pickled(item: object) -> bytes | None:
    with contextlib.suppress(Exception):  # whatever pickle cannot do, cloudpickle may
        content = pickle.dumps(item, 5)
        if b"__main__" not in content:
            return content
    import cloudpickle

    try:
        dumped: bytes = cloudpickle.dumps(item, 5)
    except Exception:  # noqa: BLE001 - then only its repr can be kept, and the letter tells so
        return None
    return dumped


def _is_json(thing: object, depth: int = 0) -> bool:
    """Whether ``thing`` is the same again when it has been JSON."""
    kind = type(thing)
    if thing is None or kind in (str, int, bool):
        return kind is not int or abs(thing) < 1 << 1000  # type: ignore[arg-type]  # an int here; more digits are refused by json
    if kind is float:
        return math.isfinite(thing)  # type: ignore[arg-type]  # it is one
    if depth > MAX_DEPTH:
        return False
    if kind is list:
        return all(_is_json(member, depth + 1) for member in thing)  # type: ignore[attr-defined]  # it is one
    if kind is dict:
        return all(type(key) is str and _is_json(value, depth + 1) for key, value in thing.items())  # type: ignore[attr-defined]  # it is one
    return False


class DeadLetters(Source):
    """See ``dead_letters``."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    def open(self) -> DeadLetterReader:
        """Open the file."""
        return DeadLetterReader(self._path)

    def __repr__(self) -> str:
        return f"dead_letters({str(self._path)!r})"


class DeadLetterReader(Reader):
    """The items in an open file of dead letters.

    Args:
        path: the file.

    Raises:
        OSError: the file cannot be opened, or is a folder.
    """

    def __init__(self, path: Path) -> None:
        self._lines = NumberedLines(path, MAX_LINE_BYTES, is_fixed=True)
        self._seen: set[int] = set()

    @property
    def given_share(self) -> float | None:
        """How much of the file has been given, 0 to 1."""
        return self._lines.given_share

    def fileno(self) -> None:
        """Return None: a run may add to the file that it reads (D4)."""

    def __next__(self) -> Any:
        while True:
            line = self._lines.next_line()
            if line is None:
                return Malformed(malformed(self._lines.where, self._lines.too_long()))
            if not line:
                raise StopIteration
            if line.isspace():
                continue
            try:
                letter = _letter(line, self._lines.where)
                if self._is_news(letter):
                    return item_of(letter, self._lines.where)
            except MalformedError as error:
                return Malformed(error)

    def _is_news(self, letter: dict[str, Any]) -> bool:
        """Whether no letter before was of the same item (D3)."""
        item = [letter.get(key) for key in ("run", "index", "item", "pickled", "malformed")]
        digest = hash(json.dumps(item))
        is_news = letter.get("run") is None or digest not in self._seen
        self._seen.add(digest)
        return is_news

    def interrupt(self) -> None:
        """End a wait for the next item."""
        self._lines.file.interrupt()

    def close(self) -> None:
        """Close the file."""
        self._lines.file.give_up()


def _letter(line: bytes, where: str) -> dict[str, Any]:
    """Return what stands in a line.

    Raises:
        MalformedError: it is no letter.
    """
    try:
        letter = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise malformed(where, f"is no dead letter: {error}", line.decode("utf-8", "replace")) from None
    if not isinstance(letter, dict) or "error" not in letter:
        raise malformed(where, "is no dead letter", line.decode("utf-8", "replace"))
    return letter


def item_of(letter: dict[str, Any], where: str) -> Any:
    """Return the item of a dead letter.

    Args:
        letter: the letter.
        where: it stands.

    Raises:
        MalformedError: there is no item in it.
    """
    if "item" in letter:
        return letter["item"]
    if "pickled" in letter:
        try:
            return pickle.loads(base64.b64decode(letter["pickled"]))  # noqa: S301 - as documented: from those one trusts
        except Exception as error:
            what = f"holds an item that cannot be unpickled: {type(error).__name__}: {bounded_text(error)}"
            raise malformed(where, what, letter.get("repr")) from error
    if isinstance(letter.get("malformed"), dict):
        raise malformed(where, f"holds no item: {letter.get('message')}", letter["malformed"].get("raw"))
    raise malformed(where, "holds no item, only what it looked like", letter.get("repr"))


def dead_letters(path: str | os.PathLike[str]) -> Source:
    """Return the items of a file that ``DeadLetter`` has written as a source.

    A letter that holds none, or is none, is an item that fails.  Items that are not plain JSON are unpickled, which
    runs code: read only files that were written by those whom you trust.

    Args:
        path: the file; it is read as far as it goes when the run begins, and may be added to meanwhile.
    """
    return DeadLetters(path)
