"""The writer of a run's entry: made once, noted in from time to time, and gone with the run.

L1. One thread writes; ``end`` may come from any, any number of times, and takes no lock.  A writer that is at it when
    the end comes looks once more when it is done: so nothing is listed that is over.
L2. A file that has gone (the session's folder is emptied when its user logs out) is made again with the next note.
"""

from __future__ import annotations

import os
import secrets
from typing import Final

from mpengine.monitor import entries, folder
from mpengine.records import replace

LETTERS: Final = "bcdfghjkmnpqrstvwxz"
SIGNS: Final = LETTERS + "23456789"
ID_LENGTH: Final = 4
TRIES: Final = 20


def new_id() -> str:
    """Return what a run may be called: easy to type, and no number, since processes have those."""
    return secrets.choice(LETTERS) + "".join(secrets.choice(SIGNS) for _ in range(ID_LENGTH - 1))


class Listing:
    """The entry of one run.

    Args:
        entry: what never changes; its ``run_id`` is chosen here.
    """

    def __init__(self, entry: entries.RunEntry) -> None:
        self._entry = entry
        self._place: str | None = None
        self._is_over = False
        self._pid = os.getpid()

    @property
    def run_id(self) -> str:
        """What the run is called; empty before it is listed."""
        return self._entry.run_id

    def note(self, figures: entries.RunFigures) -> None:
        """Say how far the run is.

        Raises:
            OSError: it cannot be written.
        """
        if self._is_over:
            return
        try:
            self._write(figures)
        finally:
            if self._is_over:  # it came to its end meanwhile (L1)
                self._remove()

    def _write(self, figures: entries.RunFigures) -> None:
        if self._place is not None:
            try:
                with folder.Folder(self._place) as opened:
                    opened.overwrite(entries.name_of(self.run_id), entries.pack_figures(figures))
            except FileNotFoundError:
                self._place = None  # and is made again (L2)
            else:
                return
        self._make(figures)

    def _make(self, figures: entries.RunFigures) -> None:
        for _ in range(TRIES):
            entry = self._entry if self.run_id else replace(self._entry, run_id=new_id())
            try:
                self._place = folder.make_in_first(entries.name_of(entry.run_id), entries.pack(entry, figures))
            except FileExistsError:
                self._entry = replace(entry, run_id="")
                continue
            self._entry = entry
            return
        raise FileExistsError(17, "every name that was tried is taken")

    def end(self, figures: entries.RunFigures | None = None) -> None:
        """Say how the run has ended, to those who have the file open, and remove it."""
        if self._is_over and self._place is None:
            return
        self._is_over = True
        place = self._place
        if figures is not None and place is not None and os.getpid() == self._pid:
            try:
                with folder.Folder(place) as opened:
                    opened.overwrite(entries.name_of(self.run_id), entries.pack_figures(figures))
            except OSError:
                pass  # then they see that it is gone
        self._remove()

    def _remove(self) -> None:
        place, self._place = self._place, None
        if place is None or os.getpid() != self._pid:
            return
        try:
            with folder.Folder(place) as opened:
                opened.remove(entries.name_of(self.run_id))
        except OSError:
            return  # it is not ours any more, or gone
        folder.leave(place)
