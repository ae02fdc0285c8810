"""Where the runs of this user on this machine are listed: a folder that nobody else can look into or write to.

F1. It is ``$XDG_RUNTIME_DIR/mpengine`` (or ``/run/user/UID/mpengine``: a cron job lacks the variable) where that is
    there and ours, else ``/tmp/mpengine-UID``; not below ``$TMPDIR``, which the job and its viewer need not share.  Who
    writes takes the first that can be had, who reads looks into both.  ``MPENGINE_RUNTIME_DIR`` is the folder itself,
    and then there is no other.
F2. A folder is opened without following a link, and asked by its descriptor whose it is and who may enter it.  One that
    is another's, or open to others, is refused; all else is done by that descriptor, so that nobody can change what is
    meant in between.
F3. A file is made under its own name, or not at all where the name is taken; it is for its owner alone.
F4. Whatever is found in there is looked at before it is believed: no link is followed, no pipe is waited for.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE: Final = "MPENGINE_RUNTIME_DIR"
MAX_BYTES: Final = 1 << 17
TRIES: Final = 3


def places() -> list[str]:
    """Return the folders that runs may be listed in, the best first (F1)."""
    own = os.environ.get(VARIABLE)
    if own:
        return [own]
    uid = os.geteuid()
    found = []
    session = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}"
    with contextlib.suppress(OSError):
        if os.path.isabs(session) and os.stat(session).st_uid == uid:  # noqa: PTH116, PTH117 - pathlib is a slow import
            found.append(f"{session}/mpengine")
    common = "/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir()  # noqa: S108, PTH112 - see F1 and F2
    return [*found, f"{common}/mpengine-{uid}"]


class Folder:
    """An open folder that has been found to be ours alone (F2).

    Args:
        path: where it is.
        make: whether to make it where it is not there.

    Raises:
        PermissionError: it is another's, or others may enter it.
        OSError: it cannot be opened, or is a link.
    """

    def __init__(self, path: str, *, make: bool = False) -> None:
        self.path = path
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)  # noqa: PTH102 - as above
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _check(os.fstat(self._fd), path)
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def names(self) -> list[str]:
        """Return the names of what is in it."""
        return os.listdir(self._fd)  # noqa: PTH208 - of a descriptor

    def make(self, name: str, content: bytes) -> None:
        """Make a file (F3).

        Raises:
            FileExistsError: there is one of that name.
            OSError: it cannot be written; nothing of it is left.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=self._fd)
        try:
            if os.pwrite(fd, content, 0) < len(content):
                os.pwrite(fd, content, 0)  # says what is in the way: no space, a quota
        except BaseException:
            self.remove(name)
            raise
        finally:
            os.close(fd)

    def overwrite(self, name: str, content: bytes) -> None:
        """Write the beginning of a file anew, in one call.

        Raises:
            OSError: there is no such file, or it cannot be written.
        """
        fd = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            os.pwrite(fd, content, 0)
        finally:
            os.close(fd)

    def open(self, name: str) -> int:
        """Return a descriptor to read a file by, which is ours and a file (F4).

        Raises:
            OSError: there is no such file.
        """
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._fd)
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_size <= MAX_BYTES:
            return fd
        os.close(fd)
        raise PermissionError(1, "is no file of ours", name)

    def changed_at(self, name: str) -> float:
        """Return when a file was last written, in seconds since the epoch."""
        return os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_mtime

    def remove(self, name: str) -> None:
        """Remove a file, if it is there and can be."""
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._fd)


def _check(status: os.stat_result, path: str) -> None:
    if status.st_uid != os.geteuid():
        raise PermissionError(1, "belongs to another user", path)
    if status.st_mode & 0o777 != 0o700:  # noqa: PLR2004 - what it was made with
        raise PermissionError(1, f"has the rights {status.st_mode & 0o777:04o} and not 0700", path)


def open_all() -> Iterator[Folder]:
    """Yield the folders that are there and ours, each open until the next is asked for."""
    for path in places():
        try:
            folder = Folder(path)
        except OSError:
            continue
        with folder:
            yield folder


def make_in_first(name: str, content: bytes) -> str:
    """Make a file in the first folder that takes it; return the path of the folder.

    Raises:
        FileExistsError: there is one of that name.
        OSError: no folder takes it; what was wrong with the last one.
    """
    failure: OSError | None = None
    for path in places():
        for _ in range(TRIES):
            try:
                with Folder(path, make=True) as folder:
                    folder.make(name, content)
            except FileExistsError:
                raise
            except FileNotFoundError as error:  # whoever was the last in it has removed it meanwhile
                failure = error
            except OSError as error:
                failure = error
                break
            else:
                return path
    assert failure is not None  # noqa: S101 - there is always a place, and it was tried
    raise failure


def leave(path: str) -> None:
    """Remove a folder if nothing is in it."""
    with contextlib.suppress(OSError):
        os.rmdir(path)  # noqa: PTH106 - as above
