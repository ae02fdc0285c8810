"""Bounded everywhere: an endless source is never further ahead of a slow consumer than the snapshot's lead_bound."""

import itertools

import engine_stages as stages
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpengine import Engine, stage


class Endless:
    """A source without an end that knows how far it has come."""

    def __init__(self):
        self.pulled = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.pulled += 1
        return self.pulled - 1


def leads(engine, members, *, takes):
    """How far the source is ahead at each item that a consumer takes, and the bound."""
    source = Endless()
    with engine.iter([source, *members]) as results:
        bound = results.snapshot().lead_bound
        seen = []
        for taken, _ in enumerate(itertools.islice(results, takes)):
            seen.append(source.pulled - taken)
    return seen, bound


@pytest.mark.parametrize("buffer", [1, 3, 50, None])
def test_an_endless_source_is_never_further_ahead_than_the_bound(kind, make_engine, buffer):
    engine = make_engine(kind, workers=2, buffer=buffer)
    for members in ([stages.double], [stages.keep, stage(stages.double, workers=1, buffer=2)]):
        seen, bound = leads(engine, members, takes=3000)
        assert max(seen) <= bound


@pytest.fixture
def engines():
    made = {
        (workers, buffer): Engine(workers, start_method="fork", buffer=buffer)
        for workers in (1, 3)
        for buffer in (1, 7, 300)
    }
    yield made
    for engine in made.values():
        engine.close()


@pytest.mark.slow
@given(st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_setting_of_buffers_breaks_the_bound(engines, data):
    engine = engines[data.draw(st.sampled_from(sorted(engines)))]
    option = st.none() | st.integers(1, 20)
    members = [
        stage(
            data.draw(st.sampled_from([stages.double, stages.keep, stages.skip_odd])),
            buffer=data.draw(option), workers=data.draw(option),
        )
        for _ in range(data.draw(st.integers(1, 4)))
    ]  # fmt: skip
    source = Endless()
    with engine.iter([source, *members, stage(lambda x: x + 1, buffer=data.draw(option))]) as results:
        bound = results.snapshot().lead_bound
        for _ in itertools.islice(results, data.draw(st.integers(1, 300))):
            snapshot = results.snapshot()
            assert snapshot.source_items - snapshot.delivered - snapshot.filtered <= bound


@pytest.mark.parametrize("buffer", [1, 10, 200])
def test_one_item_that_gives_a_thousand_million_is_bounded(kind, make_engine, buffer):
    """What its stage has given ahead of the consumer is counted by the stage behind it, in the same snapshot."""
    engine = make_engine(kind, workers=2, buffer=buffer)
    with engine.iter([[10**9, 10**9], stages.count_up, stage(stages.keep, workers=1)]) as results:
        taken = list(itertools.islice(results, 2000))
        snapshot = results.snapshot()
        behind = snapshot.stages[1]
    assert taken == list(range(2000))
    given_ahead = behind.processed + behind.queued + behind.in_flight - 2000
    assert given_ahead <= 4 * buffer + 2 * 1024


@pytest.mark.parametrize("ordered", [True, False])
def test_a_large_source_is_left_where_the_consumer_stops(kind, make_engine, ordered):
    pulled = 0

    def source():
        nonlocal pulled
        for number in range(200_000):
            pulled += 1
            yield number

    engine = make_engine(kind, workers=2, ordered=ordered)
    with engine.iter([source, stages.double]) as results:
        bound = results.snapshot().lead_bound
        assert len(set(itertools.islice(results, 1000))) == 1000
    assert pulled <= 1000 + bound
    assert results.result.report.snapshot.source_items == pulled


def test_bytes_under_way_are_bounded_too(make_engine):
    engine = make_engine("fork", workers=1, max_bytes=2_000_000)
    source = Endless()
    with engine.iter([(bytes(100_000) for _ in source), stages.keep]) as results:
        for taken in range(1, 120):
            assert len(next(results)) == 100_000
            assert source.pulled - taken < 200
