"""The runs of this user on this machine, for whoever wants to look at one: listed, attached to, asked to end.

    known_runs() ---> KnownRun, KnownRun, ...        attach(run) ---> Watch: look(), cancel(), parent_stacks()

N1. To look changes nothing.  A viewer that is killed or stopped, in the middle of a call too, is missed by nobody: what
    it talks to is the board's process, for which no run waits.
N2. Every call has an end: a board that does not answer in time is a ``GoneError``, or an answer that is None.
N3. A run whose process is gone is dead, whoever has its number now; its entry stays for ``KEPT_S``, or until somebody
    clears it away.
"""

from __future__ import annotations

import contextlib
import os
import time
from multiprocessing import AuthenticationError
from typing import TYPE_CHECKING, Any, Final, Self

from mpengine.metrics import Snapshot, StageMetrics, WorkerMetrics
from mpengine.monitor import entries, folder
from mpengine.monitor.sights import Sights
from mpengine.processes.identity import ProcessIdentity, machine_mark
from mpengine.records import dataclass, fields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpengine.monitor.board import BoardProxy
    from mpengine.monitor.entries import RunEntry, RunFigures

KEPT_S: Final = 86_400.0
"""How long the entry of a coordinator that was killed is kept."""
ANSWER_S: Final = 10.0
"""How long a run may take to answer; it looks for what is asked once a second at least."""

_UNREACHABLE: Final = (OSError, EOFError, AuthenticationError, AttributeError)
"""What a call raises where there is nobody, nobody who answers, somebody else, or a board of another version."""


class NoSuchRunError(LookupError):
    """No run is called that, or more than one is.

    Attributes:
        candidates: those that could be meant.
    """

    def __init__(self, message: str, candidates: Sequence[KnownRun] = ()) -> None:
        super().__init__(message)
        self.candidates = tuple(candidates)


class GoneError(Exception):
    """A run does not answer; the message says what is known of it."""


@dataclass(frozen=True, slots=True)
class KnownRun:
    """A run that is listed.

    Attributes:
        entry: what never changes of it.
        figures: how far it was when that was last noted, every few seconds.
        is_alive: whether its coordinator's process is there; None where nobody here can tell, since it is in another
            container.
        place: the folder that lists it.
    """

    entry: RunEntry
    figures: RunFigures
    is_alive: bool | None
    place: str

    @property
    def run_id(self) -> str:
        """What it is called."""
        return self.entry.run_id


def known_runs() -> tuple[KnownRun, ...]:
    """Return the runs that are listed, the oldest first; those whose coordinators were killed too.

    What cannot be read, or says what cannot be, is left out.
    """
    here = machine_mark()
    found = []
    for opened in folder.open_all():
        for name in opened.names():
            with contextlib.suppress(OSError, ValueError), _open(opened, name) as fd:
                entry, figures = entries.read(fd)
                found.append(KnownRun(entry, figures, _is_alive(entry, here), opened.path))
    return tuple(sorted(found, key=lambda run: (run.entry.began_at, run.run_id)))


def find_run(wanted: str | None = None) -> KnownRun:
    """Return the run that is called ``wanted``.

    Args:
        wanted: its name, the beginning of its name, or the number of its process; None: the only one that goes on.

    Raises:
        NoSuchRunError: there is none, or more than one.
    """
    runs = known_runs()
    if wanted is None:
        found = [run for run in runs if run.is_alive is not False]
        if not found:
            raise NoSuchRunError("no run goes on that has lasted long enough to be listed")
    else:
        found = [run for run in runs if wanted in {run.run_id, str(run.entry.pid)}]
        found = found or [run for run in runs if wanted and run.run_id.startswith(wanted)]
        if not found:
            raise NoSuchRunError(f"there is no run {wanted!r}", runs)
    if len(found) > 1:
        raise NoSuchRunError("there is more than one run", found)
    return found[0]


def clear_dead(older_than_s: float = 0.0) -> int:
    """Remove the entries of runs whose coordinators were killed, and what cannot be read.

    Args:
        older_than_s: only those in which nothing was written for so long.

    Returns:
        How many were removed.
    """
    here, removed = machine_mark(), 0
    for opened in folder.open_all():
        for name in [name for name in opened.names() if name.endswith(entries.SUFFIX)]:
            with contextlib.suppress(OSError):
                is_old = time.time() - opened.changed_at(name) >= older_than_s
                if is_old and not _may_go_on(opened, name, here):
                    opened.remove(name)
                    removed += 1
        folder.leave(opened.path)
    return removed


def _may_go_on(opened: folder.Folder, name: str, here: str) -> bool:
    """Whether a file is that of a run that may still go on, or is about to be written."""
    try:
        with _open(opened, name) as fd:
            return _is_alive(entries.read(fd)[0], here) is not False
    except ValueError:
        return time.time() - opened.changed_at(name) < ANSWER_S
    except OSError:
        return False


@contextlib.contextmanager
def _open(opened: folder.Folder, name: str) -> Any:
    if not name.endswith(entries.SUFFIX):
        raise ValueError("it is none of ours")
    fd = opened.open(name)
    try:
        yield fd
    finally:
        os.close(fd)


def _is_alive(entry: RunEntry, here: str) -> bool | None:
    if entry.machine != here:
        # Since the machine was started anew nobody of before is there; what another container has, nobody here sees.
        return None if entry.machine.partition(" ")[0] == here.partition(" ")[0] else False
    return ProcessIdentity.known(entry.pid, entry.start).is_there()


