"""K5, step by step: a death whose item is not known, a known one, alone, given up; and workers that never start."""

from __future__ import annotations

import pytest
from scheduler_model import Watch, check_end, run_to_the_end
from scheduler_world import Death, Shape, StageShape, World, begin

from mpengine.scheduler import commands, events
from mpengine.scheduler.events import Ending
from mpengine.scheduler.lifecycles import RunState


def at_work(shape=None, **more):
    """Return a world whose worker 0 is at the first of four items, in one batch."""
    shape = shape or Shape((StageShape(buffer=8),), workers=1, items=4, tells_length=False, **more)
    world = begin(shape, size=4)
    world.pack()
    assert world.sent_to(0) == [(0, [(0,), (1,), (2,), (3,)])]
    return world


def restart(world, number=0):
    world.greet(number)
    return [(dispatch.payload[dispatch.lo : dispatch.hi], dispatch.careful) for dispatch in dispatches(world)]


def dispatches(world):
    return [command for command in world.commands if isinstance(command, commands.Dispatch)]


def death(world, **more):
    return Death(world.workers[0].queue[0], **more)


def test_a_worker_that_names_nothing_puts_no_blame_on_what_it_held():
    world = at_work()

    world.die(0)

    assert restart(world) == [([(0,), (1,), (2,), (3,)], False)]


def test_a_batch_that_the_worker_had_finished_is_not_to_blame_nor_is_what_it_held():
    world = at_work()

    world.die(0, Death(12345))

    assert restart(world) == [([(0,), (1,), (2,), (3,)], False)]


def test_when_the_item_is_not_known_the_next_worker_is_to_name_each():
    world = at_work()

    world.die(0, death(world, names_item=False))

    assert restart(world) == [([(0,), (1,), (2,), (3,)], True)]


def test_whatever_a_batch_is_split_into_its_items_are_still_named():
    world = at_work()
    world.die(0, death(world, names_item=False))
    world.greet(0)

    world.die(0, death(world, ahead=2))

    assert restart(world) == [([(0,), (1,)], True)]
    world.advance(0)
    world.advance(0)
    assert [(dispatch.lo, dispatch.careful) for dispatch in dispatches(world)] == [(3, True)]


def test_an_item_that_is_known_runs_alone_behind_those_before_it():
    world = at_work()

    world.die(0, death(world, ahead=2))

    assert restart(world) == [([(0,), (1,)], False)]
    world.advance(0)
    assert world.sent_to(0) == [(0, [(2,)])]
    assert dispatches(world)[0].careful
    world.advance(0)
    assert world.sent_to(0) == [(0, [(3,)])]
    assert world.handed == [(0, 0), (1, 0), (2, 0)]


@pytest.mark.parametrize("crash_retries", [0, 1, 2, 5])
def test_an_item_is_given_up_after_so_many_deaths_more(crash_retries):
    world = at_work(crash_retries=crash_retries)

    for died in range(crash_retries):
        world.die(0, death(world))
        assert not world.reports, died
        assert restart(world)[0] == ([(0,)], True)
    world.die(0, death(world))

    (report,) = world.reports
    assert (report.stage, report.index, report.worker_id) == (0, 0, 0)
    assert report.failure.attempts == crash_retries + 1
    assert report.failure.how is Ending.CRASHED
    assert report.failure.summary.startswith("WorkerDiedError: the worker died (SIGKILL)")
    run_to_the_end(world, Watch(world))
    assert world.taken == [(1, 0), (2, 0), (3, 0)]
    check_end(world)


@pytest.mark.parametrize("crash_retries", [0, 1, 2])
def test_an_item_whose_worker_the_kernel_killed_for_want_of_memory_is_run_again_alone_at_least_once(crash_retries):
    world = at_work(crash_retries=crash_retries)
    least = max(1, crash_retries)

    for died in range(least):
        world.die(0, death(world, is_oom=True))
        assert not world.reports, died
        assert restart(world)[0] == ([(0,)], True)
    world.die(0, death(world, is_oom=True))

    (report,) = world.reports
    assert report.failure.summary == (
        f"WorkerDiedError: the worker died (SIGKILL by the kernel, out of memory), {least + 1} times with this item"
    )
    assert report.failure.exit == "SIGKILL"


