"""Every test leaves the machine as it found it: no process, thread, fd, shared-memory name or temporary file."""

import contextlib
import fcntl
import gc
import importlib
import itertools
import multiprocessing
import os
import re
import secrets
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path

import psutil
import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
COOKIE_NAME = "MPENGINE_TEST_SESSION"
PATIENCE_S = 5.0
TESTS_BETWEEN_FULL_COLLECTIONS = 50
NAMES_ITS_OWNER = re.compile(r"(?:sem\.loky-|joblib_memmapping_folder_)(\d+)[-_]")
"""Names in ``/dev/shm`` that last as long as the program that has them; another part's tests run some."""

os.environ[COOKIE_NAME] = SESSION_COOKIE = secrets.token_hex(16)

# What a shell starts in the background ignores Ctrl-C and the like, and so would every program that a test starts and
# interrupts: that a signal is ignored is inherited, that it is handled is not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for _signum in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
    if signal.getsignal(_signum) is signal.SIG_IGN:
        signal.signal(_signum, signal.SIG_DFL)


class _Collector:
    """Collects what a test has made, after each test; what is older is kept out of its way, and is seldom looked at."""

    def __init__(self):
        self._count = 0

    def collect(self):
        self._count += 1
        gc.collect()
        if self._count % TESTS_BETWEEN_FULL_COLLECTIONS == 0:
            self.collect_all()

    @staticmethod
    def collect_all():
        gc.unfreeze()
        gc.collect()
        gc.freeze()


_collector = _Collector()


def pytest_addoption(parser):
    parser.addoption("--part", metavar="K/N", help="run one test in N: the K-th part of all")
    parser.addoption("--short", action="store_true", help="leave out what is marked 'long'")
    parser.addoption("--turns", metavar="FILE", help="a file that all parts lock by turns; for tests marked 'alone'")


@pytest.fixture(scope="session")
def _turns(request):
    path = request.config.getoption("--turns")
    with contextlib.ExitStack() as stack:
        yield path and stack.enter_context(Path(path).open("r+"))


@pytest.fixture(autouse=True)
def _runs_beside_what_it_may(request, _turns):
    """Keep all other parts waiting while a test runs that is marked ``alone``."""
    if _turns is not None:
        # Through the gate one by one: who waits to be alone waits in it, or others would go past for ever.
        fcntl.lockf(_turns, fcntl.LOCK_EX)
        fcntl.flock(_turns, fcntl.LOCK_EX if request.node.get_closest_marker("alone") else fcntl.LOCK_SH)
        fcntl.lockf(_turns, fcntl.LOCK_UN)
    yield
    if _turns is not None:
        fcntl.flock(_turns, fcntl.LOCK_UN)


def is_of_ray(item):
    return item.nodeid.startswith("tests/ray/")


def pytest_collection_modifyitems(config, items):
    """Keep the part that is asked for: each has a share of what is slow, and keeps its tests when others are added.

    The last part has all tests of Ray, which start it but once so, and leave their marks on no other test's process.
    In one process they come last, for the same reason.
    """
    items.sort(key=is_of_ray)
    number, parts = map(int, (config.getoption("--part") or "1/1").split("/"))
    is_short = config.getoption("--short")

    def is_mine(item):
        if is_short and item.get_closest_marker("long"):
            return False
        if parts == 1:
            return True
        return number == parts if is_of_ray(item) else zlib.crc32(item.nodeid.encode()) % (parts - 1) == number - 1

    mine = list(map(is_mine, items))
    config.hook.pytest_deselected(items=[item for item, keeps in zip(items, mine, strict=True) if not keeps])
    items[:] = itertools.compress(items, mine)


def pytest_report_header():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    parallel = shutil.which("parallel")
    return [
        f"browser: {chromium or 'none, so tests/dashboard/test_page.py is no part of this'}",
        f"GNU parallel: {parallel or 'none, so what docs/moving/parallel.rst shows is no part of this'}",
    ]


def pytest_collection_finish():
    _collector.collect_all()


@pytest.fixture
def from_scripts(monkeypatch):
    """Import a module or package that is beside the scripts and nowhere else; it is forgotten after the test."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield importlib.import_module
    for name, module in list(sys.modules.items()):
        if name not in before and str(getattr(module, "__file__", None) or "").startswith(str(SCRIPTS)):
            del sys.modules[name]


@pytest.fixture(scope="session", autouse=True)
def _runs_are_listed_apart(tmp_path_factory):
    """Have what tests run listed where nobody else looks, and look nowhere else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPENGINE_RUNTIME_DIR", str(tmp_path_factory.mktemp("listed") / "runs"))
        yield


