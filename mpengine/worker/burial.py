"""The end of a child that leads a process group: what is left of the group is killed, and the exit status collected.

Until a child is buried nobody else can get its number, so that is the time to kill its group (rule N4 of
`mpengine.worker.nursery`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from mpengine.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

UNKNOWN_EXITCODE: Final = 255
_MAXRSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, slots=True)
class Burial:
    """What a child that has ended leaves to tell.

    Args:
        exitcode: As multiprocessing gives it (the signal's number, negative); `UNKNOWN_EXITCODE` when somebody else has
            collected the exit status.
        peak_rss: Bytes of resident memory that it had at most, as the kernel has counted them; 0 when unknown.
    """

    exitcode: int
    peak_rss: int = 0


def bury_nowait(pid: int) -> Burial | None:
    """Collect the exit status of a child that leads a group, and kill what is left of the group first (N4).

    Returns:
        What is left to tell of it; None while the child runs.
    """
    try:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        kill_group(pid)
        _, status, used = os.wait4(pid, 0)
    except ChildProcessError:
        return Burial(UNKNOWN_EXITCODE)
    return Burial(os.waitstatus_to_exitcode(status), used.ru_maxrss * _MAXRSS_UNIT)


def kill_and_bury(pid: int) -> int:
    """Kill a child with its group, and wait for it; returns its exit code, `UNKNOWN_EXITCODE` where others know it."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # else the number may be a stranger's by now
        kill_group(pid)
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        return UNKNOWN_EXITCODE
    return os.waitstatus_to_exitcode(status)


def kill_group(pid: int) -> None:
    """Kill the process group that `pid` leads; nothing left to kill, or not ours to kill, is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
