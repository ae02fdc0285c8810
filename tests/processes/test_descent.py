"""What user code has started in a worker ends with the worker, wherever it has gone."""

import json
import os
import signal
import subprocess
import sys
import threading

import entries
import psutil
import pytest
from test_orphans import gone_in_time, run_coordinator  # noqa: F401 - a fixture

from mpengine.processes.identity import wait_gone
from mpengine.processes.registry import Started
from mpengine.worker import descent, lifeline

NOT_FOUND = {"fork": {"in a session, with an environment"}}  # rule Z2 of the guardian


@pytest.fixture
def start_family(nest):
    """Start a worker with all kinds of grandchildren; returns its identity, and their pids."""

    def start(worker_id=0, generation=0):
        nest.start("start_all_kinds_of_grandchildren", worker_id, generation)
        identity = nest.wait_notice(Started, worker_id).identity
        return identity, found_again(json.loads(nest.read(worker_id)), nest.start_method)

    return start


def found_again(told, start_method):
    """All that is to end with the worker; what is not is ended here."""
    for kind in NOT_FOUND.get(start_method, ()):
        os.kill(told.pop(kind), signal.SIGKILL)
    assert len(told) >= 5
    return told


def still_there(told):
    left = gone_in_time(told.values())
    return {kind for kind, pid in told.items() if pid in left}


def test_all_ends_with_a_worker_that_is_killed(nest, start_family):
    identity, told = start_family()
    os.kill(identity.pid, signal.SIGKILL)
    nest.wait_exit()

    assert still_there(told) == set()


def test_what_another_worker_has_started_stays(nest, start_family):
    first, _ = start_family()
    _, told = start_family(1)
    os.kill(first.pid, signal.SIGKILL)
    nest.wait_exit()
    # What has an environment of its own may be anybody's once it has lost its parent; here it has not.
    alive = {kind for kind, pid in told.items() if psutil.pid_exists(pid)}

    assert alive == told.keys()


def test_the_daemon_of_a_worker_stays_while_that_lives_whatever_else_it_has_started_ends(make_nest):
    nest = make_nest("forkserver")
    nest.start("start_daemon_and_shorter_ones")
    identity = nest.wait_notice(Started).identity
    daemon = int(nest.read())
    # What follows comes when the short one has ended and been buried.
    (nursery,) = nest.registry._workers.others()
    while len(descent.children_of(nursery.pid)) > 2:
        pass
    assert psutil.pid_exists(daemon)
    os.kill(identity.pid, signal.SIGKILL)
    nest.wait_exit()

    assert gone_in_time([daemon]) == []


def test_all_ends_when_the_registry_is_closed(nest, start_family):
    _, told = start_family()
    nest.registry.close()

    assert still_there(told) == set()
    assert nest.registry.verify_gone() == ()


@pytest.mark.slow
def test_all_ends_with_a_coordinator_that_is_killed(run_coordinator, start_method):  # noqa: F811 - the fixture
    program = run_coordinator(["start_all_kinds_of_grandchildren"], start_method)
    worker, told, guardian = json.loads(program.stdout.readline())
    told = found_again(told, start_method)
    program.kill()
    program.wait()

    assert still_there({**told, "the worker": worker, "the guardian": guardian}) == set()


def test_most_ends_with_a_nursery_that_is_killed(make_nest):
    nest = make_nest("forkserver")
    nest.start("start_all_kinds_of_grandchildren")
    nest.wait_notice(Started)
    told = json.loads(nest.read())
    os.kill(told.pop("in a session, with an environment"), signal.SIGKILL)  # nobody is left who could know it
    (nursery,) = nest.registry._workers.others()
    os.kill(nursery.pid, signal.SIGKILL)
    nest.wait_exit()

    assert still_there(told) == set()


