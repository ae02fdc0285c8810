"""Who gets what next (P1 to P5), how much there may be of it (B1 to B3), and what is asked of the source (S2)."""

from __future__ import annotations

import pytest
from scheduler_model import Watch, check_end, run_to_the_end
from scheduler_world import Death, Shape, StageShape, begin, pack_all

from mpengine.scheduler import commands, events
from mpengine.scheduler.admission import RAMP_S
from mpengine.scheduler.backlog import lead_bound
from mpengine.scheduler.batching import TARGET_S


def resumed(world):
    return [command for command in world.commands if isinstance(command, commands.Resume)]


def dispatched(world):
    return [command for command in world.commands if isinstance(command, commands.Dispatch)]


def pulled(world):
    return [command.count for command in world.commands if isinstance(command, commands.PullSource)]


# ---------------------------------------------------------------------- P1 to P5


def test_p1_the_deepest_work_goes_first():
    world = begin(Shape((StageShape(), StageShape(buffer=8)), workers=1, items=8))
    pack_all(world)

    world.advance(0)

    assert world.sent_to(0) == [(1, [(0, 0)])]


def test_p1_in_one_chain_the_oldest_goes_first():
    world = begin(Shape((StageShape(buffer=8),), workers=1, items=8), greets=False)
    pack_all(world)

    world.greet(0)

    assert world.sent_to(0) == [(0, [(0,)]), (0, [(1,)])]


def test_p1_an_item_that_a_worker_died_of_does_not_go_before_those_ahead_of_it():
    world = begin(Shape((StageShape(buffer=8),), workers=1, items=4, tells_length=False), size=4)
    world.pack()

    world.die(0, Death(world.workers[0].queue[0], ahead=2))

    assert [(b.lo, b.hi) for b in world.scheduler.backlog._queues[0].values()] == [(0, 2), (2, 3), (3, 4)]


def test_p8_while_memory_is_tight_one_process_at_a_time_is_at_work():
    world = begin(Shape((StageShape(buffer=8),), workers=3, items=12), greets=False)
    pack_all(world)
    world.tell(events.MemoryTightened)
    for number in range(3):
        world.greet(number)

    assert [len(worker.queue) for worker in world.workers] == [1, 0, 0]
    world.advance(0)
    assert [len(worker.queue) for worker in world.workers] == [1, 0, 0]

    world.tell(events.MemoryEased)
    world.advance(0)

    assert [len(worker.queue) for worker in world.workers] == [1, 0, 0]  # J2: half of one is one

    world.now += 2 * RAMP_S
    world.advance(0)

    assert [len(worker.queue) > 0 for worker in world.workers] == [True, True, True]
    run_to_the_end(world, Watch(world))
    check_end(world)


def test_p8_while_memory_is_tight_the_source_is_asked_only_when_nothing_is_left_to_do():
    world = begin(Shape((StageShape(buffer=2),), workers=1, items=8, tells_length=False))
    world.tell(events.MemoryTightened)
    asked = len(pulled(world))
    pack_all(world)
    while world.workers[0].queue:
        assert len(pulled(world)) == asked
        world.advance(0)
    while world.outlet:
        world.take()

    assert len(pulled(world)) == asked + 1


def test_p2_a_worker_that_is_one_of_the_few_for_a_chain_looks_there_first():
    world = begin(Shape((StageShape(workers=1, buffer=9), StageShape(buffer=9)), workers=2, items=20), greets=False)
    world.greet(0)
    pack_all(world)

    world.advance(0)
    assert [(chain, items[0]) for chain, items in world.sent_to(0)] == [(0, (2,))]

    world.greet(1)
    assert world.sent_to(1) == [(1, [(0, 0)])]


def test_p3_nobody_gets_a_second_batch_while_somebody_idle_could_have_it():
    world = begin(Shape((StageShape(buffer=8),), workers=3, items=8, tells_length=False))

    world.pack()
    world.pack()
    world.pack()
    assert [len(worker.queue) for worker in world.workers] == [1, 1, 1]

    world.pack()
    assert [len(worker.queue) for worker in world.workers] == [2, 1, 1]


def test_p3_nobody_has_a_batch_in_reserve_when_batches_are_long():
    world = begin(Shape((StageShape(buffer=8),), workers=1, items=8))
    world.scheduler.sizers[0].learn(1, 10 * TARGET_S, 0)

    pack_all(world)

    assert len(world.workers[0].queue) == 1


