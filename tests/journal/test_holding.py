"""A journal is held by one run at a time, and by nobody once that is gone, whatever it has left behind."""

import os
import signal

import pytest

from mpengine import JournalError
from mpengine.journal.holding import Hold
from mpengine.processes.spawning import close_in_forked_children, forget


def hold(path):
    return Hold(path, close_in_forked_children, forget)


def test_what_is_held_cannot_be_had_until_it_is_let_go(tmp_path):
    path = tmp_path / "journal.db"
    first = hold(path)
    with pytest.raises(JournalError, match="in use: a run of this process"):
        hold(path)
    first.release()
    first.release()

    hold(path).release()


def test_a_forked_child_does_not_keep_what_its_killed_parent_had_h4(tmp_path):
    path = tmp_path / "journal.db"
    (lives, ends), (ready, told) = os.pipe(), os.pipe()
    parent = os.fork()
    if parent == 0:
        hold(path)
        if os.fork() == 0:
            os.close(ends)
            os.write(told, b"!")
            os.read(lives, 1)  # until the test is through
            os._exit(0)
        os.read(ready, 1)
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(parent, 0)[1]) == -signal.SIGKILL
        hold(path).release()
    finally:
        for fd in (lives, ends, ready, told):
            os.close(fd)


def test_what_is_let_go_of_can_be_had_at_once_though_a_child_has_just_been_forked(tmp_path):
    path = tmp_path / "journal.db"
    held = Hold(path, lambda fd: None, lambda fd: None)  # the child's copy is there, as for a moment it is in any case
    lives, ends = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ends)
        os.read(lives, 1)
        os._exit(0)
    held.release()
    hold(path).release()
    os.close(ends)
    os.close(lives)
    os.waitpid(child, 0)


def test_who_holds_it_under_another_name_is_found_as_well_h3(tmp_path):
    path, other = tmp_path / "journal.db", tmp_path / "link.db"
    held = hold(path)
    other.symlink_to(path)
    with pytest.raises(JournalError, match="in use"):
        hold(other)
    held.release()


def test_a_child_that_was_forked_meanwhile_is_another_process(tmp_path):
    path = tmp_path / "journal.db"
    held = hold(path)
    pid = os.fork()
    if pid == 0:
        try:
            hold(path)
        except JournalError as error:
            os._exit(0 if "another process" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    held.release()
