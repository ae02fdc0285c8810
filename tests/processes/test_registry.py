import errno
import json
import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path

import entries
import psutil
import pytest

from mpengine.processes import spawning
from mpengine.processes.identity import ProcessIdentity, wait_gone
from mpengine.processes.registry import Exited, ProcessRegistry, Started, StartFailed
from mpengine.worker import descent


def test_an_unknown_start_method_is_refused_and_the_choices_named():
    with pytest.raises(ValueError, match="forkserver, spawn, fork"):
        ProcessRegistry("thread")


@pytest.mark.parametrize("code", [0, 3, 255])
def test_an_exit_code_is_told_as_it_was(nest, code):
    nest.start("leave", code=code)
    assert nest.wait_exit().exitcode == code


def test_an_entry_that_returns_nothing_exits_with_0(nest):
    nest.start("return_nothing")
    assert nest.wait_exit().exitcode == 0


def test_an_entry_that_raises_exits_with_1(nest):
    nest.start("raise_error")
    assert nest.wait_exit().exitcode == 1
    assert not nest.of_kind(StartFailed)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_deadly_signal_is_told_as_a_negative_exit_code(nest, signum):
    nest.start("kill_itself", signum=signum)
    assert nest.wait_exit().exitcode == -signum


def test_a_worker_killed_from_outside_is_noticed_and_leaves_the_living(nest):
    nest.start("wait_for_ever", worker_id=5)
    started = nest.wait_notice(Started, 5)
    nest.read(5)
    assert nest.registry.pids() == [started.identity.pid]
    assert nest.registry.identity_of(5) == started.identity
    os.kill(started.identity.pid, signal.SIGKILL)
    exited = nest.wait_exit(5)
    assert (exited.exitcode, exited.identity) == (-signal.SIGKILL, started.identity)
    assert nest.registry.pids() == []
    assert nest.registry.identity_of(5) is None
    assert nest.registry.verify_gone() == tuple(
        identity for identity in nest.registry._workers.others() if identity.is_alive()
    )


def test_a_slot_is_used_again_by_the_next_generation(nest):
    for generation in range(3):
        nest.start("leave", worker_id=0, generation=generation, code=generation)
        exited = nest.wait_notice(Exited, after=len(nest.notices))
        assert (exited.generation, exited.exitcode) == (generation, generation)


