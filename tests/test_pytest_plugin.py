"""The pytest plugin, in suites of its own that run as programs."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys

import pytest

PATIENCE_S = 60

SUITE = """
import multiprocessing
import signal
import subprocess
import sys
import unittest

import pytest

kept = []

def leave():
    kept.append(subprocess.Popen(["sleep", "600"]))

@pytest.fixture(scope="module")
def server():
    with subprocess.Popen(["sleep", "600"]) as popen:
        yield popen
        popen.kill()

@pytest.fixture
def own_server():
    with subprocess.Popen(["sleep", "600"]) as popen:
        yield popen
        popen.kill()

@pytest.fixture
def careless_server():
    leave()

AT_ONCE = pytest.mark.no_orphans(timeout_s=0.0)
"""

ASKING = (
    SUITE
    + """
@pytest.fixture(autouse=True)
def _is_torn_down_before_the_check_ends(request):
    yield
    for popen in kept:
        assert popen.poll() is None
        if "quiet" in request.node.name:
            popen.kill()
            popen.wait()
    kept.clear()

def test_quiet_marker_not_there():
    leave()

@AT_ONCE
def test_clean_marker(server, own_server):
    subprocess.run(["true"])

def test_clean_fixture(server, own_server, no_orphans):
    subprocess.run(["true"])

@AT_ONCE
def test_bad_fixture(no_orphans):
    leave()

def test_bad_fixture_named_after_the_one_that_leaves(careless_server, no_orphans):
    pass

@AT_ONCE
def test_bad_marker():
    leave()

@AT_ONCE
def test_bad_fixture_of_the_test(careless_server):
    pass

@AT_ONCE
def test_bad_multiprocessing():
    kept_process = multiprocessing.get_context("fork").Process(target=signal.pause)
    kept_process.start()

@AT_ONCE
def test_bad_pool():
    global pool
    pool = multiprocessing.get_context("fork").Pool(2)

@AT_ONCE
def test_bad_daemon():
    subprocess.run(["sh", "-c", "sleep 600 >&- 2>&- &"])

@pytest.mark.no_orphans(timeout_s=0.0, end=False)
def test_bad_and_left_alone():
    global alone
    alone = subprocess.Popen(["sleep", "600"])

@AT_ONCE
def test_clean_after_one_that_was_left_alone():
    assert alone.poll() is None
    alone.kill()
    alone.wait()

@AT_ONCE
class TestOld(unittest.TestCase):
    def test_bad_unittest(self):
        leave()

@AT_ONCE
def test_clean_engine():
    from mpengine import Engine
    assert Engine(1).run([range(3), abs]).is_ok
"""
)

WHOLE = (
    SUITE
    + """
def test_bad_without_asking():
    leave()

def test_clean():
    subprocess.run(["true"])

@pytest.mark.no_orphans(False)
def test_quiet_by_exception():
    leave()

def test_clean_after_it():
    popen = kept.pop()
    popen.kill()
    popen.wait()
"""
)

ENDING_ALL = """
@pytest.fixture(scope="session", autouse=True)
def _end():
    yield
    for popen in kept:
        popen.kill()
"""


def run_suite(folder, text, *arguments):
    """Run a suite; return what it printed, and the names of those of its tests that went wrong."""
    suite = folder / "test_suite.py"
    suite.write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--strict-markers", "--strict-config", "-rEf"]
    # Where these say that it runs in a CI, pytest tells every failure a second time, whole, in its summary.
    variables = {name: text for name, text in os.environ.items() if name not in {"CI", "BUILD_NUMBER"}}
    ended = subprocess.run(
        [*command, *arguments, str(suite)],
        cwd=folder, env=variables, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    return ended.stdout + ended.stderr, re.findall(r"^(?:ERROR|FAILED) \S*::(\w+)", ended.stdout, re.MULTILINE)


def named(text, beginning):
    return re.findall(rf"def (test_{beginning}\w*)", text)


def test_pytest_finds_the_plugin():
    (plugin,) = importlib.metadata.entry_points(group="pytest11", name="mpengine")

    assert plugin.value == "mpengine.pytest_plugin"


def test_the_plugin_is_light_until_a_test_asks_for_it():
    # What a coverage tool has loaded before is not the plugin's.
    program = "import sys; before = {*sys.modules}; import mpengine.pytest_plugin; print(*{*sys.modules} - before)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()

    assert {name for name in loaded if name.startswith("mpengine")} == {"mpengine", "mpengine.pytest_plugin"}
    assert not {"psutil", "multiprocessing", "cloudpickle"} & set(loaded)


@pytest.mark.slow
def test_fixture_and_marker_fail_the_tests_that_leave_a_process_and_no_other(tmp_path):
    printed, failed = run_suite(tmp_path, ASKING)

    assert sorted(failed) == sorted(named(ASKING, "bad")), printed
    # Of all tests that begin one, and of the pool, which has two.
    assert len(re.findall(r"^\s+pid \d+ \(\d+\.\d s old.*\): ", printed, re.MULTILINE)) == len(failed) + 1
    assert printed.count("its parent has gone") == 1
    assert "Traceback" not in printed


@pytest.mark.slow
def test_the_ini_option_is_for_every_test_but_those_that_are_excepted(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\nno_orphans = true\n")
    printed, failed = run_suite(tmp_path, WHOLE)

    assert failed == named(WHOLE, "bad"), printed
    assert "1 process was left behind:" in printed


@pytest.mark.slow
def test_nothing_is_checked_where_nobody_asks_and_without_xdist(tmp_path):
    printed, failed = run_suite(tmp_path, WHOLE + ENDING_ALL, "-p", "no:xdist")

    assert failed == [], printed


@pytest.mark.slow
def test_an_option_that_there_is_not_is_told(tmp_path):
    printed, failed = run_suite(tmp_path, "import pytest\n@pytest.mark.no_orphans(patience=1)\ndef test_it(): pass\n")

    assert failed == ["test_it"]
    assert "patience" in printed
