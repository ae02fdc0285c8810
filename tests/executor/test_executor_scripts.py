"""Tests of others, aimed at our executor: what the scripts for that run, a few of them here."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "cpython-executor-tests"
TESTS = Path(sysconfig.get_path("stdlib"), "test", "test_concurrent_futures")
A_FEW = ["test_submit", "test_map_exception", "test_initializer", "test_hang_issue12364", "task_pickle", "error_during"]


def run_script(*args):
    command = [sys.executable, str(SCRIPT), *args]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environ)


@pytest.mark.slow
def test_cpythons_own_tests_pass_on_it():
    """A few of them, by the start method that takes least; the whole by hand."""
    done = run_script("--only", "ours", "-m", "fork", *A_FEW)
    if not TESTS.is_dir():  # all in one module, as in 3.11, which is not what the script knows, or not installed
        assert (done.returncode, "3.12 and later" in done.stderr) == (2, True)
        return
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert " 0 failed, 0 skipped" in last
    assert int(last.partition(": ")[2].split()[0]) >= 8


def test_each_test_that_is_left_out_has_a_reason():
    for name in ("cpython-executor-tests", "loky-executor-tests"):
        namespace = {"__name__": "looked at", "__file__": str(ROOT / "scripts" / name)}
        exec((ROOT / "scripts" / name).read_text(), namespace)
        assert all(test.startswith(("test_", "Failing")) and why for test, why in namespace["LEFT_OUT"].items())
