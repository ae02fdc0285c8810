"""Workers times threads are the cores there are, unless the user has said otherwise."""

import builtins
import importlib.util
import sys
import types

import pytest

from mpengine.worker.threadpools import VARIABLES, limit_loaded, threads_for, variables_for


@pytest.mark.parametrize(
    ("cores", "workers", "threads"), [(8, 8, 1), (8, 2, 4), (8, 3, 2), (2, 8, 1), (1, 1, 1), (16, 1, 16)]
)
def test_workers_times_threads_are_the_cores(cores, workers, threads):
    assert threads_for(cores, workers) == threads


def test_every_library_has_its_variable():
    assert variables_for(3, {}) == dict.fromkeys(
        [
            "OMP_NUM_THREADS",
            "OPENBLAS_NUM_THREADS",
            "MKL_NUM_THREADS",
            "BLIS_NUM_THREADS",
            "VECLIB_MAXIMUM_THREADS",
            "NUMEXPR_NUM_THREADS",
        ],
        "3",
    )


def test_what_the_user_has_set_stays():
    left = variables_for(3, {"MKL_NUM_THREADS": "7", "BLIS_NUM_THREADS": ""})
    assert left == {name: "3" for name in VARIABLES.values() if name != "MKL_NUM_THREADS"}


def test_who_has_set_the_variable_for_all_has_decided_for_all():
    assert variables_for(3, {"OMP_NUM_THREADS": "7"}) == {}


class Library:
    def __init__(self, internal_api):
        self.internal_api = internal_api
        self.threads = None

    def set_num_threads(self, threads):
        self.threads = threads


@pytest.fixture
def libraries(monkeypatch):
    """Stand in for threadpoolctl; returns the libraries that it finds."""
    found = [Library(name) for name in ("openmp", "openblas", "mkl", "blis", "something new")]
    fake = types.ModuleType("threadpoolctl")
    fake.ThreadpoolController = lambda: types.SimpleNamespace(lib_controllers=found)
    fake.__spec__ = importlib.util.spec_from_loader("threadpoolctl", None)
    monkeypatch.setitem(sys.modules, "threadpoolctl", fake)
    monkeypatch.setitem(sys.modules, "numpy", types.ModuleType("numpy"))
    return found


def test_libraries_that_are_loaded_already_are_limited(libraries):
    limit_loaded(3, VARIABLES.values())
    assert [library.threads for library in libraries] == [3, 3, 3, 3, 3]


def test_a_library_whose_variable_the_user_has_set_is_left_alone(libraries):
    limit_loaded(3, set(VARIABLES.values()) - {"OPENBLAS_NUM_THREADS"})
    assert [library.threads for library in libraries] == [3, None, 3, 3, 3]
    limit_loaded(5, ())
    assert [library.threads for library in libraries] == [3, None, 3, 3, 3]


@pytest.mark.parametrize("what", ["no library is loaded", "threadpoolctl is not installed"])
def test_nothing_is_imported_that_is_of_no_use(monkeypatch, libraries, what):
    if what == "no library is loaded":
        for name in ("numpy", "scipy", "sklearn", "torch", "faiss", "cv2", "numba", "pandas"):
            monkeypatch.delitem(sys.modules, name, raising=False)
    else:
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    original = builtins.__import__

    def refuse(name, *arguments):
        assert name != "threadpoolctl"
        return original(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    limit_loaded(3, VARIABLES.values())
    assert [library.threads for library in libraries] == [None] * 5
