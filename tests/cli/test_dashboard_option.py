"""--dashboard: where it is said once, and what it is refused for."""

import http.client
import re
from urllib.parse import urlsplit

import pytest

from mpengine.dashboard import live
from mpengine.dashboard.address import Place, listen


def test_the_address_is_said_once_and_the_values_are_what_they_were(command):
    outcome = command("run", "jobs:small", "-q", "--dashboard")

    assert outcome.status == 0
    assert outcome.values == [2, 4, 6]
    assert len(outcome.told) == 1
    assert re.fullmatch(r"mpengine: dashboard: http://127\.0\.0\.1:\d+/#[\w-]{32,}", outcome.told[0])


def test_one_that_others_can_reach_is_told_with_a_warning(command):
    outcome = command("run", "jobs:small", "-q", "--dashboard", "0.0.0.0:0")

    assert outcome.status == 0
    assert "whoever reaches this machine and has that address may watch and cancel the run" in outcome.told[1]


def test_a_port_that_is_taken_is_wrong_usage_and_the_output_is_not_touched(jobs, command):
    (jobs / "out").write_text("kept")
    with listen(Place()) as listener:
        port = listener.getsockname()[1]
        outcome = command("run", "jobs:small", "-q", "--output", "out", "--dashboard", str(port))

    assert outcome.status == 2
    assert outcome.told == [f"mpengine: the dashboard cannot listen on 127.0.0.1:{port}: Address already in use"]
    assert (jobs / "out").read_text() == "kept"


def test_a_target_in_the_place_of_the_address_is_explained(command):
    outcome = command("map", "--dashboard", "jobs:upper")

    assert outcome.status == 2
    (line,) = outcome.told
    assert "'jobs:upper' is not HOST:PORT" in line
    assert line.endswith("without one, write --dashboard after everything else.")


def test_the_extra_that_is_missing_is_wrong_usage(command, monkeypatch):
    monkeypatch.setattr(live.importlib.util, "find_spec", lambda name: None)
    outcome = command("run", "jobs:small", "-q", "--dashboard")

    assert outcome.status == 2
    assert outcome.told == ["mpengine: the dashboard needs starlette and uvicorn: pip install 'mpengine[dashboard]'"]


@pytest.mark.slow
def test_a_run_is_cancelled_from_outside_and_ends_as_a_cancelled_run_does(program):
    with program("run", "jobs:endless", "-q", "--dashboard", "--output", "/dev/null") as process:
        url = urlsplit(process.stderr.readline().rpartition(" ")[2].strip())
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
        connection.request("POST", "/cancel", '{"reason": "seen enough"}', {"authorization": f"Bearer {url.fragment}"})
        status = connection.getresponse().status
        connection.close()
        process.wait(30)

        assert status == 202
        assert process.returncode == 1
        assert "seen enough" in process.stderr.read()