def test_a_guardian_that_is_killed_is_replaced_and_what_it_has_missed_is_found(make_nest):
    nest = make_nest("fork")
    nest.start("start_all_kinds_of_grandchildren")
    identity = nest.wait_notice(Started).identity
    told = found_again(json.loads(nest.read()), "fork")
    (guardian,) = nest.registry._workers.others()
    os.kill(guardian.pid, signal.SIGKILL)
    assert wait_gone([guardian], 10.0) == ()  # dying takes as long as the machine is busy
    os.kill(identity.pid, signal.SIGKILL)
    nest.wait_exit()
    nest.start("leave", worker_id=1, code=3)
    assert nest.wait_exit(1).exitcode == 3
    assert len(nest.registry._workers.others()) == 2
    nest.registry.close()

    assert still_there(told) == set()


def test_where_no_guardian_can_be_started_workers_are_and_what_they_leave_is_found_at_the_end(make_nest, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "no program may be started here")

    monkeypatch.setattr("mpengine.processes.spawning.launch", refuse)
    nest = make_nest("fork")
    nest.start("start_all_kinds_of_grandchildren")
    nest.wait_notice(Started)
    told = found_again(json.loads(nest.read()), "fork")
    assert nest.registry._workers.others() == ()
    nest.registry.close()

    assert still_there(told) == set()


def test_a_fork_of_a_fork_ends_with_the_first_process_l5():
    told_r, told_w = os.pipe()
    parent_r, parent_w = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(parent_w)
        lifeline.bind_descendants(parent_r)
        pids = [entries.fork_in_a_session()]
        if os.fork() == 0:
            os.write(told_w, json.dumps([*pids, os.getpid(), entries.fork_in_a_session()]).encode())
        signal.pause()
    os.close(parent_r)
    pids = json.loads(os.read(told_r, 100))
    for fd in (told_r, told_w):
        os.close(fd)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

    assert gone_in_time(pids) == []
    os.close(parent_w)


def test_a_number_that_user_code_has_given_to_another_file_is_left_alone_l5(tmp_path):
    (tmp_path / "file").write_text("abc")
    program = (
        "import os, sys\n"
        "from mpengine.worker import lifeline\n"
        "line, keep = os.pipe()\n"
        "lifeline.bind_descendants(line)\n"
        f"file = os.open({str(tmp_path / 'file')!r}, os.O_RDWR)\n"
        "os.read(file, 1)\n"
        "os.dup2(file, line)\n"
        "if os.fork() == 0:\n"
        "    assert os.read(line, 5) == b'bc'\n"
        "    os._exit(3)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 3


def test_the_cookie_of_a_worker_belongs_to_its_registry_and_no_other():
    assert descent.belongs(descent.tagged("abc", 1, 2), "abc")
    assert descent.belongs("abc", "abc")
    assert not descent.belongs(descent.tagged("abcd", 1, 2), "abc")
    assert not descent.belongs(descent.tagged("abc", 1, 22), descent.tagged("abc", 1, 2))
    assert not descent.belongs("", "abc")


def test_this_process_is_told_as_the_parent_of_its_children_and_they_bear_what_they_were_given():
    environ = {**os.environ, descent.COOKIE_NAME: descent.tagged("mine", 3, 4)}
    with subprocess.Popen(["sleep", "60"], env=environ) as child:
        assert child.pid in descent.children_of(os.getpid())
        assert descent.cookie_of(child.pid) == "mine.3.4"
        assert descent.bearers_of("mine") == [child.pid]
        child.kill()
    assert descent.cookie_of(child.pid) == ""
    assert descent.children_of(child.pid) == []


def test_a_process_finds_its_own_children_wherever_it_asks(monkeypatch):
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    thread_child = []
    thread = threading.Thread(target=lambda: thread_child.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE)))
    thread.start()
    thread.join()
    try:
        listed = set(descent.own_children())
        assert {child.pid, thread_child[0].pid} <= listed
        assert listed == set(descent.children_of(os.getpid()))
        monkeypatch.setattr("builtins.open", lambda *_args, **_kwargs: (_ for _ in ()).throw(OSError))
        monkeypatch.setattr(descent, "children_of", lambda pid: [pid])
        assert descent.own_children() == [os.getpid()]  # a kernel without that list
    finally:
        monkeypatch.undo()
        for one in (child, *thread_child):
            one.communicate()
