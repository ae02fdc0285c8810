"""Several raylets on this machine, joined by address; one of them, and a worker, are killed while pipelines run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("cluster_program.py")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_machine_that_is_lost_costs_no_item(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    program = subprocess.run(
        [sys.executable, str(PROGRAM)], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=220,
        check=False,
    )  # fmt: skip
    assert program.returncode == 0, program.stdout + program.stderr
    told = json.loads(program.stdout.splitlines()[-1])

    assert told["workers"] == 3
    assert (told["example"], told["inline"], told["deaths"] >= 1) == (True, True, True)  # a worker was killed
    assert (told["is_ok"], told["reason"]) == (True, None)  # a raylet was killed
    assert (told["same"], told["values"], told["lost"] >= 1) == (True, 600, True)
    assert told["books"] == [[200, 200], [200, 200], [600, 600]]
    assert told["after"] is True
    assert told["threads"] == []
