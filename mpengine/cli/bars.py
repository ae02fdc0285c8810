"""A run as one line: ``--bar`` and ``--eta``.

Both are asked for, so they are shown where the values go to the same terminal, too; elsewhere than on a terminal they
are a line every few seconds.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mpengine.cli.frames import clock
from mpengine.cli.progress import ERASE, STANDARD_ERROR, Log, Pace, put_now

if TYPE_CHECKING:
    from mpengine.cli.gauge import Reading

_FULL, _LEFT = "#", "."


def eta_line(reading: Reading) -> str:
    """Return how far a run is, and when it will be through."""
    total = "?" if reading.total is None else f"{reading.total:,}"
    left = "unknown" if reading.left_s is None else clock(reading.left_s)
    each = f"{1 / reading.per_s:.3g} s" if reading.per_s else "unknown"
    failed = sum(stage.failed for stage in reading.stages)
    told = f"ETA: {left}, {reading.done:,} of {total} done, {each} a job"
    return f"{told}, {failed:,} failed" if failed else told


def bar_line(reading: Reading, columns: int) -> str:
    """Return a run as a bar, as wide as there is room for it."""
    if reading.share is None:
        return eta_line(reading)[:columns]
    share = f"{int(100 * reading.share):3d}% {reading.done:,}"
    left = "" if reading.left_s is None else f" {clock(reading.left_s)}"
    room = max(0, columns - len(share) - len(left) - 3)
    full = int(room * reading.share)
    return f"{share} [{_FULL * full}{_LEFT * (room - full)}]{left}"[:columns]


class Line:
    """One line of a terminal, written over again and again.

    Args:
        is_bar: whether it is a bar; a text else.
        fd: the terminal.
    """

    pace = Pace(0.5, 0.25)

    def __init__(self, *, is_bar: bool, fd: int = STANDARD_ERROR) -> None:
        """Show nothing yet."""
        self._is_bar = is_bar
        self._fd = fd
        self._has_shown = False

    def show(self, reading: Reading) -> None:
        """See ``Screen``."""
        import shutil

        columns = max(1, shutil.get_terminal_size().columns - 1)
        text = bar_line(reading, columns) if self._is_bar else eta_line(reading)[:columns]
        self._has_shown = True
        put_now(self._fd, f"{ERASE}{text}\r".encode("utf-8", "replace"))

    def clear(self) -> None:
        """See ``Screen``."""
        if self._has_shown:
            put_now(self._fd, ERASE.encode())


class LoggedLine(Log):
    """The same where standard error is no terminal: a line every few seconds."""

    def show(self, reading: Reading) -> None:
        """See ``Screen``."""
        put_now(self._fd, f"mpengine: {eta_line(reading)}\n".encode("utf-8", "replace"))


def choose_line(*, is_bar: bool) -> Line | LoggedLine:
    """Return where to show a run as a line."""
    return Line(is_bar=is_bar) if os.isatty(STANDARD_ERROR) else LoggedLine()