def test_p3_nor_before_anything_is_known_of_what_they_cost():
    world = begin(Shape((StageShape(buffer=8),), workers=1, items=8, tells_length=False), knows_cost=False)
    pack_all(world)
    assert len(world.workers[0].queue) == 1

    world.advance(0)

    assert len(world.workers[0].queue) == 2


def test_p4_a_batch_is_cut_to_what_fits_the_buffer_behind_it():
    shape = Shape((StageShape(buffer=9), StageShape(buffer=3)), workers=1, items=9, tells_length=False)
    world = begin(shape, size=9)

    world.pack()

    assert world.sent_to(0) == [(0, [(0,), (1,), (2,)])]


def test_p4_no_worker_that_fans_out_is_promised_all_the_room_there_is_for_several():
    stages = (StageShape(fans_out=True, buffer=64), StageShape(buffer=64))
    world = begin(Shape(stages, workers=4, items=64, out_buffer=64))
    pack_all(world)

    batches = world.scheduler.stock.batches
    assert [[batches[held].budget for held in world.workers[number].queue] for number in range(4)] == [[8]] * 4


def test_p4_a_worker_that_fans_out_is_asked_for_what_fits_the_buffers_behind_it():
    stages = (StageShape(fans_out=True), StageShape(buffer=5), StageShape(buffer=2))
    world = begin(Shape(stages, workers=1, out_buffer=3, items=1))

    world.pack()

    assert [command.budget for command in dispatched(world)] == [5]  # 3 + 5 + 2 in all, but 5 right behind it


def test_p4_results_that_wait_for_the_consumer_count_behind_a_fan_out():
    world = begin(Shape((StageShape(fans_out=True),), workers=1, out_buffer=3, items=1))
    world.pack()
    world.nature.decree(0, (0,), *((0, result) for result in range(5)))

    assert [command.budget for command in dispatched(world)] == [3]
    world.advance(0)
    assert resumed(world) == []  # three of them are with the consumer
    world.take()
    assert [command.budget for command in resumed(world)] == [3]


def test_p5_an_item_that_killed_a_worker_runs_beside_nothing_else():
    world = begin(Shape((StageShape(buffer=8),), workers=2, items=8))
    pack_all(world)
    world.die(0, Death(world.workers[0].queue[0]))

    world.greet(0)

    assert world.sent_to(0) == [(0, [(0,)])]
    assert len(world.workers[0].queue) == 1
    pack_all(world)
    assert len(world.workers[0].queue) == 1


def test_p5_a_busy_worker_does_not_take_it_in_reserve():
    world = begin(Shape((StageShape(buffer=8),), workers=2, items=8))
    pack_all(world)
    world.advance(1, 1000)

    world.die(0, Death(world.workers[0].queue[0]))

    held = [job.items[job.position] for job in world.workers[1].jobs.values()]
    assert (0,) not in held


def test_p5_nor_does_it_go_on_with_it_beside_something_else():
    stages = (StageShape(fans_out=True, buffer=8), StageShape(buffer=1))
    world = begin(Shape(stages, workers=1, out_buffer=1, ordered=False, items=1, fan=3))
    world.nature.decree(0, (0,), *((0, result) for result in range(4)))
    world.pack()
    world.die(0, Death(world.workers[0].queue[0]))
    world.greet(0)

    world.advance(0)  # it is put aside, and what it gave is the worker's next batch
    assert world.sent_to(0) == [(1, [(0, 0)])]
    assert resumed(world) == []

    world.advance(0)
    assert [command.budget for command in resumed(world)] == [1]


# ---------------------------------------------------------------------- bounds


NESTED = (
    StageShape(fans_out=True, buffer=1),
    StageShape(fans_out=True, buffer=1),
    StageShape(fans_out=True, buffer=1),
)


def nested_world(workers):
    """Return a world of fan-outs within fan-outs, all buffers of one item."""
    world = begin(Shape(NESTED, workers=workers, out_buffer=1, items=3, fan=3, tells_length=False))
    for index in range(3):
        world.nature.decree(0, (index,), (index, 0), (index, 1), (index, 2))
        for middle in range(3):
            value = (index, middle)
            world.nature.decree(1, value, *((*value, number) for number in range(3)))
            for inner in range(3):
                world.nature.decree(2, (*value, inner), (*value, inner, 0), (*value, inner, 1))
    return world


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_b3_fan_outs_within_fan_outs_come_to_their_end_through_buffers_of_one(workers):
    world = nested_world(workers)

    run_to_the_end(world, Watch(world))

    assert len(world.taken) == 54
    assert world.taken == sorted(world.taken)
    check_end(world)


