"""A process is killed, or stopped, at steps all over a run: the same results, balanced books, nothing left.

Here it is every so many-th step; ``scripts/kill-everywhere`` takes all of them.
"""

import signal
from pathlib import Path

import pytest

SCRIPTS = str(Path(__file__).parents[2] / "scripts")

pytestmark = pytest.mark.slow


@pytest.fixture
def killing(from_scripts):
    return from_scripts("killing")


@pytest.mark.parametrize(
    ("start_method", "stride"),
    [
        ("forkserver", 59),
        pytest.param("forkserver", 29, marks=pytest.mark.long),
        pytest.param("fork", 83, marks=pytest.mark.long),
        pytest.param("spawn", 211, marks=pytest.mark.long),
    ],
)
def test_a_worker_that_is_killed_at_any_step_costs_no_result(killing, start_method, stride):
    tally = killing.kill_workers(start_method, stride=stride, offset=stride // 2)

    assert tally.wrong == []
    assert tally.hit > 0.5 * tally.steps / stride  # the last ones may not be come to: on a busy machine runs differ


@pytest.mark.parametrize("start_method", ["forkserver"])
def test_a_worker_that_is_killed_while_it_starts_or_leaves_costs_no_result(killing, start_method):
    tally = killing.kill_new_workers(start_method, 12, stride=4)

    assert tally.wrong == []
    assert tally.hit >= 3


def test_a_worker_that_is_stopped_at_any_step_costs_no_result(killing):
    tally = killing.kill_workers("forkserver", stride=149, signum=signal.SIGSTOP)

    assert tally.wrong == []
    assert tally.hit >= 4


@pytest.mark.parametrize(
    "start_method", ["forkserver", *(pytest.param(name, marks=pytest.mark.long) for name in ("spawn", "fork"))]
)
def test_a_coordinator_that_is_killed_at_any_step_leaves_nobody_behind(killing, start_method):
    tally = killing.kill_coordinators(start_method, stride=199)

    assert tally.wrong == []
    assert tally.hit >= 4


def test_a_step_that_is_chosen_is_the_one_that_is_killed_at(killing):
    import steps

    count = steps.Steps.create()
    count.choose(3, signal.SIGCONT)
    before = signal.signal(signal.SIGCONT, lambda *_: at.append(count.count))
    try:
        at = []
        for _ in range(5):
            count.step()
    finally:
        signal.signal(signal.SIGCONT, before)
        count.close()
    assert at == [3]
