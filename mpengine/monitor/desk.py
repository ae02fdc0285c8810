"""What is behind the board: a dict with a counter, where those who watch a run ask and its coordinator answers.

    coordinator --- publish(run, figures, sights) ---> [ Desk, in the board's process ] <--- look, ask, fetch --- viewer
                <-- (is_watched, asks) --------------

V1. The coordinator calls; nobody calls it.  With each snapshot that it publishes it takes what was asked meanwhile, so
    a run that nobody asks anything pays nothing.
V2. A viewer that looks is known for ``WATCH_S``.  One that is killed, or stopped in the middle of a call, is forgotten
    after that; what it leaves behind is a thread in the board's process at most, where nobody waits for it.
V3. Asks and answers are few and short, and checked before they are kept: the coordinator is never handed a heap.
V4. An ask is for one run, by name.  Another run of the same engine, with the same board, does not hear of it.
V5. Nobody waits here for longer than ``WAIT_S``, which is less than the patience of who calls.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Any, Final

KINDS: Final = ("cancel", "cancel at once", "stacks")
WATCH_S: Final = 5.0
WAIT_S: Final = 0.5
MAX_ASKS: Final = 32
MAX_TEXT: Final = 1000
MAX_ANSWER: Final = 1 << 20

Ask = tuple[int, str, str, str]
"""Its number, the run, what is asked for, and a text."""

METHODS: Final = ("publish", "answer", "look", "ask", "withdraw", "fetch")


class Desk(dict[str, Any]):
    """The dict with the last snapshot in it, and what goes on over the counter."""

    def __init__(self) -> None:
        """Begin with nothing on it."""
        super().__init__()
        self._changed = threading.Condition()
        self._run_id = ""
        self._sights: dict[str, Any] | None = None
        self._published_at = 0.0
        self._number = 0
        self._watched_until = 0.0
        self._asks: OrderedDict[int, Ask] = OrderedDict()
        self._asked = 0
        self._answers: OrderedDict[int, str] = OrderedDict()

    # ------------------------------------------------------------------ the coordinator's side

    def publish(
        self, run_id: str, figures: dict[str, Any] | None = None, sights: dict[str, Any] | None = None
    ) -> tuple[bool, list[Ask]]:
        """Put a snapshot on the board, and take what was asked.

        Args:
            run_id: whose it is; empty where the run is not listed.
            figures: the snapshot; None: nothing new.
            sights: what each worker is at, if anybody watches.

        Returns:
            Whether anybody watches, and what was asked (V1).
        """
        with self._changed:
            if figures is not None:
                self.update(figures)
                self._run_id, self._sights = run_id, sights
                self._published_at = time.monotonic()
                self._number += 1
            asks = [ask for ask in self._asks.values() if ask[1] == run_id]
            self._asks.clear()  # also those of another run, which is over (V4)
            self._changed.notify_all()
            return time.monotonic() < self._watched_until, asks

    def answer(self, number: int, text: str) -> None:
        """Answer what was asked under that number."""
        with self._changed:
            self._answers[number] = text[:MAX_ANSWER]
            while len(self._answers) > MAX_ASKS:
                self._answers.popitem(last=False)
            self._changed.notify_all()

    # ------------------------------------------------------------------ the viewers' side

    def look(self, seen: int = 0, wait_s: float = 0.0) -> dict[str, Any]:
        """Return what was published last; whoever looks is watching (V2).

        Args:
            seen: the number of the publication that the caller has seen last.
            wait_s: how long to wait for another one (V5).

        Returns:
            ``run_id``, ``number``, ``age_s``, ``figures`` and ``sights``, of one moment.
        """
        with self._changed:
            self._watched_until = time.monotonic() + WATCH_S
            self._changed.wait_for(lambda: self._number > seen, min(wait_s, WAIT_S))
            return {
                "run_id": self._run_id,
                "number": self._number,
                "age_s": time.monotonic() - self._published_at,
                "figures": dict(self),
                "sights": self._sights,
            }

    def ask(self, run_id: str, kind: str, text: str = "") -> int:
        """Ask something of a run.

        Args:
            run_id: which run (V4).
            kind: one of ``KINDS``.
            text: what goes with it.

        Returns:
            The number that the answer will have.

        Raises:
            ValueError: nobody can be asked that, or too much is asked already (V3).
        """
        if kind not in KINDS or type(text) is not str or type(run_id) is not str:
            msg = f"what can be asked for is one of {', '.join(KINDS)}, with a text"
            raise ValueError(msg)
        if len(text) > MAX_TEXT or len(run_id) > MAX_TEXT:
            msg = f"the text has {len(text)} characters, and may have {MAX_TEXT}"
            raise ValueError(msg)
        with self._changed:
            if len(self._asks) >= MAX_ASKS:
                msg = "too much is asked of this run already"
                raise ValueError(msg)
            self._asked += 1
            self._asks[self._asked] = (self._asked, run_id, kind, text)
            return self._asked

    def withdraw(self, number: int) -> bool:
        """Take back what was asked; return whether nobody had taken it yet."""
        with self._changed:
            return self._asks.pop(number, None) is not None

    def fetch(self, number: int, wait_s: float = 0.0) -> str | None:
        """Return the answer to what was asked under that number, once; None when there is none yet (V5)."""
        with self._changed:
            self._changed.wait_for(lambda: number in self._answers, min(wait_s, WAIT_S))
            return self._answers.pop(number, None)