@pytest.fixture(autouse=True)
def _nothing_is_left(_runs_beside_what_it_may):
    before = _Belongings()
    yield
    _collector.collect()
    if _Belongings().are_among(before):
        return
    _collector.collect_all()  # an engine that is older than this test may have held it
    deadline_at = time.monotonic() + PATIENCE_S
    processes = _still_alive(before.pids, deadline_at)
    threads = _still_running(before.threads, deadline_at)
    shared_memory = _still_named(before.shared_memory, deadline_at)
    after = _Belongings()
    left = {
        "processes": processes,
        "threads": threads,
        "fds": _newcomers(before.fds, after.fds),
        "shared memory": sorted(shared_memory),
        "temporary files": sorted(after.temporary_files - before.temporary_files),
        "listed runs": sorted(after.listed),
    }
    assert not any(left.values()), f"left behind: { {kind: found for kind, found in left.items() if found} }"


class _Belongings:
    def __init__(self):
        self.pids = set(psutil.pids())
        self.threads = set(threading.enumerate())
        self.fds = _open_fds()
        self.shared_memory = _shared_memory()
        # By their beginning: an installer at work elsewhere makes names that have the package's in their middle.
        self.temporary_files = {name for name in _names(tempfile.gettempdir()) if name.startswith("mpengine")}
        self.listed = set(_names(os.environ["MPENGINE_RUNTIME_DIR"])) - _those_of_killed_programs()

    def are_among(self, before):
        """Whether all of this was there before, and every new process is somebody else's."""
        return (
            self.threads <= before.threads
            and self.fds.items() <= before.fds.items()
            and self.shared_memory <= before.shared_memory
            and self.temporary_files <= before.temporary_files
            and not self.listed
            and not any(map(_ours, self.pids - before.pids))
        )


def _names(folder):
    try:
        return os.listdir(folder)  # noqa: PTH208 - before and after every test, where paths take ten times as long
    except FileNotFoundError:
        return ()


def _shared_memory():
    """Return the names that there are, but for those that tell that they are of somebody else who is still there."""
    return {
        name for name in _names("/dev/shm") if (found := NAMES_ITS_OWNER.match(name)) is None or _may_be_ours(found)
    }


def _may_be_ours(found):
    pid = int(found[1])
    return pid == os.getpid() or not psutil.pid_exists(pid) or _ours(pid) is not None


def _those_of_killed_programs():
    """Return the entries of runs of programs that a test has killed: they stay, as they should."""
    if not _names(os.environ["MPENGINE_RUNTIME_DIR"]):
        return set()
    from mpengine.runs import known_runs

    return {f"{run.run_id}.run" for run in known_runs() if run.entry.pid != os.getpid() and not run.is_alive}


def _open_fds():
    found = {}
    for fd in _names("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that lists the folder
            found[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - as above
    return found


def _newcomers(before, after):
    return {fd: target for fd, target in after.items() if before.get(fd) != target}


def _still_alive(before, deadline_at):
    """What this process or any of its descendants has started and is there when the deadline is over, and kill it."""
    multiprocessing.active_children()  # buries those of the standard library that have ended
    found = [process for pid in set(psutil.pids()) - before if (process := _ours(pid)) is not None]
    left = [process for process in found if not _ends(process, deadline_at) or _is_unburied(process)]
    described = [_description(process) for process in left]
    for process in left:
        process.kill()
        with contextlib.suppress(psutil.TimeoutExpired):  # that of another, which does not bury it
            process.wait(1)
    return described


def _ends(process, deadline_at):
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(max(0.0, deadline_at - time.monotonic()) * 1000)) or not process.is_running()
    finally:
        os.close(pidfd)


def _is_unburied(process):
    """Whether it has ended and its exit status is still to be collected by us; others' zombies are not ours to bury."""
    try:
        return process.ppid() == os.getpid()
    except psutil.NoSuchProcess:
        return False


def _ours(pid):
    """Return a process that this one or a descendant of it has started; None if it is somebody else's, or gone."""
    try:
        process = psutil.Process(pid)
        is_ours = process.ppid() == os.getpid() or _bears_cookie(process)
    except psutil.Error:
        return None
    return process if is_ours else None


def _bears_cookie(process):
    try:
        return process.environ().get(COOKIE_NAME) == SESSION_COOKIE
    except (psutil.Error, OSError):
        return False


def _description(process):
    try:
        return f"{process.pid} {process.status()} {' '.join(process.cmdline())[:200]}"
    except psutil.Error:
        return str(process.pid)


def _still_named(before, deadline_at):
    """New names of shared memory that stay: everybody's are in one place, and others' tests have some for a moment."""
    while (left := _shared_memory() - before) and time.monotonic() < deadline_at:
        time.sleep(0.05)
    return left


def _still_running(before, deadline_at):
    for thread in set(threading.enumerate()) - before:
        thread.join(max(0.0, deadline_at - time.monotonic()))
    return [thread.name for thread in set(threading.enumerate()) - before]
