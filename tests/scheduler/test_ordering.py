"""The order of results: what is split, filtered, multiplied or put back keeps its place."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mpengine.scheduler.batches import Batch
from mpengine.scheduler.lifecycles import BatchState
from mpengine.scheduler.ordering import ArrivalOrder, InputOrder


def make(name, state=BatchState.QUEUED):
    return Batch(name, 0, [], range(1), 0, 1, state=state)


def order_of(*names):
    order = InputOrder()
    batches = {name: make(name) for name in names}
    for batch in batches.values():
        order.append(batch)
    return order, batches


def names(order):
    return [batch.batch_id for batch in order]


def names_backwards(order):
    found, batch = [], order._tail
    while batch is not None:
        found.append(batch.batch_id)
        batch = batch.before
    return found


def test_results_stand_right_ahead_of_what_they_were_made_of():
    order, batches = order_of(1, 2, 3)

    order.insert([make(20), make(21)], ahead_of=batches[2])
    order.insert([make(10)], ahead_of=batches[1])

    assert names(order) == [10, 1, 20, 21, 2, 3]
    assert order.head.batch_id == 10


def test_a_part_that_is_split_off_stands_right_behind():
    order, batches = order_of(1, 2)

    order.insert_behind(batches[1], make(11))
    order.insert_behind(batches[2], make(22))
    order.append(make(3))

    assert names(order) == [1, 11, 2, 22, 3]


def test_nothing_inserted_changes_nothing():
    order, batches = order_of(1, 2)

    order.insert([], ahead_of=batches[1])

    assert names(order) == [1, 2]


def test_removing_is_possible_anywhere_and_twice():
    order, batches = order_of(1, 2, 3)

    for name in (2, 2, 1, 1, 3, 3):
        order.remove(batches[name])

    assert names(order) == []
    assert order.head is None
    order.append(batches[2])
    assert names(order) == names_backwards(order) == [2]


def test_results_leave_from_the_front_while_they_are_ready():
    order, batches = order_of(1, 2, 3, 4)
    for name in (1, 2, 4):
        batches[name].state = BatchState.READY

    assert [batch.batch_id for batch in order.pop_ready()] == [1, 2]
    assert names(order) == [3, 4]


def test_what_was_handed_over_is_no_longer_there_to_be_removed():
    order, batches = order_of(1, 2)
    batches[1].state = BatchState.READY
    (first,) = order.pop_ready()
    first.state = BatchState.TAKEN

    order.remove(first)

    assert names(order) == [2]


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["append", "insert", "behind", "remove"]), st.integers(0, 99)), max_size=40))
def test_the_order_is_a_list(steps):
    order, wanted = InputOrder(), []
    for number, (step, place) in enumerate(steps):
        if step == "append" or not wanted:
            wanted.append(make(number))
            order.append(wanted[-1])
            continue
        at = place % len(wanted)
        if step == "insert":
            children = [make(number + 1000 * child) for child in range(place % 3)]
            order.insert(children, ahead_of=wanted[at])
            wanted[at:at] = children
        elif step == "behind":
            rest = make(number)
            order.insert_behind(wanted[at], rest)
            wanted.insert(at + 1, rest)
        else:
            order.remove(wanted.pop(at))
        assert list(order) == wanted
        assert names_backwards(order) == [batch.batch_id for batch in reversed(wanted)]


def test_in_arrival_order_what_is_ready_leaves_at_once_and_nothing_waits_for_anything():
    order = ArrivalOrder()
    waiting, first, second = make(1), make(2, BatchState.READY), make(3, BatchState.READY)
    order.append(waiting)

    order.insert([second, first], ahead_of=waiting)

    assert order.head is None
    assert list(order.pop_ready()) == [second, first]
    assert list(order.pop_ready()) == []


def test_in_arrival_order_what_is_removed_does_not_leave():
    order = ArrivalOrder()
    ready = make(1, BatchState.READY)
    order.append(ready)

    order.remove(ready)
    order.remove(ready)

    assert list(order.pop_ready()) == []
