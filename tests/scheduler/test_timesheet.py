"""Where the workers' time goes, and what is told of it: events at made-up times, and figures that follow from them."""

from __future__ import annotations

from dataclasses import astuple

import pytest
from scheduler_model import Watch, run_to_the_end
from scheduler_world import Death, Shape, StageShape, begin

from mpengine.plan import make_plan
from mpengine.policies import ErrorPolicy
from mpengine.scheduler import commands, events
from mpengine.scheduler.events import Progress
from mpengine.scheduler.scheduler import Scheduler, Settings
from mpengine.stages import Stage


def same(item):
    return item


class Script:
    """A run told event by event, each at the time that the test says."""

    def __init__(self, *stages, workers=2, **settings):
        plan = make_plan(stages, default_buffer=100, default_policy=ErrorPolicy.RAISE, threads=2)
        self.scheduler = Scheduler(plan, Settings(workers, **settings))
        for sizer in self.scheduler.sizers:
            sizer.size = 1
        self.sent = {}
        self.delivered = []
        self.tell(events.RunStarted, 0.0)

    def tell(self, make, at, *what):
        for command in self.scheduler.handle(make(at, *what)):
            if isinstance(command, commands.Dispatch):
                self.sent.setdefault(command.worker_id, []).append(command)
            elif isinstance(command, commands.Deliver):
                self.delivered.append(command.batch_id)

    def greet(self, at, *numbers):
        for number in numbers:
            self.tell(events.WorkerReady, at, number)

    def pack(self, at, *, size_bytes=10, count=1):
        self.tell(events.SourcePacked, at, list(range(count)), count, size_bytes)

    def report(self, at, number, *busy_s, size_bytes=10):
        sent = self.sent[number].pop(0)
        count = sent.hi - sent.lo
        chunk = events.Chunk([0] * count, count, sent.lo, None, size_bytes)
        tallies = tuple(events.Tally(succeeded=count, busy_s=seconds) for seconds in busy_s)
        self.tell(events.BatchReturned, at, number, sent.batch_id, Progress.DONE, count, 0, (chunk,), (), tallies)

    def take(self, at):
        self.tell(events.DeliveryTaken, at, self.delivered.pop(0))

    @property
    def profile(self):
        profile = self.scheduler.timesheet.profile()
        parts = profile.busy_s + profile.transport_s + profile.idle.total + profile.absent_s + profile.lost_s
        assert parts == pytest.approx(profile.capacity_s), "what is not accounted for"
        assert min(*astuple(profile.idle), profile.absent_s, profile.lost_s, profile.transport_s) >= -1e-9
        return profile


def test_t1_t2_what_a_worker_had_a_batch_for_is_busy_or_transport():
    script = Script(Stage(same, name="a"), Stage(same, name="b"), workers=1)
    script.greet(0.0, 0)
    script.pack(0.0, size_bytes=30)
    script.report(10.0, 0, 6.0, 3.0, size_bytes=50)

    profile = script.profile
    a, b = profile.stages
    assert (profile.busy_s, profile.transport_s) == (9.0, 1.0)
    assert (a.busy_s, b.busy_s) == (6.0, 3.0)
    assert (a.transport_s, b.transport_s) == (1.0, 0.0)  # of the whole chain
    assert (a.batches, a.items, a.size_bytes) == (1, 1, 80)


def test_t2_a_batch_in_reserve_takes_nobodys_time():
    script = Script(Stage(same, name="a"), workers=1)
    for sizer in script.scheduler.sizers:
        sizer.is_long = False
    script.greet(0.0, 0)
    script.pack(0.0)
    script.pack(0.0)
    assert len(script.sent[0]) == 2
    script.report(4.0, 0, 4.0)
    script.report(9.0, 0, 4.5)

    assert (script.profile.busy_s, script.profile.transport_s) == (8.5, 0.5)


def test_t3_workers_without_work_wait_for_the_source_while_it_has_been_asked():
    script = Script(Stage(same, name="a"))
    script.greet(0.0, 0, 1)
    script.pack(3.0)  # one item for two
    script.report(5.0, 0, 2.0)

    profile = script.profile
    assert profile.idle.source == 2 * 3.0 + 2.0
    assert profile.stages[0].waited_for_input_s == 8.0


