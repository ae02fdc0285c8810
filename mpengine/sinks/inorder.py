"""A file that is written in order: plain or compressed, in its place or beside it, cut off where it is taken up again.

Into a regular file content goes in blocks.  Into a pipe or a terminal each piece goes at once, since somebody may wait
for it; nothing is kept back then, so that closing never waits for a reader who has stopped reading.

A file that is made *atomically* is written under its name with ``.part`` behind it, and gets its name in the end: under
that there is what was there before, or all of it.  A run that goes on takes up the ``.part``.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from mpengine.compression import compression_of, compressor
from mpengine.errors import JournalError
from mpengine.sinks.base import Sink, SinkError

if TYPE_CHECKING:
    from mpengine.compression import Compressor
    from mpengine.sinks.base import Token

STANDARD = "-"
STREAM = "a stream"
COMPRESSED_INTERVAL_S = 10.0


class FileSink(Sink):
    """What all sinks have that write one file from its beginning to its end.

    Args:
        path: the file; ``"-"`` is standard output.
        atomic: whether it gets its name in the end.
    """

    def __init__(self, path: str | os.PathLike[str] | None, *, atomic: bool = False) -> None:
        self._path = None if path is None or str(path) == STANDARD else Path(path)
        super().__init__("the output" if self._path is None else str(self._path))
        self._kind = compression_of(self._path)
        self._is_atomic = atomic and self._path is not None
        self.interval_s = COMPRESSED_INTERVAL_S if self._kind else 0.0
        self._file: IO[bytes] | None = None
        self._member: Compressor | None = None
        self._is_regular = False
        self._replaces = True
        self._bytes = 0
        self._name = STREAM if self._path is None else str(self._path.absolute())

    @property
    def name(self) -> str:
        """An absolute path, also of a file that standard output leads to; else what it is."""
        return self._name

    @property
    def _target(self) -> Path | None:
        """The file that is written."""
        return self._path.with_name(f"{self._path.name}.part") if self._is_atomic and self._path else self._path

    def open(self) -> None:
        """See ``Sink``."""
        if self._file is not None:
            return
        target = self._target
        if target is None:
            # A descriptor of its own: Python has nothing to flush into a broken pipe when it ends.
            self.adopt(os.dup(1), replaces=False)
        else:
            self.adopt(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666), replaces=True)

    def adopt(self, fd: int, *, replaces: bool) -> None:
        """Write to a file that is open, and own it.

        Args:
            fd: the file.
            replaces: whether what is written takes the place of what it holds.
        """
        self._is_regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._file = cast("IO[bytes]", os.fdopen(fd, "wb", -1 if self._is_regular else 0))
        self._replaces = replaces and self._is_regular
        if self._is_regular and self._path is None:
            with contextlib.suppress(OSError):
                self._name = str(Path(f"/proc/self/fd/{fd}").readlink())
        if self._is_regular and not replaces:
            self._bytes = os.fstat(fd).st_size

    def fileno(self) -> int:
        """See ``Sink``."""
        return self._open_file.fileno()

    @property
    def _open_file(self) -> IO[bytes]:
        if self._file is None:
            raise SinkError(f"{self.label} is not open: begin() comes first")
        return self._file

    def begin(self) -> None:
        """See ``Sink``."""
        self.open()
        if self._replaces and not self._is_rewound:
            try:
                self._open_file.truncate(0)
            except OSError as error:
                raise self._refusal(error) from error

    def rewind(self, position: Any) -> None:
        """See ``Sink``."""
        target = self._target
        if position is not None and target is not None and position["bytes"] and not target.exists():
            raise JournalError(f"{self.label} cannot be gone on with: {target} is gone")
        self.open()
        if position is None or not self._is_regular:
            return  # S5; or there is nothing yet to go on from
        length = position["bytes"]
        file = self._open_file
        found = os.fstat(file.fileno()).st_size
        if found < length:
            known = f"{length:,} are known to have been written to it"
            raise JournalError(f"{self.name} has {found:,} bytes, and {known}")
        try:
            file.truncate(length)
            file.seek(length)
        except OSError as error:
            raise self._refusal(error) from error
        self._bytes = length
        self.written = position["values"]
        self._is_rewound = True
        self._take_up(position)

    def _take_up(self, token: dict[str, Any]) -> None:
        """Go on with what else the token tells."""

    def _tell(self) -> dict[str, Any]:
        """Return what else a token has to tell."""
        return {}

    def write_bytes(self, content: bytes) -> None:
        """Write ``content``, compressed where the file is.

        Raises:
            SinkClosedError: nobody reads the output any more.
            SinkError: the system refuses to write it.
        """
        if self._kind is not None:
            if self._member is None:
                self._member = compressor(self._kind)
            content = self._member.compress(content)
        self._put(content)

    def _put(self, content: bytes) -> None:
        file = self._open_file
        left = memoryview(content)
        try:
            while left:
                written = cast("int | None", file.write(left))
                if written is None:  # somebody made this pipe non-blocking, and it is full
                    select.select((), (file,), ())
                else:
                    left = left[written:]
                    self._bytes += written
        except OSError as error:
            raise self._refusal(error) from error

    def flush(self) -> None:
        """See ``Sink``; of a compressed file, a part stays behind until the next position."""
        try:
            self._open_file.flush()
        except OSError as error:
            raise self._refusal(error) from error

    def position(self, *, is_last: bool = False) -> Token:
        """See ``Sink``; a compressed file gets a new member behind it."""
        self.open()
        if self._kind is not None and self.written and not self._is_due(is_last=is_last):
            return None
        if self._kind is not None:
            self._end_member()
        self.flush()
        return {"bytes": self._bytes if self._is_regular else 0, "values": self.written, **self._tell()}

    def sync(self) -> None:
        """See ``Sink``."""
        if self._is_regular:
            os.fdatasync(self._open_file.fileno())

    def _sync(self) -> None:
        try:
            self.sync()
        except OSError as error:
            raise self._refusal(error) from error

    def _end_member(self) -> None:
        if self._member is not None:
            member, self._member = self._member, None
            self._put(member.flush())

    def close(self) -> None:
        """See ``Sink``."""
        if self._file is None:
            return
        try:
            if self._kind is not None and self._bytes == 0 and self._member is None and self._is_regular:
                self.write_bytes(b"")  # no values are an empty member: no file at all is no compressed file
            self._end_member()
            if self._is_atomic:
                self.flush()
                self._sync()
        except BaseException:
            self._let_go()
            raise
        try:
            self._file.close()
        except OSError as error:
            raise self._refusal(error) from error
        finally:
            self._file = None
        if self._is_atomic:
            self._name_it()

    def _name_it(self) -> None:
        target, path = self._target, self._path
        assert target is not None  # noqa: S101 - what is atomic has a path
        assert path is not None  # noqa: S101 - the same
        try:
            target.replace(path)
            sync_folder(path.parent)
        except OSError as error:
            raise self._refusal(error) from error

    def abort(self) -> None:
        """See ``Sink``: what was written stays, under ``.part`` where the file is made atomically."""
        if self._file is not None:
            with contextlib.suppress(SinkError):
                self._end_member()
            self._let_go()

    def _let_go(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk.

    Raises:
        OSError: the system refuses.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
