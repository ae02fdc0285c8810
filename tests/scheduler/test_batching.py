"""How large batches become."""

from __future__ import annotations

import pytest

from mpengine.scheduler.batching import (
    EVEN,
    FEW_WORKERS,
    FRESH_BATCH_BYTES,
    FRESH_BYTES,
    GROWTH,
    GUIDED,
    LATER,
    LONG_S,
    LONGEST_S,
    MAX_BATCH,
    MAX_BATCH_BYTES,
    PARENT_S,
    PART,
    SHARES,
    TARGET_S,
    BatchSizer,
    target_for,
)

MS = 2**-10


def learn(sizer, item_s, times=1, item_bytes=0):
    for _ in range(times):
        sizer.learn(sizer.size, sizer.size * item_s, sizer.size * item_bytes)


def test_the_first_batch_is_one_item_since_nothing_is_known():
    sizer = BatchSizer()

    assert (sizer.size, sizer.item_s, sizer.item_bytes, sizer.learnt, sizer.is_long) == (1, 0.0, 0.0, False, True)


def test_batches_grow_step_by_step_up_to_the_limit():
    sizer = BatchSizer(limit=1000)

    sizes = [sizer.size for _ in range(5) if learn(sizer, 1e-9) is None]

    assert sizes == [GROWTH, GROWTH**2, 1000, 1000, 1000]


def test_a_batch_comes_to_be_about_the_target_of_work():
    sizer = BatchSizer(workers=2)

    learn(sizer, 0.001, times=4)

    assert sizer.size == pytest.approx(TARGET_S / 0.001, abs=1)
    assert sizer.item_s == pytest.approx(0.001)
    assert not sizer.is_long


def test_items_that_take_longer_than_the_target_travel_alone():
    sizer = BatchSizer()

    learn(sizer, 10 * TARGET_S)

    assert sizer.size == 1
    assert sizer.is_long


