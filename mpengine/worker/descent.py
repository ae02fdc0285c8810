"""What user code has started in a worker, told from the rest of the machine, so that it ends with the worker.

What stays in a worker's process group is killed with the group.  A program in a session of its own has left the group,
and a process that has lost its parent has left the tree.  So:

A1. The nursery is a subreaper: an orphan below it becomes its child, however far away it has gone.  What is a child of
    the nursery's and no worker, user code has started.
A2. A program that was started in a worker carries a cookie in its environment, which names registry and worker.  It is
    killed when that worker is gone; the daemon of a worker that lives is left alone.
A3. One with no cookie of this registry was given an environment of its own.  Nobody can tell whose it was; it is killed
    when the next worker dies, for most often that is the one it has just lost, and never at another time.
A4. One with the registry's cookie alone was forked and has started no program.  It ends by its lifelines (rule L5 of
    `mpengine.worker.lifeline`), and with the nursery at the latest.
A5. What is killed may leave children; they come up the same way, and are looked at when it has been buried.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any, Final

COOKIE_NAME: Final = "MPENGINE_COOKIE"
_PR_SET_CHILD_SUBREAPER: Final = 36
_COOKIE_BYTES: Final = COOKIE_NAME.encode() + b"="


def tagged(cookie: str, worker_id: int, generation: int) -> str:
    """The cookie of a worker: the registry's, and which worker it is."""
    return f"{cookie}.{worker_id}.{generation}"


def adopt_orphans() -> bool:
    """Have whatever is orphaned below this process become its child (A1); returns whether the kernel can."""
    try:
        import _ctypes  # the half of ctypes that is needed; the other is a slow import, and private is neither

        program: Any = None
        prctl = _ctypes.dlsym(_ctypes.dlopen(program, 0), "prctl")
        result: int = _ctypes.call_function(prctl, (_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
    except (ImportError, OSError, AttributeError):  # some Pythons come without ctypes
        return False
    return result == 0


def children_of(pid: int) -> list[int]:
    """The children of a process, zombies among them."""
    return [child for child in _numbers() if _parent_of(child) == pid]


def own_children() -> list[int]:
    """The children of this process, zombies among them.

    Where the kernel lists them, that is a look at one file instead of one for each process of the machine.  Its list is
    whole: what could take a child off it meanwhile is burying it, and whoever asks here buries nobody at that time.
    """
    me = os.getpid()
    found: list[int] = []
    try:
        for thread in os.listdir("/proc/self/task"):  # noqa: PTH208 - pathlib is a slow import
            with open(f"/proc/self/task/{thread}/children", "rb", buffering=0) as file:  # noqa: PTH123 - as above
                found += map(int, file.readall().split())
    except OSError:  # not every kernel has it
        return children_of(me)
    return found


def bearers_of(cookie: str) -> list[int]:
    """The processes of this machine whose environment bears a cookie, or one that was tagged with a worker."""
    return [pid for pid in _numbers() if belongs(cookie_of(pid), cookie)]


def belongs(found: str, cookie: str) -> bool:
    """Whether a cookie is `cookie`, or names a part of what that names."""
    return found == cookie or found.startswith(cookie + ".")


def cookie_of(pid: int) -> str:
    """The cookie in the environment that a program was started with; empty where there is none, or it has gone."""
    for variable in _read(pid, "environ").split(b"\0"):
        if variable.startswith(_COOKIE_BYTES):
            return variable.removeprefix(_COOKIE_BYTES).decode("utf-8", "replace")
    return ""


def kill(pid: int) -> bool:
    """Kill a child of this process, which keeps its number until it is buried; returns whether that was allowed."""
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def end_all_children() -> None:
    """Kill whatever is a child of this process, and bury it, until none is left that may be killed."""
    with contextlib.suppress(ChildProcessError):
        while True:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            if not sum(map(kill, own_children())):
                return  # what runs as another user, by sudo, may not be killed, and is not waited for
            os.waitpid(-1, 0)


def kill_bearers(cookie: str, give_up_at: float) -> None:
    """Kill all processes of this machine that bear a cookie, and what they have started meanwhile.

    Args:
        cookie: A registry's or a worker's.
        give_up_at: When to stop, on the monotonic clock.
    """
    while found := bearers_of(cookie):
        with contextlib.ExitStack() as stack:
            ended = select.poll()
            left = 0
            for pid in found:
                with contextlib.suppress(OSError):  # it has gone, or may not be killed
                    pidfd = os.pidfd_open(pid)
                    stack.callback(os.close, pidfd)
                    if belongs(cookie_of(pid), cookie):  # asked once more: the number may be a stranger's by now
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                        ended.register(pidfd, select.POLLIN)
                        left += 1
            while left and (at := time.monotonic()) < give_up_at:
                for pidfd, _ in ended.poll((give_up_at - at) * 1000):
                    ended.unregister(pidfd)
                    left -= 1
        if time.monotonic() >= give_up_at:
            return


class Strays:
    """The children of this process that are no workers.

    Args:
        cookie: The registry's.
    """

    def __init__(self, cookie: str) -> None:
        self._cookie = cookie
        # What preloaded modules have started is the nursery's own.
        self._kept = frozenset(own_children()) if adopt_orphans() else frozenset()
        self._is_after_death = False

    def bury(self, workers: Collection[int]) -> bool:
        """Collect the exit statuses of those that have ended; returns whether there were any."""
        buried = False
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if ended.si_pid in workers:
                    break  # it has ended just now, and its own signal is on the way
                os.waitpid(ended.si_pid, 0)
                buried = True
        return buried

    def kill_left(self, workers: Collection[int], cookies: Collection[str], *, has_died: bool) -> None:
        """Kill those whose worker is gone.

        Args:
            workers: The numbers of the workers that are alive.
            cookies: Theirs.
            has_died: Whether a worker has died just now.
        """
        self._is_after_death |= has_died
        strays = [pid for pid in own_children() if pid not in workers and pid not in self._kept]
        killed = [pid for pid in strays if not self._is_spared(cookie_of(pid), cookies) and kill(pid)]
        if not killed:
            self._is_after_death = False  # and with it all that came up when it and its like were killed (A5)

    def _is_spared(self, cookie: str, cookies: Collection[str]) -> bool:
        if not belongs(cookie, self._cookie):
            return not self._is_after_death  # A3
        return cookie == self._cookie or any(belongs(cookie, owner) for owner in cookies)


def _numbers() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - a fifth of the time
    except OSError:  # another kind of system
        return []


def _parent_of(pid: int) -> int:
    fields = _read(pid, "stat").rpartition(b")")[2].split()  # a program's name may hold anything, ")" too
    return int(fields[1]) if len(fields) > 1 else -1


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:  # noqa: PTH123 - as above
            return file.read()
    except OSError:  # gone, or not ours to read
        return b""
