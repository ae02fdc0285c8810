"""Nobody outlives the coordinator, however it or they are doing, and whatever else has died."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from mpengine.processes.identity import ProcessIdentity, wait_gone
from mpengine.processes.registry import Exited, Started, StartFailed

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

COORDINATOR = textwrap.dedent("""
    import json, os, signal, sys
    sys.path[:0] = [{root!r}, {here!r}]
    print("imported", flush=True)
    from conftest import Nest
    from mpengine.processes.registry import Started
    nest = Nest({start_method!r}, preload={preload!r})
    told = []
    for worker_id, entry in enumerate({entries!r}):
        nest.start(entry, worker_id=worker_id)
    for worker_id, entry in enumerate({entries!r}):
        told.append(nest.wait_notice(Started, worker_id).identity.pid)
        word = nest.read(worker_id)
        if word != b"up":
            told.append(json.loads(word))
    told += [one.pid for one in nest.registry._workers.others()]
    print(json.dumps(told), flush=True)
    signal.pause()
""")


@pytest.fixture
def run_coordinator():
    programs = []

    def run(entries, start_method, preload=()):
        code = COORDINATOR.format(
            root=str(ROOT), here=str(HERE), entries=entries, start_method=start_method, preload=preload
        )
        program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        programs.append(program)
        assert program.stdout.readline() == "imported\n"
        return program

    yield run
    for program in programs:
        program.kill()
        program.wait()
        program.stdout.close()


def gone_in_time(pids, timeout_s=1.0):
    """The pids of those that are still there after so long; a zombie that nobody buries is gone."""
    return [identity.pid for identity in wait_gone([ProcessIdentity.of(pid) for pid in pids], timeout_s)]


@pytest.mark.slow
@pytest.mark.parametrize("entry", ["wait_for_ever", "sleep_in_c_code", "sleep_with_all_signals_blocked", "stop_itself"])
def test_a_killed_coordinator_takes_its_workers_along_whatever_they_do(run_coordinator, start_method, entry):
    program = run_coordinator([entry, "wait_for_ever"], start_method)
    pids = json.loads(program.stdout.readline())
    assert len(pids) == 2 + 1  # with the nursery or the guardian
    program.kill()
    program.wait()
    assert gone_in_time(pids) == []


@pytest.mark.slow
def test_the_nursery_ends_the_grandchildren_of_a_killed_coordinator(run_coordinator):
    program = run_coordinator(["start_grandchild"], "forkserver")
    worker, grandchild, nursery = json.loads(program.stdout.readline())
    assert all(psutil.pid_exists(pid) for pid in (worker, grandchild, nursery))
    program.kill()
    program.wait()
    assert gone_in_time([worker, grandchild, nursery]) == []


@pytest.mark.slow
def test_a_stopped_nursery_does_not_outlive_a_killed_coordinator(run_coordinator):
    program = run_coordinator(["wait_for_ever"], "forkserver")
    worker, nursery = json.loads(program.stdout.readline())
    os.kill(nursery, signal.SIGSTOP)
    while psutil.Process(nursery).status() != psutil.STATUS_STOPPED:
        pass  # a stop takes a moment; the kernel wakes the orphans it finds stopped, and no others
    program.kill()
    program.wait()
    assert gone_in_time([worker, nursery]) == []


@pytest.mark.slow
def test_a_nursery_that_hangs_in_its_preload_does_not_outlive_a_killed_coordinator(
    run_coordinator, tmp_path, monkeypatch
):
    (tmp_path / "hangs_for_ever.py").write_text(
        "import ctypes, os\n"
        f"with open({str(tmp_path / 'pid')!r}, 'w') as file: file.write(str(os.getpid()))\n"
        f"open({str(tmp_path / 'fifo')!r}, 'w').close()\n"
        "ctypes.PyDLL(None).sleep(60)\n"
    )
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    program = run_coordinator(["wait_for_ever"], "forkserver", preload=("hangs_for_ever",))
    (tmp_path / "fifo").read_text()  # waits until it has been opened
    pid = int((tmp_path / "pid").read_text())
    assert psutil.pid_exists(pid)
    program.kill()
    program.wait()
    assert gone_in_time([pid]) == []


@pytest.mark.slow
def test_main_is_not_imported_again(start_method, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(HERE)!r}]\n"
        "print('main runs', __name__, flush=True)\n"  # and no guard
        "from conftest import Nest\n"
        f"nest = Nest({start_method!r})\n"
        "nest.start('describe_surroundings')\n"
        "assert nest.wait_exit().exitcode == 0\n"
        "nest.close()\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == "main runs __main__\n"
    assert done.stderr == ""


def test_a_killed_nursery_is_told_as_the_death_of_its_workers_and_replaced(make_nest):
    nest = make_nest("forkserver")
    nest.start("start_grandchild", worker_id=0)
    nest.start("wait_for_ever", worker_id=1)
    workers = [nest.wait_notice(Started, worker_id).identity for worker_id in (0, 1)]
    grandchild = int(nest.read(0))
    nest.read(1)
    (first,) = nest.registry._workers.others()
    os.kill(first.pid, signal.SIGKILL)
    assert [nest.wait_exit(worker_id).exitcode for worker_id in (0, 1)] == [-signal.SIGKILL] * 2
    assert not any(identity.is_alive() for identity in (*workers, first))
    assert gone_in_time([grandchild]) == []
    assert nest.registry.verify_gone() == ()
    assert nest.registry.pids() == []
    nest.start("leave", worker_id=2, code=7)
    assert nest.wait_exit(2).exitcode == 7
    assert len(nest.of_kind(Exited)) == 3


def test_starts_that_a_killed_nursery_has_not_answered_go_to_the_next(make_nest):
    nest = make_nest("forkserver")
    nest.start("leave", worker_id=0, code=1)
    (first,) = nest.registry._workers.others()
    os.kill(first.pid, signal.SIGKILL)
    nest.start("leave", worker_id=1, code=2)
    assert nest.wait_exit(0).exitcode == 1
    assert nest.wait_exit(1).exitcode == 2
    assert not nest.of_kind(StartFailed)
    assert len(nest.registry._workers.others()) == 2


def test_the_group_of_a_dead_leader_is_found_when_the_nursery_dies_with_it(make_nest):
    nest = make_nest("forkserver")
    nest.start("start_grandchild")
    worker = nest.wait_notice(Started).identity
    grandchild = int(nest.read())
    (nursery,) = nest.registry._workers.others()
    os.kill(nursery.pid, signal.SIGSTOP)  # it will not bury the worker
    os.kill(worker.pid, signal.SIGKILL)
    os.kill(nursery.pid, signal.SIGKILL)
    assert nest.wait_exit().exitcode == -signal.SIGKILL
    assert gone_in_time([grandchild]) == []


def test_a_preload_that_fails_is_told_once_with_its_traceback(make_nest, tmp_path, monkeypatch):
    (tmp_path / "breaks.py").write_text("raise RuntimeError('not today')\n")
    monkeypatch.syspath_prepend(tmp_path)
    nest = make_nest("forkserver", preload=("json", "breaks"))
    for worker_id in range(20):  # more than are under way at a time
        nest.start("leave", worker_id=worker_id, code=0)
    reason = nest.wait_notice(StartFailed, None).reason
    assert "RuntimeError: not today" in reason
    assert "breaks.py" in reason
    assert nest.registry.pids() == []
    (tmp_path / "breaks.py").write_text("")
    nest.start("leave", worker_id=0, code=5)
    assert nest.wait_exit(0).exitcode == 5
    assert nest.of_kind(StartFailed) == [StartFailed(None, reason)]


def test_a_preload_that_kills_the_nursery_is_told_and_no_crash_loop(make_nest, tmp_path, monkeypatch):
    (tmp_path / "crashes.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.syspath_prepend(tmp_path)
    nest = make_nest("forkserver", preload=("crashes",))
    nest.start("leave", worker_id=0, code=0)
    assert "before it was ready (exit code -9)" in nest.wait_notice(StartFailed, None).reason
    assert len(nest.registry._workers.others()) == 3


def test_a_preloaded_module_is_there_when_the_worker_starts(make_nest, tmp_path, monkeypatch):
    (tmp_path / "preloaded.py").write_text("import os; PID = os.getpid()\ndef check(boot): assert os.getpid() != PID\n")
    monkeypatch.syspath_prepend(tmp_path)
    nest = make_nest("forkserver", preload=("preloaded",))
    nest.start("preloaded:check")
    assert nest.wait_exit().exitcode == 0


def test_what_a_preload_has_started_leaves_with_the_nursery(make_nest, tmp_path, monkeypatch):
    (tmp_path / "starts.py").write_text("import subprocess; subprocess.Popen(['sleep', '60'])\n")
    monkeypatch.syspath_prepend(tmp_path)
    nest = make_nest("forkserver", preload=("starts",))
    nest.start("leave", code=0)
    nest.wait_exit()
    assert "sleep" in [one.name() for one in psutil.Process().children(recursive=True)]
    nest.registry.close()
    assert "sleep" not in [one.name() for one in psutil.Process().children(recursive=True)]


def test_ctrl_c_and_hang_up_do_not_reach_nursery_or_worker(make_nest):
    nest = make_nest("forkserver")
    nest.start("wait_for_ever")
    nest.wait_notice(Started)
    nest.read()
    (nursery,) = nest.registry._workers.others()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(nursery.pid, signum)
    nest.registry.send_signal(0, signal.SIGINT)
    nest.start("leave", worker_id=1, code=4)
    assert nest.wait_exit(1).exitcode == 4
    assert len(nest.registry.pids()) == 1
    assert len({os.getpgid(0), os.getpgid(nursery.pid), os.getpgid(nest.registry.pids()[0])}) == 3
