"""How a process comes to be, and what it must not inherit.

P1. An fd that only the coordinator may hold (a write end of a lifeline, its end of a worker's channel) is close-on-exec
    and named here by `close_in_forked_children`: whoever forks the coordinator, the child closes it before anything
    else. Else that child would keep the lifelines of dead runs whole.
P2. `forget` comes before the close: a number closed may be somebody else's a moment later.
P3. What a new process is told travels in a memory file without a name.  Writing it never waits for the reader, whatever
    its size.
P4. Nobody but who started a process collects its exit status: none of them is a ``subprocess.Popen``, which is a slow
    import besides.
P5. A program gets the fds that it is given, and closes before all else what came along uninvited: what other code of
    this process has made inheritable.
"""

from __future__ import annotations

import contextlib
import errno
import marshal
import os
import signal
import sys
import threading

import mpengine.worker
from mpengine import pickling
from mpengine.worker.boot import Preparation, WorkerBoot, interpreter_flags, run_in_child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, Final

_PACKAGE_FOLDER: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(mpengine.worker.__file__))))  # noqa: PTH120 - pathlib is a slow import
_BOOTSTRAP: Final = """\
import gc, marshal, os, sys
gc.disable()
sys.path[:], given, parcel = marshal.loads(os.pread({fd}, {size}, 0))
os.close({fd})
for fd in map(int, os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd")):
    try:
        if fd > 2 and fd not in given and os.get_inheritable(fd):
            os.close(fd)
    except OSError:
        pass
from {module} import {function}
gc.enable()
{function}(parcel)
"""  # (P5) what is imported stays: to look for garbage meanwhile is a twentieth of the time

_parent_only: set[int] = set()
_keeping = threading.local()


def close_in_forked_children(fd: int) -> None:
    """Have every child that is forked from this process, by whomever, close `fd` at once (P1)."""
    _parent_only.add(fd)


def forget(fd: int) -> None:
    """Take `close_in_forked_children` back; to be called before `fd` is closed (P2)."""
    _parent_only.discard(fd)


def close_parent_only(fd: int) -> None:
    """Forget `fd` and close it."""
    forget(fd)
    os.close(fd)


def _close_parent_only_fds() -> None:
    kept: frozenset[int] = getattr(_keeping, "fds", frozenset())
    for fd in _parent_only - kept:
        with contextlib.suppress(OSError):
            os.close(fd)
    _parent_only.clear()


os.register_at_fork(after_in_child=_close_parent_only_fds)


def make_preparation(environ: Mapping[str, str], *, fresh: bool = True) -> Preparation:
    """What a child has to know of its parent's surroundings.

    Args:
        environ: Variables to set on top of this process's own.
        fresh: Whether the child is another program, which has yet to learn about import path, folder and arguments.

    Raises:
        OSError: The current folder has been removed.
    """
    from multiprocessing import process  # a slow import, for which a fork server on its way up need not wait

    preparation: dict[str, object] = {
        "environ": {**_environment(), **environ},
        "parent_pid": os.getpid(),
        "parent_name": process.current_process().name,
    }
    if fresh:
        preparation["surroundings"] = _surroundings()
    return preparation


def _environment() -> dict[str, str]:
    """The environment as it is, though another thread may delete variables meanwhile."""
    return {name: value for name in list(os.environ) if (value := os.environ.get(name)) is not None}


