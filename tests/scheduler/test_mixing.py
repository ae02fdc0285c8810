"""Branches of a mix: they take turns (P7), are joined by reference, bounded together (B1), and fail an item once."""

from __future__ import annotations

import random

import pytest
from scheduler_model import Watch, check_end, run_to_the_end
from scheduler_world import Death, Shape, StageShape, begin, pack_all

from mpengine.policies import ErrorPolicy
from mpengine.scheduler import commands
from mpengine.scheduler.payloads import Zipped

MIX = Shape((StageShape(mixes=3, buffer=8),), workers=3, items=8)


def dispatched(world):
    return [command for command in world.commands if isinstance(command, commands.Dispatch)]


def failures(world):
    return [(report.stage, report.index) for report in world.reports]


def chains_held(world):
    return [[batch.chain for batch in worker.held.values()] for worker in world.scheduler.crew]


def finish(world):
    run_to_the_end(world, Watch(world))
    check_end(world)


# ---------------------------------------------------------------------- P7


def test_p7_one_item_is_in_all_branches_at_the_same_time():
    world = begin(MIX)

    world.pack()

    assert [world.sent_to(number) for number in range(3)] == [[(2, [(0,)])], [(1, [(0,)])], [(0, [(0,)])]]


def test_p7_the_branches_of_older_items_go_before_those_of_younger_ones():
    world = begin(Shape((StageShape(mixes=3, buffer=8),), workers=1, items=8), greets=False)
    pack_all(world)

    world.greet(0)
    assert world.sent_to(0) == [(2, [(0,)]), (1, [(0,)])]

    world.advance(0)
    assert world.sent_to(0) == [(0, [(0,)])]


def test_p7_a_branch_does_not_wait_behind_another_of_the_same_items_where_there_are_workers_enough():
    world = begin(Shape((StageShape(mixes=3, buffer=8),), workers=3, items=1, tells_length=False), greets=False)
    for number in (0, 1):
        world.greet(number)
    world.pack()
    assert chains_held(world) == [[2], [1], []]

    world.greet(2)
    assert chains_held(world) == [[2], [1], [0]]


@pytest.mark.parametrize("seed", range(6))
def test_p7_nor_behind_another_one_of_older_items_whoever_is_done_first(seed):
    chance = random.Random(seed)
    world = begin(Shape((StageShape(mixes=3, buffer=12),), workers=3, items=60), size=4)
    branches = {0, 1, 2}
    while True:
        for sizer in world.scheduler.sizers[:3]:
            sizer.size = chance.randint(1, 4)
        pack_all(world)
        held = chains_held(world)
        assert all(len([chain for chain in chains if chain in branches]) <= 1 for chains in held), held
        busy = [number for number, chains in enumerate(held) if chains]
        if not busy:
            break
        world.advance(chance.choice(busy))
    finish(world)


def test_p7_nor_behind_older_items_of_its_own_branch_which_might_be_given_back():
    world = begin(MIX)
    pack_all(world)

    assert chains_held(world) == [[2], [1], [0]]


def test_p7_parts_of_a_batch_take_turns_too():
    world = begin(Shape((StageShape(mixes=2, buffer=8),), workers=2, items=8, tells_length=False), size=8)
    for sizer in world.scheduler.sizers[:2]:
        sizer.size = 4
    world.batch_size = 8
    pack_all(world)

    assert chains_held(world) == [[1], [0]]
    finish(world)


def test_a_worker_with_a_reserve_does_not_keep_a_deeper_chain_from_ever_being_run():
    """Of a chain that is not known yet nobody takes one in reserve, so somebody has to become idle for it."""
    shape = Shape((StageShape(buffer=50), StageShape(buffer=50), StageShape(buffer=50)), workers=1, items=1000)
    world = begin(shape)
    world.scheduler.sizers[2].learnt = False

    for _ in range(20):
        pack_all(world)
        world.advance(0)
        if any(command.chain == 2 for command in dispatched(world)):
            break
    else:
        pytest.fail("the last stage is never run")


