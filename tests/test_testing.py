"""The check for orphans: who is blamed, who is not, and what becomes of those that are."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psutil
import pytest

from mpengine import Engine, testing
from mpengine.processes import identity
from mpengine.testing import assert_no_orphans

SLEEP = ("sleep", "600")
PATIENCE_S = 30
AT_ONCE = {"timeout_s": 0.0}


daemons = []


@pytest.fixture(autouse=True)
def _no_daemon_outlives_a_test_that_fails():
    yield
    for daemon in daemons:
        with contextlib.suppress(psutil.NoSuchProcess):
            daemon.kill()
    daemons.clear()


def left(start, **options):
    """What the check says of ``start()``, and what that returned."""
    with pytest.raises(AssertionError) as failure, assert_no_orphans(**{**AT_ONCE, **options}):
        found = start()
    return str(failure.value), found


def is_gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def start_orphan_program():
    """A program whose parent ends at once."""
    command = "sleep 600 >&- 2>&- & echo $!"
    pid = int(subprocess.run(["sh", "-c", command], capture_output=True, check=True).stdout)
    daemons.append(psutil.Process(pid))
    return pid


def start_forked_daemon():
    """Forked twice, with a session of its own, all of its fds closed, and no other program begun."""
    told_fd, tell_fd = os.pipe()
    pid = os.fork()
    if not pid:
        os.setsid()
        if not os.fork():
            os.write(tell_fd, str(os.getpid()).encode())
            os.closerange(0, 1000)
            while True:
                signal.pause()
        os.kill(os.getpid(), signal.SIGKILL)  # no exit handlers of the suite's
    os.waitpid(pid, 0)
    os.close(tell_fd)
    with os.fdopen(told_fd) as told:
        daemons.append(psutil.Process(int(told.readline(20))))
    return daemons[-1].pid


# ---------------------------------------------------------------------- who is blamed


def test_where_nothing_is_left_nothing_is_said():
    with assert_no_orphans():
        subprocess.run(["true"], check=True)


def test_a_process_left_behind_is_told_by_pid_age_and_command_and_is_ended():
    said, popen = left(lambda: subprocess.Popen(SLEEP))

    assert re.search(rf"^1 process was left behind:\n  pid {popen.pid} \(\d+\.\d s old\): sleep 600$", said)
    assert popen.returncode == -signal.SIGTERM  # whoever started it is told how it ended


def test_each_of_several_is_told():
    said, popens = left(lambda: [subprocess.Popen(SLEEP) for _ in range(3)])

    assert said.startswith("3 processes were left behind:")
    assert [f"pid {popen.pid} (" in said for popen in popens] == [True] * 3


def test_a_process_of_multiprocessing_that_nobody_ends_is_blamed():
    def start():
        process = multiprocessing.get_context("fork").Process(target=signal.pause)
        process.start()
        return process

    said, process = left(start)

    assert f"pid {process.pid} (" in said
    assert process.exitcode == -signal.SIGTERM


def test_a_zombie_that_nobody_has_collected_is_blamed_and_collected_x3():
    def start():
        popen = subprocess.Popen(["true"])
        os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOWAIT)
        return popen

    said, popen = left(start)

    assert f"pid {popen.pid} (" in said
    assert "exit status not collected" in said
    assert popen.returncode == 0


def test_what_is_ending_is_waited_for_x2(monkeypatch):
    told_fd, tell_fd = os.pipe()

    def wait_gone(identities, timeout_s):
        os.close(tell_fd)  # ends it
        return identity.wait_gone(identities, timeout_s)

    monkeypatch.setattr(testing, "wait_gone", wait_gone)
    with assert_no_orphans(timeout_s=PATIENCE_S):
        subprocess.run(["sh", "-c", "exec 3<&0; (read line) <&3 &"], stdin=told_fd, check=True)
        os.close(told_fd)


def test_a_thread_that_is_about_to_collect_an_exit_status_is_waited_for_x3():
    class Collecting(threading.Thread):
        def __init__(self, popen):
            super().__init__()
            self.popen = popen
            self.gate = threading.Event()

        def run(self):
            if self.gate.wait(PATIENCE_S):
                self.popen.wait()

        def join(self, timeout=None):
            self.gate.set()
            super().join(timeout)

    with assert_no_orphans(timeout_s=PATIENCE_S):
        thread = Collecting(subprocess.Popen(["true"]))
        thread.start()


def test_a_grandchild_that_lost_its_parent_is_blamed_by_the_cookie():
    said, pid = left(start_orphan_program)

    assert re.search(rf"pid {pid} \(\d+\.\d s old, its parent has gone\): sleep 600", said)
    assert is_gone(pid)


def test_a_daemon_that_only_forked_is_blamed_by_the_mapping():
    said, pid = left(start_forked_daemon)

    assert f"pid {pid} (" in said
    assert "its parent has gone" in said
    assert is_gone(pid)


def test_a_child_without_the_environment_is_blamed_as_a_descendant():
    said, popen = left(lambda: subprocess.Popen(SLEEP, env={"PATH": os.environ["PATH"]}))

    assert f"pid {popen.pid} (" in said


def test_who_was_there_before_is_neither_blamed_nor_ended_x1():
    with subprocess.Popen(SLEEP) as before:
        said, popen = left(lambda: subprocess.Popen(SLEEP))

        assert f"pid {before.pid} (" not in said
        assert (popen.returncode, before.poll()) == (-signal.SIGTERM, None)
        before.kill()


@pytest.mark.slow
def test_a_pool_that_was_not_closed_is_blamed_and_does_not_come_back():
    def start():
        pool = multiprocessing.get_context("fork").Pool(2)
        return pool, [worker.pid for worker in pool._pool]

    said, (pool, pids) = left(start)

    assert [f"pid {pid} (" in said for pid in pids] == [True, True]
    pool.join()
    with assert_no_orphans(**AT_ONCE):
        assert all(is_gone(pid) for pid in pids)
        assert psutil.Process().children() == []


def test_what_nobody_holds_any_more_may_end_what_it_started():
    class Server:
        def __init__(self):
            self.popen = subprocess.Popen(SLEEP)
            self.cycle = self

        def __del__(self):
            self.popen.kill()
            self.popen.wait()

    def drop():
        Server()

    with assert_no_orphans(**AT_ONCE):
        drop()


@pytest.mark.slow
def test_an_executor_that_shuts_down_without_waiting_is_waited_for():
    with assert_no_orphans(timeout_s=PATIENCE_S):
        executor = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
        executor.submit(abs, -1).result()
        executor.shutdown(wait=False)


STANDARD_LIBRARY = """
import multiprocessing
from multiprocessing import forkserver, resource_tracker
from mpengine.testing import assert_no_orphans

