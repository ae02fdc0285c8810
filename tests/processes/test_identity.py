import dataclasses
import os
import subprocess
import sys
import textwrap

import psutil

from mpengine.processes.identity import ProcessIdentity, wait_gone


def test_a_running_process_is_alive_and_known_by_number_and_time():
    identity = ProcessIdentity.of(os.getpid())
    assert identity.pid == os.getpid()
    assert identity.create_time == psutil.Process().create_time()
    assert identity.is_alive()
    assert identity == ProcessIdentity.of(os.getpid())
    assert identity.parent_pid() == os.getppid()


def test_a_zombie_is_gone():
    program = subprocess.Popen(["true"])
    identity = ProcessIdentity.of(program.pid)
    os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)
    assert not identity.is_alive()
    program.wait()
    assert not identity.is_alive()
    assert identity.parent_pid() is None
    assert identity.environment() == {}


def test_a_process_that_had_gone_before_is_not_alive():
    program = subprocess.Popen(["true"])
    program.wait()
    assert ProcessIdentity.of(program.pid) == ProcessIdentity(program.pid, 0.0)
    assert not ProcessIdentity.of(program.pid).is_alive()


def test_a_number_in_use_by_another_process_is_not_it():
    mine = ProcessIdentity.of(os.getpid())
    other = dataclasses.replace(mine, _start=mine._start - 1)  # what has the number now was created a little later
    assert not other.is_alive()
    assert other.parent_pid() is None
    assert other.environment() == {}


def test_waiting_tells_who_is_still_there():
    program = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    identities = [ProcessIdentity.of(program.pid), ProcessIdentity.of(os.getpid())]
    assert wait_gone(identities, 0) == tuple(identities)
    program.stdin.close()
    assert wait_gone(identities[:1], 5) == ()
    program.wait()


def test_that_a_process_has_gone_is_found_out_without_psutil():
    program = textwrap.dedent("""
        import subprocess, sys
        from mpengine.processes.identity import ProcessIdentity
        ended = subprocess.Popen(["true"])
        identity = ProcessIdentity.of(ended.pid)
        ended.wait()
        assert not identity.is_alive()
        assert "psutil" not in sys.modules
        assert ProcessIdentity.of(subprocess.Popen(["cat"], stdin=subprocess.PIPE).pid).is_alive()
        assert "psutil" in sys.modules
    """)
    subprocess.run([sys.executable, "-c", program], check=True)
