"""Large payloads: they travel by shared memory, and nobody can tell but by the speed."""

import gc
import os
import pickle
import resource
import signal
import time

import engine_stages as stages
import numpy as np
import pytest

from mpengine import SKIP, Engine, ItemError, mix, stage
from mpengine.backends.fleet import Fleet
from mpengine.ipc.arena import LARGE_BYTES
from mpengine.worker.jobs import REPORT_S

LENGTH = LARGE_BYTES // 4  # of float64: twice what is large


def array_of(x):
    return np.full(LENGTH, float(x))


def double(array):
    return array * 2


def total(array):
    return float(array.sum())


def arrays(count):
    for x in range(count):
        yield array_of(x)


def is_shared(array):
    """Whether an array's memory is a view of the arena, and no copy of its own."""
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, memoryview) and type(array.obj).__module__ != "builtins"


def through_twice(engine, count=30, **options):
    return engine.run([lambda: arrays(count), double, stage(double, buffer=3)], **options).unwrap().values


def check(values, factor=4):
    assert [float(value[0]) for value in values] == [float(factor * x) for x in range(len(values))]
    assert all((value == value[0]).all() for value in values)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["forkserver", "spawn", "fork"])
def test_arrays_come_through_by_every_start_method(make_engine, kind):
    values = through_twice(make_engine(kind))
    assert len(values) == 30
    check(values)
    assert all(map(is_shared, values))


def test_arrays_in_the_callers_process_are_themselves(make_engine):
    check(through_twice(make_engine("inline")))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        bytes,
        bytearray,
        lambda content: np.frombuffer(content, dtype=np.uint8),
        lambda content: {"deep": [content, 1]},
        lambda content: np.asfortranarray(np.frombuffer(content, dtype=np.uint8).reshape(64, -1)),
        lambda content: np.frombuffer(content, dtype=np.uint8)[::2],
    ],
    ids=["bytes", "bytearray", "read only", "nested", "fortran", "strided"],
)  # fmt: skip
def test_every_kind_of_large_value_is_what_it_was(make_engine, make):
    values = [make(os.urandom(2 * LARGE_BYTES)) for _ in range(10)]
    found = make_engine("fork").run([values, stages.keep, stage(stages.keep, buffer=2)]).unwrap().values
    for value, got in zip(values, found, strict=True):
        assert type(got) is type(value)
        assert (got == value).all() if isinstance(value, np.ndarray) else got == value
        if isinstance(value, np.ndarray):
            pickled = pickle.loads(pickle.dumps(value, 5))
            assert got.flags.writeable is pickled.flags.writeable
            assert got.flags.f_contiguous is pickled.flags.f_contiguous


def test_what_a_consumer_keeps_stays_as_it_is(make_engine):
    engine = make_engine("fork", max_bytes=64 * LARGE_BYTES)
    kept = through_twice(engine, 200)  # far more than the arena may hold
    slices = [value[5:50] for value in kept[:3]]
    check(kept)
    kept[0][:] = -1.0
    assert [float(value[0]) for value in kept[1:]] == [4.0 * x for x in range(1, 200)]
    again = through_twice(engine, 200)
    check(again)
    engine.close()
    assert [float(value[0]) for value in kept[1:]] == [4.0 * x for x in range(1, 200)]
    del kept
    gc.collect()
    assert [float(part[0]) for part in slices] == [-1.0, 4.0, 8.0]


