"""Random pipelines give the same on any number of workers, inline, and as a plain Python loop."""

import engine_stages as stages
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpengine import SKIP, Engine, stage

pytestmark = pytest.mark.slow

WORKERS = (1, 2, 7)


def add(number):
    return lambda x: x + number


def skip_multiples(number):
    return lambda x: SKIP if x % number == 0 else x


def fail_on_multiples(number):
    def fail(x):
        if x % number == 0:
            raise ValueError(x)
        return x

    return fail


def stop_on_multiples(number):
    def stop(x):
        if x % number == 0:
            raise StopIteration(x)
        return x

    return stop


def repeat(number):
    def give(x):
        for copy in range(x % number):
            yield x + copy

    return give


def repeat_and_fail(number):
    def give(x):
        for copy in range(number):
            if (x + copy) % (number + 1) == 0:
                raise ValueError(x)
            yield x + copy

    return give


def flaky(number):
    """Fails the first time that a worker meets an item of some kind; always mended by one retry."""

    def fail_once(x, state):
        if x % number == 0 and state.get("last") != x:
            state.update(last=x)
            raise OSError(x)
        state.update(last=None)
        return x

    return fail_once


MAKERS = (add, skip_multiples, fail_on_multiples, stop_on_multiples, repeat, repeat_and_fail, flaky)
STAGE = st.tuples(
    st.sampled_from(MAKERS),
    st.integers(2, 5),
    st.sampled_from([None, None, 1, 2, 3]),
    st.sampled_from([None, None, 1, 3, 10]),
)


def expected(source, described):
    """The plain loop: what the pipeline gives, and how many items each stage processes and fails."""
    items = list(source)
    books = []
    for maker, number, _, _ in described:
        function, out, failed = maker(number), [], 0
        for x in items:
            try:
                if maker in (repeat, repeat_and_fail):
                    for value in function(x):
                        out.append(value)  # noqa: PERF402 - what came before a failure counts
                elif maker is flaky:
                    out.append(x)
                elif (value := function(x)) is not SKIP:
                    out.append(value)
            except (ValueError, StopIteration):
                failed += 1
        books.append((len(items), failed, sum(x % number == 0 for x in items) if maker is flaky else 0))
        items = out
    return items, books


def build(described):
    return [
        stage(maker(number), workers=workers, buffer=buffer, retries=int(maker is flaky), on_error="drop")
        for maker, number, workers, buffer in described
    ]


@pytest.fixture
def engines():
    made = {workers: Engine(workers, start_method="fork") for workers in WORKERS}
    for engine in made.values():
        engine.__enter__()
    made["inline"] = Engine(2, backend="inline")
    made["unordered"] = Engine(2, backend="inline", ordered=False)
    yield made
    for engine in made.values():
        engine.close()


@given(
    st.integers(0, 60) | st.integers(0, 1500),
    st.lists(STAGE, min_size=1, max_size=4),
    st.booleans(),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.timeout(120)
def test_random_pipelines_give_the_same_everywhere(engines, length, described, is_list):
    if sum(maker in (repeat, repeat_and_fail) for maker, *_ in described) > 2:
        length = min(length, 30)
    values, books = expected(range(length), described)
    for workers, engine in engines.items():
        source = list(range(length)) if is_list else iter(range(length))
        result = engine.run([source, *build(described)])
        report = result.unwrap()
        assert (sorted(report.values) if workers == "unordered" else report.values) == (
            sorted(values) if workers == "unordered" else values
        ), workers
        for book, (entered, failed, retried) in zip(report.snapshot.stages, books, strict=True):
            assert book.processed == book.succeeded + book.failed + book.skipped == entered
            assert (book.failed, book.dropped, book.retried) == (failed, failed, retried)
        snapshot = report.snapshot
        assert snapshot.source_items == length
        assert snapshot.delivered == len(values)
        assert (snapshot.failed, snapshot.cancelled) == (0, 0)
        assert len(report.errors) == min(1000, sum(failed for _, failed, _ in books))


def test_workers_that_come_from_a_fork_server_give_the_same_too():
    with Engine(2) as engine:
        for members in ([stages.double, stages.skip_odd], [stages.count_up, stage(stages.increment, workers=1)]):
            inline = Engine(1, backend="inline").run([range(60), *members]).unwrap().values
            assert engine.run([range(60), *members]).unwrap().values == inline
