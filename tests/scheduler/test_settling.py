"""What becomes of source items is told once nothing of them is under way; what is settled already is not run."""

import pytest

from mpengine import stage
from mpengine.plan import make_plan
from mpengine.policies import ErrorPolicy
from mpengine.records import replace
from mpengine.scheduler import commands, events
from mpengine.scheduler.scheduler import Scheduler, Settings


class Script:
    """A scheduler with one worker, which is told one thing after the other."""

    def __init__(self, *stages, ordered=True, policy=ErrorPolicy.DROP):
        plan = make_plan([stage(one) for one in stages], default_buffer=100, default_policy=policy)
        self.scheduler = Scheduler(replace(plan, tells_settled=True), Settings(workers=1, ordered=ordered))
        self.out = []
        self.tell(events.RunStarted)
        self.tell(events.WorkerReady, 0)

    def tell(self, kind, *args, **options):
        self.out += self.scheduler.handle(kind(1.0, *args, **options))

    def take(self, kind):
        found = [command for command in self.out if isinstance(command, kind)]
        self.out = [command for command in self.out if not isinstance(command, kind)]
        return found

    def run(self, failing=()):
        """Do what is dispatched: all of it is done but for what fails."""
        waiting = self.take(commands.Dispatch)
        while waiting:
            sent = waiting.pop(0)
            good = [place for place in range(sent.lo, sent.hi) if place not in failing]
            bad = [place for place in range(sent.lo, sent.hi) if place in failing]
            chunks = (events.Chunk("results", len(good), positions=good),) if good else ()
            failures = tuple(events.Failure(place, 0, "it failed") for place in bad)
            self.tell(
                events.BatchReturned, sent.worker_id, sent.batch_id, events.Progress.DONE, sent.hi - sent.lo,
                chunks=chunks, failures=failures, tallies=(events.Tally(succeeded=len(good), failed=len(bad)),),
            )  # fmt: skip
            waiting += self.take(commands.Dispatch)

    def settled(self):
        return [(list(told.indices), told.left, told.failed) for told in self.take(commands.SettleItems)]

    def finish(self):
        self.tell(events.SourceEnded)
        return self.scheduler.close_books()


def plain(item):
    return item


def many(item):
    yield item


def test_a_batch_is_told_when_its_results_were_taken_and_not_before():
    script = Script(plain)
    script.tell(events.SourcePacked, "items", 3)
    script.run(failing=[1])
    assert script.settled() == []
    for given in script.take(commands.Deliver):
        script.tell(events.DeliveryTaken, given.batch_id)

    assert script.settled() == [([0, 1, 2], set(), {1})]
    assert script.finish() == []


def test_what_a_cancelled_run_leaves_is_told_as_left():
    script = Script(plain)
    script.tell(events.SourcePacked, "items", 2)
    script.run()
    script.tell(events.SourcePacked, "more", 2)
    script.tell(events.CancelRequested, "enough")

    assert script.settled() == [([2, 3], {2, 3}, set())]
    for given in script.take(commands.Deliver):
        script.tell(events.DeliveryRefused, given.batch_id)
    assert script.settled() == [([0, 1], {0, 1}, set())]
    assert script.finish() == []


def test_an_item_that_ends_the_run_is_told_as_left():
    script = Script(plain, policy=ErrorPolicy.RAISE)
    script.tell(events.SourcePacked, "items", 2)
    script.run(failing=[1])
    for given in script.take(commands.Deliver):
        script.tell(events.DeliveryTaken, given.batch_id)

    assert script.settled() == [([0, 1], {1}, set())]


def test_items_that_are_passed_over_count_and_the_next_has_the_number_behind_them():
    script = Script(plain)
    script.tell(events.SourcePassed, 5)
    script.tell(events.SourcePacked, "items", 1)
    script.run()
    (given,) = script.take(commands.Deliver)
    script.tell(events.DeliveryTaken, given.batch_id)
    script.tell(events.SourcePassed, 2)

    assert list(given.origin) == [5]
    assert script.settled() == [([5], set(), set())]
    assert script.finish() == []
    ledger = script.scheduler.ledger
    assert (ledger.source_items, ledger.passed, ledger.delivered, ledger.settled) == (8, 7, 1, 8)


@pytest.mark.parametrize("ordered", [True, False])
def test_results_of_an_earlier_run_are_delivered_in_their_places_and_told_to_nobody(ordered):
    script = Script(plain, ordered=ordered)
    script.tell(events.SourcePacked, "items", 1)
    script.tell(events.SourceRecalled, ["a", "b", "c"], 4, [0, 2, 2])
    if ordered:
        assert script.take(commands.Deliver) == []  # their turn has not come
    script.run()
    given = script.take(commands.Deliver)
    assert sorted([index for one in given for index in one.origin]) == [0, 1, 3, 3]
    for one in given:
        script.tell(events.DeliveryTaken, one.batch_id)

    assert script.settled() == [([0], set(), set())]
    assert script.finish() == []
    ledger = script.scheduler.ledger
    assert (ledger.source_items, ledger.values, ledger.delivered, ledger.filtered) == (5, 4, 3, 2)


def test_results_of_an_earlier_run_that_come_too_late_are_left():
    script = Script(many)
    script.tell(events.CancelRequested, "enough")
    script.tell(events.SourceRecalled, ["a"], 1, [0])

    assert script.finish() == []
    assert script.scheduler.ledger.values_left == 1
