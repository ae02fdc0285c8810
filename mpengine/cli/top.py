"""``top``: a run of another terminal, shown while it goes on.

P1. It looks and touches nothing: however it ends, the run does not notice.
P2. The terminal is as it was when this ends, but where this is killed.
P3. The keys q and Ctrl-C leave.  When the run ends, or dies, that is the last line.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from typing import TYPE_CHECKING, Any

from mpengine.cli.gauge import Gauge
from mpengine.cli.panes import Busyness, Scene, scene
from mpengine.cli.signals import StoppedError
from mpengine.cli.speech import say
from mpengine.cli.stacking import sighted
from mpengine.cli.streams import STANDARD, open_sink, write_tables
from mpengine.cli.waiting import ending_of
from mpengine.processes.usage import Usage
from mpengine.runs import GoneError, View, Watch, attach

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from mpengine.runs import KnownRun

EVERY_S = 0.5
SIGHT_S = 5.0
STANDARD_INPUT = 0
STANDARD_OUTPUT = 1
FAILED = 1


class Viewer:
    """Takes one look after another.

    Args:
        watch: at which run.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        entry = watch.run.entry
        self._gauge = Gauge(total=entry.total, fans_out=entry.fans_out, joins_late=True)
        self._busyness = Busyness()
        self._usage = Usage()
        self._last: Scene | None = None

    def take(self) -> Scene | None:
        """Return what there is to show now; what was shown last where the run does not answer; None at the very first.

        The last view stays, with a remark: a board that is slow is no reason to show nothing.
        """
        try:
            view = self._watch.look()
        except GoneError as error:
            if self._last is None:
                return None
            last = self._last
            return Scene(last.run, last.view, last.reading, last.busy, last.uses, f"{error}; this is what it told last")
        return self.show(view)

    def show(self, view: View) -> Scene:
        """Return what there is to show of a view."""
        pids = [worker.pid for worker in view.snapshot.workers if worker.pid is not None]
        uses = {pid: use for pid in pids if (use := self._usage.of(pid)) is not None}
        busy = self._busyness.read(view)
        self._last = Scene(self._watch.run, view, self._gauge.read(view.snapshot), busy, uses)
        return self._last

    def prime(self, view: View) -> None:
        """Have a first look at what processes use, so that the next one can tell how much that is in a second."""
        for worker in view.snapshot.workers:
            if worker.pid is not None:
                self._usage.of(worker.pid)


def watch(run: KnownRun, *, once: bool, as_json: bool) -> int:
    """Show ``run``.

    Args:
        run: which.
        once: show it once, and not until it ends.
        as_json: once, as values.

    Returns:
        The exit status: 1 when the run is dead, or does not answer.
    """
    try:
        with attach(run) as attached:
            ending = ending_of(attached)
            if ending is None:
                is_live = not once and not as_json and _is_terminal(STANDARD_OUTPUT)
                return _show_live(attached) if is_live else _show_once(attached, as_json=as_json)
    except GoneError as error:
        say(str(error))
        return FAILED
    say(ending[0])
    return ending[1]


def _show_once(attached: Watch, *, as_json: bool) -> int:
    viewer = Viewer(attached)
    viewer.prime(attached.look())
    shown = viewer.show(sighted(attached, SIGHT_S))
    if as_json:
        with open_sink(STANDARD, None) as sink:
            sink.write(_plain(shown))
        return 0
    from rich.console import Console

    write_tables(*scene(shown, Console().width))
    return 0


def _plain(shown: Scene) -> dict[str, Any]:
    view = shown.view
    return {
        "run": shown.run.run_id,
        "pid": shown.run.entry.pid,
        "age_s": view.age_s,
        "snapshot": view.snapshot.as_dict(),
        "sights": None if view.sights is None else view.sights.as_dict(),
        "busy": list(shown.busy),
        "uses": {str(pid): use._asdict() for pid, use in shown.uses.items()},
    }


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd) and os.environ.get("TERM", "dumb") not in {"dumb", "unknown"}
    except OSError:
        return False


def _show_live(attached: Watch) -> int:
    from rich.console import Console, Group
    from rich.live import Live

    viewer = Viewer(attached)
    console = Console()
    ending: tuple[str, int] | None = None
    # No thread of its own, and nothing of ours redirected.
    live = Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    with _as_before(), contextlib.suppress(KeyboardInterrupt), live:
        while True:
            shown = viewer.take()
            ending = ending_of(attached)
            if ending is not None:
                break
            size = console.size
            things = (
                [f"run {attached.run.run_id} does not answer"]
                if shown is None
                else scene(shown, size.width, size.height)
            )
            live.update(Group(*things), refresh=True)
            if _is_left(EVERY_S):
                break
    if ending is None:
        say(f"run {attached.run.run_id} goes on")
        return 0
    say(ending[0])
    return ending[1]


def _is_left(wait_s: float) -> bool:
    """Wait for a key; return whether it was the one to leave by."""
    if not _is_terminal(STANDARD_INPUT):
        select.poll().poll(wait_s * 1000)
        return False
    poll = select.poll()
    poll.register(STANDARD_INPUT, select.POLLIN)
    if not poll.poll(wait_s * 1000):
        return False
    keys = os.read(STANDARD_INPUT, 1024)
    return not keys or b"q" in keys.lower()


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
    """Read single keys meanwhile; leave the terminal as it was, and heed SIGTERM (P2)."""
    import termios
    import tty

    def stop(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's signature
        raise StoppedError(signum)

    before = signal.signal(signal.SIGTERM, stop)
    kept = None
    try:
        if _is_terminal(STANDARD_INPUT):
            kept = termios.tcgetattr(STANDARD_INPUT)
            tty.setcbreak(STANDARD_INPUT)
        yield
    finally:
        if kept is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(STANDARD_INPUT, termios.TCSADRAIN, kept)
        signal.signal(signal.SIGTERM, before)
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