def test_the_run_ends_when_that_is_the_stages_policy_and_no_worker_is_started_for_it():
    shape = Shape((StageShape(policy="raise"),), 1, crash_retries=0, items=4, tells_length=False)
    world = at_work(shape)

    world.die(0, death(world))

    (cancel,) = world.cancels
    assert cancel.reason.startswith("stage 's0' failed on item 0: WorkerDiedError")
    assert cancel.failure is world.reports[0]
    assert not any(isinstance(command, commands.StartWorker) for command in world.commands)


def test_a_batch_whose_workers_die_before_they_can_name_an_item_does_not_go_on_for_ever():
    world = at_work(crash_retries=1)

    for _ in range(40):
        if not world.workers[0].queue:
            break
        world.die(0, death(world, at_payload=True))
        world.greet(0)

    assert [report.index for report in world.reports] == [0, 1, 2, 3]
    run_to_the_end(world, Watch(world))
    check_end(world)


def test_a_later_stage_of_the_chain_is_blamed_when_the_slot_names_it():
    shape = Shape((StageShape(), StageShape(), StageShape()), 1, crash_retries=0, items=4, tells_length=False)
    world = at_work(shape)
    world.nature.decree(0, (0,), end="deadly", stage=1)

    world.die(0, death(world))

    assert [(report.stage, report.failure.stage) for report in world.reports] == [(1, 1)]
    run_to_the_end(world, Watch(world))
    assert [book.succeeded for book in world.scheduler.ledger.stages] == [4, 3, 3]


def test_what_a_fan_out_sent_before_the_death_is_kept_and_skipped():
    world = at_work(Shape((StageShape(fans_out=True, buffer=20),), 1, items=4, tells_length=False, out_buffer=9))
    world.nature.decree(0, (0,), (0, 0), (0, 1), (0, 2), end="deadly")

    world.advance(0, 2)
    world.die(0, death(world))
    world.greet(0)

    assert dispatches(world)[0].skip == 2
    run_to_the_end(world, Watch(world))
    assert [value for value in world.taken if value[0] == 0] == [(0, 0), (0, 1), (0, 2)]
    assert [report.index for report in world.reports] == [0]
    check_end(world)


def test_everything_a_dead_worker_held_goes_to_the_front_in_the_order_it_was_sent():
    world = begin(Shape((StageShape(buffer=8),), workers=1, items=8))
    while world.can_pack:
        world.pack()
    assert len(world.workers[0].queue) == 2

    world.die(0)
    world.greet(0)

    assert world.sent_to(0) == [(0, [(0,)]), (0, [(1,)])]


@pytest.mark.parametrize("is_named", [False, True])
def test_a_generator_that_was_told_to_go_on_is_not_begun_again_where_it_must_not_run_twice(is_named):
    """Its worker dies before its slot names the item; or it names the batch by then, and nothing of it."""
    stage = StageShape(fans_out=True, once=True, buffer=8)
    world = at_work(Shape((stage,), workers=1, items=4, tells_length=False, out_buffer=9))
    world.nature.decree(0, (0,), (0, 0), (0, 1))
    world.advance(0, suspend=True)
    (job,) = world.workers[0].jobs.values()
    assert (job.is_resumed, job.emitted) == (True, 1)

    world.die(0, death(world, names_item=False) if is_named else None)

    assert [(report.index, report.failure.how) for report in world.reports] == [(0, Ending.CRASHED)]
    assert restart(world) == [([(1,), (2,), (3,)], True)]


@pytest.mark.parametrize("fate", [{"timed_out": True}, {"excess": events.Excess(2, 1, is_fresh=False)}])
def test_a_generator_put_aside_has_not_failed_of_what_killed_its_worker_at_another_item(fate):
    stage = StageShape(fans_out=True, once=True, buffer=8)
    world = at_work(Shape((stage,), workers=1, items=4, tells_length=False, out_buffer=9))
    world.nature.decree(0, (0,), (0, 0), (0, 1))
    world.advance(0, suspend=True)

    world.die(0, Death(12345, **fate))

    (report,) = world.reports
    assert (report.index, report.failure.how) == (0, Ending.CRASHED)
    assert report.failure.summary.startswith("WorkerDiedError: ")
    told = (report.failure.item, report.failure.traceback, report.failure.attempts)
    assert told == ("", "", 1)


