"""``joblib.Parallel`` over the backend: results, errors, deaths, large arrays, and nothing that is left."""

import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import calls_of_joblib as calls
import joblib
import numpy as np
import psutil
import pytest
from joblib import Parallel, delayed

import mpengine.joblib
from mpengine import WorkerDiedError
from mpengine.joblib import arrays, crews

PATIENCE_S = 30
LARGE = 200_000  # floats, more than the megabyte from which arrays are mapped
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("backend")]


def in_thread(function):
    """Run a function in a thread of its own, and return the thread and a list that its result will be in."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    return thread, results


def wait_until(what):
    deadline_at = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline_at
        time.sleep(0.005)


# ---------------------------------------------------------------------- workers


def test_workers_stay_warm_between_calls_and_are_others_where_something_else_is_wanted():
    first = set(Parallel()(delayed(calls.pid_of)(number) for number in range(20)))
    second = set(Parallel()(delayed(calls.pid_of)(number) for number in range(20)))
    three = set(Parallel(n_jobs=3)(delayed(calls.pid_of)(number) for number in range(20)))
    with joblib.parallel_config("mpengine", n_jobs=3, inner_max_num_threads=2):
        limited = Parallel()(delayed(calls.threads_of)(number) for number in range(2))

    assert len(first | second) <= 2
    assert not first & three
    assert [one["OMP_NUM_THREADS"] for one in limited] == ["2", "2"]
    assert os.getpid() not in first | three
    assert not any(map(psutil.pid_exists, first))


def test_workers_that_nobody_uses_end_after_a_while_and_when_they_are_told_to():
    pids = set(Parallel(n_jobs=2, idle_worker_timeout=0.05)(delayed(calls.pid_of)(number) for number in range(4)))
    wait_until(lambda: not any(map(psutil.pid_exists, pids)))
    again = set(Parallel(n_jobs=2)(delayed(calls.pid_of)(number) for number in range(4)))
    mpengine.joblib.shutdown()

    assert not pids & again
    assert not any(map(psutil.pid_exists, again))
    assert Parallel(n_jobs=2)(delayed(abs)(number) for number in (-1, -2)) == [1, 2]


def test_calls_of_several_threads_share_the_workers_and_each_has_its_results():
    def call(first):
        with joblib.parallel_config("mpengine", n_jobs=2):
            return Parallel()(delayed(divmod)(first, number) for number in range(1, 40)), crews._crews._crew

    running = [in_thread(lambda first=first: call(first)) for first in range(4)]
    for thread, _ in running:
        thread.join(PATIENCE_S)
    told = [results[0] for _, results in running]

    assert [results for results, _ in told] == [
        [divmod(first, number) for number in range(1, 40)] for first in range(4)
    ]
    assert len({id(crew) for _, crew in told}) == 1


def test_two_generators_under_one_configuration_do_not_disturb_each_other():
    first = Parallel(return_as="generator")(delayed(abs)(-number) for number in range(30))
    second = Parallel(return_as="generator")(delayed(abs)(number) for number in range(100, 130))

    assert next(first) == 0
    assert list(second) == list(range(100, 130))
    assert list(first) == list(range(1, 30))


def test_a_forked_child_has_workers_of_its_own():
    Parallel()(delayed(calls.pid_of)(number) for number in range(4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forking beside threads, which is what this is about
        pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            good = Parallel(n_jobs=2)(delayed(abs)(number) for number in range(-3, 0)) == [3, 2, 1]
            mpengine.joblib.shutdown()
            os._exit(0 if good else 1)
        os._exit(2)
    _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert Parallel()(delayed(abs)(number) for number in (-1, -2)) == [1, 2]


# ---------------------------------------------------------------------- deaths and errors


def test_a_worker_that_is_killed_costs_no_result(tmp_path):
    tasks = [delayed(calls.die_once)(tmp_path / "dead"), *(delayed(abs)(-number) for number in range(20))]

    assert Parallel(batch_size=1)(tasks) == ["alive", *range(20)]


def test_a_call_that_kills_its_workers_fails_and_the_next_one_is_served():
    with pytest.raises(WorkerDiedError, match="2 times"):
        Parallel(batch_size=1)(delayed(calls.die)(number) for number in range(1))
    assert Parallel()(delayed(abs)(number) for number in (-1, -2)) == [1, 2]


def test_the_first_death_ends_a_call_that_wants_that():
    with pytest.raises(BrokenProcessPool, match="SIGKILL"):
        Parallel(on_worker_death="break")(delayed(calls.die)(number) for number in range(4))
    assert Parallel(on_worker_death="break")(delayed(abs)(number) for number in (-1, -2)) == [1, 2]


def test_an_error_comes_with_the_workers_traceback_and_ends_what_else_runs(tmp_path):
    tasks = [delayed(calls.begin_and_sleep)(tmp_path), delayed(calls.fail)(7)]
    with pytest.raises(ValueError, match="7") as caught:
        Parallel(batch_size=1)(tasks)

    assert "in fail" in str(caught.value.__cause__)
    assert not any(psutil.pid_exists(int(path.name)) for path in tmp_path.iterdir())


def test_one_that_is_given_up_ends_its_own_workers_and_no_others(tmp_path):
    (tmp_path / "begun").mkdir()
    other, results = in_thread(
        lambda: Parallel(n_jobs=2, backend="mpengine", batch_size=1)([delayed(calls.wait_for)(tmp_path / "go")])
    )
    wait_until(lambda: crews._crews._crew is not None)
    generator = Parallel(return_as="generator", batch_size=1)([delayed(calls.begin_and_sleep)(tmp_path / "begun")] * 3)
    wait_until(lambda: list((tmp_path / "begun").iterdir()))
    with pytest.warns(UserWarning, match="have been cancelled"):
        generator.close()
    (tmp_path / "go").touch()
    other.join(PATIENCE_S)

    sleeper = int(next((tmp_path / "begun").iterdir()).name)
    assert not psutil.pid_exists(sleeper)
    assert [type(result) for result in results[0]] == [int]
    assert sleeper not in results[0]


def test_a_generator_that_is_dropped_half_way_ends_what_runs(tmp_path):
    tasks = [delayed(abs)(-1), *[delayed(calls.begin_and_sleep)(tmp_path)] * 4]
    generator = Parallel(return_as="generator_unordered", batch_size=1)(tasks)
    assert next(generator) == 1
    wait_until(lambda: list(tmp_path.iterdir()))
    dropped = [generator]
    del generator
    with pytest.warns(UserWarning, match="have been cancelled"):
        dropped.clear()
    gc.collect()

    assert not any(psutil.pid_exists(int(path.name)) for path in tmp_path.iterdir())
    assert Parallel()(delayed(abs)(number) for number in (-1, -2)) == [1, 2]


def test_an_error_half_way_through_a_generator_comes_where_it_is_in_the_order():
    generator = Parallel(return_as="generator", batch_size=1)([delayed(abs)(-1), delayed(calls.fail)(2)])
    with pytest.raises(ValueError, match="2"):
        list(generator)
    assert Parallel()(delayed(abs)(number) for number in (-1, -2)) == [1, 2]


def test_a_call_that_takes_too_long_is_ended(tmp_path):
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(timeout=0.05)(delayed(calls.begin_and_sleep)(tmp_path) for _ in range(3))

    assert not any(psutil.pid_exists(int(path.name)) for path in tmp_path.iterdir())


def test_ctrl_c_ends_a_call_and_leaves_nothing(tmp_path):
    program = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import calls_of_joblib, joblib, mpengine.joblib
        from joblib import Parallel, delayed
        try:
            tasks = [delayed(calls_of_joblib.begin_and_sleep)({str(tmp_path)!r})] * 4
            Parallel(n_jobs=2, backend="mpengine")(tasks)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        print(Parallel(n_jobs=2, backend="mpengine")(delayed(abs)(number) for number in (-1, -2)))
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as running:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        running.send_signal(signal.SIGINT)
        said, _ = running.communicate(timeout=PATIENCE_S)

    assert said == "interrupted\n[1, 2]\n"
    assert running.returncode == 0
    assert not any(psutil.pid_exists(int(path.name)) for path in tmp_path.iterdir())


def test_a_program_that_ends_in_the_middle_of_a_generator_waits_for_nobody(tmp_path):
    program = textwrap.dedent(f"""
        import sys, warnings
        warnings.simplefilter("ignore")
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import calls_of_joblib, mpengine.joblib
        from joblib import Parallel, delayed
        tasks = [delayed(abs)(-1), *[delayed(calls_of_joblib.begin_and_sleep)({str(tmp_path)!r})] * 3]
        generator = Parallel(n_jobs=2, backend="mpengine", batch_size=1, return_as="generator")(tasks)
        print(next(generator))
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )

    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr
    assert not any(psutil.pid_exists(int(path.name)) for path in tmp_path.iterdir())


