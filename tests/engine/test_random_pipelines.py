"""Random pipelines give the same on any number of workers, inline, and as a plain Python loop."""

import asyncio
from collections import Counter

import engine_stages as stages
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpengine import SKIP, Engine, ItemError, Retry, mix, stage

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


def listed(number):
    """A list at a time; a list with a bad item in it fails as a whole."""

    def add_all(xs):
        if any(x % number == 0 for x in xs):
            raise ValueError(xs)
        return [x + 1 for x in xs]

    return add_all


def later(number):
    async def add_later(x):
        await asyncio.sleep(0)
        if x % number == 0:
            raise ValueError(x)
        return x + 1

    return add_later


def repeat_later(number):
    async def give(x):
        for copy in range(x % number):
            await asyncio.sleep(0)
            yield x + copy

    return give


def patient(number):
    """As ``flaky``, with a wait in between."""
    return flaky(number)


def on_a_thread(number):
    return lambda x: SKIP if x % (number + 3) == 0 else x - number


def mixed(number):
    """The branches of a mix: one always gives something, one skips, one fails."""
    return [add(number), skip_multiples(number + 3), fail_on_multiples(number + 5)]


MENDED = (flaky, patient)
MANY = (repeat, repeat_and_fail, repeat_later)
MAKERS = (
    add, skip_multiples, fail_on_multiples, stop_on_multiples, repeat, repeat_and_fail, flaky, listed, later,
    repeat_later, patient, on_a_thread, mixed,
)  # fmt: skip
STAGE = st.tuples(
    st.sampled_from(MAKERS),
    st.integers(2, 5),
    st.sampled_from([None, None, 1, 2, 3]),
    st.sampled_from([None, None, 1, 3, 10]),
    st.sampled_from(["drop", "emit", "side"]),
    st.booleans(),
)


class Error:
    """What an ItemError is compared with: in which stage which source item has failed."""

    def __init__(self, stage, index):
        self.key = ("error", stage, index)


def given_by(maker, number, x):
    """Yield what a stage gives for an item; raises where it fails."""
    if maker is listed:
        yield from listed(number)([x])
    elif maker in (repeat, repeat_and_fail):
        yield from maker(number)(x)
    elif maker is repeat_later:
        yield from (x + copy for copy in range(x % number))
    elif maker is later:
        yield fail_on_multiples(number)(x) + 1
    elif maker is mixed:
        results = [function(x) for function in mixed(number)]
        yield SKIP if SKIP in results else sum(results)
    else:
        yield x if maker in MENDED else maker(number)(x)


def run_one(maker, number, x):
    """What a stage gives for an item, and whether it fails in the end."""
    given = []
    try:
        for value in given_by(maker, number, x):
            given += [] if value is SKIP else [value]
    except (ValueError, StopIteration, RuntimeError):  # a generator turns a StopIteration into the last of these
        return given, True
    return given, False


def expected(source, described):
    """The plain loop: what the pipeline gives, what each stage processes and fails, and what handlers get."""
    items = [(x, index) for index, x in enumerate(source)]
    books, handled = [], []
    for place, (maker, number, _, _, policy, _) in enumerate(described):
        entered = [x for x, _ in items if type(x) is not Error]
        name = f"s{place}" if maker is not mixed else f"s{place}c"
        out, failed = [], 0
        for x, index in items:
            given, fails = ([x], False) if type(x) is Error else run_one(maker, number, x)
            out += [(value, index) for value in given]
            failed += fails
            if fails and policy == "emit":
                out.append((Error(name, index), index))
            elif fails and policy == "side":
                handled.append((name, index))
        if maker is mixed:
            through = sum(type(x) is not Error for x, _ in out)
            books += [(len(entered), 0, 0, policy)] * 2 + [(len(entered), failed, 0, policy), (through, 0, 0, policy)]
        else:
            retried = sum(x % number == 0 for x in entered) if maker in MENDED else 0
            books.append((len(entered), failed, retried, policy))
        items = out
    return [x for x, _ in items], books, handled


def build(described, handled):
    def note(error):
        handled.append((error.stage, error.index))

    def mix_of(number, place, **options):
        branches = [
            stage(fn, name=f"s{place}{letter}", **options) for fn, letter in zip(mixed(number), "abc", strict=True)
        ]
        return mix(*branches, merge=stage(sum, name=f"s{place}m"))

    return [
        mix_of(
            number, place, workers=workers, buffer=buffer, on_error=policy,
            error_handler=note if policy == "side" else None,
        )
        if maker is mixed
        else stage(
            maker(number), name=f"s{place}", workers=workers, buffer=buffer, on_error=policy,
            error_handler=note if policy == "side" else None,
            kind="thread" if maker is on_a_thread else "process",
            retries=int(maker is flaky) if maker is not patient else Retry(1, backoff_s=1e-4, jitter=0.5),
            batch=number if maker is listed else None,
            concurrency=number if maker is later else 1,
            idempotent=not is_once or maker in MENDED or maker is listed,
        )
        for place, (maker, number, workers, buffer, policy, is_once) in enumerate(described)
    ]  # fmt: skip


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


@pytest.mark.parametrize("pipelines", [8, pytest.param(30, marks=pytest.mark.long)])
@pytest.mark.timeout(120)
def test_random_pipelines_give_the_same_everywhere(engines, pipelines):
    @given(st.integers(0, 60) | st.integers(0, 1500), st.lists(STAGE, min_size=1, max_size=4), st.booleans())
    @settings(max_examples=pipelines, deadline=None)
    def walk(length, described, is_list):
        check_same_everywhere(engines, length, described, is_list)

    walk()


def check_same_everywhere(engines, length, described, is_list):
    if sum(maker in MANY for maker, *_ in described) > 2:
        length = min(length, 30)
    values, books, handled = expected(range(length), described)
    for workers, engine in engines.items():
        source = list(range(length)) if is_list else iter(range(length))
        heard = []
        report = engine.run([source, *build(described, heard)]).unwrap()
        if workers == "unordered":
            assert Counter(map(key_of, report.values)) == Counter(map(key_of, values))
        else:
            assert list(map(key_of, report.values)) == list(map(key_of, values)), workers
        assert sorted(heard) == sorted(handled)
        for book, (entered, failed, retried, policy) in zip(report.snapshot.stages, books, strict=True):
            assert book.processed == book.succeeded + book.failed + book.skipped == entered
            assert (book.failed, book.retried) == (failed, retried)
            assert book.emitted_errors == (failed if policy == "emit" else 0)
            assert book.dropped == (0 if policy == "emit" else failed)
        snapshot = report.snapshot
        assert snapshot.source_items == length
        assert snapshot.delivered == len(values)
        assert (snapshot.failed, snapshot.cancelled) == (0, 0)
        assert len(report.errors) == min(1000, sum(failed for _, failed, *_ in books))


def key_of(value):
    return ("error", value.stage, value.index) if isinstance(value, ItemError) else getattr(value, "key", value)


def test_workers_that_come_from_a_fork_server_give_the_same_too():
    with Engine(2) as engine:
        for members in ([stages.double, stages.skip_odd], [stages.count_up, stage(stages.increment, workers=1)]):
            inline = Engine(1, backend="inline").run([range(60), *members]).unwrap().values
            assert engine.run([range(60), *members]).unwrap().values == inline
