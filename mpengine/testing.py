"""For test suites: nothing may be left behind, by any code that starts processes.

A check has a beginning and an end.  What was started in between is known by three signs, for each alone gets lost:

=============================================================  ========================================================
it descends from this process                                  lost when a parent in between ends first: a daemon
the environment its program began with carries the cookie      not there after a fork alone, which keeps the environment
                                                               that *this* program began with
the check's memory file is mapped in it                        lost when it begins another program
=============================================================  ========================================================

X1. Who was there at the beginning is not blamed.  A process is known by number and creation time, never by number.
X2. What is ending gets `timeout_s` in all, waited for on pidfds; where nothing was started, nothing is waited for.
X3. A zombie of this process is left behind: its exit status is somebody's to collect.  Where a thread that the check
    has seen begin may be about to do so, it is joined first.  The zombies of others are theirs to bury.
X4. The check collects no exit status of what it does not blame, and none behind the back of an owner it can find.
X5. Only the process that began a check ends it; in a child that was forked meanwhile, the end does nothing.
"""

import contextlib
import gc
import mmap
import os
import secrets
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import psutil

from mpengine.processes.identity import ProcessIdentity, wait_gone
from mpengine.records import dataclass

__all__ = ["assert_no_orphans"]

COOKIES_NAME: Final = "MPENGINE_CHECKS"

_MARK: Final = "mpengine-check-"
_OWN_PREFIX: Final = "mpengine-"
_TERM_S: Final = 1.0
_KILL_S: Final = 2.0
_ROUNDS: Final = 3
_MAX_COMMAND: Final = 200


@contextlib.contextmanager
def assert_no_orphans(*, timeout_s: float = 2.0, end: bool = True, blame_stdlib: bool = False) -> Iterator[None]:
    """Fail if what runs inside leaves a process behind, whatever code has started it.

    Children count, their descendants too, and those whose parents have gone; so do children that have ended and whose
    exit status nobody has collected.  Threads, files in memory, names in ``/dev/shm`` and temporary files count where
    they are mpengine's own.

    Args:
        timeout_s: How long what is ending may take, in seconds.
        end: End the processes that are left behind: SIGTERM, and SIGKILL a second later.
        blame_stdlib: Blame the resource tracker and the fork server of ``multiprocessing`` as well.  The standard
            library starts them once and keeps them on purpose, so they are not ended even then.

    Raises:
        AssertionError: Something is left behind; each process is told with its pid, command line and age.  An exception
            from inside goes on instead, and has this as a note.
    """
    __tracebackhide__ = True
    check = _Check(blame_stdlib=blame_stdlib)
    try:
        yield
    except BaseException as error:
        message = check.conclude(timeout_s, end=end)
        if message:
            error.add_note(message)
        raise
    message = check.conclude(timeout_s, end=end)
    if message:
        raise AssertionError(message)


class _Cookie:
    """What children inherit while a check is on: a variable those that begin a program, a mapping those that do not."""

    def __init__(self) -> None:
        self._text = secrets.token_hex(16)
        self._mapping = _mapping(_MARK + self._text)
        os.environ[COOKIES_NAME] = ":".join([*_cookies(os.environ.get(COOKIES_NAME)), self._text])

    def remove(self) -> None:
        """Let what is started from now on be without it; checks may overlap, and each takes its own away."""
        others = [cookie for cookie in _cookies(os.environ.get(COOKIES_NAME)) if cookie != self._text]
        if others:
            os.environ[COOKIES_NAME] = ":".join(others)
        else:
            os.environ.pop(COOKIES_NAME, None)
        if self._mapping is not None:
            self._mapping.close()

    def is_borne_by(self, process: psutil.Process) -> bool:
        try:
            if self._text in _cookies(process.environ().get(COOKIES_NAME)):
                return True
            return (_MARK + self._text).encode() in Path(f"/proc/{process.pid}/maps").read_bytes()
        except (psutil.Error, OSError):
            return False


def _cookies(value: str | None) -> list[str]:
    return value.split(":") if value else []


