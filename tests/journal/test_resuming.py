"""A job is killed at steps all over it, and so is what resumes it: its output is that of a job that nobody disturbed.

Here it is every so many-th step of a small job in one process; ``scripts/resume`` kills large ones at random.
"""

import random

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def resuming(from_scripts):
    return from_scripts("resuming")


@pytest.mark.parametrize(("kind", "stride"), [("ordered", 41), ("failing", 61), ("fanning", 37)])
def test_a_job_that_is_killed_at_any_step_and_resumed_gives_what_it_would_have_given(resuming, tmp_path, kind, stride):
    count, hit, wrong = resuming.kill_at_steps(tmp_path, kind, 14, stride=stride, offset=stride // 2)

    assert wrong == []
    assert hit >= 0.6 * count / stride


def test_a_job_of_many_processes_that_is_killed_at_random_gives_what_it_would_have_given(resuming, tmp_path):
    kind = "fanning_unordered"
    job = resuming.Job(tmp_path, kind, 200, 0.004, 2)
    verdict = resuming.kill_and_resume(job, kind, 2, 1.0, random.Random(5))

    assert verdict.wrong == []
    assert verdict.lines


def test_what_an_output_lacks_or_has_twice_is_told(resuming):
    assert resuming.differences(b"a\nb\n", b"b\na\n", is_ordered=False) == []
    (told,) = resuming.differences(b"a\nb\n", b"b\na\n", is_ordered=True)
    assert "bytes" in told
    told = resuming.differences(b"a\na\nb", b"b\na\nc\n", is_ordered=False)
    assert len(told) == 2
