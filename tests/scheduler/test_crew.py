"""Who may run a chain that asked for so many workers and no more."""

from __future__ import annotations

from scheduler_world import Shape, StageShape, begin, pack_all

from mpengine.scheduler.crew import Crew
from mpengine.scheduler.lifecycles import WorkerMove


def crew_of(size, *caps):
    crew = Crew(size, caps)
    for worker in crew:
        worker.move(WorkerMove.START)
        worker.move(WorkerMove.GREET)
    return crew


def who_may_run(crew, chain):
    return [worker.worker_id for worker in crew if crew.may_run(worker, chain)]


def test_anybody_may_run_a_chain_without_a_cap():
    crew = crew_of(3, None)
    crew.pin(crew[0], 0)

    assert who_may_run(crew, 0) == [0, 1, 2]
    assert crew[0].pinned == set()


def test_a_cap_that_all_workers_fit_under_is_none():
    crew = crew_of(2, 2)
    crew.pin(crew[0], 0)
    crew.pin(crew[1], 0)

    assert who_may_run(crew, 0) == [0, 1]


def test_those_who_came_first_are_the_few():
    crew = crew_of(3, 2)
    crew.pin(crew[2], 0)
    crew.pin(crew[0], 0)

    assert who_may_run(crew, 0) == [0, 2]


def test_a_worker_with_fewer_chains_of_its_own_takes_the_next_one():
    crew = crew_of(2, 1, 1)
    crew.pin(crew[0], 0)

    assert who_may_run(crew, 1) == [1]


def test_a_worker_that_is_not_there_does_not_stand_in_the_way():
    crew = crew_of(2, 1, 1)
    crew.pin(crew[0], 0)
    crew[1].move(WorkerMove.DIE)

    assert 0 in who_may_run(crew, 1)


def test_a_dead_worker_makes_way_for_another():
    crew = crew_of(2, 1)
    crew.pin(crew[0], 0)

    crew.unpin(crew[0])

    assert who_may_run(crew, 0) == [0, 1]
    assert crew[0].pinned == set()


def test_only_one_worker_is_sent_what_a_capped_stage_is_to_do():
    world = begin(Shape((StageShape(workers=1, buffer=8),), workers=3, items=8))
    pack_all(world)

    assert [len(worker.queue) for worker in world.workers] == [2, 0, 0]


def test_when_that_worker_dies_another_goes_on():
    world = begin(Shape((StageShape(workers=1, buffer=8),), workers=3, items=8))
    pack_all(world)

    world.die(0)

    assert [len(worker.queue) for worker in world.workers] == [0, 2, 0]


def test_two_capped_stages_get_a_worker_each():
    world = begin(Shape((StageShape(workers=1), StageShape(workers=1)), workers=2, items=8))
    pack_all(world)

    world.advance(0)
    pack_all(world)

    assert [worker.has_run for worker in world.workers] == [{0}, {1}]