@pytest.mark.slow
def test_what_a_stage_keeps_stays_as_it_is(make_engine):
    def keep_every_third(array, state):
        kept = state.get("kept", [])
        if len(kept) < 20:
            kept.append((array, float(array[0])))
            state.update(kept=kept)
        assert all(float(old[-1]) == first for old, first in kept)
        return array + 1

    engine = make_engine("fork", max_bytes=256 * LARGE_BYTES)
    values = engine.run([lambda: arrays(300), double, stage(keep_every_third, buffer=3)]).unwrap().values
    assert [float(value[0]) for value in values] == [2.0 * x + 1 for x in range(300)]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_a_branch_may_write_to_what_it_is_given_and_no_other_sees_it(make_engine, workers):
    def spoil(array):
        array *= -1
        return total(array)

    def look(array):
        return total(array)

    found = make_engine("fork", workers=workers).run([lambda: arrays(40), double, mix(spoil, look, spoil)])
    assert found.unwrap().values == [[-2.0 * x * LENGTH, 2.0 * x * LENGTH, -2.0 * x * LENGTH] for x in range(40)]


@pytest.mark.slow
def test_an_item_that_is_run_again_is_what_it_was(make_engine, tmp_path):
    def spoil_and_die(array):
        x = float(array[0])
        array[:] = -5.0
        if x == 14.0 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    found = make_engine("fork").run([lambda: arrays(20), double, stage(spoil_and_die, buffer=3)])
    assert found.unwrap().values == [2.0 * x for x in range(20)]


@pytest.mark.slow
def test_what_a_worker_has_sent_before_it_died_is_kept_though_nobody_had_read_it(make_engine, monkeypatch, tmp_path):
    """Its region is given back once it is dead, and not before its last reports have been taken in."""
    hear, collect, collecting = Fleet._hear, Fleet._collect, []

    def hear_when_it_is_dead(fleet, link, happened):
        return hear(fleet, link, happened) if link.generation or collecting else False

    def collect_and_tell(fleet, happened):
        collecting.append(True)
        collect(fleet, happened)
        collecting.clear()

    def give_and_die(x):
        yield array_of(1)
        time.sleep(2 * REPORT_S)  # what is there is reported
        yield array_of(2)
        if not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield array_of(3)

    with make_engine("fork", workers=1) as engine:
        check(engine.run([[0], array_of]).unwrap().values)  # what is mapped late is mapped by now
        monkeypatch.setattr(Fleet, "_hear", hear_when_it_is_dead)
        monkeypatch.setattr(Fleet, "_collect", collect_and_tell)
        values = engine.run([[0], give_and_die]).unwrap().values
    assert (tmp_path / "died").exists()
    assert [float(value[0]) for value in values] == [1.0, 2.0, 3.0]
    assert all((value == value[0]).all() for value in values)


@pytest.mark.slow
def test_workers_killed_at_random_lose_no_array_and_mix_none_up(make_engine):
    engine = make_engine("fork", workers=2, crash_retries=50, max_bytes=128 * LARGE_BYTES)
    kills, values = 0, []
    with engine.iter([lambda: arrays(600), double, stage(double, buffer=4)]) as results:
        for number, value in enumerate(results):
            if number % 60 == 30:
                kills += stages.kill(engine.pids()[:1])
            values.append(value)
    assert kills >= 5
    check(values)


@pytest.mark.slow
def test_a_run_in_bounds_takes_bounded_memory(make_engine):
    """A region is used again, so that many arrays take no more than a few."""
    engine = make_engine("fork")
    with engine.iter([lambda: arrays(1500), double, stage(double, buffer=3)]) as results:
        sizes = []
        for value in results:
            assert value[0] % 4 == 0
            sizes.append(os.fstat(engine._backend._fleet._block.fd).st_blocks * 512)
    assert max(sizes) < 1500 * 8 * LENGTH // 2


@pytest.mark.slow
def test_what_fails_is_told_of_large_items_too(make_engine):
    def refuse(array):
        if array[0] == 6.0:
            raise ValueError("six")
        return SKIP if array[0] == 8.0 else array

    engine = make_engine("fork", on_error="emit")
    found = engine.run([lambda: arrays(8), double, stage(refuse, buffer=3), stage(total, buffer=2)]).unwrap().values
    assert [type(value) for value in found] == [float, float, float, ItemError, float, float, float]
    assert found[3].index == 3


