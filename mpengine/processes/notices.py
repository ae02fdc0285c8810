"""What a registry has to tell about its workers."""

from __future__ import annotations

from mpengine.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from mpengine.processes.identity import ProcessIdentity


@dataclass(frozen=True, slots=True)
class Started:
    """The worker's process exists."""

    worker_id: int
    generation: int
    identity: ProcessIdentity


@dataclass(frozen=True, slots=True)
class Exited:
    """The worker's process has been buried, and its process group with it.

    Args:
        worker_id: Number of its slot.
        generation: As in its boot.
        identity: Of the process that was.
        exitcode: As multiprocessing gives it: a signal's number, negative, or what the worker left with.
        peak_rss: Bytes of resident memory that it had at most; 0 when unknown.
    """

    worker_id: int
    generation: int
    identity: ProcessIdentity
    exitcode: int
    peak_rss: int = 0


@dataclass(frozen=True, slots=True)
class StartFailed:
    """A worker did not come to be, or ended before it reached its entry.

    Args:
        worker_id: Whose start failed.  None: the fork server failed, and every start that had no answer yet is void.
        reason: For people; with the traceback, if there is one.
    """

    worker_id: int | None
    reason: str


Notice: TypeAlias = Started | Exited | StartFailed