def test_surroundings_are_the_parents(nest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prog", "--flag"])
    nest.start("return_nothing", worker_id=1)  # a nursery that is there already must learn of the changes as well
    nest.wait_exit(1)
    folder = tmp_path / "inner"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TOLD_LATE", "yes")
    monkeypatch.delenv("HOME", raising=False)
    nest.start("describe_surroundings", worker_id=3)
    nest.wait_exit(3)
    told = json.loads(nest.read(3))
    assert told["cwd"] == str(folder)
    assert told["argv"] == ["prog", "--flag"]
    assert told["path"] == sys.path
    assert told["environ"]["TOLD_LATE"] == "yes"
    assert "HOME" not in told["environ"]
    assert told["environ"][descent.COOKIE_NAME] == descent.tagged(nest.registry.cookie, 3, 0)
    assert told["authkey"] == multiprocessing.current_process().authkey.hex()


def test_a_worker_is_a_process_of_multiprocessings_with_an_empty_stdin(nest):
    nest.start("describe_surroundings", worker_id=3)
    exited = nest.wait_exit(3)
    told = json.loads(nest.read(3))
    assert exited.exitcode == 0
    assert told["worker_id"] == 3
    assert told["name"] == "mpengine-worker-3"
    assert told["daemon"] is False
    assert told["parent_pid"] == os.getpid()
    assert told["parent_alive"] is True
    assert told["stdin"] == told["program_stdin"] == ""
    assert told["pid"] == told["pgid"] == exited.identity.pid
    assert told["sigint"]
    assert told["sigterm"]
    assert told["blocked"] == []
    assert told["inheritable"] == [False] * 5


def test_starting_workers_leaves_the_programs_start_method_unset(nest):
    before = multiprocessing.get_start_method(allow_none=True)
    nest.start("describe_surroundings")
    nest.wait_exit()
    assert multiprocessing.get_start_method(allow_none=True) == before
    assert json.loads(nest.read())["start_method"] == before


def test_signal_handlers_of_the_parent_do_not_run_in_a_worker(nest):
    called = []
    before = signal.signal(signal.SIGTERM, lambda *_: called.append(os.getpid()))
    try:
        nest.start("wait_for_ever")
        nest.wait_notice(Started)
        nest.read()
        nest.registry.terminate_all()
        assert nest.wait_exit().exitcode == -signal.SIGTERM
        assert not called
    finally:
        signal.signal(signal.SIGTERM, before)


def test_user_code_in_a_worker_may_start_a_pool(nest):
    nest.start("use_a_pool")
    assert nest.wait_exit().exitcode == 0
    assert json.loads(nest.read()) == [1, 2]


def test_the_rest_of_the_process_group_dies_with_the_worker(nest):
    nest.start("start_grandchild_and_leave")
    nest.wait_notice(Started)
    grandchild = int(nest.read())
    assert nest.wait_exit().exitcode == 0
    assert_gone(grandchild)


def test_killing_all_takes_grandchildren_along(nest):
    nest.start("start_grandchild")
    nest.wait_notice(Started)
    grandchild = int(nest.read())
    nest.registry.kill_all()
    assert nest.wait_exit().exitcode == -signal.SIGKILL
    assert_gone(grandchild)


def test_a_worker_holds_no_fd_of_its_siblings(nest):
    nest.start("tell_fds_and_wait", worker_id=0)
    nest.wait_notice(Started, 0)
    first = json.loads(nest.read(0))
    nest.start("tell_fds_and_wait", worker_id=1)
    nest.wait_notice(Started, 1)
    second = json.loads(nest.read(1))
    mine = entries.open_fds()
    ours = {mine[str(fd)] for fd in (nest.outboxes[0], *nest.lifelines[0])}
    assert ours <= set(first.values()), "each pipe has its other end in the first worker"
    assert not ours & set(second.values())
    own = {mine[str(fd)] for fd in (nest.outboxes[1], *nest.lifelines[1])}
    assert own <= set(second.values())


def test_nothing_but_its_own_fds_reaches_a_worker(make_nest):
    nest = make_nest("forkserver")
    nest.start("describe_surroundings")
    nest.wait_exit()
    fds = json.loads(nest.read())["fds"]
    # stdin, stdout, stderr; inbox, outbox, lifeline, cancel, control; the descendants' lifeline, both ends; the folder
    # listed, the empty stdin's twin
    assert len(fds) <= 12, fds
    assert not [target for target in fds.values() if target.startswith("socket:")]


@pytest.mark.slow
def test_more_starts_than_the_window_are_all_served(make_nest):
    nest = make_nest("forkserver")
    for worker_id in range(40):
        nest.start("leave", worker_id=worker_id, code=worker_id)
    assert [nest.wait_exit(worker_id).exitcode for worker_id in range(40)] == list(range(40))


def test_a_missing_entry_is_a_failed_start_with_its_traceback(nest):
    nest.start("no_such_module:entry")
    failed = nest.wait_notice(StartFailed)
    assert "ModuleNotFoundError" in failed.reason
    assert "Traceback" in failed.reason
    assert nest.wait_exit().exitcode == 70


def test_running_out_of_fds_is_a_failed_start(nest, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(spawning, "memory_file", refuse)
    nest.start("return_nothing", worker_id=4)
    assert "Too many open files" in nest.wait_notice(StartFailed, 4).reason
    assert nest.registry.pids() == []


def test_closing_twice_is_fine_and_kills_what_is_alive(nest):
    nest.start("wait_for_ever")
    identity = nest.wait_notice(Started).identity
    nest.read()
    assert identity.is_alive()
    nest.registry.close()
    nest.registry.close()
    assert not identity.is_alive()
    assert nest.registry.verify_gone() == ()
    assert nest.registry.pids() == []
    assert nest.registry.collect() == []
    with pytest.raises(ValueError, match="closed"):
        nest.start("return_nothing")


def test_closing_before_anything_was_started_is_fine(nest):
    nest.registry.close()
    assert nest.registry.verify_gone() == ()


def test_closing_at_once_after_starting_leaves_nothing(nest):
    for worker_id in range(3):
        nest.start("wait_for_ever", worker_id=worker_id)
    nest.registry.close()
    assert nest.registry.verify_gone() == ()


def test_killing_at_once_after_starting_leaves_no_worker(nest):
    for worker_id in range(3):
        nest.start("wait_for_ever", worker_id=worker_id)
    nest.registry.kill_all()
    for worker_id in range(3):
        nest.wait_notice((Exited, StartFailed), worker_id)
    assert nest.registry.pids() == []


def test_no_resource_tracker_is_ever_started(nest):
    nest.start("wait_for_ever")
    nest.wait_notice(Started)
    nest.read()
    children = psutil.Process().children(recursive=True)
    assert children
    own = psutil.Process().cmdline()  # a forked child shows its parent's, and with it the name of this test
    lines = [" ".join(child.cmdline()) for child in children if child.cmdline() != own]
    assert not [line for line in lines if "resource_tracker" in line or "forkserver" in line]


def test_pids_may_be_asked_from_any_thread(nest):
    nest.start("wait_for_ever")
    identity = nest.wait_notice(Started).identity
    found = []
    thread = threading.Thread(target=lambda: found.extend(nest.registry.pids()))
    thread.start()
    thread.join()
    assert found == [identity.pid]


def test_a_child_forked_by_the_user_holds_no_lifeline_and_an_empty_registry(nest):
    nest.start("wait_for_ever")
    nest.wait_notice(Started)
    nest.read()
    mine = entries.open_fds()
    targets = [mine[str(fd)] for fd in (*nest.lifelines[0], nest.outboxes[0])]
    told_r, told_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        held = entries.open_fds().values()
        kinds = [target for target in held if "eventpoll" in target or "eventfd" in target]
        leaks = [target for target in held if target in targets]
        os.write(told_w, json.dumps([nest.registry.pids(), leaks, kinds]).encode())
        nest.registry.close()
        os._exit(0)
    os.close(told_w)
    os.waitpid(pid, 0)
    assert json.loads(os.read(told_r, 65536)) == [[], [], []]
    os.close(told_r)
    assert len(nest.registry.pids()) == 1
    assert nest.registry.alive()[0].is_alive()


def assert_gone(pid):
    assert wait_gone([ProcessIdentity.of(pid)], 5) == ()


def test_a_forgotten_fd_is_left_alone_in_forked_children():
    kept_r, kept_w = os.pipe()
    spawning.close_in_forked_children(kept_w)
    spawning.forget(kept_w)
    pid = os.fork()
    if pid == 0:
        os.write(kept_w, b"open")
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(kept_r, 4) == b"open"
    os.close(kept_r)
    os.close(kept_w)


def test_the_package_folder_reaches_a_worker_though_it_is_not_on_the_import_path(make_nest, monkeypatch):
    root = str(Path(spawning.__file__).resolve().parents[2])
    nest = make_nest("spawn")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in {root, ""}])
    nest.start("return_nothing")
    assert nest.wait_exit().exitcode == 0