def test_heavy_items_come_in_batches_of_bounded_weight():
    sizer = BatchSizer()

    learn(sizer, 1e-9, times=6, item_bytes=MAX_BATCH_BYTES // 10)
    assert sizer.size == 10

    learn(sizer, 1e-9, times=20, item_bytes=2 * MAX_BATCH_BYTES)
    assert sizer.size == 1


def test_z7_small_items_come_in_light_batches_until_pages_are_likely_to_have_been_touched():
    sizer = BatchSizer(limit=10**6)

    learn(sizer, 1e-9, times=6, item_bytes=1024)
    assert sizer.size == FRESH_BATCH_BYTES // 1024

    learn(sizer, 1e-9, times=FRESH_BYTES // FRESH_BATCH_BYTES, item_bytes=1024)
    assert sizer.size == MAX_BATCH_BYTES // 1024


def test_no_limit_is_ever_passed():
    sizer = BatchSizer()

    learn(sizer, 0.0, times=10)

    assert sizer.size == MAX_BATCH


def test_a_cost_that_changes_is_followed_within_a_few_batches():
    sizer = BatchSizer()
    learn(sizer, 0.0001, times=5)
    quick = sizer.size

    learn(sizer, 0.01, times=1)
    assert sizer.size < quick / 10
    learn(sizer, 0.01, times=5)

    assert sizer.size <= 6


def test_one_slow_item_among_many_quick_ones_counts_for_what_it_is():
    sizer = BatchSizer()
    learn(sizer, 0.0001, times=5)

    sizer.learn(1, 0.25, 0)

    assert 30 < sizer.size < 150


def test_what_fades_for_thousands_of_reports_is_never_too_little_to_divide_by():
    """Single items of a batch that weighs next to nothing weigh nothing, each reported by itself after a death."""
    sizer = BatchSizer()
    sizer.learn(1, 1e-7, 40)

    for _ in range(100_000):
        sizer.learn(1, 0.0, 0)

    assert sizer.size == MAX_BATCH
    assert (sizer.item_bytes, sizer.item_s) == (0.0, 0.0)


def test_a_report_of_no_item_and_no_time_teaches_nothing():
    sizer = BatchSizer()

    sizer.learn(0, 0.0, 0)

    assert (sizer.size, sizer.item_s) == (1, 0.0)


def test_the_time_of_reports_that_end_no_item_counts_for_the_item_that_they_are_of():
    sizer = BatchSizer()
    learn(sizer, 0.0001)

    for _ in range(20):  # a generator at work reports its results long before it is through
        sizer.learn(0, 0.05, 0)
    sizer.learn(1, 0.01, 0)

    assert sizer.item_s > 0.3
    assert sizer.size == 1
    assert sizer.is_long


def test_z1_a_cost_that_falls_is_followed_in_some_hundred_batches():
    sizer = BatchSizer()
    learn(sizer, 0.01, times=30)

    learn(sizer, 0.0001, times=3)
    assert sizer.size < 15  # they might be the quick ones between two slow ones
    learn(sizer, 0.0001, times=150)

    assert sizer.size > 150


def test_z1_a_slow_item_now_and_then_keeps_batches_as_small_as_the_mean_asks_for():
    sizer = BatchSizer()
    sizes = []
    for number in range(1000):
        seconds = 0.001 * sizer.size + (2.0 if number % 50 == 49 else 0.0)
        sizer.learn(sizer.size, seconds, 0)
        sizes.append(sizer.size)

    assert max(sizes[100:]) < 15  # a mate of a slow item waits for it


def test_z1_the_first_item_of_a_worker_that_takes_long_is_soon_outweighed():
    sizer = BatchSizer()
    sizer.learn(1, 0.2, 0)  # it has imported something

    learn(sizer, 0.0001, times=60)

    assert sizer.size > 150


def test_z2_with_many_workers_batches_are_longer():
    assert target_for(2) == target_for(100) == TARGET_S
    assert target_for(1024) == 1024 * PARENT_S
    sizer = BatchSizer(target_s=target_for(1024))

    learn(sizer, 0.001, times=4)

    assert sizer.size == 102


def test_z3_where_a_batch_would_wait_long_in_reserve_there_is_none():
    sizer = BatchSizer()
    for _ in range(100):
        learn(sizer, 0.001)
    assert not sizer.is_long

    sizer.learn(sizer.size, 2.0, 0)

    assert sizer.is_long
    learn(sizer, 0.001, times=20)
    assert sizer.is_long  # the mean is that of quick ones again, nearly, but the next slow one will come
    learn(sizer, 0.001, times=1000)
    assert not sizer.is_long


def test_z4_batches_grow_to_a_part_of_the_time_that_the_workers_have_been_at_it():
    sizer = BatchSizer(workers=2)
    work_s = 0.0
    seen = []
    while sizer.size < int(LONG_S / MS):
        work_s += sizer.size * MS
        learn(sizer, MS)
        seen.append(sizer.size)
        assert sizer.size <= max(TARGET_S, PART * work_s / 2) / MS

    learn(sizer, MS, times=10)
    assert sizer.size == int(LONG_S / MS)
    assert any(TARGET_S / MS < size < LONG_S / MS for size in seen)
    assert not sizer.is_long


@pytest.mark.parametrize(("leaves", "longest_s"), [(True, LONGEST_S), (False, LONG_S)])
def test_z6_in_a_run_that_has_lasted_long_they_are_longest_where_results_leave_the_pipeline(leaves, longest_s):
    sizer = BatchSizer(workers=2, leaves=leaves)
    work_s = 0.0
    while work_s / 2 < LONGEST_S / LATER:
        assert sizer.size <= max(LONG_S, LATER * work_s / 2) / MS
        work_s += sizer.size * MS
        learn(sizer, MS)

    learn(sizer, MS)
    assert sizer.size == int(longest_s / MS)


def test_z4_they_are_short_where_costs_are_uneven():
    sizer = BatchSizer(workers=2)
    learn(sizer, MS, times=50)
    assert sizer.size == int(LONG_S / MS)

    sizer.learn(100, 0.1 * EVEN, 0)  # a little more is not uneven yet
    assert sizer.size > 1.5 * TARGET_S / MS
    sizer.learn(100, 2.0, 0)
    learn(sizer, MS, times=20)

    assert sizer.size <= TARGET_S / MS


def test_z4_where_batches_are_longer_for_the_number_of_workers_they_stay_so():
    sizer = BatchSizer(target_s=target_for(4096), workers=4096)

    learn(sizer, MS, times=4)

    assert sizer.size == pytest.approx(target_for(4096) / MS, abs=1)


def test_z5_where_it_is_known_what_is_left_batches_are_a_share_of_it():
    sizer = BatchSizer(workers=2)
    left, work_s, sizes = 2000, 0.0, []
    while left > 0:
        sizer.left = left = left - sizer.size
        work_s += sizer.size * MS
        learn(sizer, MS)
        sizes.append(sizer.size)
        assert sizer.size <= max(TARGET_S, min(LONGEST_S, left * MS / (2 * SHARES), GUIDED * work_s / 2)) / MS

    assert max(sizes) == int(LONGEST_S / MS)
    assert sizes.index(max(sizes)) < 8  # that early
    assert sizes[-1] == int(TARGET_S / MS)


def test_z5_as_long_as_they_are_very_even():
    sizer = BatchSizer(workers=2, left=10**6)
    learn(sizer, MS, times=50)
    assert sizer.size == int(LONGEST_S / MS)

    sizer.learn(sizer.size, 5 * LONGEST_S, 0)
    learn(sizer, MS, times=20)

    assert sizer.size <= LONG_S / MS


def test_z5_but_not_with_many_workers():
    sizer = BatchSizer(workers=FEW_WORKERS + 1, left=10**6)

    learn(sizer, MS, times=100)

    assert sizer.size == int(LONG_S / MS)


def test_z5_no_single_item_counts_as_short_since_much_is_left():
    sizer = BatchSizer(workers=2, left=10**6)

    learn(sizer, 6 * TARGET_S)

    assert sizer.size == 1
    assert sizer.is_long