def test_t3_once_the_source_has_ended_it_is_the_end_that_leaves_them_idle():
    script = Script(Stage(same, name="a"))
    script.greet(0.0, 0, 1)
    script.pack(0.0)
    script.tell(events.SourceEnded, 1.0)
    script.report(5.0, 0, 5.0)

    assert (script.profile.idle.source, script.profile.idle.end) == (1.0, 4.0)


def test_t3_a_stage_that_may_not_have_more_workers_limits_the_others():
    script = Script(Stage(same, name="a", workers=1), workers=3)
    script.greet(0.0, 0, 1, 2)
    for _ in range(3):
        script.pack(0.0)
    script.report(4.0, 0, 4.0)

    profile = script.profile
    assert profile.idle.limit == 2 * 4.0
    assert profile.limits_s == (8.0,)
    assert profile.stages[0].waited_for_workers_s == 8.0
    assert (profile.stages[0].workers, profile.stages[0].is_limited) == (1, True)
    assert profile.bottleneck == (
        "a is the bottleneck: its only worker is 100 % busy, and others have nothing to do; give it more workers"
        " (workers=1 now)"
    )


def test_t3_where_there_is_no_room_since_nobody_takes_the_results_the_consumer_is_waited_for():
    script = Script(Stage(same, name="a", buffer=1), workers=1, out_buffer=1)
    script.greet(0.0, 0)
    at = 0.0
    for _ in range(20):
        if not script.scheduler.requested:
            break
        at += 1.0
        script.pack(at)
        script.report(at + 0.5, 0, 0.5)
    began = at + 0.5
    script.tell(events.TimePassed, began + 100.0)

    assert script.profile.idle.consumer == 100.0
    assert "the consumer is the bottleneck" in script.profile.bottleneck
    script.take(began + 100.0)
    script.tell(events.TimePassed, began + 103.0)
    assert script.profile.idle.consumer == 100.0  # there is room now, and the source has been asked


def test_t3_where_results_wait_behind_a_slow_one_it_is_the_order():
    script = Script(Stage(same, name="a", buffer=1), out_buffer=1)
    script.greet(0.0, 0, 1)
    script.pack(0.0)  # the slow one, at worker 0
    while script.scheduler.requested:
        script.pack(0.0)
        script.report(0.0, 1, 0.0)
    script.tell(events.TimePassed, 50.0)

    assert script.profile.idle.order == 50.0
    assert "the order of results is the bottleneck" in script.profile.bottleneck


def test_t3_a_chain_without_room_behind_it_waits_for_output_and_the_one_behind_it_for_workers():
    script = Script(Stage(same, name="a"), Stage(same, name="b", workers=1, buffer=1), workers=3)
    script.greet(0.0, 0, 1, 2)
    for _ in range(6):
        script.pack(0.0)
    script.report(0.0, 0, 0.0)  # worker 0 goes on with b
    busy = next(number for number, sent in script.sent.items() if sent and sent[0].chain == 1)
    for number in (0, 1, 2):
        if number != busy and script.sent.get(number):
            script.report(0.0, number, 0.0)
    idle = [number for number in (0, 1, 2) if not script.sent.get(number)]
    script.tell(events.TimePassed, 10.0)

    a, b = script.profile.stages
    assert idle
    assert script.profile.idle.limit == 10.0 * len(idle)
    assert script.profile.limits_s == (0.0, 10.0 * len(idle))
    assert a.waited_for_output_s == 10.0 * len(idle)
    assert b.waited_for_workers_s == 10.0 * len(idle)


def test_t4_a_worker_that_has_not_said_hello_is_absent():
    script = Script(Stage(same, name="a"))
    script.greet(2.0, 0)
    script.greet(5.0, 1)

    assert script.profile.absent_s == 2.0 + 5.0
    assert script.profile.idle.source == 3.0


def test_t5_what_a_worker_did_not_report_before_it_died_is_lost():
    script = Script(Stage(same, name="a"), workers=1)
    script.greet(0.0, 0)
    script.pack(1.0)
    script.tell(events.WorkerDied, 5.0, 0, "SIGKILL")
    script.tell(events.TimePassed, 7.0)

    assert (script.profile.lost_s, script.profile.absent_s) == (4.0, 2.0)


def test_t5_and_so_is_what_was_under_way_when_the_run_was_cancelled():
    script = Script(Stage(same, name="a"), workers=1)
    script.greet(0.0, 0)
    script.pack(0.0)
    script.tell(events.CancelRequested, 3.0, "enough")

    assert script.profile.lost_s == 3.0
    assert script.profile.bottleneck == "there is no bottleneck: nothing was run"