def test_a_dead_worker_is_replaced_at_once():
    world = begin(Shape((StageShape(),), workers=2))

    world.die(1)

    assert world.commands[0] == commands.StartWorker(1, 0.0)


# ---------------------------------------------------------------------- workers that do not start


def starting(workers=2):
    world = World(Shape((StageShape(),), workers=workers))
    world.tell(events.RunStarted)
    return world


def start_delays(world):
    return [command.after_s for command in world.commands if isinstance(command, commands.StartWorker)]


def test_a_worker_that_dies_while_it_starts_is_started_again_later_and_later():
    world = starting()

    world.die(0)
    assert start_delays(world) == [pytest.approx(0.1)]
    world.die(0)
    assert start_delays(world) == [pytest.approx(0.2)]


def test_the_third_one_in_a_row_of_a_slot_ends_the_run_and_others_prove_nothing():
    world = starting()

    for number in (0, 1, 0, 1):
        world.die(number)
    assert not world.cancels
    world.die(1)

    assert world.cancels[0].reason == "workers die while they start: SIGKILL"
    assert start_delays(world) == []


def test_a_hello_in_between_starts_the_count_afresh():
    world = starting()

    for _ in range(4):
        world.die(0)
        world.die(1)
        world.greet(0)
        world.die(0)

    assert not world.cancels
    assert start_delays(world) == [0.0]


def test_a_set_up_that_kills_ends_the_run_and_no_item_is_to_blame():
    world = at_work(crash_retries=1)

    for _ in range(2):
        world.die(0, death(world, in_setup=True))
        assert restart(world) == [([(0,), (1,), (2,), (3,)], False)]
    world.die(0, death(world, in_setup=True))

    assert [cancel.reason for cancel in world.cancels] == [
        "stage 's0' could not be set up: the worker died (SIGKILL), 3 times in a row"
    ]
    assert world.reports == []
    assert not any(isinstance(command, commands.StartWorker) for command in world.commands)


def test_deaths_of_several_slots_during_set_up_do_not_add_up():
    """Something that kills from outside finds all workers loading the same model."""
    shape = Shape((StageShape(buffer=8),), workers=3, items=6, tells_length=False, crash_retries=0)
    world = begin(shape, size=2)
    while world.can_pack:
        world.pack()

    deaths = 0
    for _ in range(2):
        for number in [number for number, worker in enumerate(world.workers) if worker.queue]:
            world.die(number, Death(world.workers[number].queue[0], in_setup=True))
            world.greet(number)
            deaths += 1

    assert deaths > 3
    assert not world.cancels
    run_to_the_end(world, Watch(world))
    assert len(world.taken) == 6
    check_end(world)


def test_a_set_up_that_works_in_between_starts_the_count_afresh():
    world = at_work()
    for _ in range(2):
        world.die(0, death(world, in_setup=True))
        restart(world)
    world.advance(0, 1)
    for _ in range(2):
        world.die(0, death(world, in_setup=True))
        restart(world)

    assert not world.cancels


def excess(*, is_fresh):
    return events.Excess(2_000, 1_000, is_fresh=is_fresh)


def test_an_item_that_is_too_large_is_run_again_alone_and_given_up_when_a_fresh_worker_has_proved_it():
    world = at_work(crash_retries=5)

    world.die(0, death(world, excess=excess(is_fresh=True)))
    assert not world.reports
    assert restart(world)[0] == ([(0,)], True)
    world.die(0, death(world, excess=excess(is_fresh=True)))

    (report,) = world.reports
    assert report.failure.how is Ending.OVER_MEMORY
    assert report.failure.summary == (
        "MemoryLimitError: its worker had 2,000 bytes of memory, over memory_limit, 1,000"
    )
    run_to_the_end(world, Watch(world))
    assert world.taken == [(1, 0), (2, 0), (3, 0)]
    check_end(world)


def test_where_others_had_filled_the_worker_the_item_gets_more_tries_but_not_for_ever():
    world = at_work(crash_retries=0)

    for died in range(2):
        world.die(0, death(world, excess=excess(is_fresh=False)))
        assert not world.reports, died
        assert restart(world)[0] == ([(0,)], True)
    world.die(0, death(world, excess=excess(is_fresh=False)))

    assert [report.failure.how for report in world.reports] == [Ending.OVER_MEMORY]