def test_nor_is_a_merge_that_is_not_known_yet():
    world = begin(Shape((StageShape(mixes=2, buffer=50),), workers=2, items=1000))
    world.scheduler.sizers[2].learnt = False

    for step in range(20):
        pack_all(world)
        world.advance(step % 2)
        if any(command.chain == 2 for command in dispatched(world)):
            break
    else:
        pytest.fail("the merge is never run")


def test_p1_what_all_results_wait_for_goes_before_what_was_put_together_earlier():
    """Else a long batch, cut to what fits a small buffer, would come first piece by piece."""
    shape = Shape((StageShape(mixes=2, buffer=8), StageShape(buffer=1)), workers=4, items=8, tells_length=False)
    world = begin(shape, size=4)
    world.batch_size = 4
    pack_all(world)
    assert chains_held(world) == [[1], [0], [1], [0]]

    world.advance(2)
    world.advance(3)
    assert [(command.chain, command.payload.branches[0][0][0][0]) for command in dispatched(world)] == [(2, (4, 0))]

    world.advance(0)
    world.advance(1)
    merging = next(number for number, chains in enumerate(chains_held(world)) if 2 in chains)
    world.advance(merging)  # the first piece of the later batch, which leaves no room
    while not any(command.chain == 2 for command in dispatched(world)):
        world.advance(next(number for number, worker in enumerate(world.workers) if worker.queue))
    assert [command.payload.branches[0][0][0][0] for command in dispatched(world) if command.chain == 2] == [(0, 0)]
    finish(world)


# ---------------------------------------------------------------------- joined by reference


def test_what_branches_give_is_put_side_by_side_without_being_looked_into():
    world = begin(Shape((StageShape(mixes=2, buffer=8),), workers=2, items=2, tells_length=False), size=2)
    world.batch_size = 2
    world.pack()

    world.advance(0)
    assert not [command for command in dispatched(world) if command.chain == 2]
    world.advance(1)

    (merge,) = [command for command in dispatched(world) if command.chain == 2]
    first, second = merge.payload.branches
    assert isinstance(merge.payload, Zipped)
    assert [(piece, picks) for piece, picks in (*first, *second)] == [([(0, 0), (1, 0)], None)] * 2
    finish(world)


def test_items_that_one_branch_lacks_are_picked_out_of_what_the_others_gave():
    world = begin(Shape((StageShape(mixes=2, buffer=8),), workers=2, items=4, tells_length=False), size=4)
    world.nature.decree(0, (1,), end="skip")
    world.nature.decree(1, (3,), end="fail")
    world.batch_size = 4
    world.pack()
    world.advance(0)
    world.advance(1)

    (merge,) = [command for command in dispatched(world) if command.chain == 2]
    (first,), (second,) = merge.payload.branches
    assert first == ([(0, 0), (2, 0), (3, 0)], [0, 1])
    assert second == ([(0, 0), (1, 0), (2, 0)], [0, 2])
    finish(world)
    assert (world.scheduler.ledger.filtered, world.scheduler.ledger.dropped) == (1, 1)


def test_a_mix_that_nothing_is_left_of_sends_nothing_on():
    world = begin(Shape((StageShape(mixes=2, buffer=8),), workers=2, items=1))
    world.nature.decree(0, (0,), end="skip")
    world.pack()
    world.advance(0)
    world.advance(1)

    assert not dispatched(world)
    finish(world)
    assert world.scheduler.ledger.filtered == 1


def test_what_a_mix_has_put_together_is_not_joined_with_its_neighbours():
    """A merge with ``batch=`` gets what is there: a payload that is made of others is not part of a third."""
    world = begin(MIX)
    world.scheduler.sizers[3].unit = 4
    finish(world)


# ---------------------------------------------------------------------- failures


