"""From a new-born process to the worker's entry function, and out again.

The same steps whichever way the process came to be (forked by the nursery, forked by the coordinator, a fresh
interpreter), in an order that is law:

B1. The lifeline is armed before anything that may take time, and before any code of the user can run.
B2. Signals stay blocked until their dispositions are the defaults: no handler of the parent's ever runs in the child.
B3. ``__main__`` is never imported again: what lives there travels by value.
B4. The entry runs in the main thread, and ``multiprocessing`` is told what this process is as soon as it is imported,
    so that user code may start processes and pools, and finds ``current_process()`` and ``parent_process()`` in order.
B5. Whatever happens, the child leaves through ``os._exit``: it never runs up the stack that forked it.
B6. A failure before the entry runs is written into the birth file, for the parent to report with its traceback.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Mapping

from mpengine import pickling
from mpengine.records import dataclass, field, replace
from mpengine.worker import lifeline
from mpengine.worker.latecomer import once_imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, NoReturn, Self, TypeAlias

Preparation: TypeAlias = Mapping[str, object]

ALWAYS_PRELOADED: Final = ("mpengine.worker.main",)
"""What every worker needs, imported once in whatever process it is forked from."""

OOM_SCORE: Final = 300
"""How much the kernel prefers a worker when memory runs out: as if it had 30 % of the memory more than it has."""

BOOT_FAILED: Final = 70
"""Exit code of a worker that did not reach its entry (``EX_SOFTWARE``)."""

_LETTERS: Final = {
    "debug": "d", "optimize": "O", "dont_write_bytecode": "B", "no_site": "S", "verbose": "v", "bytes_warning": "b",
    "quiet": "q", "isolated": "I", "ignore_environment": "E", "no_user_site": "s", "safe_path": "P",
}  # fmt: skip
"""A flag of the interpreter, and the letter that sets it."""

_FAILURE_MARK: Final = b"boot failed\n"
_FAILURE_LIMIT_BYTES: Final = 32_768
_KEPT_IGNORED: Final = frozenset({signal.SIGPIPE, signal.SIGXFSZ})  # as in any Python process


@dataclass(frozen=True, slots=True)
class WorkerBoot:
    """All a worker knows when it starts.

    Args:
        worker_id: Number of its slot.
        generation: How many processes held this slot before.
        slots: Number of slots in the control block.
        inbox_fd: Where its batches come from.
        outbox_fd: Where its answers go.
        lifeline_fd: Read end of a pipe of its own; see `mpengine.worker.lifeline`.
        cancel_fd: Becomes readable when the run is cancelled.
        control_fd: The control block's memory file.
        entry: ``"module:function"``, called with this boot in the main thread.
        options: Plain picklable values for the entry.
    """

    worker_id: int
    generation: int
    slots: int
    inbox_fd: int
    outbox_fd: int
    lifeline_fd: int
    cancel_fd: int
    control_fd: int
    entry: str = "mpengine.worker.main:run_worker"
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def fds(self) -> tuple[int, ...]:
        """Inbox, outbox, lifeline, cancel and control, in this order."""
        return (self.inbox_fd, self.outbox_fd, self.lifeline_fd, self.cancel_fd, self.control_fd)

    def with_fds(self, fds: Iterable[int]) -> Self:
        """The same boot with other numbers for its fds, in the order of `fds`."""
        inbox, outbox, line, cancel, control = fds
        return replace(self, inbox_fd=inbox, outbox_fd=outbox, lifeline_fd=line, cancel_fd=cancel, control_fd=control)


Entry: TypeAlias = Callable[[WorkerBoot], object]


def read_orders(birth_fd: int) -> tuple[WorkerBoot, Preparation]:
    """What the birth file says before the worker has begun; its fds have other numbers here."""
    orders: tuple[WorkerBoot, Preparation] = pickling.loads(  # written by the parent, in a file without a name
        os.pread(birth_fd, os.fstat(birth_fd).st_size, 0)
    )
    return orders


def become_program(birth_fd: int, fds: Iterable[int], environ: Mapping[str, str]) -> NoReturn:
    """Go on as a fresh interpreter that runs the worker."""
    numbers = tuple(fds)
    for fd in (birth_fd, *numbers):
        os.set_inheritable(fd, True)  # noqa: FBT003 - takes no names
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120 - pathlib is a slow import
    path = sys.path if package in sys.path else [*sys.path, package]
    code = f"import sys;sys.path[:]={path!r};from {__name__} import run_spawned;run_spawned({birth_fd},{numbers})"
    os.execve(sys.executable, [sys.executable, *interpreter_flags(), "-c", code], environ)  # noqa: S606 - this very one


def interpreter_flags() -> list[str]:
    """The flags that an interpreter like this one is started with."""
    if sys.warnoptions or sys._xoptions:  # noqa: SLF001
        import subprocess  # a slow import, which knows of those as well

        return list(subprocess._args_from_interpreter_flags())  # type: ignore[attr-defined]  # noqa: SLF001
    return [f"-{letter * getattr(sys.flags, name)}" for name, letter in _LETTERS.items() if getattr(sys.flags, name)]


def run_spawned(birth_fd: int, fds: Iterable[int]) -> NoReturn:
    """Run a worker in an interpreter started for it."""
    hide_from_programs(birth_fd)
    boot, preparation = read_orders(birth_fd)
    run_in_child(boot.with_fds(fds), preparation, birth_fd)


def run_in_child(boot: WorkerBoot, preparation: Preparation, birth_fd: int) -> NoReturn:
    """Turn this process into the worker, run it, and leave with its exit code.

    Args:
        boot: What the worker is to be.
        preparation: The parent's surroundings; see `prepare`.
        birth_fd: The birth file (B6); closed once the entry has been found.
    """
    code = BOOT_FAILED
    try:
        entry = _settle_in(boot, preparation, birth_fd)
        if entry is not None:
            os.close(birth_fd)
            code = _bootstrap(boot, preparation, entry)
    except BaseException:  # noqa: BLE001 - the traceback and the exit code tell of it, and B5 holds
        code = 1
        print_traceback()
    finally:
        os._exit(code & 0xFF)


def _settle_in(boot: WorkerBoot, preparation: Preparation, birth_fd: int) -> Entry | None:
    try:
        lead_own_group()
        hide_from_programs(*boot.fds)
        lifeline.arm(boot.lifeline_fd)
        lifeline.bind_descendants(boot.lifeline_fd)
        go_first()
        reset_signals()
        prepare(preparation)
        return _find_entry(boot.entry)
    except BaseException:  # noqa: BLE001 - becomes the parent's StartFailed (B6)
        write_failure(birth_fd, traceback_text())
        return None


def print_traceback() -> None:
    """Print the traceback of what was raised."""
    import traceback  # a slow import, for when something has failed

    traceback.print_exc()


def traceback_text() -> str:
    """The traceback of what was raised."""
    import traceback

    return traceback.format_exc()


def hide_from_programs(*fds: int) -> None:
    """Close `fds` in every program that is started from this process."""
    for fd in fds:
        os.set_inheritable(fd, False)  # noqa: FBT003 - takes no names


def lead_own_group() -> None:
    """Lead a process group of one's own: the terminal's Ctrl-C stays with the coordinator, and one kill reaches all."""
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)


def go_first() -> None:
    """Have the kernel, when it must kill for want of memory, take a worker rather than the coordinator."""
    try:
        with open("/proc/self/oom_score_adj", "r+", encoding="utf-8") as file:  # noqa: PTH123 - pathlib is a slow import
            score = int(file.read())
            file.seek(0)
            file.write(str(min(1000, score + OOM_SCORE)))
    except (OSError, ValueError):
        pass  # another kind of system; it will do what it does


def reset_signals() -> None:
    """Default dispositions, but SIGINT ignored; then let through what was held back since the fork (B2)."""
    signal.set_wakeup_fd(-1)
    for signum in signal.valid_signals():
        # What C code has installed (faulthandler) shows as None or as the default, and stays.
        if signum not in _KEPT_IGNORED and signal.getsignal(signum) not in {None, signal.SIG_DFL}:
            signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def prepare(preparation: Preparation) -> None:
    """Take over the parent's environment, current folder, import path, arguments and multiprocessing settings."""
    environ = preparation["environ"]
    assert isinstance(environ, dict)  # noqa: S101 - built by mpengine.processes.spawning
    for name in os.environ.keys() - environ.keys():
        del os.environ[name]
    os.environ.update({name: text for name, text in environ.items() if os.environ.get(name) != text})
    surroundings: Any = preparation.get("surroundings")
    if surroundings is not None:
        sys.path, sys.argv = surroundings["path"], surroundings["argv"]
        os.chdir(surroundings["folder"])
        _tell_multiprocessing("settle", surroundings["multiprocessing"])


