"""Each value a file of its own, in one folder: ``(name, content)``.

A file is written beside its place, brought to the disk, and gets its name then: under that there is all of it or what
was there before.  So there is nothing to be cut off when a run goes on; what it does again replaces what it had done.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from mpengine.sinks.base import Sink, type_name, write_all
from mpengine.sinks.inorder import sync_folder

if TYPE_CHECKING:
    from mpengine.sinks.base import Token

UNFINISHED = ".mpengine-part"
MAX_SHOWN = 200


class FilesSink(Sink):
    """See ``files``."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        super().__init__(str(folder))
        self._unfinished = self._folder / UNFINISHED
        self._touched: set[Path] = set()

    def open(self) -> None:
        """See ``Sink``; the folder is made where there is none."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._root = self._folder.resolve()

    @property
    def name(self) -> str:
        """The folder's absolute path."""
        return str(self._folder.absolute())

    def rewind(self, position: Any) -> None:
        """See ``Sink``: whole files are all that there is."""
        self.open()
        if position is not None:
            self.written = position["values"]

    def write(self, value: Any) -> None:
        """Write a file.

        Args:
            value: its name, relative to the folder, and its content, bytes or text.
        """
        if not (isinstance(value, tuple | list) and len(value) == 2):  # noqa: PLR2004 - name and content
            raise self._misfit(f"a file is a pair of name and content, not {type_name(value)}")
        name, content = value
        if not isinstance(content, bytes | bytearray | memoryview | str):
            raise self._misfit(f"the content of a file is bytes or text, not {type_name(content)}")
        target = self._target(name)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.parent.resolve().is_relative_to(self._root):
                raise self._misfit(f"the name {name!r} leads out of the folder")
            raw = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
            self._replace(target, raw)
        except UnicodeEncodeError as error:
            raise self._misfit(f"the text cannot be written in UTF-8: {error.reason}") from error
        except OSError as error:
            raise self._refusal(error) from error
        self._touched.add(target.parent)
        self.written += 1

    def _target(self, name: object) -> Path:
        """Return where a file is to be.

        Raises:
            SinkError: that is not in the folder, or is no place for a file.
        """
        if not isinstance(name, str | os.PathLike):
            raise self._misfit(f"the name of a file is text, not {type_name(name)}")
        text = os.fspath(name)
        if not isinstance(text, str) or not text or "\0" in text:
            raise self._misfit(f"{text!r:.{MAX_SHOWN}} is no name of a file")
        parts = PurePosixPath(text).parts
        if text.startswith("/") or ".." in parts or not parts or text.endswith("/"):
            raise self._misfit(f"the name {text!r:.{MAX_SHOWN}} leads out of the folder, or is none of a file")
        if parts == (UNFINISHED,):
            raise self._misfit(f"the name {text!r} is that of the file that is being written")
        return self._folder.joinpath(*parts)

    def _replace(self, target: Path, content: bytes | bytearray | memoryview) -> None:
        fd = os.open(self._unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            write_all(fd, content)
            os.fsync(fd)
        except OSError:
            self._unfinished.unlink()
            raise
        finally:
            os.close(fd)
        self._unfinished.replace(target)

    def position(self, *, is_last: bool = False) -> Token:
        """See ``Sink``."""
        del is_last  # each file is a place to be gone on from
        return {"values": self.written}

    def sync(self) -> None:
        """See ``Sink``: the files are on the disk, so it is their names that matter."""
        for folder in self._touched.copy():
            sync_folder(folder)
            self._touched.discard(folder)

    def close(self) -> None:
        """See ``Sink``."""
        try:
            self.sync()
        except OSError as error:
            raise self._refusal(error) from error

    def abort(self) -> None:
        """See ``Sink``: whole files stay."""
        self._touched.clear()
        with contextlib.suppress(OSError):
            self._unfinished.unlink()


def files(folder: str | os.PathLike[str]) -> Sink:
    """Return a sink that writes each value, a pair ``(name, content)``, as a file in a folder.

    Args:
        folder: where they go; it is made where there is none.  Names may lead into folders below it, which are made as
            well; one that leads out of it is refused.
    """
    return FilesSink(folder)