def _surroundings() -> dict[str, object]:
    """What ``multiprocessing.spawn.get_preparation_data`` has, but for ``__main__``; that one is a slow import."""
    from multiprocessing import get_start_method, process

    known: Any = process
    spawn: Any = sys.modules.get("multiprocessing.spawn")
    util: Any = sys.modules.get("multiprocessing.util")
    if spawn is not None:
        spawn._check_not_importing_main()  # noqa: SLF001 - a script without a guard that has started this process
    try:
        folder = os.getcwd()  # noqa: PTH109 - pathlib is a slow import
    except FileNotFoundError as error:
        raise FileNotFoundError(
            errno.ENOENT, "the current folder has been removed: no worker can start there"
        ) from error
    logger = getattr(util, "_logger", None)
    return {
        "path": [known.ORIGINAL_DIR if entry == "" else entry for entry in sys.path],
        "argv": sys.argv,
        "folder": folder,
        "multiprocessing": {
            "authkey": bytes(process.current_process().authkey),  # its own type refuses to be pickled here
            "orig_dir": known.ORIGINAL_DIR,
            "start_method": get_start_method(allow_none=True),
            "log_to_stderr": getattr(util, "_log_to_stderr", False),
            "log_level": logger and logger.getEffectiveLevel(),
        },
    }


def memory_file(content: bytes) -> int:
    """A new fd of an anonymous file that holds `content`."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("mpengine-boot")
    else:
        import tempfile

        with tempfile.TemporaryFile(prefix="mpengine-") as file:
            fd = os.dup(file.fileno())
    with open(fd, "wb", closefd=False) as file:
        file.write(content)
    return fd


def birth_file(boot: WorkerBoot, preparation: Preparation) -> int:
    """A new fd of the file that a forked worker reads its orders from, and writes its failure to start into."""
    return memory_file(pickling.dumps((boot, preparation), pickling.PROTOCOL))


def launch(target: str, parcel: object, pass_fds: Iterable[int], environ: Mapping[str, str]) -> int:
    """Start a fresh interpreter that leads its own process group and calls ``target(pickled parcel)``.

    Args:
        target: ``"module:function"``.
        parcel: What to pickle for it.
        pass_fds: What it inherits, under the same numbers.
        environ: Variables to set on top of this process's own.

    Returns:
        Its pid; the caller collects its exit status (P4).

    Raises:
        OSError: The program could not be started.
    """
    module, _, function = target.partition(":")
    given = tuple(pass_fds)
    content = marshal.dumps((_import_path(), given, pickling.dumps(parcel, pickling.PROTOCOL)))
    interpreter = _interpreter()
    with contextlib.ExitStack() as afterwards:
        orders_fd = memory_file(content)
        afterwards.callback(os.close, orders_fd)
        code = _BOOTSTRAP.format(fd=orders_fd, size=len(content), module=module, function=function)
        actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
        for fd in (orders_fd, *given):
            # Not all C libraries let go of close-on-exec where a number is put onto itself.
            other = os.dup(fd)
            afterwards.callback(os.close, other)
            actions.append((os.POSIX_SPAWN_DUP2, other, fd))
        return os.posix_spawnp(
            interpreter[0],
            [*interpreter, "-c", code],
            {**_environment(), **environ},
            file_actions=actions,
            setpgroup=0,
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores, and programs do not expect ignored
        )


def _interpreter() -> list[str]:
    spawn: Any = sys.modules.get("multiprocessing.spawn")  # who has set another interpreter has imported it
    executable = os.fsdecode((spawn and spawn.get_executable()) or sys.executable)
    return [executable, *interpreter_flags()]


def _import_path() -> list[str]:
    entries = [os.fspath(entry) or os.getcwd() for entry in sys.path if isinstance(entry, str | os.PathLike)]  # noqa: PTH109 - as above
    return entries if _PACKAGE_FOLDER in entries else [*entries, _PACKAGE_FOLDER]


def fork_worker(boot: WorkerBoot, preparation: Preparation, birth_fd: int) -> int:
    """Fork this process into a worker; returns its pid, in the parent only."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    _keeping.fds = frozenset((*boot.fds, birth_fd))
    try:
        pid = os.fork()
        if pid == 0:
            run_in_child(boot, preparation, birth_fd)
    finally:
        _keeping.fds = frozenset()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with contextlib.suppress(OSError):  # both sides try; the second finds it done, or the worker dead
        os.setpgid(pid, pid)
    return pid
