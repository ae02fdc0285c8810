"""What others get to see of one run, and what they may ask of it: the listing, the sights of workers, the asks.

    publisher's thread --- publish ---> board      (a call now and then; what was asked comes back with it)
                       --- note ------> the run's file, in the user's folder

K1. All of it happens on the publisher's thread, which nobody waits for; only ``remove`` may come from another.
K2. A run is listed once it has a board, so one that is over soon writes nothing.  A folder that cannot be written to
    costs the run its name, and one line in the log.
K3. Workers are looked at while somebody watches, and not before.
K4. What is asked is done or let be: an ask that makes no sense is nobody's error.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from mpengine.coordinator.scribe import WARNING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpengine.coordinator.scribe import Scribe
    from mpengine.coordinator.sightings import Sightings
    from mpengine.metrics import Snapshot
    from mpengine.monitor.board import BoardAddress, BoardProxy
    from mpengine.monitor.listing import Listing

NOTE_S: Final = 5.0
"""How often a run's file is told how far the run is: what is known of one whose coordinator was killed."""
SIGHT_S: Final = 0.25
ROUNDS: Final = 3


class Watched(Protocol):
    """The part of a run that others may see and touch."""

    @property
    def sightings(self) -> Sightings:
        """Who sees what each worker is at."""

    def cancel(self, reason: str) -> None:
        """Ask for the end."""

    def hurry(self) -> None:
        """Give up all patience."""


class Lookout:
    """Shows one run to others.

    Args:
        run: which.
        interval_s: between two snapshots.
        scribe: logs.
    """

    def __init__(self, run: Watched, interval_s: float, scribe: Scribe) -> None:
        """Show nothing yet."""
        self._run = run
        self._interval_s = interval_s
        self._scribe = scribe
        self._listing: Listing | None = None
        self._is_unlisted = False
        self._note_at = 0.0
        self._is_watched = False
        self._is_over = False

    def publish(self, board: BoardProxy, where: BoardAddress, take: Callable[[], Snapshot], *, is_due: bool) -> None:
        """Put a snapshot on the board if one is due or somebody watches, and do what was asked.

        Raises:
            OSError: the board cannot be reached.
        """
        for _ in range(ROUNDS):
            is_wanted = is_due or self._is_watched
            snapshot = take() if is_wanted else None
            if snapshot is not None:
                self._list(where, snapshot)
            has_looked = self._is_watched
            sights = self._run.sightings.ask(SIGHT_S) if has_looked else None
            self._is_watched, asks = board.publish(
                self._run_id,
                None if snapshot is None else snapshot.as_dict(),
                None if sights is None else sights.as_dict(),
            )
            for ask in asks:
                self._heed(board, ask)
            if not asks and (has_looked or not self._is_watched):
                return
            is_due = True  # who has just come, or has just changed something, need not wait for it

    @property
    def _run_id(self) -> str:
        return "" if self._listing is None else self._listing.run_id

    # ------------------------------------------------------------------ the list

    def _list(self, where: BoardAddress, snapshot: Snapshot) -> None:
        at = time.monotonic()
        if self._is_unlisted or (at < self._note_at and self._listing is not None):
            return
        self._note_at = at + NOTE_S
        try:
            if self._listing is None:
                self._listing = self._enter(where, snapshot)
                _sweep()
            self._listing.note(_figures(snapshot))
            if self._is_over:  # it came to its end meanwhile, and whoever knew it saw nothing to take off the list
                self._listing.end()
        except OSError as error:
            self._is_unlisted = True
            text = "the run goes on, and is in no list of runs: %s: %s"
            self._scribe.note(WARNING, text, type(error).__name__, str(error))

    def _enter(self, where: BoardAddress, snapshot: Snapshot) -> Listing:
        from mpengine import __version__
        from mpengine.monitor.entries import RunEntry
        from mpengine.monitor.listing import Listing
        from mpengine.processes.identity import ProcessIdentity, machine_mark

        return Listing(
            RunEntry(
                run_id="",
                pid=os.getpid(),
                start=ProcessIdentity.of(os.getpid()).start,
                machine=machine_mark(),
                command=_command(),
                folder=_folder(),
                stages=tuple([stage.name for stage in snapshot.stages]),
                workers=len(snapshot.workers),
                total=self._run.sightings.total,
                fans_out=self._run.sightings.fans_out,
                interval_s=self._interval_s,
                began_at=time.time() - snapshot.elapsed_s,
                address=where.address,
                authkey=where.authkey,
                version=__version__,
            )
        )

    def end(self, last: Snapshot) -> None:
        """Say how the run has ended, to whom it may concern, and take it off the list."""
        self._is_over = True
        listing = self._listing
        if listing is not None:
            listing.end(_figures(last, has_ended=True))

    def remove(self) -> None:
        """Take the run off the list, if it is still there; from any thread (K1)."""
        self._is_over = True
        listing = self._listing
        if listing is not None:
            listing.end()

    @property
    def is_listed(self) -> bool:
        """Whether there is anything to take off the list."""
        return self._listing is not None

    # ------------------------------------------------------------------ what is asked

    def _heed(self, board: BoardProxy, ask: Sequence[Any]) -> None:
        """Do what is asked, and say so (K4)."""
        match ask:
            case (int(number), _, "cancel" | "cancel at once" as kind, str(reason)):
                self._run.cancel(reason)
                if kind == "cancel at once":
                    self._run.hurry()
                board.answer(number, "cancelled")
            case (int(number), _, "stacks", _):
                board.answer(number, own_stacks())
            case _:
                pass


def _figures(snapshot: Snapshot, *, has_ended: bool = False) -> Any:
    from mpengine.monitor.entries import RunFigures

    return RunFigures(
        state=snapshot.state,
        reason=snapshot.reason,
        elapsed_s=snapshot.elapsed_s,
        source_items=snapshot.source_items,
        delivered=snapshot.delivered,
        failed=sum(stage.failed for stage in snapshot.stages),
        noted_at=time.time(),
        has_ended=has_ended,
    )


def _sweep() -> None:
    """Forget the runs that were killed long ago, which nobody may ever look for."""
    from mpengine.runs import KEPT_S, clear_dead

    clear_dead(KEPT_S)


def own_stacks() -> str:
    """Return where every thread of this process is, in words; the main thread first."""
    import traceback

    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main = threading.main_thread().ident
    told = []
    for ident, frame in sorted(sys._current_frames().items(), key=lambda found: (found[0] != main, found[0])):  # noqa: SLF001 - the one way there is
        told.append(f"thread {names.get(ident, ident)}\n{''.join(traceback.format_stack(frame))}")
    return "\n".join(told)


def _command() -> str:
    import shlex

    return shlex.join(getattr(sys, "orig_argv", None) or sys.argv)


def _folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - pathlib is a slow import
    except OSError:
        return ""
