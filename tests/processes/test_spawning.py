"""Programs that are launched: what they get of this process, and what they do not."""

import contextlib
import json
import os
import subprocess
import sys

import entries
import pytest

from mpengine.processes import spawning
from mpengine.worker.boot import interpreter_flags


@pytest.fixture
def launched():
    """What a launched program tells of itself, having been given a pipe to tell it to."""
    reader, writer = os.pipe()
    pid = spawning.launch("entries:tell_about_oneself", writer, (writer,), {"MARKED": "yes"})
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        content = told.read()
    assert os.waitpid(pid, 0)[1] == 0
    return {"pid": pid, "writer": str(writer), **json.loads(content)}


@pytest.fixture
def uninvited():
    """An fd that every program inherits which is started without a word."""
    fd = os.memfd_create("uninvited", 0)
    os.set_inheritable(fd, True)
    yield fd
    os.close(fd)


def test_a_program_has_the_fds_that_it_is_given_and_no_others_p5(uninvited, launched):
    assert "uninvited" in entries.open_fds()[str(uninvited)]
    fds = launched["fds"]
    assert not [target for target in fds.values() if "uninvited" in target or "mpengine-boot" in target]
    assert fds.pop("0") == "/dev/null"
    assert fds.pop(launched["writer"]).startswith("pipe:")
    assert set(fds) <= {"1", "2", *[number for number, target in fds.items() if target.endswith("/fd")]}


def test_a_program_leads_its_own_group_and_ignores_what_python_does(launched):
    assert launched["pgid"] == launched["pid"]
    assert launched["marked"] == "yes"
    assert launched["sigpipe"]


def test_a_program_that_is_not_there_is_an_error_and_leaves_no_fd(monkeypatch):
    monkeypatch.setattr(spawning, "_interpreter", lambda: ["/no/such/python"])
    before = entries.open_fds()
    with pytest.raises(FileNotFoundError):
        spawning.launch("entries:tell_about_oneself", 0, (), {})
    assert entries.open_fds().keys() == before.keys()


def test_no_fd_of_this_process_is_inheritable_meanwhile_or_afterwards(monkeypatch):
    seen = []

    def look(*_, **__):
        seen.append(_inheritable())
        raise OSError("no")

    monkeypatch.setattr(os, "posix_spawnp", look)
    reader, writer = os.pipe()
    with pytest.raises(OSError, match="no"):
        spawning.launch("entries:tell_about_oneself", writer, (writer, reader), {})
    assert seen == [_inheritable()]
    os.close(reader)
    os.close(writer)


def _inheritable():
    found = set()
    for number in map(int, entries.open_fds()):
        with contextlib.suppress(OSError):
            if os.get_inheritable(number):
                found.add(number)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [(), ("-B",), ("-OO", "-s"), ("-I",), ("-E", "-P", "-b"), ("-W", "error", "-X", "utf8"), ("-q", "-v", "-S", "-d")],
    ids=" ".join,
)
def test_an_interpreter_is_started_with_the_flags_of_this_one(flags):
    program = f"import sys; sys.path[:] = {sys.path!r}; from mpengine.worker.boot import interpreter_flags as told"
    program += "; print(repr((told(), list(sys.flags), sys.warnoptions)))"
    told, ours, warnings = _said_by([*flags, "-c", program])
    again, theirs, same_warnings = _said_by([*told, "-c", program])
    assert (set(again), theirs, same_warnings) == (set(told), ours, warnings)


def _said_by(arguments):
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, env=environ)
    return eval(done.stdout)


def test_flags_that_are_letters_need_no_module(monkeypatch):
    monkeypatch.setattr(sys, "warnoptions", [])
    monkeypatch.setattr(sys, "_xoptions", {})
    monkeypatch.setattr(subprocess, "_args_from_interpreter_flags", lambda: pytest.fail("asked"))
    assert all(flag.startswith("-") for flag in interpreter_flags())