class Unloadable:
    """Pickles with a large buffer, and does not unpickle."""

    def __init__(self, array):
        self.array = array

    def __reduce__(self):
        return unload, (self.array,)


def unload(array):
    raise ValueError(f"will not be unpickled: {array[0]}")


def make_unloadable(array):
    return Unloadable(array) if array[0] == 2.0 else array


@pytest.mark.slow
def test_one_that_will_not_unpickle_fails_alone(make_engine):
    engine = make_engine("fork", on_error="emit", ordered=True)
    found = engine.run([lambda: arrays(6), stage(make_unloadable, buffer=3), stage(total, buffer=3)]).unwrap().values
    assert [type(value) for value in found] == [float, float, ItemError, float, float, float]
    assert "will not be unpickled: 2.0" in str(found[2].error)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "size"), [(resource.RLIMIT_FSIZE, 1 << 20), (resource.RLIMIT_AS, None)], ids=["files", "addresses"]
)
def test_where_there_is_no_room_for_an_arena_payloads_travel_in_their_messages(run_program, limit, size):
    wanted = "4 << 30" if size is None else size
    done = run_program(f"""
        import resource
        import numpy as np
        from mpengine import Engine
        limit = {wanted}
        resource.setrlimit({int(limit)}, (limit, limit))
        found = Engine(2, max_bytes=16 << 30).run([[np.full(10000, float(x)) for x in range(5)], lambda a: a * 2])
        print([float(value[0]) for value in found.unwrap().values])
    """)
    assert (done.stdout, done.stderr, done.returncode) == ("[0.0, 2.0, 4.0, 6.0, 8.0]\n", "", 0)


def limit_addresses(state):
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, hard))


@pytest.mark.slow
def test_a_worker_with_few_addresses_gets_its_arrays_all_the_same(make_engine):
    engine = make_engine("fork", max_bytes=16 << 30)
    members = [lambda: arrays(10), stage(double, setup=limit_addresses), stage(double, buffer=3)]
    check(engine.run(members).unwrap().values)


@pytest.mark.slow
def test_a_program_may_end_with_arrays_in_hand(run_program):
    done = run_program("""
        import numpy as np
        from mpengine import Engine
        engine = Engine(2)
        kept = engine.run([[np.full(10000, float(x)) for x in range(5)], lambda a: a * 2]).unwrap().values
        results = engine.iter([(np.full(10000, float(x)) for x in range(500)), lambda a: a * 2])
        more = [next(results) for _ in range(3)]
        print(float(kept[4][0]), float(more[2][0]))
    """)
    assert (done.stdout, done.stderr, done.returncode) == ("8.0 4.0\n", "", 0)


@pytest.mark.slow
def test_an_engine_inside_a_stage_hands_arrays_on(make_engine):
    def nested(array):
        with Engine(1, start_method="fork") as inner:
            return next(iter(inner.iter([[array], double])))

    check(make_engine("fork").run([lambda: arrays(4), stage(nested, buffer=2)]).unwrap().values, 2)


@pytest.mark.slow
def test_threads_beside_the_coordinator_see_and_give_arrays(make_engine):
    members = [lambda: arrays(20), double, stage(double, kind="thread", workers=2), stage(double, buffer=3)]
    check(make_engine("fork").run(members).unwrap().values, 8)


@pytest.mark.slow
def test_generators_and_lists_of_arrays(make_engine):
    def twice(array):
        yield array
        yield array + 0.5

    def add_up(several):
        return [array + 1 for array in several]

    members = [lambda: arrays(20), stage(twice, buffer=4), stage(add_up, batch=3, buffer=6)]
    found = make_engine("fork").run(members).unwrap().values
    assert [float(value[-1]) for value in found] == [x / 2 + 1 for x in range(40)]


@pytest.mark.slow
def test_recycled_workers_take_nothing_along(make_engine):
    engine = make_engine("fork", max_items_per_worker=7)
    kept = through_twice(engine, 60)
    check(kept)
