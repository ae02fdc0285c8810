"""The lifeline: the kernel ends a process when its parent is gone, however either of them is doing.

The parent holds the only write end of a pipe, the child the read end.  Whatever ends the parent closes the write end,
and the kernel then sends SIGKILL to the owner of the read end: no Python has to run for it, so C code that holds the
interpreter's lock, a stopped process and a process with every signal blocked all die.  ``PR_SET_PDEATHSIG`` does less:
it fires when the starting *thread* ends, and misses a parent that died before it was armed.

L1. Owner and signal belong to the open file description: each child needs a pipe of its own, for of several that
    inherit one read end only the last to arm it dies.
L2. The write end lives in the parent alone: close-on-exec, and closed in every child that is forked from the parent.
L3. Armed first, looked at second: a parent that died in between is seen by the look, one that dies later by the kernel.
L4. Where the kernel offers no such signal, a thread waits on the pipe.  It needs the interpreter's lock to act.
"""

import fcntl
import os
import select
import signal
import threading

SIGIO = "sigio"
THREAD = "thread"


def arm(fd: int) -> str:
    """End this process as soon as the other end of the lifeline is gone; at once if it already is.

    Args:
        fd: Read end of a pipe that no other process has armed (L1).

    Returns:
        The mechanism in use, ``"sigio"`` or ``"thread"``.
    """
    if arm_signal(fd):
        return SIGIO
    threading.Thread(target=_wait_and_die, args=(fd,), name="mpengine-lifeline", daemon=True).start()
    return THREAD


def arm_signal(fd: int) -> bool:
    """As `arm`, but by the kernel's signal or not at all; returns whether it could."""
    if not hasattr(fcntl, "F_SETSIG"):
        return False
    try:
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    except OSError:
        return False
    if is_broken(fd):
        os.kill(os.getpid(), signal.SIGKILL)
    return True


def disarm(fd: int) -> None:
    """Undo `arm_signal`: the process now outlives its parent, until it notices by itself."""
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_ASYNC)


def is_broken(fd: int) -> bool:
    """Tell whether the other end is gone, without waiting."""
    poll = select.poll()
    poll.register(fd, 0)  # a hang-up is reported whether asked for or not
    return bool(poll.poll(0))


def _wait_and_die(fd: int) -> None:
    while os.read(fd, 1):
        pass  # nobody writes here; only the end of the file means something
    os.kill(os.getpid(), signal.SIGKILL)