def _mapping(name: str) -> mmap.mmap | None:
    if not hasattr(os, "memfd_create"):
        return None
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        os.truncate(fd, mmap.PAGESIZE)
        return mmap.mmap(fd, mmap.PAGESIZE)
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class _Orphan:
    identity: ProcessIdentity
    process: psutil.Process
    is_descendant: bool
    is_kept: bool  # by the standard library, on purpose

    def __str__(self) -> str:
        try:
            with self.process.oneshot():
                has_ended = self.process.status() == psutil.STATUS_ZOMBIE
                command = "" if has_ended else " ".join(shlex.join(self.process.cmdline()).split())
                command = command[:_MAX_COMMAND] or f"[{self.process.name()}]"
        except psutil.Error:
            return f"pid {self.identity.pid}, which has ended meanwhile"
        remarks = [f"{max(0.0, time.time() - self.identity.create_time):.1f} s old"]
        if has_ended:
            remarks.append("ended, its exit status not collected: join() or wait() for it")
        if not self.is_descendant:
            remarks.append("its parent has gone")
        if self.is_kept:
            remarks.append("kept by multiprocessing")
        return f"pid {self.identity.pid} ({', '.join(remarks)}): {command}"


class _Check:
    def __init__(self, *, blame_stdlib: bool) -> None:
        self._blames_stdlib = blame_stdlib
        self._pid = os.getpid()
        self._before = frozenset(psutil.process_iter())
        self._threads = frozenset(threading.enumerate())
        self._belongings = _belongings()
        self._cookie = _Cookie()

    def conclude(self, timeout_s: float, *, end: bool) -> str | None:
        """End the check, and what is left behind if `end`; return what was found, as a message, or None."""
        if os.getpid() != self._pid:  # X5
            return None
        try:
            orphans, belongings = self._find_lasting(time.monotonic() + timeout_s)
            if not orphans and not belongings:
                return None
            lines = [_heading(len(orphans))] if orphans else []
            lines += [f"  {orphan}" for orphan in orphans]
            if orphans and end:
                lines += [f"  could not be ended: {orphan}" for orphan in self._end(orphans)]
            if belongings:
                lines += ["left behind by mpengine:", *(f"  {what}" for what in belongings)]
            return "\n".join(lines)
        finally:
            self._cookie.remove()

    # ------------------------------------------------------------------ finding

    def _find_lasting(self, deadline_at: float) -> tuple[list[_Orphan], list[str]]:
        """What is there still when all that ends has had time to."""
        if not self._orphans() and not self._new_belongings():
            return [], []
        gc.collect()  # what nobody holds any more may end what it had started
        self._wait_ended(deadline_at)
        orphans, belongings = self._orphans(), self._new_belongings()
        if orphans or belongings:
            self._join_threads(deadline_at)  # X3
            orphans, belongings = self._orphans(), self._new_belongings()
        return orphans, belongings

    def _wait_ended(self, deadline_at: float) -> None:
        while running := [orphan.identity for orphan in self._orphans() if orphan.identity.is_alive()]:
            if wait_gone(running, deadline_at - time.monotonic()):
                return

    def _join_threads(self, deadline_at: float) -> None:
        for thread in set(threading.enumerate()) - self._threads - {threading.current_thread()}:
            thread.join(max(0.0, deadline_at - time.monotonic()))

    def _orphans(self) -> list[_Orphan]:
        """Those that are left behind as of now, the oldest first."""
        newcomers = frozenset(psutil.process_iter()) - self._before
        if not newcomers:
            return []
        family = frozenset(psutil.Process().children(recursive=True)) - self._before
        found = family | {process for process in newcomers - family if self._cookie.is_borne_by(process)}
        kept = _kept_by_stdlib()
        orphans = [
            _Orphan(
                identity=ProcessIdentity.of(process.pid),
                process=process,
                is_descendant=process in family,
                is_kept=process.pid in kept,
            )
            for process in found
            if _is_left(process) and (self._blames_stdlib or process.pid not in kept)
        ]
        return sorted(orphans, key=lambda orphan: (orphan.identity.create_time, orphan.identity.pid))

    def _new_belongings(self) -> list[str]:
        return sorted(text for which, text in _belongings().items() if which not in self._belongings)

    # ------------------------------------------------------------------ ending

    def _end(self, orphans: Sequence[_Orphan]) -> list[_Orphan]:
        """End them and what they start meanwhile; return those that could not be ended."""
        to_end = [orphan for orphan in orphans if not orphan.is_kept]
        _stop_pools({orphan.identity.pid for orphan in to_end})
        for orphan in to_end:
            with contextlib.suppress(psutil.Error):
                orphan.process.terminate()
        wait_gone([orphan.identity for orphan in to_end], _TERM_S)
        for _ in range(_ROUNDS):
            to_end = [orphan for orphan in self._orphans() if not orphan.is_kept]
            running = [orphan for orphan in to_end if orphan.identity.is_alive()]
            for orphan in running:
                with contextlib.suppress(psutil.Error):
                    orphan.process.kill()
            wait_gone([orphan.identity for orphan in running], _KILL_S)
            _collect({orphan.identity.pid for orphan in to_end})
            if not running:
                break
        return [orphan for orphan in self._orphans() if orphan.identity.is_alive() and not orphan.is_kept]