def _tell_multiprocessing(function: str, *args: object) -> None:
    """Call a function of `mpengine.worker.asprocess`, once there is a ``multiprocessing`` to be told."""

    def tell() -> None:
        from mpengine.worker import asprocess

        getattr(asprocess, function)(*args)

    once_imported("multiprocessing.context", tell)


def _find_entry(path: str) -> Entry:
    module, _, name = path.partition(":")
    entry: Entry = getattr(importlib.import_module(module), name)
    return entry


def _bootstrap(boot: WorkerBoot, preparation: Preparation, entry: Entry) -> int:
    """Run the entry as ``multiprocessing`` runs a process's (B4); returns the exit code."""
    tracker_before = _tracker_pid()
    name = f"mpengine-worker-{boot.worker_id}"
    # The lifeline is readable when the parent is gone: just what a parent's sentinel is for.
    parent = (preparation["parent_pid"], preparation["parent_name"], boot.lifeline_fd)
    code: object = 1
    main_thread: Any = threading.main_thread()
    main_thread._set_native_id()  # noqa: SLF001 - a fork leaves it that of the parent's
    try:
        _tell_multiprocessing("introduce", name, *parent)
        try:
            _empty_stdin()
            given = entry(boot)
            code = given if isinstance(given, int) else 0
        finally:
            _end_multiprocessing()
    except SystemExit as leaving:
        code = leaving.code
    except BaseException:  # noqa: BLE001 - told on stderr, and by the exit code
        code = 1
        sys.stderr.write(f"Process {name}:\n")
        print_traceback()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - waits for user code's threads
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, ValueError):
                stream.flush()
    _end_resource_tracker(tracker_before)
    return _exit_code(code)


