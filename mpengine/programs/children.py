"""A child process in a worker: started, waited for, ended when it has to be, and always buried.

H1. A child leads a process group of its own, so that what it starts can be ended with it.  Should this worker be
    killed, `mpengine.worker.descent` finds the child by its cookie; should the coordinator be, the nursery ends all
    below it.
H2. Its output goes into files without a name: they need no reader while it runs, a program that it leaves in the
    background keeps nobody waiting, and nothing has to be removed.
H3. A child is ended in order: SIGTERM to its group, SIGKILL ``GRACE_S`` later to what is left of it.
H4. A group is signalled only while its leader is not buried: until then nobody else can get its number.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from typing import TYPE_CHECKING, Final

from mpengine.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

GRACE_S: Final = 0.35
_IGNORED: Final = [signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]
"""What Python, this package, or whoever started it may have ignored, which a program would inherit."""
_ASK_S: Final = 0.02
"""Where the kernel has no pidfd, the end of a child is asked for this often."""


@dataclass(slots=True, eq=False)
class Child:
    """A child that runs, or has ended and is not buried.

    Attributes:
        pid: its number; 0 once it is buried.
        fd: becomes readable when it has ended; -1 where the kernel has no such thing.
    """

    pid: int
    fd: int = -1

    def has_ended(self) -> bool:
        """Whether it has ended; it stays unburied."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def bury(self) -> int:
        """Collect its exit status, and forget it; waits for it if it has not ended.

        Returns:
            As ``os.waitstatus_to_exitcode``.
        """
        if self.fd != -1:
            os.close(self.fd)
            self.fd = -1
        pid, self.pid = self.pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def end(self) -> int:
        """End it and its group, and bury it (H3); nothing happens to one that is buried."""
        if not self.pid:
            return 0
        self._signal(signal.SIGTERM)
        self._wait_end(time.monotonic() + GRACE_S)
        self._signal(signal.SIGKILL)
        return self.bury()

    def _signal(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # what runs as another user is not ours to end
            os.killpg(self.pid, signum)

    def _wait_end(self, until: float) -> None:
        poll = select.poll()
        if self.fd != -1:
            poll.register(self.fd, select.POLLIN)
        while not self.has_ended() and (left_s := until - time.monotonic()) > 0:
            poll.poll(1000 * (left_s if self.fd != -1 else min(left_s, _ASK_S)))

    @property
    def look_s(self) -> float | None:
        """How long to wait for its end before it is asked for; None: until it is told."""
        return None if self.fd != -1 else _ASK_S


def start(words: list[str], environ: Mapping[bytes, bytes], out: int, err: int) -> Child:
    """Start a program.

    It gets an empty standard input and this process's folder, and no signal is ignored or held back.

    Args:
        words: its name and what it is given.
        environ: its environment.
        out: where its standard output goes.
        err: where its standard error goes.

    Raises:
        OSError: it cannot be started.
        ValueError: a word holds what no word can.
    """
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, out, 1),
        (os.POSIX_SPAWN_DUP2, err, 2),
    ]
    pid = os.posix_spawnp(
        words[0], words, environ, file_actions=actions, setpgroup=0, setsigmask=(), setsigdef=_IGNORED
    )
    try:
        return Child(pid, os.pidfd_open(pid))
    except (OSError, AttributeError):
        return Child(pid)


def nameless_file(folder: str) -> int:
    """Open a file that has no name any more, and return its descriptor; whoever closes it last removes it.

    Raises:
        OSError: there is no room for one.
    """
    with contextlib.suppress(OSError, AttributeError):  # not every file system has it
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
    import tempfile

    fd, name = tempfile.mkstemp(prefix="mpengine-", dir=folder)
    os.unlink(name)  # noqa: PTH108 - pathlib is a slow import
    return fd
