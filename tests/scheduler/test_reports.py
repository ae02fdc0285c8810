"""S4: a report is held against what was asked for before any of it is believed (K9)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scheduler_model import Watch, check_end, run_to_the_end
from scheduler_world import Death, Shape, StageShape, begin

from mpengine.errors import InternalError
from mpengine.scheduler import commands, events
from mpengine.scheduler.events import BatchReturned, Chunk, Failure, Progress, Tally

FAILED = Failure(0, 0, "failed")


def with_batch(*, fans_out=False):
    """Return a world, and the dispatch of four items to worker 0 in one batch."""
    world = begin(Shape((StageShape(fans_out=fans_out),), workers=1, items=4, tells_length=False, out_buffer=9), size=4)
    world.pack()
    (dispatch,) = (command for command in world.commands if hasattr(command, "payload"))
    assert dispatch.payload == [(0,), (1,), (2,), (3,)]
    return world, dispatch


def done(dispatch, **changes):
    """Return an honest report, changed."""
    results = dispatch.payload[dispatch.lo : dispatch.hi]
    honest = BatchReturned(
        1.0, 0, dispatch.batch_id, Progress.DONE, len(results), 0, (Chunk(results, len(results)),), (),
        (Tally(succeeded=len(results)),),
    )  # fmt: skip
    return replace(honest, **changes)


def test_an_honest_report_is_believed():
    world, dispatch = with_batch()

    found = world.scheduler.handle(done(dispatch))

    assert [command.payload for command in found if hasattr(command, "origin")] == [dispatch.payload]


def test_what_is_given_back_is_queued_again():
    world, dispatch = with_batch()
    report = done(
        dispatch, progress=Progress.GIVEN_BACK, consumed=3, tallies=(Tally(succeeded=3),), chunks=(Chunk([0] * 3, 3),)
    )

    found = world.scheduler.handle(report)

    again = [(one.batch_id, one.lo, one.hi) for one in found if hasattr(one, "careful")]
    assert again == [(dispatch.batch_id, 3, 4)]


LIES = {
    "more consumed than sent": {"consumed": 5, "tallies": (Tally(succeeded=5),)},
    "fewer than none consumed": {"consumed": -1, "tallies": (Tally(succeeded=-1),), "chunks": ()},
    "done with less than all": {"consumed": 3, "tallies": (Tally(succeeded=3),), "chunks": (Chunk([0] * 3, 3),)},
    "given back with nothing done": {
        "progress": Progress.GIVEN_BACK,
        "consumed": 0,
        "tallies": (Tally(),),
        "chunks": (),
    },
    "given back with nothing left": {"progress": Progress.GIVEN_BACK},
    "given back in the midst of an item": {
        "progress": Progress.GIVEN_BACK,
        "consumed": 3,
        "emitted": 1,
        "tallies": (Tally(succeeded=3),),
        "chunks": (Chunk([0] * 3, 3),),
    },
    "a stage too many": {"tallies": (Tally(succeeded=4), Tally(succeeded=4))},
    "a stage too few": {"tallies": ()},
    "items that no stage has seen": {"tallies": (Tally(succeeded=3),)},
    "results out of nowhere": {"chunks": (Chunk([0] * 5, 5),)},
    "results that are missing": {"chunks": (Chunk([0] * 3, 3),)},
    "failures that were not counted": {"failures": (FAILED,)},
    "counted failures that are not told": {
        "tallies": (Tally(succeeded=3, failed=1),),
        "chunks": (Chunk([0] * 3, 3),),
    },
    "a failure of an item that was not sent": {
        "tallies": (Tally(succeeded=3, failed=1),),
        "chunks": (Chunk([0] * 3, 3),),
        "failures": (replace(FAILED, position=4),),
    },
    "a failure in a stage that the chain lacks": {
        "tallies": (Tally(succeeded=3, failed=1),),
        "chunks": (Chunk([0] * 3, 3),),
        "failures": (replace(FAILED, stage=1),),
    },
    "negative figures": {"tallies": (Tally(succeeded=4, failed=1, skipped=-1),), "failures": (FAILED,)},
    "a run of results that begins too late": {"chunks": (Chunk([0] * 4, 4, first=1),)},
    "a run of results that begins too early": {"chunks": (Chunk([0] * 4, 4, first=-1),)},
    "a result of an item that was not sent": {"chunks": (Chunk([0] * 4, 4, 0, [0, 1, 2, 4]),)},
    "a result of an item before the first": {"chunks": (Chunk([0] * 4, 4, 0, [-1, 1, 2, 3]),)},
    "fewer places than results": {"chunks": (Chunk([0] * 4, 4, 0, [0, 1, 2]),)},
    "a negative count of what was sent": {"emitted": -1},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_report_that_cannot_be_is_refused(lie):
    world, dispatch = with_batch()

    assert ends_its_worker(world.scheduler.handle(done(dispatch, **LIES[lie])))
    assert not world.handed


def test_more_results_than_were_asked_for_are_refused():
    world, dispatch = with_batch(fans_out=True)
    count = dispatch.budget + 1
    report = done(dispatch, chunks=(Chunk([0] * count, count, 0, [0] * count),))

    assert ends_its_worker(world.scheduler.handle(report))


def test_results_of_an_item_that_is_not_through_are_believed():
    world, dispatch = with_batch(fans_out=True)
    report = done(
        dispatch, progress=Progress.SUSPENDED, consumed=1, emitted=2, chunks=(Chunk([0] * 3, 3, 0, [0, 1, 1]),),
        tallies=(Tally(succeeded=1),),
    )  # fmt: skip

    world.scheduler.handle(report)

    (batch,) = (batch for batch in world.scheduler.crew[0].held.values() if batch.batch_id == dispatch.batch_id)
    assert (batch.lo, batch.skip) == (1, 2)


def test_a_report_on_a_batch_that_was_put_aside_is_refused():
    world, dispatch = with_batch(fans_out=True)
    world.scheduler.stock.taken = 9  # the consumer is behind, so that it stays put aside
    aside = done(dispatch, progress=Progress.SUSPENDED, consumed=0, chunks=(), tallies=(Tally(),))
    world.scheduler.backlog.grow(1, 99)  # so many results wait for it
    world.scheduler.handle(aside)

    assert ends_its_worker(world.scheduler.handle(replace(aside, progress=Progress.MORE)))


def test_a_report_on_a_batch_that_the_worker_does_not_hold_is_refused():
    world, dispatch = with_batch()

    assert ends_its_worker(world.scheduler.handle(done(dispatch, batch_id=999)))


def test_a_worker_that_has_lied_is_not_heard_again_and_its_batch_is_run_by_the_next():
    world, dispatch = with_batch()
    world.scheduler.handle(done(dispatch, consumed=5))

    assert world.scheduler.handle(done(dispatch)) == []
    world.die(0, Death(dispatch.batch_id, names_item=False))
    world.greet(0)

    assert world.sent_to(0) == [(0, dispatch.payload)]
    run_to_the_end(world, Watch(world))
    check_end(world)


def ends_its_worker(found):
    """Whether commands are the end of worker 0 and nothing else: the run goes on without it."""
    return [type(command) for command in found] == [commands.KillWorker] and found[0].worker_id == 0


def test_a_stage_that_a_dead_workers_slot_cannot_have_named_is_not_believed():
    world, dispatch = with_batch()
    died = events.WorkerDied(1.0, 0, "SIGSEGV", dispatch.batch_id, dispatch.lo, 9999)
    world.scheduler._deaths._crash_retries = 0

    found = world.scheduler.handle(died)

    (report,) = (command for command in found if isinstance(command, commands.ReportFailure))
    assert (report.stage, report.index) == (0, 0)


def test_a_reader_sees_that_no_event_is_being_taken_in_after_one_was_refused():
    world, _ = with_batch()
    before = world.scheduler.version

    with pytest.raises(InternalError):
        world.scheduler.handle(events.WorkerReady(1.0, 0))

    assert world.scheduler.version > before
    assert world.scheduler.version % 2 == 0


def test_an_acknowledgement_of_what_was_taken_already_changes_nothing():
    world, dispatch = with_batch()
    world.scheduler.handle(done(dispatch))
    world.scheduler.handle(events.DeliveryTaken(2.0, 999))
    world.scheduler.handle(events.DeliveryRefused(2.0, 999))

    assert world.scheduler.stock.taken == 4
