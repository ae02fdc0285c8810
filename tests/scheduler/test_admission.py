"""How many processes may be at work, as memory allows (J1 to J3)."""

from types import SimpleNamespace

import pytest
from scheduler_model import Watch, check_end, run_to_the_end
from scheduler_world import Death, Shape, StageShape, begin, pack_all

from mpengine.scheduler.admission import RAMP_S, Admission


@pytest.fixture
def unsettled():
    return {}


@pytest.fixture
def crew():
    return SimpleNamespace(processes=8, active_processes=8)


@pytest.fixture
def admission(crew, unsettled):
    return Admission(crew, unsettled)


def test_as_many_as_there_are_while_nothing_is_wrong(admission):
    assert admission.most(0.0) == 8
    assert not admission.is_limited(0.0)


def test_one_while_it_is_tight_and_then_half_of_what_was_and_more_by_and_by_j1_j2(admission, crew):
    crew.active_processes = 6
    admission.tighten(10.0)
    assert admission.most(10.0 + 100 * RAMP_S) == 1
    admission.ease(20.0)
    most = [admission.most(20.0 + seconds * RAMP_S) for seconds in (0, 0.9, 1, 2.5, 5, 99)]
    assert most == [3, 3, 4, 5, 8, 8]
    assert not admission.is_limited(20.0 + 5 * RAMP_S)


def test_it_gets_fewer_each_time_and_never_none_j2(admission):
    for most in (4, 2, 1, 1):
        admission.tighten(0.0)
        admission.ease(0.0)
        assert admission.most(0.0) == most


def test_what_had_come_back_by_then_is_what_is_halved_j2(admission):
    admission.tighten(0.0)
    admission.ease(0.0)
    admission.tighten(2 * RAMP_S)
    admission.ease(2 * RAMP_S)
    assert admission.most(2 * RAMP_S) == 3


def test_one_until_the_suspect_is_settled_j3(admission, crew, unsettled):
    batch = unsettled[7] = SimpleNamespace(batch_id=7)
    crew.active_processes = 7  # the eighth was killed
    admission.suspect(0.0, batch)
    assert admission.most(99 * RAMP_S) == 1
    del unsettled[7]
    assert admission.most(RAMP_S) == 5


def test_a_victim_of_the_kernel_is_run_again_with_no_other_process_at_work_j3():
    world = begin(Shape((StageShape(buffer=8),), workers=3, items=12, crash_retries=0), greets=False)
    pack_all(world)
    for number in range(3):
        world.greet(number)
    assert all(worker.queue for worker in world.workers)

    world.die(0, Death(world.workers[0].queue[0], is_oom=True))
    world.greet(0)
    while any(worker.queue for worker in world.workers[1:]):
        assert not world.workers[0].queue
        world.advance(1 if world.workers[1].queue else 2)

    at_work = [worker for worker in world.workers if worker.queue]
    assert len(at_work) == 1
    assert len(at_work[0].queue) == 1
    assert not world.reports
    run_to_the_end(world, Watch(world))
    assert not world.reports
    check_end(world)
