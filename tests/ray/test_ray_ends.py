"""How an embedded Ray starts and ends: programs of their own, of which nothing is left."""

import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]


def run_program(text, tmp_path):
    """Return what a program has written and how it has ended; nothing of it may be left, wherever it is."""
    before = set(folders())
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RY_COOKIE": tmp_path.name}
    environment.pop("RAY_ADDRESS", None)
    program = subprocess.run(
        [sys.executable, "-"], input=textwrap.dedent(text), env=environment, cwd=tmp_path, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    assert set(folders()) <= before
    left = [process for process in bearers(tmp_path.name) if not ends(process)]
    assert left == []
    return program


def folders():
    return [path.name for path in Path(tempfile.gettempdir()).iterdir() if path.name.startswith("mpengine")]


def bearers(cookie):
    for process in psutil.process_iter():
        try:
            if process.environ().get("RY_COOKIE") == cookie:
                yield process
        except psutil.Error:
            continue


def ends(process):
    try:
        process.wait(5)
    except psutil.TimeoutExpired:
        return False
    return True


def test_a_ray_that_an_engine_has_started_ends_with_it(tmp_path):
    program = run_program(
        """
        import os, signal, threading
        from mpengine import Engine

        before = signal.getsignal(signal.SIGTERM)
        with Engine(2, backend="ray") as engine:
            print(sum(engine.run([range(100), lambda item: item * 2]).unwrap().values))
            print(engine.run([range(3), lambda item, offset=5: item + offset]).unwrap().values)
            assert os.getpid() not in engine.pids()
            import ray
            assert ray.is_initialized()
        assert not ray.is_initialized()
        assert signal.getsignal(signal.SIGTERM) is before
        print([thread.name for thread in threading.enumerate() if thread.name.startswith("mpengine")])
        """,
        tmp_path,
    )

    assert program.stdout == "9900\n[5, 6, 7]\n[]\n", program.stderr
    assert program.returncode == 0


def test_ctrl_c_cancels_a_run_on_ray_in_order(tmp_path):
    program = run_program(
        """
        import itertools, os, signal
        from mpengine import Engine

        def source():
            for item in itertools.count():
                if item == 50:
                    os.kill(os.getpid(), signal.SIGINT)
                yield item

        result = Engine(1, backend="ray", grace_s=1).run([source(), str], collect=False)
        print(result.reason)
        """,
        tmp_path,
    )

    assert program.stdout.splitlines()[-1] == "SIGINT", program.stderr
