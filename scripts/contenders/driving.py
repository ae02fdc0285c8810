"""Starts the program of a turn, waits for so long and no longer, and leaves nothing of it behind.

D1. A turn that is not ready, or has no result, within its limit is killed with all its processes, and told as such.
D2. It is waited for without looking: what looks every now and then takes time from what is measured.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faultlines.driving import Family, surroundings, tidy_shared_memory


@dataclass(frozen=True)
class Limits:
    """How many seconds a contender may take to be ready, to come to its result, and to end after that."""

    ready_s: float = 60.0
    run_s: float = 30.0
    end_s: float = 15.0


class _Events:
    """What the program of a turn tells, as it comes; ``at`` is the deadline."""

    def __init__(self, pipe: int, program: subprocess.Popen[bytes]) -> None:
        self._pipe = pipe
        self._pidfd = os.pidfd_open(program.pid)
        self._text = b""

    def close(self) -> None:
        os.close(self._pidfd)

    def until(self, at: float) -> dict[str, Any] | None:
        """Return the next event; None when there is none before the deadline, or none to come."""
        while b"\n" not in self._text:
            ready, _, _ = select.select([self._pipe, self._pidfd], [], [], max(0.0, at - time.monotonic()))
            if self._pipe in ready:
                told = os.read(self._pipe, 1 << 16)
                self._text += told
                if told:
                    continue
            return None
        line, _, self._text = self._text.partition(b"\n")
        return json.loads(line)


def turn(order: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Run a contender once, and return what it told; nothing of it is left afterwards.

    Where it came to nothing, ``fault`` says why in a few words.  ``stays`` tells of one that had to be ended.
    """
    cookie = secrets.token_hex(8)
    # Ray makes sockets below its temporary folder, whose names may not be long.
    folder = Path(tempfile.mkdtemp(prefix="b-"))
    family = Family(cookie)
    here, there = os.pipe()
    python_path = tuple(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    command = [sys.executable, "-m", "contenders.seat", json.dumps({**order, "pipe": there})]
    try:
        with (folder / "said").open("wb") as said:
            program = subprocess.Popen(
                command, env=surroundings(cookie, folder, python_path), stdin=subprocess.DEVNULL, stdout=said,
                stderr=said, start_new_session=True, cwd=folder, pass_fds=(there,),
            )  # fmt: skip
        os.close(there)
        family.pids.add(program.pid)  # also when it has ended before anybody looks
        events = _Events(here, program)
        try:
            return _seen(events, limits, folder / "said")
        finally:
            family.end()
            program.wait()
            events.close()
    finally:
        os.close(here)
        shutil.rmtree(folder, ignore_errors=True)
        tidy_shared_memory(family)


def _seen(events: _Events, limits: Limits, said: Path) -> dict[str, Any]:
    """Follow the program through its turn."""
    told: dict[str, Any] = {}
    for name, limit_s in (("ready", limits.ready_s), ("seconds", limits.run_s), ("ended", limits.end_s)):
        at = time.monotonic() + limit_s
        while name not in told:
            event = events.until(at)
            if event is None:
                is_late = time.monotonic() >= at
                if name == "ended":
                    return {**told, "stays": is_late}
                return {"fault": _words(name, limit_s, is_late=is_late), "said": _end_of(said)}
            told |= event
            if told.get("fault"):
                return {**told, "said": _end_of(said)}
    return told


def _words(name: str, limit_s: float, *, is_late: bool) -> str:
    """Say how a turn came to nothing."""
    if not is_late:
        return "died"
    return f"not ready within {limit_s:g} s" if name == "ready" else f"no result within {limit_s:g} s"


def _end_of(said: Path) -> str:
    """Return the last of what a program said."""
    return said.read_text(encoding="utf-8", errors="replace")[-1500:]
