"""Where payloads are: what stays on its machine, what comes here, and in what state."""

import numpy as np
import pytest

from mpengine import mix, stage

pytestmark = pytest.mark.slow

BYTES = 8 * 40_000


def make(item):
    return np.full(40_000, item)


def add_one(array):
    array += 1  # in place: what a stage is given is its own
    return array


def total(array):
    return int(array.sum())


def apart(*functions):
    """Stages that do not fuse, so that something goes from one to the next."""
    return [stage(function, buffer=32) for function in functions]


def test_results_of_inner_stages_stay_where_they_are(make_engine):
    engine = make_engine()
    stages = apart(make, add_one, total)
    meter = run(engine, [range(40), *stages], expected=[40_000 * (item + 1) for item in range(40)])

    assert meter["stayed_bytes"] >= 2 * 40 * BYTES
    assert meter["fetched_bytes"] == 0
    assert meter["inline_bytes"] < 40 * 100


def test_what_is_delivered_comes_here_once_and_may_be_written_to(make_engine):
    engine = make_engine()
    with engine:
        assert engine.run([range(4), str]).is_ok
        before = counted(engine)
        for number, array in enumerate(engine.iter([range(10), *apart(make, add_one)])):
            array[0] += 1
            assert (array[0], array[-1]) == (number + 2, number + 1)
        after = counted(engine)

    assert 10 * BYTES <= after["fetched_bytes"] - before["fetched_bytes"] < 11 * BYTES


def test_large_source_items_are_put_into_the_store_by_whoever_packs_them(make_engine):
    engine = make_engine()
    meter = run(
        engine, [(np.full(40_000, item) for item in range(10)), total], expected=[40_000 * i for i in range(10)]
    )

    assert meter["sent_bytes"] >= 10 * BYTES
    assert meter["fetched_bytes"] == 0


def test_branches_of_a_mix_are_put_together_where_they_are_needed(make_engine):
    engine = make_engine()
    meter = run(
        engine,
        [range(10), stage(make, buffer=32), mix(add_one, total, merge=lambda both: int(both[0][0]) + both[1])],
        expected=[item + 1 + 40_000 * item for item in range(10)],
    )

    assert meter["fetched_bytes"] == 0


def test_stages_on_threads_get_what_actors_have_made(make_engine):
    engine = make_engine()
    threaded = stage(total, kind="thread")
    meter = run(engine, [range(10), stage(make, buffer=32), threaded], expected=[40_000 * item for item in range(10)])

    assert meter["fetched_bytes"] >= 10 * BYTES


def run(engine, stages, expected):
    """Run, and return what the meter has counted meanwhile."""
    with engine:
        assert engine.run([range(4), str]).is_ok
        before = counted(engine)
        assert engine.run(stages).unwrap().values == expected
        return {name: value - before[name] for name, value in counted(engine).items()}


def counted(engine):
    meter = engine._backend.meter
    return {name: getattr(meter, name) for name in ("fetched_bytes", "inline_bytes", "stayed_bytes", "sent_bytes")}