# ---------------------------------------------------------------------- large arrays


def test_a_large_array_is_written_once_and_mapped_and_a_small_one_is_the_workers_own():
    large, small = np.ones(LARGE), np.ones(10_000)
    told = Parallel(batch_size=1)(delayed(calls.describe)(array) for array in (large, small, large))
    with contextlib.closing(arrays.Dump(1000, "r", None)) as dump:
        first, second, other = (dump._reduce(array)[1] for array in (large, large, large.copy()))

    assert told == [("memmap", False, LARGE), ("ndarray", True, 10_000), ("memmap", False, LARGE)]
    assert first == second != other


@pytest.mark.parametrize("make", [np.asfortranarray, lambda array: array[::2, 1:], lambda array: array.T])
def test_arrays_of_any_layout_arrive_as_they_are(make):
    array = make(np.arange(LARGE, dtype=">f8").reshape(400, -1))
    back = Parallel(max_nbytes=1000)(delayed(calls.same)(array) for _ in range(2))

    for one in back:
        assert np.array_equal(one, array)
        assert (one.dtype, one.flags.writeable) == (array.dtype, True)


def test_arrays_are_shared_where_that_is_asked_for():
    shared = np.zeros(LARGE)
    Parallel(mmap_mode=None)(delayed(calls.write_into)(shared, place) for place in range(4))
    told = Parallel(mmap_mode="c")(delayed(calls.write_into)(shared, place) for place in range(4))
    kept = Parallel(mmap_mode="r+", batch_size=1, pre_dispatch=1)(
        [delayed(calls.write_into)(shared, 1), delayed(calls.describe)(shared)]
    )

    assert told == [None] * 4
    assert kept[1] == ("memmap", True, 1.0)
    assert not shared.any()


