"""Calls that nobody wants any more, the running ones among them, and the others, which do not notice."""

import concurrent.futures
import os
import time
from pathlib import Path

import psutil
import pytest

from mpengine import Executor

PATIENCE_S = 30
pytestmark = pytest.mark.slow


def begin_and_sleep(path):
    (Path(path) / str(os.getpid())).touch()
    time.sleep(600)


def wait_for(path):
    while not Path(path).exists():
        time.sleep(0.002)
    return os.getpid()


def wait_until(what):
    deadline_at = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline_at
        time.sleep(0.005)


@pytest.mark.parametrize("on_worker_death", ["break", "retry"])
def test_what_is_called_off_ends_with_its_workers_and_no_other_call_notices(tmp_path, on_worker_death):
    (tmp_path / "begun").mkdir()
    with Executor(2, on_worker_death=on_worker_death) as executor:
        wanted = executor.submit(wait_for, tmp_path / "go")
        unwanted = [executor.submit(begin_and_sleep, tmp_path / "begun") for _ in range(3)]
        wait_until(lambda: list((tmp_path / "begun").iterdir()))
        executor.call_off(unwanted)
        concurrent.futures.wait(unwanted, PATIENCE_S)
        (tmp_path / "go").touch()
        pid = wanted.result(PATIENCE_S)
        ended = [int(path.name) for path in (tmp_path / "begun").iterdir()]

        assert len(ended) == 1
        assert pid not in ended
        assert not any(map(psutil.pid_exists, ended))
        for future in unwanted:
            with pytest.raises(concurrent.futures.CancelledError):
                future.result()
        assert len({executor.submit(os.getpid).result(PATIENCE_S) for _ in range(4)} - {pid}) <= 1


def test_an_executor_ends_though_all_that_waits_was_cancelled(tmp_path):
    with Executor(1, on_worker_death="retry") as executor:
        running = executor.submit(begin_and_sleep, tmp_path)
        waiting = [executor.submit(abs, -1) for _ in range(3)]
        wait_until(lambda: list(tmp_path.iterdir()))
        for future in waiting:
            future.cancel()
        executor.call_off([running])

    assert running.done()


def test_variables_for_workers_are_theirs_alone():
    with Executor(1, environ={"MPENGINE_TEST_OF_WORKERS": "theirs", "OMP_NUM_THREADS": "3"}) as executor:
        told = [executor.submit(os.getenv, name).result() for name in ("MPENGINE_TEST_OF_WORKERS", "OMP_NUM_THREADS")]

    assert told == ["theirs", "3"]
    assert "MPENGINE_TEST_OF_WORKERS" not in os.environ
    for environ in ({"A": 1}, ["A"], {"A": "\0"}):
        with pytest.raises(ValueError, match="environ must map names of variables to texts"):
            Executor(1, environ=environ)
