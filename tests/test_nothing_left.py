"""What a test leaves fails that very test, and what it lets go of does not: ``conftest.py``, in a suite of its own."""

import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

PATIENCE_S = 60

SUITE = """
import gc
import os
import subprocess
import sys
import tempfile
import threading

import pytest

kept = []
ring = None

class Ring:
    def __init__(self, opened=None):
        self.opened, self.itself = opened, self

def old_ring():
    # Like one that has been there for so long that it is not looked at after each test any more.
    made = Ring(os.fdopen(os.dup(0)))
    gc.freeze()
    return made

def test_bad_process():
    kept.append(subprocess.Popen(["sleep", "600"]))

def test_good_process():
    subprocess.run(["true"], check=True)

def test_bad_unburied_process():
    kept.append(subprocess.Popen(["true"]))
    os.waitid(os.P_PID, kept[-1].pid, os.WEXITED | os.WNOWAIT)

def test_bad_orphan():
    subprocess.run(["sh", "-c", "sleep 600 > /dev/null 2>&1 &"], check=True)

def test_bad_thread():
    threading.Thread(target=threading.Event().wait, name="lasting", daemon=True).start()

def test_good_thread():
    threading.Thread(target=int, name="short").start()

def test_bad_fd():
    kept.append(os.dup(0))

def test_bad_other_file_behind_the_same_fd():
    fd = os.open("/dev/zero", os.O_RDONLY)
    os.dup2(fd, kept[-1])
    os.close(fd)

def test_good_fd():
    with open("/dev/zero"):
        pass

def test_bad_shared_memory():
    open("/dev/shm/" + os.environ["NAME"], "w").close()

def test_bad_shared_memory_that_tells_whose_it_is():
    open(f"/dev/shm/sem.loky-{os.getpid()}-{os.environ['NAME']}", "w").close()

def test_good_others_shared_memory():
    open(f"/dev/shm/sem.loky-{os.getppid()}-{os.environ['NAME']}", "w").close()

def test_bad_temporary_file():
    open(os.path.join(tempfile.gettempdir(), "mpengine-left"), "w").close()

def test_good_others_temporary_file():
    open(os.path.join(tempfile.gettempdir(), "others-left"), "w").close()

@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_good_ring_of_this_test():
    Ring(os.fdopen(os.dup(0)))

@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_good_ring_that_has_grown_old():
    old_ring()

def test_bad_ring_that_has_grown_old_and_is_held():
    global ring
    ring = old_ring()

async def wait():
    pass

def test_bad_ring_with_what_was_never_awaited():
    Ring(wait())

@pytest.mark.parametrize("number", range(60))
def test_good(number):
    pass
"""


@pytest.mark.alone
@pytest.mark.slow
def test_what_a_test_leaves_fails_that_test_and_no_other(tmp_path):
    conftest = (Path(__file__).parent / "conftest.py").read_text() + "\nPATIENCE_S = 0.1\n"
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    shared = Path("/dev/shm", f"mpengine-{secrets.token_hex(8)}")
    command = [sys.executable, "-m", "pytest", "-q", "-rEF", "-p", "no:cacheprovider", str(tmp_path)]
    try:
        suite = subprocess.run(
            command, env={**os.environ, "TMPDIR": str(tmp_path), "NAME": shared.name, "COLUMNS": "500"}, cwd=tmp_path,
            capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
    finally:
        for name in shared.parent.glob(f"*{shared.name}"):
            name.unlink()

    failed = re.findall(r"^(?:ERROR|FAILED) \S+::(\w+)", suite.stdout, re.MULTILINE)
    assert sorted(failed) == sorted(re.findall(r"def (test_bad\w*)", SUITE)), suite.stdout + suite.stderr
    kinds = dict(re.findall(r"::(\w+) - AssertionError: left behind: {'([a-z ]+)'", suite.stdout))
    assert kinds == {
        "test_bad_process": "processes",
        "test_bad_unburied_process": "processes",
        "test_bad_orphan": "processes",
        "test_bad_thread": "threads",
        "test_bad_fd": "fds",
        "test_bad_other_file_behind_the_same_fd": "fds",
        "test_bad_shared_memory": "shared memory",
        "test_bad_shared_memory_that_tells_whose_it_is": "shared memory",
        "test_bad_temporary_file": "temporary files",
        "test_bad_ring_that_has_grown_old_and_is_held": "fds",
    }, suite.stdout
