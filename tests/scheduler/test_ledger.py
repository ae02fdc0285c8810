"""The books: a figure that is wrong anywhere is an imbalance that says where."""

from __future__ import annotations

import random

import pytest
from scheduler_model import Watch, possibilities, run_to_the_end
from scheduler_world import Shape, StageShape, begin

from mpengine.errors import InternalError
from mpengine.policies import ErrorPolicy
from mpengine.scheduler.batches import Batch, Family
from mpengine.scheduler.commands import ReportFailure
from mpengine.scheduler.events import CancelRequested, Ending, Failure, Tally
from mpengine.scheduler.ledger import Ledger

STAGES = (StageShape(), StageShape(fans_out=True), StageShape(buffer=3))
FUSED = (StageShape(), StageShape(), StageShape(buffer=3))
BUSY = {"items": 20, "skip": 100, "fail": 100, "deadly": 50, "broken": 50, "unpackable": 50}


def closed(stages, *, cancelled=False):
    """Return the books of a run, closed and true."""
    world = begin(Shape(stages, **BUSY))
    if cancelled:
        draw = random.Random(1)
        while world.steps < 15:
            draw.choice(possibilities(world))()
        world.tell(CancelRequested, "enough")
        while world.outlet:
            world.refuse()
    else:
        run_to_the_end(world, Watch(world))
    world.scheduler.close_books()
    return world.scheduler.ledger


@pytest.mark.parametrize("stages", [STAGES, FUSED])
@pytest.mark.parametrize("cancelled", [False, True])
def test_true_books_balance(stages, cancelled):
    closed(stages, cancelled=cancelled).check()


@pytest.mark.parametrize("off_by", [-1, 1])
@pytest.mark.parametrize("stages", [STAGES, FUSED])
@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("figure", ["entered", "failed", "skipped", "left"])
def test_l1_and_l2_what_entered_a_stage_was_processed_or_left(stages, number, figure, off_by):
    ledger = closed(stages)
    book = ledger.stages[number]
    setattr(book, figure, getattr(book, figure) + off_by)

    with pytest.raises(InternalError, match=f"does not balance: L1: s{number}: "):
        ledger.check()


@pytest.mark.parametrize("off_by", [-1, 1])
def test_l3_what_a_stage_gave_on_is_what_the_next_one_got(off_by):
    ledger = closed(STAGES)
    ledger.stages[0].given += off_by

    with pytest.raises(InternalError, match=r"L3: s1: .* entered, .* were given on to it"):
        ledger.check()


@pytest.mark.parametrize("off_by", [-1, 1])
def test_l3_what_came_out_of_a_fan_out_is_counted_at_both_ends(off_by):
    ledger = closed(STAGES)
    ledger.stages[1].given += off_by

    with pytest.raises(InternalError, match=r"L3: s2: .* entered, .* were given on to it"):
        ledger.check()


@pytest.mark.parametrize("figure", ["values", "values_left"])
@pytest.mark.parametrize("off_by", [-1, 1])
def test_l3_what_the_last_stage_gave_on_was_delivered_or_left(figure, off_by):
    ledger = closed(FUSED)
    setattr(ledger, figure, getattr(ledger, figure) + off_by)

    with pytest.raises(InternalError, match=r"L3: .* results, .* delivered, .* left"):
        ledger.check()


def test_l3_a_stage_that_maps_one_to_one_gives_on_what_succeeded():
    ledger = Ledger(["a"], [False])
    ledger.source_items = ledger.stages[0].entered = ledger.stages[0].succeeded = ledger.delivered = 3
    ledger.stages[0].given = ledger.values = 4

    with pytest.raises(InternalError, match="L3: a: 3 succeeded, 4 were given on"):
        ledger.check()


@pytest.mark.parametrize("figure", ["delivered", "filtered", "dropped", "failed", "cancelled"])
@pytest.mark.parametrize("off_by", [-1, 1])
@pytest.mark.parametrize("cancelled", [False, True])
def test_l4_each_source_item_ends_as_one_thing(figure, off_by, cancelled):
    ledger = closed(STAGES, cancelled=cancelled)
    setattr(ledger, figure, getattr(ledger, figure) + off_by)

    with pytest.raises(InternalError, match=r"L4: .* source items, .* accounted for"):
        ledger.check()


def test_l4_an_item_that_the_source_never_gave_is_missed():
    ledger = closed(FUSED)
    ledger.source_items += 1

    with pytest.raises(InternalError, match="L3: s0: 20 entered, 21 were given on to it"):
        ledger.check()


def test_an_imbalance_shows_the_books():
    ledger = closed(STAGES)
    ledger.delivered += 1

    with pytest.raises(InternalError, match=r"'source_items': 20(.|\n)*name='s0'(.|\n)*name='s2'"):
        ledger.check()


@pytest.mark.parametrize("lost", ["delivered", "doubled"])
def test_a_result_lost_or_doubled_between_the_last_stage_and_the_consumer_shows(lost):
    ledger = Ledger(["a"], [False])
    ledger.source_items = 4
    ledger.enter(0, 4)
    ledger.tally(0, [Tally(succeeded=4)], 4)
    ledger.deliver(Batch(1, 1, [], range(4), 0, 4), 3 if lost == "delivered" else 5)

    with pytest.raises(InternalError, match="does not balance"):
        ledger.check()


@pytest.mark.parametrize(
    ("fates", "wanted"),
    [
        ("", "filtered"),
        ("delivered", "delivered"),
        ("delivered dropped", "dropped"),
        ("delivered dropped cancelled", "cancelled"),
        ("delivered dropped cancelled failed", "failed"),
        ("delivered failed", "failed"),
    ],
)
def test_an_item_that_became_many_is_counted_once_as_the_worst_that_happened_to_it(fates, wanted):
    ledger = Ledger(["a"], [True])
    family = Family(range(7, 8))
    for fate in fates.split():
        getattr(family, fate).add(7)

    ledger.close_family(family)

    fate_of_one = {"delivered": 0, "filtered": 0, "dropped": 0, "failed": 0, "cancelled": 0} | {wanted: 1}
    assert {fate: getattr(ledger, fate) for fate in fate_of_one} == fate_of_one


def test_an_item_that_crashed_in_a_later_stage_of_its_chain_came_through_the_earlier_ones():
    ledger = Ledger(["a", "b", "c"], [False] * 3)
    ledger.source_items = 1
    ledger.enter(0, 1)

    ledger.cut_off(0, 1, Ending.CRASHED)
    ledger.fail(ReportFailure(1, 0, None, ErrorPolicy.DROP, Failure(0, 1, "died")), ())

    assert [(book.entered, book.succeeded, book.failed, book.crashed) for book in ledger.stages] == [
        (1, 1, 0, 0),
        (1, 0, 1, 1),
        (0, 0, 0, 0),
    ]
    assert ledger.stages[1].dropped == ledger.dropped == 1
    ledger.check()


def test_a_result_that_the_consumer_cannot_unpack_failed_in_the_last_stage():
    ledger = Ledger(["a"], [False])
    ledger.source_items = 2
    ledger.enter(0, 2)
    ledger.tally(0, [Tally(succeeded=2)], 2)

    ledger.unpackable(0, 1)
    ledger.fail(ReportFailure(0, 1, None, ErrorPolicy.DROP, Failure(1, 0, "broken")), ())
    ledger.deliver(Batch(1, 1, [], range(2), 0, 2), 1)

    assert (ledger.stages[0].succeeded, ledger.stages[0].failed, ledger.delivered, ledger.dropped) == (1, 1, 1, 1)
    ledger.check()