def test_what_is_changed_between_two_calls_is_seen_by_the_second():
    array = np.zeros(LARGE)
    with Parallel(n_jobs=2) as parallel:
        before = parallel(delayed(calls.describe)(array) for _ in range(2))
        array[0] = 1.0
        after = parallel(delayed(calls.describe)(array) for _ in range(2))

    assert [told[2] for told in before + after] == [0, 0, 1, 1]


def test_an_array_of_a_file_travels_as_the_name_of_that_file(tmp_path):
    np.save(tmp_path / "kept.npy", np.arange(LARGE))
    kept = np.load(tmp_path / "kept.npy", mmap_mode="r")
    back = Parallel()(delayed(calls.same)(part) for part in (kept, kept[5:9]))

    assert [Path(part.filename) for part in back] == [tmp_path / "kept.npy"] * 2
    assert back[1].tolist() == [5, 6, 7, 8]


def test_the_folder_that_is_asked_for_is_gone_after_the_call_and_so_is_that_of_a_killed_program(tmp_path):
    dead = subprocess.Popen(["true"])
    abandoned = tmp_path / (arrays._prefix(dead.pid) + "0")
    dead.wait()
    abandoned.mkdir()
    living = tmp_path / (arrays._prefix(os.getppid()) + "0")
    living.mkdir()
    with Parallel(n_jobs=2, temp_folder=str(tmp_path), max_nbytes=1) as parallel:
        told = parallel(delayed(calls.describe)(np.ones(10)) for _ in range(2))
        meanwhile = set(tmp_path.iterdir())

    assert told == [("memmap", False, 10.0)] * 2
    assert len(meanwhile) == 2
    assert abandoned not in meanwhile
    assert set(tmp_path.iterdir()) == {living}


