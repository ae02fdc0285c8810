"""idempotent=False: no item runs twice in such a stage, whoever dies when; what is interrupted becomes an error."""

import os
import random
import time
from collections import Counter

import engine_stages as stages
import pytest

from mpengine import ItemError, ItemTimeoutError, PipelineError, Retry, WorkerDiedError, stage

pytestmark = pytest.mark.slow


def noting(folder, then=lambda x: x):
    """A function that notes each run of each item in a file before it goes on."""
    path = str(folder / "runs")

    def run(x):
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{x}\n".encode())
        os.close(fd)
        return then(x)

    return run


def runs(folder):
    return Counter(int(line) for line in (folder / "runs").read_text().split())


def die_at(number):
    return lambda x: stages.die("SIGKILL") if x == number else x


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_item_that_kills_its_worker_fails_at_once(make_engine, tmp_path, place):
    members = [stages.keep, stages.keep, stages.keep]
    members[place] = stage(noting(tmp_path, die_at(7)), name="once", idempotent=False)
    report = make_engine("fork", on_error="drop", crash_retries=5).run([range(20), *members]).unwrap()
    assert report.values == [x for x in range(20) if x != 7]
    (error,) = report.errors
    assert (error.index, error.stage, error.attempts, type(error.error)) == (7, "once", 1, WorkerDiedError)
    assert "its stage is not to be run twice" in str(error.error)
    assert runs(tmp_path) == dict.fromkeys(range(20), 1)


def test_a_death_before_the_stage_is_a_death_like_any_other(make_engine, tmp_path):
    def die_once(x):
        mark = tmp_path / "mark"
        if x == 7 and not mark.exists():
            mark.touch()
            stages.die("SIGKILL")
        return x

    engine = make_engine("fork")
    report = engine.run([range(20), die_once, stage(noting(tmp_path), idempotent=False)]).unwrap()
    assert report.values == list(range(20))
    assert runs(tmp_path) == dict.fromkeys(range(20), 1)


def test_a_death_behind_the_stage_in_its_chain_runs_nothing_again(make_engine, tmp_path):
    engine = make_engine("fork", on_error="emit")
    members = [stage(noting(tmp_path), idempotent=False), stage(die_at(7), name="deadly")]
    values = engine.run([range(20), *members]).unwrap().values
    assert [x.index if isinstance(x, ItemError) else x for x in values] == list(range(20))
    assert (values[7].stage, type(values[7].error)) == ("deadly", WorkerDiedError)
    assert runs(tmp_path) == dict.fromkeys(range(20), 1)


def test_a_timeout_is_final(make_engine, tmp_path):
    def hang(x):
        if x == 4:
            time.sleep(300)
        return x

    engine = make_engine("fork", on_error="drop")
    report = engine.run([range(10), stage(noting(tmp_path, hang), idempotent=False, timeout=0.25)]).unwrap()
    assert [(error.index, type(error.error)) for error in report.errors] == [(4, ItemTimeoutError)]
    assert runs(tmp_path) == dict.fromkeys(range(10), 1)


MEMBERS = {
    "plain": lambda folder: [stage(noting(folder), idempotent=False)],
    "fused": lambda folder: [stages.keep, stage(noting(folder), idempotent=False), stages.keep],
    "capped": lambda folder: [stages.keep, stage(noting(folder), idempotent=False, workers=1, buffer=30)],
    "list": lambda folder: [stage(list_of(noting(folder)), idempotent=False, batch=4)],
    "async": lambda folder: [stage(coroutine_of(noting(folder)), idempotent=False, concurrency=4)],
}


def list_of(function):
    return lambda xs: [function(x) for x in xs]


def coroutine_of(function):
    async def run(x):
        return function(x)

    return run


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("seed", [1, 2])
def test_workers_killed_at_random_run_nothing_twice_and_lose_nothing(make_engine, tmp_path, name, seed):
    engine = make_engine("fork", on_error="emit", crash_retries=50)
    chosen, length, kills = random.Random(seed), 1200, 0
    with engine.iter([range(length), *MEMBERS[name](tmp_path)]) as results:
        values = []
        for value in results:
            values.append(value)
            if kills < 8 and chosen.random() < 0.02:
                pids = engine.pids()
                kills += stages.kill(chosen.sample(pids, k=min(1, len(pids))))
    assert [x.index if isinstance(x, ItemError) else x for x in values] == list(range(length))
    failed = [x for x in values if isinstance(x, ItemError)]
    assert all(type(x.error) is WorkerDiedError for x in failed)
    counted = runs(tmp_path)
    assert max(counted.values()) == 1
    assert set(range(length)) - {x.index for x in failed} <= set(counted)
    assert kills >= 3


def test_a_generator_that_kills_has_given_its_first_half_and_is_not_run_again(make_engine, tmp_path):
    note = noting(tmp_path)

    def give(x):
        note(x)
        yield 10 * x
        time.sleep(0.06)  # what comes next is reported together with what was before
        yield 10 * x + 1
        if x == 2:
            stages.die("SIGKILL")
        yield 10 * x + 2

    report = make_engine("fork", on_error="emit").run([range(4), stage(give, idempotent=False)]).unwrap()
    values = ["error" if isinstance(x, ItemError) else x for x in report.values]
    assert values in (
        [0, 1, 2, 10, 11, 12, 20, 21, "error", 30, 31, 32],
        [0, 1, 2, 10, 11, 12, 20, "error", 30, 31, 32],
        [0, 1, 2, 10, 11, 12, "error", 30, 31, 32],
    )
    assert runs(tmp_path) == dict.fromkeys(range(4), 1)


def test_a_suspended_generator_of_a_dead_worker_is_an_error_behind_what_it_gave(make_engine, tmp_path):
    note = noting(tmp_path)

    def give(x):
        note(x)
        yield from range(3000)

    engine = make_engine("fork", buffer=20, on_error="emit")
    with engine.iter([range(3), stage(give, idempotent=False), stage(stages.keep, workers=1)]) as results:
        values = []
        for value in results:
            values.append(value)
            if len(values) == 500:
                stages.kill(engine.pids())
    assert max(runs(tmp_path).values()) == 1
    assert runs(tmp_path).keys() == set(range(3))
    parts = [[]]
    for value in values:
        parts[-1].append(value)
        if isinstance(value, ItemError) or value == 2999:
            parts.append([])
    assert len(parts) == 4
    assert not parts.pop()
    assert isinstance(parts[0][-1], ItemError)
    for part in parts:
        given = [x for x in part if not isinstance(x, ItemError)]
        assert given == list(range(len(given)))


@pytest.mark.parametrize("retries", [1, Retry(2, backoff_s=1)])
def test_retries_are_refused(make_engine, retries):
    with pytest.raises(PipelineError, match="retries= would run an item twice, which idempotent=False forbids"):
        make_engine("inline").run([[1], stage(stages.keep, idempotent=False, retries=retries)])
