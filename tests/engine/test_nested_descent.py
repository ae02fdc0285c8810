"""What the stages of an engine inside a worker of another one have started ends with the outer worker."""

import os
import signal
import subprocess

import psutil
import pytest

from mpengine import Engine

PATIENCE_S = 5.0


@pytest.mark.slow
@pytest.mark.parametrize(("outer", "inner"), [("fork", "fork"), ("forkserver", "fork"), ("fork", "spawn")])
def test_programs_of_an_inner_engine_end_with_the_outer_worker(make_engine, tmp_path, outer, inner):
    told = tmp_path / "pid"

    def start_program(number):
        program = subprocess.Popen(["sleep", "60"], start_new_session=True)
        told.write_text(str(program.pid))
        return number

    def run_inner(number):
        if not told.exists():
            Engine(1, start_method=inner, metrics_interval_s=0).run([[number], start_program, block]).unwrap()
        return number

    def block(number):
        os.kill(outer_worker(), signal.SIGKILL)
        signal.pause()

    def outer_worker():
        return int((tmp_path / "worker").read_text())

    def note(number):
        (tmp_path / "worker").write_text(str(os.getpid()))
        return number

    engine = make_engine(outer, workers=1, crash_retries=3)
    assert engine.run([[1], note, run_inner]).unwrap().values == [1]
    _, alive = psutil.wait_procs(find(int(told.read_text())), timeout=PATIENCE_S)
    assert alive == []


def find(pid):
    try:
        return [psutil.Process(pid)]
    except psutil.NoSuchProcess:
        return []
