"""What an earlier run of a warm engine has left is no news to a run that has no use for it."""

from mpengine import ErrorPolicy, stage
from mpengine.plan import make_plan
from mpengine.scheduler import commands, events
from mpengine.scheduler.scheduler import Scheduler, Settings


def test_a_process_that_says_hello_or_dies_in_a_run_without_stages_for_processes_changes_nothing():
    plan = make_plan([stage(abs, kind="thread")], default_buffer=8, default_policy=ErrorPolicy.RAISE, threads=1)
    scheduler = Scheduler(plan, Settings(workers=2))
    started = scheduler.handle(events.RunStarted(0.0))
    assert [command.worker_id for command in started if isinstance(command, commands.StartWorker)] == [2]

    assert scheduler.handle(events.WorkerReady(1.0, 0)) == []
    assert scheduler.handle(events.WorkerDied(2.0, 1, "SIGKILL")) == []
    assert scheduler.state.value == "running"