def begin():
    process = multiprocessing.get_context("forkserver").Process(target=abs, args=(-1,))
    process.start()
    process.join()

if __name__ == "__main__":
    with assert_no_orphans(timeout_s={timeout_s}, blame_stdlib={blamed}):
        begin()
    print("not blamed")
"""


@pytest.mark.slow
@pytest.mark.parametrize("blamed", [False, True])
def test_what_multiprocessing_keeps_on_purpose_is_blamed_only_on_request(tmp_path, blamed):
    program = tmp_path / "program.py"
    program.write_text(STANDARD_LIBRARY.format(timeout_s=0.0 if blamed else PATIENCE_S, blamed=blamed))
    ended = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    assert ("not blamed" in ended.stdout) != blamed, ended.stderr
    assert ended.stderr.count("kept by multiprocessing") == (2 if blamed else 0)


@pytest.mark.slow
def test_a_run_of_an_engine_leaves_nothing_and_one_that_stays_open_is_blamed():
    with assert_no_orphans():
        assert Engine(1).run([range(10), abs]).is_ok

    with Engine(1) as engine:
        said, _ = left(lambda: engine.run([range(10), abs]).unwrap())
    assert "processes were left behind" in said


@pytest.mark.alone
def test_what_mpengine_itself_leaves_in_this_process_is_told():
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait, name="mpengine-staged", daemon=True)

    def start():
        thread.start()
        return (
            os.memfd_create("mpengine-staged"),
            tempfile.NamedTemporaryFile(prefix="mpengine-staged"),
            tempfile.NamedTemporaryFile(prefix="mpengine-staged", dir="/dev/shm"),
        )

    said, (fd, file, shared) = left(start)

    gate.set()
    thread.join()
    os.close(fd)
    file.close()
    shared.close()
    assert said.startswith("left behind by mpengine:")
    assert f"fd {fd} /memfd:mpengine-staged" in said
    assert "thread mpengine-staged" in said
    assert f"temporary file {Path(file.name).name}" in said
    assert f"shared memory {Path(shared.name).name}" in said


def test_the_folder_in_which_other_programs_list_their_runs_is_nobodys_blame(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with assert_no_orphans(**AT_ONCE):
        (tmp_path / f"mpengine-{os.geteuid()}").mkdir()


def test_threads_and_files_of_others_are_not_told():
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait, daemon=True)
    with assert_no_orphans(**AT_ONCE):
        thread.start()
        fd = os.memfd_create("another")

    gate.set()
    thread.join()
    os.close(fd)


# ---------------------------------------------------------------------- what becomes of them


def test_what_ignores_sigterm_is_killed(monkeypatch):
    monkeypatch.setattr(testing, "_TERM_S", 0.0)

    def start():
        popen = subprocess.Popen(["sh", "-c", "trap '' TERM; echo; read line"], stdin=subprocess.PIPE, stdout=-1)
        popen.stdout.readline()
        return popen

    _, popen = left(start)

    assert popen.returncode == -signal.SIGKILL
    popen.stdin.close()
    popen.stdout.close()


def test_what_is_left_stays_when_it_is_not_to_be_ended():
    said, popen = left(lambda: subprocess.Popen(SLEEP), end=False)

    assert f"pid {popen.pid} (" in said
    assert popen.poll() is None
    popen.kill()
    popen.wait()


def test_an_exception_from_inside_goes_on_and_tells_what_was_left_as_a_note():
    popens = []

    def fail():
        popens.append(subprocess.Popen(SLEEP))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as failure, assert_no_orphans(**AT_ONCE):
        fail()

    (popen,) = popens
    assert f"pid {popen.pid} (" in failure.value.__notes__[0]
    assert popen.returncode == -signal.SIGTERM


def test_an_outer_check_knows_what_was_started_in_an_inner_one():
    with contextlib.suppress(AssertionError), assert_no_orphans(**AT_ONCE, end=False):
        said, pid = left(lambda: left(start_orphan_program, end=False)[1])

    assert f"pid {pid} (" in said


def test_the_cookie_is_there_only_while_a_check_is_on_even_when_checks_overlap():
    first, second = testing._Cookie(), testing._Cookie()
    seen = [len(os.environ[testing.COOKIES_NAME].split(":"))]
    first.remove()
    seen.append(len(os.environ[testing.COOKIES_NAME].split(":")))
    second.remove()

    assert seen == [2, 1]
    assert testing.COOKIES_NAME not in os.environ


def test_the_end_of_a_check_does_nothing_in_a_forked_child_x5():
    said_fd, say_fd = os.pipe()
    with subprocess.Popen(SLEEP) as popen:
        check = testing._Check(blame_stdlib=False)
        check._before -= {psutil.Process(popen.pid)}
        pid = os.fork()
        if not pid:
            os.write(say_fd, repr(check.conclude(0.0, end=True)).encode())
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(say_fd)
        with os.fdopen(said_fd) as said:
            assert said.read() == "None"
        assert popen.poll() is None
        assert "pid" in check.conclude(0.0, end=True)