@pytest.mark.parametrize("policy", ["drop", "emit", "side"])
@pytest.mark.parametrize("last", [0, 1, 2])
def test_an_item_that_fails_in_several_branches_is_told_of_once_as_of_the_first(policy, last):
    """Whichever branch is the last to be through with it."""
    world = begin(Shape((StageShape(mixes=3, buffer=8, policy=policy),), workers=3, items=1))
    for chain in (1, 2):
        world.nature.decree(chain, (0,), end="fail")
    world.pack()
    held = {chains[0]: number for number, chains in enumerate(chains_held(world))}
    for chain in sorted(held, key=lambda chain: chain == last):
        assert not world.reports
        world.advance(held[chain])

    assert failures(world) == [(1, 0)]
    assert [book.failed for book in world.scheduler.ledger.stages] == [0, 1, 1, 0]
    finish(world)


def test_under_raise_nobody_waits_for_the_other_branches():
    world = begin(Shape((StageShape(mixes=3, buffer=8, policy="raise"),), workers=3, items=4))
    world.nature.decree(2, (0,), end="fail")
    pack_all(world)

    world.advance(0)

    assert [cancel.failure.policy for cancel in world.cancels] == [ErrorPolicy.RAISE]
    check_end(world)


def test_what_other_branches_have_made_of_an_item_is_kept_when_a_worker_dies():
    world = begin(Shape((StageShape(mixes=3, buffer=8),), workers=3, items=1))
    world.pack()
    world.advance(0)
    world.advance(1)

    world.die(2, Death(world.workers[2].queue[0]))
    assert [(command.chain, command.worker_id) for command in dispatched(world)] == [(0, 0)]

    world.advance(0)
    (merge,) = dispatched(world)
    assert merge.chain == 3
    finish(world)


def test_an_item_that_costs_a_branch_its_workers_fails_once():
    world = begin(Shape((StageShape(mixes=2, buffer=8, policy="emit"),), workers=2, items=3, crash_retries=0))
    world.nature.decree(0, (1,), end="deadly")
    finish(world)
    assert failures(world) == [(0, 1)]
    assert world.handed[1] == (1, "error", 0)


# ---------------------------------------------------------------------- bounds


@pytest.mark.parametrize("buffer", [1, 3, 8])
def test_b1_no_branch_runs_ahead_of_one_that_stands_still(buffer):
    """One worker never reports; the others run whatever they are sent."""
    world = begin(Shape((StageShape(mixes=2, buffer=buffer),), workers=3, items=1000))
    pack_all(world)
    stuck = next(number for number, chains in enumerate(chains_held(world)) if chains[:1] == [0])
    watch = Watch(world)
    while any(worker.queue for number, worker in enumerate(world.workers) if number != stuck):
        for number, worker in enumerate(world.workers):
            if number != stuck and worker.queue:
                world.advance(number)
                watch.check()
        while world.outlet:
            world.take()
        pack_all(world)
        assert world.scheduler.backlog.alive[2] <= buffer
        assert world.steps < 5000


def test_a_mix_need_not_run_empty_before_more_comes():
    world = begin(Shape((StageShape(mixes=2, buffer=8),), workers=2, items=1000, tells_length=False), size=8)
    for sizer in world.scheduler.sizers:
        sizer.size = 8
    pack_all(world)
    while world.scheduler.ledger.source_items == 8:
        assert world.scheduler.backlog.alive[2] > 2
        world.advance(next(number for number, worker in enumerate(world.workers) if worker.queue))
        pack_all(world)


def test_b1_a_stage_in_front_of_a_mix_is_sent_what_fits_the_smallest_buffer_in_it():
    shape = Shape((StageShape(buffer=9), StageShape(mixes=2, buffer=3)), workers=1, items=9, tells_length=False)
    world = begin(shape, size=9)

    world.pack()

    assert world.sent_to(0) == [(0, [(0,), (1,), (2,)])]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_smallest_buffers_end_in_no_deadlock(workers, ordered):
    stages = (
        StageShape(fans_out=True, buffer=1),
        StageShape(mixes=2, buffer=1),
        StageShape(fans_out=True, buffer=1),
        StageShape(mixes=3, buffer=1),
    )
    shape = Shape(stages, workers=workers, ordered=ordered, out_buffer=1, items=6, skip=100, fail=100, deadly=30)
    for seed in range(20):
        finish(begin(Shape(**{**vars(shape), "seed": seed})))
