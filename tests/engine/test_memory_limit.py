"""``memory_limit``: what grows too large is replaced between items; an item that alone does it fails, and only it."""

import os
import threading
import time

import engine_stages as stages
import pytest

from mpengine import Engine, Err, MemoryLimitError, stage

MIB = 1 << 20
CHUNK = 4 * MIB
LIMIT = 300 * MIB  # a worker has some 30 MiB to begin with

WITH_PROCESSES = pytest.mark.parametrize("kind", ["forkserver", pytest.param("spawn", marks=pytest.mark.long)])


def hungry_at(*numbers):
    def eat(x):
        held = []
        while x in numbers and len(held) * CHUNK < 16 * 1024 * MIB:  # far more than it will get
            held.append(b"x" * CHUNK)
            time.sleep(0.005)
        return x

    return eat


@WITH_PROCESSES
def test_an_item_that_alone_goes_over_the_limit_fails_and_no_other(kind, make_engine):
    numbers = [0, 5, 19]
    engine = make_engine(kind, workers=2, memory_limit=LIMIT, on_error="drop")
    report = engine.run([range(20), hungry_at(*numbers), stages.keep]).unwrap()
    assert report.values == [x for x in range(20) if x not in numbers]
    assert sorted(error.index for error in report.errors) == numbers
    for error in report.errors:
        assert type(error.error) is MemoryLimitError
        assert isinstance(error.error, MemoryError)
        assert error.stage == "eat"
        assert f"over memory_limit, {LIMIT:,}" in str(error.error)
        assert 2 <= error.attempts <= 3
    book = report.snapshot.stages[0]
    assert (book.failed, book.dropped, book.crashed) == (len(numbers),) * 3


def test_a_forked_worker_has_what_its_parent_has_and_as_much_more(run_program):
    done = run_program("""
    import time

    import psutil
    from mpengine import Engine

    room = 160 << 20

    def eat(x):
        held = []
        while x == 3:
            held.append(b"x" * (4 << 20))
            time.sleep(0.005)
        return x

    limit = psutil.Process().memory_info().rss + room
    report = Engine(2, start_method="fork", memory_limit=limit, on_error="drop").run([range(6), eat]).unwrap()
    print(report.values, [type(error.error).__name__ for error in report.errors])
    """)
    assert (done.stdout.strip(), done.stderr.count("Traceback")) == ("[0, 1, 2, 4, 5] ['MemoryLimitError']", 0)


def test_it_goes_the_way_that_the_policy_says():
    result = Engine(workers=1, memory_limit=LIMIT).run([range(4), hungry_at(2)])
    assert isinstance(result, Err)
    assert isinstance(result.cause, MemoryLimitError)
    assert result.report.values == [0, 1]

    emitted = Engine(workers=1, memory_limit=LIMIT, on_error="emit").run([range(4), hungry_at(2)]).unwrap().values
    assert isinstance(emitted[2].error, MemoryLimitError)
    assert [emitted[0], emitted[1], emitted[3]] == [0, 1, 3]


def test_a_worker_that_has_grown_is_replaced_between_items_and_none_is_run_twice(tmp_path):
    leak = []

    def grow(x):
        leak.append(b"y" * (2 * CHUNK))
        time.sleep(0.02)
        with (tmp_path / "begun").open("a") as file:
            file.write(f"{x}\n")
        return os.getpid()

    leaky = stage(grow, idempotent=False)
    report = Engine(workers=1, memory_limit=LIMIT).run([range(120), leaky]).unwrap()
    assert len(report.values) == 120
    assert len(set(report.values)) >= 2
    assert (tmp_path / "begun").read_text().split() == list(map(str, range(120)))
    assert sum(book.crashed for book in report.snapshot.stages) == 0


def test_an_item_that_may_not_be_run_twice_fails_at_once(tmp_path):
    eat = hungry_at(2)

    def note(x):
        with (tmp_path / "begun").open("a") as file:
            file.write(f"{x}\n")
        return eat(x)

    once = stage(note, idempotent=False, on_error="drop")
    report = Engine(workers=1, memory_limit=LIMIT).run([range(4), once]).unwrap()
    assert report.values == [0, 1, 3]
    assert [type(error.error) for error in report.errors] == [MemoryLimitError]
    assert (tmp_path / "begun").read_text().split() == ["0", "1", "2", "3"]


@WITH_PROCESSES
def test_a_limit_that_no_worker_can_keep_is_one_error(kind, make_engine):
    gate = threading.Event()

    def source():
        gate.wait()  # for nothing: the run ends before there is an item
        yield 1

    engine = make_engine(kind, memory_limit=MIB)
    try:
        result = engine.run([source, stages.keep])
    finally:
        gate.set()
    assert isinstance(result, Err)
    assert "before its first item" in result.reason
    assert f"memory_limit, {MIB:,}" in result.reason


def test_a_limit_that_is_far_away_changes_nothing(kind, make_engine):
    engine = make_engine(kind, memory_limit=1 << 50)
    assert engine.run([range(1000), stages.double]).unwrap().values == [2 * x for x in range(1000)]


def test_a_warm_engine_goes_on_after_one_item_too_large():
    with Engine(workers=2, memory_limit=LIMIT, on_error="drop") as engine:
        assert engine.run([range(6), hungry_at(3)]).unwrap().values == [0, 1, 2, 4, 5]
        assert engine.run([range(6), hungry_at()]).unwrap().values == list(range(6))
