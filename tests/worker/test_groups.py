"""A call with a list of items, and the calls that follow when it fails."""

import pytest
from job_sites import Slot, site

from mpengine import SKIP, KillSwitch, stage
from mpengine.ipc.salvage import Broken, Salvaged
from mpengine.worker.chain import Chain, Killed, Stopped
from mpengine.worker.groups import call_group
from mpengine.worker.jobs import Job, Window
from mpengine.worker.reports import DONE


def step_of(function, **options):
    return Chain([stage(function, batch=4, name="lists", **options)], 0).steps[0]


def called(function, items, *, attempts=0, at=None, **options):
    calls = []

    def note(xs):
        calls.append(xs)
        return function(xs)

    outcomes, retried = call_group(step_of(note, **options), items, at or site(), attempts)
    return [(value, type(error).__name__ if error else None, tries) for value, error, tries in outcomes], retried, calls


def test_a_call_that_succeeds_is_the_only_one():
    assert called(lambda xs: [x + 1 for x in xs], [1, 2]) == ([(2, None, 1), (3, None, 1)], 0, [[1, 2]])


def fail_on_two(xs):
    if 2 in xs:
        raise ValueError(2)
    return xs


def test_a_call_that_fails_is_followed_by_one_for_each_item():
    outcomes, retried, calls = called(fail_on_two, [1, 2, 3])
    assert outcomes == [(1, None, 1), (None, "ValueError", 1), (3, None, 1)]
    assert (retried, calls) == (0, [[1, 2, 3], [1], [2], [3]])


def test_an_item_that_was_alone_is_not_called_again():
    assert called(fail_on_two, [2])[2] == [[2]]


def test_what_must_not_run_twice_is_not_called_again():
    outcomes, _, calls = called(fail_on_two, [1, 2, 3], idempotent=False)
    assert outcomes == [(None, "ValueError", 1)] * 3
    assert calls == [[1, 2, 3]]


def test_retries_come_before_that_and_after_it():
    outcomes, retried, calls = called(fail_on_two, [1, 2], retries=1)
    assert outcomes == [(1, None, 1), (None, "ValueError", 2)]
    assert (retried, calls) == (2, [[1, 2], [1, 2], [1], [2], [2]])


def test_attempts_with_dead_workers_count():
    outcomes, retried, calls = called(fail_on_two, [2], retries=2, attempts=2)
    assert (outcomes, retried, calls) == ([(None, "ValueError", 3)], 0, [[2]])


@pytest.mark.parametrize("given", [[], [1, 2, 3], None, "ab", b"ab", 7])
def test_anything_but_as_many_results_has_failed_and_is_retried(given):
    outcomes, retried, calls = called(lambda xs: given if len(xs) > 1 else xs, [1, 2], retries=1)
    assert outcomes == [(1, None, 1), (2, None, 1)]
    assert (retried, calls) == (1, [[1, 2], [1, 2], [1], [2]])


def test_each_call_gets_a_list_of_its_own():
    def spoil(xs):
        xs.pop()
        return [7] if len(xs) else [9]

    assert called(spoil, [1, 2], retries=2)[0] == [(9, None, 1), (9, None, 1)]
    assert called(lambda xs: [xs.pop(), xs.pop()], [1, 2])[0] == [(2, None, 1), (1, None, 1)]


def test_skip_stands_for_all_or_for_one():
    assert called(lambda xs: SKIP, [1, 2])[0] == [(SKIP, None, 1)] * 2
    assert called(lambda xs: [SKIP, 5], [1, 2])[0] == [(SKIP, None, 1), (5, None, 1)]


@pytest.mark.parametrize("switch", [lambda xs: KillSwitch("enough"), lambda xs: [0, KillSwitch("enough")]])
def test_a_kill_switch_is_one_wherever_it_stands(switch):
    with pytest.raises(Killed) as caught:
        called(switch, [1, 2])
    assert caught.value.reason == "enough"


def test_a_cancelled_run_makes_no_further_calls():
    with pytest.raises(Stopped):
        called(fail_on_two, [1, 2], at=site(is_cancelled=lambda: True))


def test_a_careful_job_names_each_item_and_calls_it_alone():
    calls, slot = [], Slot()

    def note(xs):
        calls.append(xs)
        return xs

    job = Job(Chain([stage(note, batch=4)], 0), [5, 6, 7], Window(0, 3, careful=True), site(slot))
    reports = [job.advance(100) for _ in range(3)]
    assert calls == [[5], [6], [7]]
    assert slot.named == [(0, 0), (1, 0), (2, 0)]
    assert slot.told == "7"
    assert [report.results for report in reports] == [[5], [6], [7]]
    assert reports[-1].progress == DONE


def test_broken_items_fail_and_their_mates_are_called_together():
    calls = []

    def note(xs):
        calls.append(xs)
        return xs

    items = Salvaged([Broken(ValueError("no")), 1, Broken(ValueError("no")), 3])
    report = Job(Chain([stage(note, batch=4)], 0), items, Window(0, 4), site()).advance(100)
    assert (calls, report.results, report.positions) == ([[1, 3]], [1, 3], [1, 3])
    assert [failure[0] for failure in report.failures] == [0, 2]
    assert (report.tallies[0].failed, report.tallies[0].succeeded, report.consumed) == (2, 2, 4)


def test_a_timed_call_tells_its_slot_of_each_attempt():
    slot = Slot()
    called(fail_on_two, [1, 2], at=site(slot), retries=1, timeout=5)
    assert [attempt for attempt in slot.attempts if attempt] == [(0, 1, 5), (0, 2, 5), (0, 1, 5), (0, 1, 5), (0, 2, 5)]
    assert slot.attempts[1::2] == [None] * 5
