"""The display of a run that goes on: a thread of its own that looks, and never touches.

G1. The run does not know of it.  It takes snapshots, which any thread may, and writes to standard error alone.
G2. Whatever goes wrong in it ends it, and nothing else: no line tells of that, since telling is what went wrong.
G3. It writes only what standard error takes at this moment, so a reader who has stopped reading, or a terminal that is
    stopped, is waited for by nobody.  Where the system says it would take something and then does not, the end of the
    run waits ``PATIENCE_S`` for this thread, which is a daemon, and goes on without it.
G4. On a terminal the cursor rests at the beginning of the frame, never behind it.  What somebody else writes there, a
    worker or a logger, pushes the frame down instead of being lost in it, and the next frame takes up from there.
G5. Where the values go to the same terminal, file or pipe, nothing is shown: they are the progress, and stay unmixed.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from mpengine.cli.streams import is_where_errors_go

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpengine.cli.gauge import Reading

PATIENCE_S = 1.0
ERASE = "\r\x1b[J"
STANDARD_ERROR = 2


@dataclass(frozen=True, slots=True)
class Pace:
    """When something is shown: first after ``first_s`` seconds, so that short runs show nothing, then regularly."""

    first_s: float
    every_s: float


class Screen(Protocol):
    """Where readings are shown."""

    pace: Pace

    def show(self, reading: Reading) -> None:
        """Show a reading, in the place of the one before where that can be done."""

    def clear(self) -> None:
        """Take back what is shown, where that can be done."""


class Terminal:
    """A frame that is drawn again and again.

    Args:
        fd: the terminal.
    """

    pace = Pace(0.5, 0.25)

    def __init__(self, fd: int = STANDARD_ERROR) -> None:
        self._fd = fd
        self._has_shown = False

    def show(self, reading: Reading) -> None:
        """See ``Screen``."""
        from rich.console import Console

        from mpengine.cli.frames import frame
        from mpengine.cli.speech import rendered

        size = Console(stderr=True).size  # asked each time: a terminal may be resized
        columns = max(1, size.width - 1)  # a full last column makes some terminals go to the next line
        console = Console(stderr=True, width=columns, height=size.height)
        text = rendered(console, *frame(reading, columns, size.height)).rstrip("\n")
        back = f"\r\x1b[{text.count(chr(10))}A"  # there is always more than one line
        self._has_shown = True
        put_now(self._fd, f"{ERASE}{text}{back}".encode(console.encoding, "replace"))

    def clear(self) -> None:
        """See ``Screen``."""
        if self._has_shown:
            put_now(self._fd, ERASE.encode())


class Log:
    """Lines, one every few seconds.

    Args:
        fd: where they go.
    """

    pace = Pace(5.0, 5.0)

    def __init__(self, fd: int = STANDARD_ERROR) -> None:
        self._fd = fd

    def show(self, reading: Reading) -> None:
        """See ``Screen``."""
        from mpengine.cli.frames import line

        text = f"mpengine: {line(reading)}".encode("utf-8", "replace")
        # A pipe that is ready takes so much without waiting; more might wait for its reader.
        put_now(self._fd, text[: select.PIPE_BUF - 1] + b"\n")

    def clear(self) -> None:
        """See ``Screen``."""


def choose_screen(values_fd: int | None) -> Screen | None:
    """Return where to show the progress of a run that writes its values to ``values_fd``; None for nowhere (G5)."""
    if sys.__stderr__ is None or is_where_errors_go(values_fd):
        return None
    if os.isatty(STANDARD_ERROR) and os.environ.get("TERM", "dumb") not in {"dumb", "unknown"}:
        return Terminal()
    return Log()


class Progress:
    """While entered, shows the readings that ``take`` returns.

    Args:
        screen: where; None shows nothing and starts no thread.
        take: returns the reading of this moment; None while there is nothing to read.
    """

    def __init__(self, screen: Screen | None, take: Callable[[], Reading | None]) -> None:
        self._screen = screen
        self._take = take
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._body, name="mpengine-progress", daemon=True)

    def __enter__(self) -> Self:
        if self._screen is not None:
            with contextlib.suppress(RuntimeError):  # no room for a thread: nothing is shown (G2)
                self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        if self._thread.ident is not None:
            self._thread.join(PATIENCE_S)

    def _body(self) -> None:
        assert self._screen is not None  # noqa: S101 - else the thread does not start
        pace = self._screen.pace
        with contextlib.suppress(Exception):  # a display that fails is given up, and the run never hears of it (G2)
            wait_s = pace.first_s
            while not self._is_over.wait(wait_s):
                wait_s = pace.every_s
                reading = self._take()
                if reading is not None and not self._is_over.is_set():
                    self._screen.show(reading)
            self._screen.clear()


def put_now(fd: int, content: bytes) -> None:
    """Write ``content`` if ``fd`` takes something at this moment, and forget it if not (G3).

    Raises:
        OSError: as ``os.write``.
    """
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if any(events & select.POLLOUT for _, events in poll.poll(0)):
        os.write(fd, content)