def test_b3_the_front_of_the_order_goes_on_where_everything_is_full_and_at_rest():
    world = nested_world(2)
    pack_all(world)
    backlog = world.scheduler.backlog
    world.advance(0)  # of item 0 there are results before chain 1, which take the only room
    before = world.scheduler.stock.order.head
    run = [(command.chain, command.budget) for command in dispatched(world)]

    assert (before.chain, before.origin[before.lo]) == (1, 0)
    assert (1, 1) in run
    backlog.grow(1, 50)  # there is no room at all any more, in the books at least
    assert backlog.room(1) <= 1
    assert world.scheduler._dispatcher._room(before) == 0  # somebody is at work, so room may still come
    busy = {worker: worker.active for worker in world.scheduler.crew}
    for worker in busy:
        worker.active = 0
        world.scheduler.crew.place(worker)
    assert world.scheduler._dispatcher._room(before) == 1
    for worker, active in busy.items():
        worker.active = active
        world.scheduler.crew.place(worker)
    backlog.grow(1, -50)


def test_b4_only_the_front_of_the_order_may_fill_a_bound():
    world = begin(Shape((StageShape(fans_out=True), StageShape(buffer=40)), workers=2, out_buffer=60, items=1))

    backlog = world.scheduler.backlog

    assert (backlog.room(0), backlog.room(0, share=2)) == (40, 20)
    backlog.grow(1, 90)
    assert (backlog.room(0), backlog.room(0, share=2)) == (10, 0)
    backlog.grow(1, -90)


def test_b5_room_that_opens_by_crumbs_is_not_used_by_crumbs():
    world = begin(Shape((StageShape(fans_out=True), StageShape(buffer=80)), workers=1, out_buffer=80, items=1))
    world.nature.decree(0, (0,), *((0, result) for result in range(500)))
    world.pack()
    backlog, room = world.scheduler.backlog, world.scheduler._dispatcher._room
    (batch,) = world.scheduler.stock.batches.values()
    backlog.promised[0] = 0

    assert backlog.least(0) == 10
    backlog.waiting[1] = 71
    assert (backlog.room(0), room(batch)) == (9, 0)
    backlog.waiting[1] = 70
    assert (backlog.room(0), room(batch)) == (10, 10)


def test_b3_but_not_while_the_consumer_is_behind():
    world = begin(Shape((StageShape(fans_out=True),), workers=1, out_buffer=2, items=1))
    world.nature.decree(0, (0,), *((0, result) for result in range(5)))
    world.pack()

    world.advance(0)

    assert world.scheduler.stock.taken == 2
    assert not world.workers[0].queue
    assert resumed(world) == []


def test_b1_results_that_are_still_promised_take_room():
    stages = (StageShape(buffer=9), StageShape(buffer=4))
    world = begin(Shape(stages, workers=2, items=9, tells_length=False), size=3)
    pack_all(world)

    assert world.scheduler.backlog.promised[0] == 4


# ---------------------------------------------------------------------- the end of the input


def ending(*, workers, items, item_s):
    """Return a world with one batch of all items, when the source has ended and workers say hello."""
    shape = Shape((StageShape(buffer=64),), workers=workers, items=items, tells_length=False)
    world = begin(shape, greets=False, size=items)
    world.pack()
    world.scheduler.sizers[0].learn(items, items * item_s, 0)
    world.scheduler.sizers[0].size = items
    world.end_source()
    return world


def test_p9_near_the_end_what_is_left_is_cut_to_a_share_each():
    world = ending(workers=2, items=8, item_s=0.01)
    worker = world.scheduler.crew[1]
    world.workers[1].state = "ready"
    worker.life = type(worker.life).READY  # both are there before either gets anything
    world.scheduler.crew.place(worker)

    world.greet(0)

    assert [values for number in (0, 1) for _, values in world.sent_to(number)] == [
        [(0,), (1,)],  # a quarter of it: two workers, and as much again for whoever is through first
        [(2,), (3,)],
    ]


def test_p9_near_the_end_nobody_has_anything_in_reserve():
    world = ending(workers=2, items=9, item_s=0.005)
    worker = world.scheduler.crew[1]
    world.workers[1].state = "ready"
    worker.life = type(worker.life).READY
    world.scheduler.crew.place(worker)
    world.greet(0)

    assert [len(worker.queue) for worker in world.workers] == [1, 1]
    world.advance(0)
    assert world.sent_to(0) == [(0, [(5,)])]
    assert [len(worker.queue) for worker in world.workers] == [1, 1]  # the rest is for whoever is through first