def retired(world):
    return [command.worker_id for command in world.commands if isinstance(command, commands.RetireWorker)]


def test_a_worker_that_has_grown_gets_nothing_more_and_is_replaced_when_it_holds_nothing():
    world = at_work()
    world.tell(events.WorkerBloated, 0)
    assert not retired(world)
    while world.workers[0].queue:
        assert not retired(world)
        world.advance(0, 1000)
    assert retired(world) == [0]
    run_to_the_end(world, Watch(world))
    check_end(world)


def test_the_process_that_replaces_one_that_has_grown_gets_as_much_as_any():
    shape = Shape((StageShape(buffer=8),), workers=1, items=8, tells_length=False)
    world = at_work(shape)
    world.tell(events.WorkerBloated, 0)
    while world.workers[0].queue:
        world.advance(0, 1000)
    assert world.can_pack
    world.pack()
    assert not dispatches(world)

    world.die(0)
    world.greet(0)

    assert [len(items) for _, items in world.sent_to(0)] == [4]
    while world.workers[0].queue:
        world.advance(0, 1000)
        assert not retired(world)


def test_a_worker_that_has_grown_and_gone_meanwhile_is_nobodys_business():
    world = at_work()
    world.die(0)
    world.tell(events.WorkerBloated, 0)
    assert restart(world) == [([(0,), (1,), (2,), (3,)], False)]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda at: events.StartFailed(at, "no memory"), "workers could not be started: no memory"),
        (lambda at: events.StageBroken(at, 0, 0, "KeyError: 'x'"), "stage 's0' could not be set up: KeyError: 'x'"),
    ],
)
def test_what_cannot_be_started_or_set_up_is_the_runs_error_at_once(make, reason):
    world = starting()

    world.tell(make)

    assert [cancel.reason for cancel in world.cancels] == [reason]
    assert world.scheduler.state is RunState.CANCELLING


def test_the_first_reason_wins():
    world = starting()

    world.tell(events.CancelRequested, "first")
    world.tell(events.CancelRequested, "second")

    assert [cancel.reason for cancel in world.cancels] == ["first"]
    assert world.scheduler.reason == "first"


@pytest.mark.parametrize("fans_out", [False, True])
def test_of_several_failures_in_one_report_each_counts_as_failed_and_the_first_is_the_reason(fans_out):
    shape = Shape((StageShape(fans_out=fans_out, policy="raise"),), 1, items=4, tells_length=False, out_buffer=9)
    world = at_work(shape)
    world.nature.decree(0, (0,), (0, 0))
    for index in (1, 2):
        world.nature.decree(0, (index,), end="fail")
    world.nature.decree(0, (3,), end="kill")

    world.advance(0)

    assert world.handed == [(0, 0)]
    assert [cancel.reason for cancel in world.cancels] == ["stage 's0' failed on item 1: failed"]
    world.take()
    world.scheduler.close_books()
    ledger = world.scheduler.ledger
    assert (ledger.delivered, ledger.failed, ledger.cancelled, ledger.filtered) == (1, 2, 1, 0)


def test_of_several_items_that_will_not_pack_each_counts_as_failed():
    shape = Shape((StageShape(fans_out=True, policy="raise"),), 1, items=4, tells_length=False, unpackable=1000)
    world = begin(shape, size=4)

    world.pack()

    world.scheduler.close_books()
    assert (world.scheduler.ledger.failed, world.scheduler.ledger.filtered) == (4, 0)


def test_a_kill_switch_delivers_what_came_before_it():
    world = at_work()
    world.nature.decree(0, (2,), end="kill")

    world.advance(0)

    assert world.handed == [(0, 0), (1, 0)]
    assert world.cancels[0].reason == "the switch"


def test_what_the_source_gave_before_it_failed_is_still_delivered():
    world = begin(Shape((StageShape(),), items=6, source_fails=True))

    run_to_the_end(world, Watch(world))

    assert len(world.handed) == len(world.taken) == 6
    assert [cancel.reason for cancel in world.cancels] == ["the source failed: broke"]
    check_end(world)
