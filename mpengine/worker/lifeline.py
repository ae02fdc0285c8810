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
L5. What is forked from a child has lifelines of its own: to the parent, and to the child, for which the child holds the
    only write end of another pipe.  A copy of a read end would do nothing (L1), so each opens the pipe anew.
"""

import contextlib
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


def bind_descendants(fd: int) -> None:
    """Have every process that Python forks from this one, and from those, end with this one and with its parent (L5).

    Where the kernel offers no such signal they are left to themselves: no thread may be started in a fork.

    Args:
        fd: This process's own lifeline.
    """
    own_r, own_w = os.pipe2(os.O_CLOEXEC)
    held = [own_w]
    pipes = {line: os.fstat(line) for line in (fd, own_r)}

    def bind() -> None:
        while held:
            os.close(held.pop())  # first, for the look that follows sees any write end
        for line, pipe in pipes.items():
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(line), pipe):  # else user code has closed it, and the number is another's
                    _arm_anew(line)

    os.register_at_fork(after_in_child=bind)


def _arm_anew(fd: int) -> None:
    anew = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not arm_signal(anew):
            return
        # An end that was opened when the last writer had gone never reports it; the one that was inherited does (L3).
        if is_broken(fd):
            os.kill(os.getpid(), signal.SIGKILL)
        os.dup2(anew, fd, inheritable=False)
    finally:
        os.close(anew)


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