def _heading(count: int) -> str:
    return "1 process was left behind:" if count == 1 else f"{count} processes were left behind:"


def _is_left(process: psutil.Process) -> bool:
    try:
        if not process.is_running():
            return False
        return process.status() != psutil.STATUS_ZOMBIE or process.ppid() == os.getpid()
    except psutil.Error:
        return False


def _kept_by_stdlib() -> set[int]:
    """The resource tracker and the fork server that `multiprocessing` itself has started in this process."""
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    pids = (getattr(tracker, "_pid", None), getattr(server, "_forkserver_pid", None))
    return {pid for pid in pids if pid is not None}


def _belongings() -> dict[Hashable, str]:
    """What mpengine has in this process and on this machine, by the names it gives; of each, which one and a text."""
    threads = [thread for thread in threading.enumerate() if thread.name.startswith(_OWN_PREFIX)]
    return {
        **{thread: f"thread {thread.name}" for thread in threads},
        **{(fd, inode): f"fd {fd} {target}" for fd, inode, target in _memory_files()},
        **{("shm", name): f"shared memory {name}" for name in _names("/dev/shm")},  # noqa: S108 - only looked at
        **{("tmp", name): f"temporary file {name}" for name in _names(tempfile.gettempdir())},
    }


def _memory_files() -> Iterator[tuple[int, int, str]]:
    folder = Path("/proc/self/fd")
    for link in list(folder.iterdir()) if folder.is_dir() else ():
        with contextlib.suppress(OSError):  # the one that lists the folder
            target = str(link.readlink())
            if target.startswith(f"/memfd:{_OWN_PREFIX}") and not target.startswith(f"/memfd:{_MARK}"):
                yield int(link.name), link.stat().st_ino, target


def _names(folder: str) -> list[str]:
    try:
        # The folder in which runs are listed is any program's of this user, and there while one of them runs something.
        common = f"{_OWN_PREFIX}{os.geteuid()}"
        return [
            name for path in Path(folder).iterdir() if (name := path.name).startswith(_OWN_PREFIX) and name != common
        ]
    except OSError:
        return []


# ---------------------------------------------------------------------- owners


def _stop_pools(pids: Collection[int]) -> None:
    """Stop the pools whose workers these are: a pool would replace each that ends."""
    pool_class = getattr(sys.modules.get("multiprocessing.pool"), "Pool", None)
    if pool_class is None:
        return
    # On threads, with a deadline: stopping a pool waits for its workers, one of which may never answer.
    threads = [
        threading.Thread(target=pool.terminate, daemon=True)
        for pool in _instances(pool_class)
        if any(worker.pid in pids for worker in getattr(pool, "_pool", ()))
    ]
    deadline_at = time.monotonic() + _TERM_S
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline_at - time.monotonic()))


def _collect(pids: Collection[int]) -> None:
    """Collect the exit statuses of those that have ended: by their owners, where there are any (X4)."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is not None:
        multiprocessing.active_children()
    for popen in _instances(subprocess.Popen):
        if getattr(popen, "pid", None) in pids:
            popen.poll()
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _instances(wanted: type) -> list[Any]:
    # type() and not isinstance(): that asks the object, and a proxy among them may answer anything.
    return [thing for thing in gc.get_objects() if issubclass(type(thing), wanted)]