def test_a_call_that_comes_too_late_sees_no_other_file():
    dump = arrays.Dump(1000, "r", None)
    look, where = dump._reduce(np.ones(1000))
    assert look(*where).sum() == 1000
    dump.close()
    with Path("/dev/null").open("rb"), pytest.raises(RuntimeError, match="a call that is over"):
        look(*where)


# ---------------------------------------------------------------------- nested calls, options


def test_nested_calls_take_threads_and_then_nothing_as_joblibs_own_do():
    found = Parallel()(delayed(calls.nested)(3) for _ in range(1))[0]

    assert [name for name, _ in found] == ["ThreadingBackend", *["SequentialBackend"] * 3]
    assert Parallel()(delayed(calls.in_main_thread)(number) for number in range(2)) == [True, True]


def test_workers_may_have_workers_three_levels_deep_and_all_of_them_go():
    pids = calls.nested_by_name(3)
    mpengine.joblib.shutdown()

    assert len(pids - {os.getpid()}) >= 3
    wait_until(lambda: not any(map(psutil.pid_exists, pids - {os.getpid()})))


def test_shared_memory_can_be_had_from_threads_alone():
    with joblib.parallel_config("mpengine", n_jobs=2):
        assert type(Parallel(require="sharedmem")._backend).__name__ == "ThreadingBackend"
    with pytest.raises(ValueError, match="does not support shared memory"):
        Parallel(backend="mpengine", require="sharedmem")


@pytest.mark.parametrize(
    ("options", "story"),
    [
        ({"on_worker_death": "ignore"}, "on_worker_death must be one of 'retry', 'break', not 'ignore'"),
        ({"crash_retries": -1}, "crash_retries must be a whole number of at least 0, not -1"),
        ({"idle_worker_timeout": "soon"}, "idle_worker_timeout must be a number of seconds, .* not 'soon'"),
        ({"initializer": 3}, "initializer must be callable, not 3"),
        ({"timeout": 3}, "the backend 'mpengine' has no option 'timeout'; it has idle_worker_timeout, "),
    ],
)
def test_an_option_that_is_none_is_told_by_name(options, story):
    with pytest.raises(ValueError, match=story), joblib.parallel_config("mpengine", **options):
        pass


def test_without_joblib_one_error_names_the_extra(tmp_path):
    (tmp_path / "joblib.py").write_text("raise ModuleNotFoundError('no joblib', name='joblib')")
    done = subprocess.run(
        [sys.executable, "-c", "import mpengine.joblib"], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(mpengine.__file__).parent.parent}"},
    )  # fmt: skip

    assert "ModuleNotFoundError: the backend for joblib takes joblib" in done.stderr
    assert "pip install 'mpengine[joblib]'" in done.stderr


def test_a_program_needs_but_the_package():
    program = "import mpengine; mpengine.joblib.register(make_default=True); from joblib import Parallel, delayed; "
    program += "print(type(Parallel()._backend).__name__, Parallel(2)(delayed(lambda n: n + 1)(n) for n in range(3)))"
    done = subprocess.run([sys.executable, "-"], input=program, capture_output=True, text=True, check=False)

    assert (done.stdout, done.returncode) == ("MpengineBackend [1, 2, 3]\n", 0), done.stderr