def _end_multiprocessing() -> None:
    """Have what user code has made of it end: queues are written out, processes waited for."""
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        util._exit_function()  # noqa: SLF001 - as every process of its own does


def _exit_code(given: object) -> int:
    """What ``sys.exit`` makes of what it is given."""
    if given is None or isinstance(given, int):
        return given or 0
    sys.stderr.write(f"{given}\n")
    return 1


def _empty_stdin() -> None:
    """Put /dev/null on fd 0 itself, inheritable: a program the user starts must find an empty stdin as well."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stdin.close()  # or it would close fd 0 whenever it is collected
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if null:
        os.close(null)
    else:
        os.set_inheritable(0, True)  # noqa: FBT003 - takes no names
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - stays open as long as the worker


def _tracker_pid() -> object:
    module = sys.modules.get("multiprocessing.resource_tracker")
    return getattr(getattr(module, "_resource_tracker", None), "_pid", None)


def _end_resource_tracker(before: object) -> None:
    """Let a tracker that user code has started here finish its work: the group is killed when this process ends."""
    if _tracker_pid() not in {before, None}:
        from multiprocessing import resource_tracker

        with contextlib.suppress(AttributeError, OSError):
            resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]  # noqa: SLF001 - no public way


def write_failure(birth_fd: int, text: str) -> None:
    """Say why the worker will never reach its entry (B6)."""
    tail = text.encode("utf-8", "backslashreplace")[-_FAILURE_LIMIT_BYTES:]
    os.ftruncate(birth_fd, 0)
    os.pwrite(birth_fd, _FAILURE_MARK + tail, 0)


def read_failure(birth_fd: int) -> str | None:
    """Why the worker with this birth file never reached its entry; None if it did, or died without a word."""
    content = os.pread(birth_fd, len(_FAILURE_MARK) + _FAILURE_LIMIT_BYTES, 0)
    if not content.startswith(_FAILURE_MARK):
        return None
    return content.removeprefix(_FAILURE_MARK).decode("utf-8", "replace")
