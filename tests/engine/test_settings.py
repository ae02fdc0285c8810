"""An engine's options: what is wrong with one is told at once, and what is right is in force in the workers."""

import itertools
import math
import os
import sys

import engine_stages as stages
import pytest

from mpengine import Engine, ErrorPolicy
from mpengine.backends import cores
from mpengine.worker.threadpools import VARIABLES

COUNTS = [True, False, 0, -1, 1.5, 2.0, "2", (2,), float("nan")]
SECONDS = [True, -1, -0.1, "1", None, (1,), math.inf, math.nan, 1e9, 1j]
WRONG = {
    "workers": COUNTS,
    "buffer": COUNTS,
    "max_bytes": COUNTS,
    "memory_limit": COUNTS,
    "max_items_per_worker": COUNTS,
    "crash_retries": [None, True, False, -1, 1.5, 0.0, "2", (2,)],
    "grace_s": SECONDS,
    "metrics_interval_s": SECONDS,
    "ordered": [None, 1, 0, "yes", []],
    "start_method": ["forkServer", "", None, 1, True, ["fork"]],
    "backend": ["threads", "", None, 1, ["inline"]],
    "on_error": ["raises", "", None, 1, []],
    "preload": ["numpy", None, 5, [1], [None], [""], ["os", "not a name"], b"os", ["os."]],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values], ids=repr
)
def test_a_wrong_option_is_one_error_that_names_option_and_value(name, value):
    with pytest.raises(ValueError, match=r".") as caught:
        Engine(**{name: value})
    message = str(caught.value)
    assert name in message
    assert repr(value) in message
    assert "\n" not in message


def test_an_option_that_is_no_option_is_named():
    with pytest.raises(TypeError, match="worker_count"):
        Engine(worker_count=3)
    with pytest.raises(TypeError, match="positional"):
        Engine(2, "fork")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("workers", None),
        ("workers", 1),
        ("workers", 4096),
        ("buffer", None),
        ("buffer", 1),
        ("max_bytes", 1),
        ("crash_retries", 0),
        ("grace_s", 0),
        ("grace_s", 0.0),
        ("grace_s", 1_000_000),
        ("metrics_interval_s", 0),
        ("metrics_interval_s", 2.5),
        ("memory_limit", None),
        ("memory_limit", 1 << 30),
        ("max_items_per_worker", None),
        ("ordered", False),
        ("on_error", "drop"),
        ("on_error", ErrorPolicy.DROP),
        ("preload", []),
        ("preload", {"os", "os.path"}),
        ("preload", (name for name in ("os",))),
    ],
)
def test_a_right_option_is_taken(name, value):
    Engine(**{name: value}, backend="inline")


def test_the_longest_grace_can_be_waited_for(kind, make_engine):
    """Some waits of the system refuse large numbers."""
    engine = make_engine(kind, grace_s=1_000_000)
    assert engine.run([range(3), stages.double]).unwrap().values == [0, 2, 4]
    with engine.iter([itertools.count(), stages.keep]) as results:
        assert next(results) == 0


def test_workers_are_as_many_as_cores_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr("mpengine.engine.available_cores", lambda: 7)
    assert Engine().workers == 7
    assert Engine(3).workers == 3


# ---------------------------------------------------------------------- threads


@pytest.fixture
def eight_cores(monkeypatch):
    """Be on a machine with eight cores, with nothing said about threads."""
    monkeypatch.setattr("mpengine.engine.available_cores", lambda: 8)
    for name in VARIABLES.values():
        monkeypatch.delenv(name, raising=False)
    assert cores.available_cores() >= 1


def variables(_):
    return {name: os.environ.get(name) for name in VARIABLES.values()}


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
def test_workers_have_the_cores_between_them(make_engine, eight_cores, start_method):
    before = dict(os.environ)
    (found,) = make_engine(start_method, workers=3).run([range(1), variables]).unwrap().values
    assert found == dict.fromkeys(VARIABLES.values(), "2")
    assert os.environ == before


@pytest.mark.slow
def test_what_the_user_has_said_about_threads_holds(make_engine, eight_cores, monkeypatch):
    monkeypatch.setenv("MKL_NUM_THREADS", "5")
    (found,) = make_engine("forkserver", workers=8).run([range(1), variables]).unwrap().values
    assert found == {**dict.fromkeys(VARIABLES.values(), "1"), "MKL_NUM_THREADS": "5"}

    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    (found,) = make_engine("forkserver", workers=8).run([range(1), variables]).unwrap().values
    assert found == {**dict.fromkeys(VARIABLES.values()), "MKL_NUM_THREADS": "5", "OMP_NUM_THREADS": "6"}


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
@pytest.mark.parametrize("preload", [(), ("numpy",)], ids=["loaded by the stage", "preloaded"])
def test_the_libraries_obey(make_engine, monkeypatch, start_method, preload):
    """With as many workers as cores each has one thread; a forked one has this process's numpy, with its many."""
    import numpy  # noqa: F401, ICN001 - so that a forked worker has it
    import threadpoolctl

    for name in VARIABLES.values():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("mpengine.engine.available_cores", lambda: 2)

    def threads(_):
        import numpy as np

        assert np.ones(3).sum() == 3
        return [library["num_threads"] for library in threadpoolctl.threadpool_info()]

    with threadpoolctl.threadpool_limits(2):
        (found,) = make_engine(start_method, workers=2, preload=preload).run([range(1), threads]).unwrap().values
    assert found
    assert set(found) == {1}


# ---------------------------------------------------------------------- preload

PRELOADED = """
import os
OF = os.getpid()
with open(os.environ["PRELOAD_FILE"], "a") as file:
    print(OF, file=file)
"""


def preloaded_in(_):
    module = sys.modules.get("preloaded_by_a_test")
    return os.getpid(), module and module.OF


@pytest.mark.slow
def test_a_module_is_preloaded_once_and_every_worker_has_it(make_engine, tmp_path, monkeypatch):
    (tmp_path / "preloaded_by_a_test.py").write_text(PRELOADED)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PRELOAD_FILE", str(tmp_path / "log"))
    with make_engine("forkserver", workers=2, preload=["preloaded_by_a_test"]) as engine:
        for _ in range(2):
            pairs = engine.run([range(50), preloaded_in]).unwrap().values
            (nursery,) = {module for _, module in pairs}
            assert nursery not in {None, os.getpid()}
            assert nursery not in {worker for worker, _ in pairs}
    assert (tmp_path / "log").read_text().split() == [str(nursery)]
    assert "preloaded_by_a_test" not in sys.modules


@pytest.mark.slow
def test_a_preload_that_fails_is_one_clear_error(make_engine):
    result = make_engine("forkserver", preload=["there_is_no_such_module"]).run([range(3), stages.double])
    assert "there_is_no_such_module" in result.reason
    assert "\n" not in result.reason
    assert result.report.values == []