def test_deaths_are_noticed_though_the_parent_blocks_every_signal(nest):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        nest.start("leave", code=3)
        assert nest.wait_exit().exitcode == 3
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_parent_that_has_the_kernel_bury_its_children_still_learns_of_each_death_once(nest, start_method):
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        nest.start("leave", code=3)
        assert nest.wait_exit().exitcode == (255 if start_method == "fork" else 3)  # nobody can tell
    finally:
        signal.signal(signal.SIGCHLD, before)
    nest.registry.close()
    assert len(nest.of_kind(Exited)) == 1


def test_the_registry_may_be_used_in_another_thread_than_it_was_made_in(nest):
    codes = []

    def use():
        nest.start("leave", code=6)
        codes.append(nest.wait_exit().exitcode)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert codes == [6]


def test_variables_for_the_workers_reach_them_and_not_the_parent(make_nest, start_method):
    nest = make_nest(start_method, environ={"OMP_NUM_THREADS": "1"})
    nest.start("describe_surroundings")
    nest.wait_exit()
    assert json.loads(nest.read())["environ"]["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in os.environ


def test_surroundings_of_any_size_travel_without_waiting_for_the_reader(make_nest, monkeypatch, start_method):
    nest = make_nest(start_method)
    nest.start("leave", code=0, ballast=b"x" * 3_000_000)  # more than a pipe or a socket holds
    assert nest.wait_exit().exitcode == 0


class Vanishing(dict):
    """The environment, as it looks when another thread deletes a name after all names were asked for."""

    def __iter__(self):
        return iter([*super().__iter__(), "GONE"])

    def keys(self):
        return list(self)


def test_a_variable_that_another_thread_deletes_meanwhile_is_left_out(monkeypatch):
    monkeypatch.setattr(os, "environ", Vanishing(os.environ))
    assert "GONE" not in spawning.make_preparation({})["environ"]