def test_what_is_hardly_any_work_is_not_worth_sharing():
    world = ending(workers=2, items=8, item_s=1e-6)
    worker = world.scheduler.crew[1]
    world.workers[1].state = "ready"
    worker.life = type(worker.life).READY
    world.scheduler.crew.place(worker)

    world.greet(0)

    assert [len(values) for _, values in world.sent_to(0)] == [8]


def test_before_the_end_nothing_is_shared():
    world = begin(Shape((StageShape(buffer=64),), workers=2, items=64, tells_length=False), size=8)
    world.scheduler.sizers[0].learn(8, 0.08, 0)
    world.scheduler.sizers[0].size = 8

    world.pack()

    assert [len(values) for _, values in world.sent_to(0)] == [8]


# ---------------------------------------------------------------------- what is asked of the source


def test_s2_the_source_is_asked_for_no_more_than_the_workers_can_use():
    world = begin(Shape((StageShape(buffer=100),), workers=3, items=100, out_buffer=100), greets=False)

    assert world.allowance == 6  # three workers, two batches each, of one item at first


def test_s2_nor_for_more_than_the_first_buffer_holds():
    world = begin(Shape((StageShape(buffer=3),), workers=4, items=100, out_buffer=100), greets=False)

    assert world.allowance == 3


def test_s2_when_nobody_takes_the_results_the_source_leads_by_the_bound_and_no_more():
    world = begin(Shape((StageShape(buffer=3), StageShape(buffer=2)), workers=2, items=500, out_buffer=5))
    for _ in range(200):
        pack_all(world)
        for number in (0, 1):
            if world.workers[number].queue:
                world.advance(number)

    bound = lead_bound(world.plan, world.scheduler.settings)
    assert bound == 3 + 2 + 5 + 2 * 2 * 3
    assert bound - 3 < world.next_item <= bound
    assert not world.can_pack


def test_s2_payloads_under_way_weigh_no_more_than_is_allowed():
    world = begin(Shape((StageShape(buffer=100),), workers=2, items=100, out_buffer=100, max_bytes=1000), size=2)
    for _ in range(100):
        pack_all(world)
        for number in (0, 1):
            if world.workers[number].queue:
                world.advance(number)
        assert world.scheduler.stock.held_bytes <= 1000 + 2 * 2 * 2 * 100  # what was asked for before it was known

    assert not world.can_pack
    run_to_the_end(world, Watch(world))
    check_end(world)


def test_s3_nothing_is_done_for_a_run_that_is_cancelled():
    world = begin(Shape((StageShape(),), workers=2, items=20))
    pack_all(world)
    world.allowance += 1
    world.tell(events.CancelRequested, "enough")

    world.advance(0)
    assert world.commands == []
    world.die(1)
    assert world.commands == []
    world.pack()
    assert world.commands == []


def test_a_run_of_nothing_is_finished_when_its_source_has_ended():
    world = begin(Shape((StageShape(),), items=0), greets=False)

    world.end_source()

    assert world.finished


def test_a_run_is_not_finished_before_the_consumer_has_taken_everything():
    world = begin(Shape((StageShape(),), workers=1, items=1))
    world.pack()
    world.allowance = 1
    world.end_source()

    world.advance(0)
    assert not world.finished

    world.take()
    assert world.finished


def test_results_being_taken_lead_to_something_only_where_somebody_could_be_given_more():
    world = begin(Shape((StageShape(buffer=8),), workers=1, items=8, tells_length=False))
    assert world.scheduler.heeds_taking

    pack_all(world)
    assert len(world.workers[0].queue) == 2
    assert not world.scheduler.heeds_taking

    while world.workers[0].queue:
        world.advance(0)
        pack_all(world)
    assert world.outlet
    assert world.scheduler.heeds_taking  # or the run would never end


def test_p10_small_batches_are_joined_to_a_share_for_each_place_that_is_free():
    world = begin(Shape((StageShape(buffer=9),), workers=2, items=9, tells_length=False), greets=False)
    pack_all(world)
    waiting = world.scheduler.backlog.waiting[0]
    world.scheduler.sizers[0].size = 9

    world.greet(0)

    sizes = [len(items) for _, items in world.sent_to(0)]
    assert waiting >= 4
    assert sizes == [waiting // 2, waiting - waiting // 2]  # one to work on, and one in reserve
    run_to_the_end(world, Watch(world))
    check_end(world)
