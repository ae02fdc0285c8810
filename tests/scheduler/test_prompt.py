"""What an executor asks of the scheduler: items only for those that are free, and an end at the first death."""

from mpengine.plan import make_plan
from mpengine.policies import ErrorPolicy
from mpengine.scheduler import commands, events
from mpengine.scheduler.events import Progress, Tally
from mpengine.scheduler.scheduler import Scheduler, Settings
from mpengine.stages import Stage


def make_scheduler(**more):
    stage = Stage(abs, singly=True, idempotent=False, on_error="emit")
    plan = make_plan([stage], default_buffer=100, default_policy=ErrorPolicy.EMIT)
    scheduler = Scheduler(plan, Settings(workers=2, ordered=False, is_prompt=True, **more))
    started = scheduler.handle(events.RunStarted(0.0))
    assert [type(command) for command in started] == [commands.StartWorker] * 2
    return scheduler


def pulls(out):
    return [(command.count, command.batch_size) for command in out if isinstance(command, commands.PullSource)]


def test_the_source_is_asked_for_one_item_when_a_worker_is_free_and_for_none_before():
    scheduler = make_scheduler()
    assert pulls(scheduler.handle(events.WorkerReady(1.0, 0))) == [(1, 1)]
    assert pulls(scheduler.handle(events.WorkerReady(1.0, 1))) == [(1, 1)]
    assert pulls(scheduler.handle(events.TimePassed(2.0))) == []
    sent = scheduler.handle(events.SourcePacked(3.0, "item", 1))
    (dispatch,) = [command for command in sent if isinstance(command, commands.Dispatch)]
    assert pulls(sent) == []
    returned = events.BatchReturned(
        4.0, dispatch.worker_id, dispatch.batch_id, Progress.DONE, 1,
        chunks=(events.Chunk("result", 1),), tallies=(Tally(succeeded=1),),
    )  # fmt: skip
    assert pulls(scheduler.handle(returned)) == [(1, 1)]


def test_where_no_death_is_endured_the_first_one_ends_the_run_at_once_be_the_worker_idle():
    scheduler = make_scheduler(endures_deaths=False)
    scheduler.handle(events.WorkerReady(1.0, 0))
    out = scheduler.handle(events.WorkerDied(2.0, 0, "SIGKILL"))
    (cancel,) = [command for command in out if isinstance(command, commands.CancelRun)]
    assert cancel.reason == "a worker died: SIGKILL"
    assert cancel.at_once
    assert cancel.error.how == "SIGKILL"


def test_a_worker_that_was_asked_to_leave_ends_nothing():
    scheduler = make_scheduler(endures_deaths=False, max_items=1)
    scheduler.handle(events.WorkerReady(1.0, 0, items=1))
    out = scheduler.handle(events.WorkerDied(2.0, 0, "exit code 0"))
    assert [type(command) for command in out if not isinstance(command, commands.PullSource)] == [commands.StartWorker]
