"""A program to be killed: an engine whose workers do everything that makes a process hard to end."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from mpengine import Engine

ITEMS, ITEM_S = 24, 0.15
GROUP_S, SESSION_S = "61.1", "61.2"  # how long they would sleep tells programs apart
FORKED = "soak-forked"
_PR_SET_NAME = 15


def act(item: int, own_sessions: bool) -> int:  # noqa: FBT001 - of one program
    """Be hard to end, for a while."""
    deeds = [hold_the_lock, time.sleep, be_deaf, start_program, fork]
    if own_sessions:
        deeds.append(start_session)
    deeds[item % len(deeds)](ITEM_S)
    return item


def hold_the_lock(seconds: float) -> None:
    """Be in C code that lets no Python run."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


def be_deaf(seconds: float) -> None:
    """Ignore what can be ignored, from now on."""
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        if signum < signal.SIGRTMIN:
            signal.signal(signum, signal.SIG_IGN)
    time.sleep(seconds)


def start_program(seconds: float) -> None:
    """Start a program that stays in the group."""
    subprocess.Popen(["sleep", GROUP_S])  # noqa: S607 - whichever sleep there is
    time.sleep(seconds)


def start_session(seconds: float) -> None:
    """Start a program in a session of its own."""
    subprocess.Popen(["sleep", SESSION_S], start_new_session=True)  # noqa: S607
    time.sleep(seconds)


def fork(seconds: float) -> None:
    """Fork a child that outlives its parent."""
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(_PR_SET_NAME, FORKED.encode(), 0, 0, 0)
        time.sleep(60)
        os._exit(0)
    time.sleep(seconds)


def main() -> None:
    """Run until somebody comes with a SIGKILL, or to the end."""
    method, own_sessions = sys.argv[1], sys.argv[2] == "True"

    def work(item: int) -> int:
        return act(item, own_sessions)

    with Engine(3, start_method=method, metrics_interval_s=0.1) as engine, engine.iter([range(ITEMS), work]) as results:
        for _ in results:
            print("running", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