@dataclass(frozen=True, slots=True)
class View:
    """A run at one moment.

    Attributes:
        snapshot: its figures.
        sights: what each worker is at; None until the run has noticed that it is watched.
        age_s: how old that is.
        number: of the publication.
    """

    snapshot: Snapshot
    sights: Sights | None
    age_s: float
    number: int


def attach(run: KnownRun) -> Watch:
    """Return a watch on a run.

    Raises:
        GoneError: it is over or dead, or its entry can't be read any more.
    """
    try:
        with folder.Folder(run.place) as opened:
            fd = opened.open(entries.name_of(run.run_id))
    except OSError:
        raise GoneError(f"run {run.run_id} is over") from None
    return Watch(run, fd)


class Watch:
    """Looks at one run, and asks things of it; a context manager.

    Args:
        run: which.
        fd: its file, open: what is written there last can be read though the file has gone.
    """

    def __init__(self, run: KnownRun, fd: int) -> None:
        """Ask nothing yet."""
        self.run = run
        self._fd = fd
        self._board: BoardProxy | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the run, which does not notice; idempotent."""
        if self._fd != -1:
            os.close(self._fd)
            self._fd = -1
            from mpengine.monitor.board import forget

            forget(self.run.entry.address)

    def noted(self) -> RunFigures:
        """Return how far the run was when it last noted that; how it ended, if it has.

        Raises:
            GoneError: the file says nothing.
        """
        try:
            return entries.read_figures(self._fd)
        except (OSError, ValueError) as error:
            raise GoneError(f"run {self.run.run_id} cannot be read of: {error}") from None

    def is_alive(self) -> bool:
        """Whether its coordinator's process may still be there."""
        return _is_alive(self.run.entry, machine_mark()) is not False

    def look(self, seen: int = 0, wait_s: float = 0.0) -> View:
        """Return the run at this moment, and be known to watch for a few seconds.

        Args:
            seen: the ``number`` of the last view.
            wait_s: how long to wait for a younger one; half a second at most.

        Raises:
            GoneError: it does not answer, or is over (``noted`` then tells how it ended).
        """
        found = self._call("look", seen, wait_s)
        give_up_at = time.monotonic() + ANSWER_S
        while found["run_id"] != self.run.run_id:  # another's, on the same board: this one is over, or has just begun
            if self.noted().has_ended:
                raise GoneError(f"run {self.run.run_id} is over")
            if time.monotonic() > give_up_at:
                raise GoneError(f"run {self.run.run_id} has told nothing yet")
            found = self._call("look", found["number"], 0.5)
        sights = found["sights"]
        return View(
            snapshot=snapshot_of(found["figures"]),
            sights=None if sights is None else Sights.from_dict(sights),
            age_s=found["age_s"],
            number=found["number"],
        )

    def cancel(self, reason: str, *, at_once: bool = False, patience_s: float = ANSWER_S) -> bool:
        """Ask the run to end.

        Args:
            reason: becomes the result's reason, if nobody has given another one before.
            at_once: do not give workers their time to leave.
            patience_s: how long to wait until it has heard.

        Returns:
            Whether it has heard.  If not, the wish was taken back.

        Raises:
            GoneError: its board does not answer.
            ValueError: the reason is too long, or too much is asked already.
        """
        return self._ask("cancel at once" if at_once else "cancel", reason, patience_s) is not None

    def parent_stacks(self, patience_s: float = ANSWER_S) -> str | None:
        """Return where each thread of the coordinator is, in words; None when it does not answer in time.

        Raises:
            GoneError: its board does not answer.
        """
        return self._ask("stacks", "", patience_s)

    def _ask(self, kind: str, text: str, patience_s: float) -> str | None:
        number = self._call("ask", self.run.run_id, kind, text)
        give_up_at = time.monotonic() + patience_s
        is_taken = False
        while True:
            left_s = max(0.0, give_up_at - time.monotonic())
            answer: str | None = self._call("fetch", number, left_s)
            if answer is not None:
                return answer
            if not left_s:
                if is_taken or self._call("withdraw", number):
                    return None
                is_taken, give_up_at = True, time.monotonic() + 1.0  # it is being heard at this moment

    def _call(self, name: str, *args: Any) -> Any:
        try:
            if self._board is None:
                from mpengine.monitor.board import attach as attach_board

                self._board = attach_board(self.run.entry.address, self.run.entry.authkey)
            return getattr(self._board, name)(*args)
        except _UNREACHABLE as error:
            self._board = None
            raise GoneError(f"run {self.run.run_id} does not answer: {type(error).__name__}") from error


def snapshot_of(figures: dict[str, Any]) -> Snapshot:
    """Return the snapshot that ``Snapshot.as_dict`` has made plain; what another version has put there is let be."""
    made = _known(Snapshot, figures)
    made["stages"] = tuple(StageMetrics(**_known(StageMetrics, stage)) for stage in figures.get("stages", ()))
    made["workers"] = tuple(WorkerMetrics(**_known(WorkerMetrics, worker)) for worker in figures.get("workers", ()))
    return Snapshot(**made)


def _known(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    names = {one.name for one in fields(kind)}
    return {name: value for name, value in values.items() if name in names}