def test_h2_threads_beside_the_coordinator_have_clocks_of_their_own():
    script = Script(Stage(same, name="a"), Stage(same, name="b", kind="thread", workers=2), workers=1)
    script.greet(0.0, 0, 1, 2)
    script.pack(0.0)
    script.report(4.0, 0, 4.0)
    thread = next(number for number, sent in script.sent.items() if sent)
    assert thread > 0
    script.report(6.0, thread, 2.0)

    profile = script.profile
    assert (profile.workers, profile.busy_s, profile.idle.source) == (1, 4.0, 2.0)
    assert profile.stages[1].waited_for_input_s == 2 * 4.0 + 1 * 2.0


def test_events_that_waited_in_another_thread_do_not_turn_time_back():
    script = Script(Stage(same, name="a"), workers=1)
    script.greet(2.0, 0)
    script.pack(1.5)
    script.report(5.0, 0, 3.0)
    script.tell(events.TimePassed, 4.0)
    script.tell(events.TimePassed, 6.0)

    profile = script.profile
    assert (profile.elapsed_s, profile.absent_s, profile.busy_s, profile.idle.source) == (6.0, 2.0, 3.0, 1.0)


def test_where_all_are_busy_more_cores_would_help():
    script = Script(Stage(same, name="a"), Stage(same, name="b"))
    script.greet(0.0, 0, 1)
    script.pack(0.0)
    script.pack(0.0)
    script.report(10.0, 0, 2.0, 7.8)
    script.report(10.0, 1, 2.0, 7.8)

    assert script.profile.bottleneck == (
        "b is the bottleneck, with 80 % of the work: all 2 workers are 98 % busy; make it quicker, or give the run"
        " more cores"
    )


@pytest.mark.parametrize(
    ("size_bytes", "advice"), [(100, "its items are too small"), (5_000_000, "its payloads are too large (10.00 MB")]
)
def test_where_handing_over_takes_the_time_it_is_told_why(size_bytes, advice):
    script = Script(Stage(same, name="a"), workers=1)
    script.greet(0.0, 0)
    script.pack(0.0, size_bytes=size_bytes)
    script.report(10.0, 0, 2.0, size_bytes=size_bytes)

    assert script.profile.bottleneck.startswith(
        "transport is the bottleneck: 80 % of the workers' time, most of it for a"
    )
    assert advice in script.profile.bottleneck


def test_where_the_source_is_slow_it_is_named():
    script = Script(Stage(same, name="a"), workers=1)
    script.greet(0.0, 0)
    script.pack(6.0)
    script.report(10.0, 0, 4.0)

    assert script.profile.bottleneck == (
        "the source is the bottleneck: workers waited for it 60 % of the time; make it quicker"
    )


def test_where_workers_took_most_of_the_run_to_come_up_they_are_named():
    script = Script(Stage(same, name="a"), workers=1)
    script.greet(9.0, 0)
    script.pack(9.0)
    script.report(10.0, 0, 1.0)

    assert script.profile.bottleneck.startswith("starting workers is the bottleneck: 90 % of the run")


def test_every_second_of_any_run_is_accounted_for_once():
    stages = (StageShape(buffer=8), StageShape(buffer=4, workers=1), StageShape(fans_out=True, buffer=4), StageShape())
    for seed in range(12):
        world = begin(Shape(stages, workers=3, items=20, seed=seed, kill=0, deadly=100, skip=100, fan=2), greets=False)
        if seed % 3 == 0:
            world.tell(events.MemoryTightened)
            world.tell(events.MemoryEased)
        world.greet(1)
        if world.workers[1].queue:
            world.die(1, Death(None))
        run_to_the_end(world, Watch(world))
        profile = world.scheduler.timesheet.profile()
        engaged_s = sum(world.scheduler.timesheet._engaged_s)
        found = engaged_s + profile.idle.total + profile.lost_s
        assert 0 <= found <= profile.capacity_s + 1e-6
        waits = [stage for stage in profile.stages if stage.batches]
        for stage in waits:
            waited_s = stage.waited_for_input_s + stage.waited_for_output_s + stage.waited_for_workers_s
            assert waited_s <= profile.idle.total + 1e-6
