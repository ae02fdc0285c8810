"""Functions for workers to run: they are imported there by name."""

import os
import pathlib
import signal
import threading
import time

import joblib


def pid_of(_):
    return os.getpid()


def wait_for(path):
    """Return once a file is there."""
    while not pathlib.Path(path).exists():
        time.sleep(0.002)
    return os.getpid()


def begin_and_sleep(path):
    """Say that this has begun, and by whom; then take longer than anybody waits."""
    (pathlib.Path(path) / str(os.getpid())).touch()
    time.sleep(600)


def die_once(path):
    """Die, but not a second time."""
    try:
        pathlib.Path(path).touch(exist_ok=False)
    except FileExistsError:
        return "alive"
    os.kill(os.getpid(), signal.SIGKILL)
    return "never told"


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def fail(number):
    raise ValueError(number)


def describe(array):
    return type(array).__name__, array.flags.writeable, float(array.sum())


def same(array):
    return array


def write_into(array, place):
    array[place] = place


def nested(levels):
    """Return what backends and how many jobs each level of nested calls has."""
    backend, _ = joblib.parallel.get_active_backend()
    here = [(type(backend).__name__, backend.nesting_level)]
    if levels == 0:
        return here
    return here + joblib.Parallel(n_jobs=2)(joblib.delayed(nested)(levels - 1) for _ in range(2))[0]


def nested_by_name(levels):
    """Call workers from workers."""
    if levels == 0:
        return {os.getpid()}
    with joblib.parallel_config("mpengine"):
        found = joblib.Parallel(n_jobs=2)(joblib.delayed(nested_by_name)(levels - 1) for _ in range(2))
    return {os.getpid()}.union(*found)


def threads_of(_):
    return {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ENABLE_IPC")}


def in_main_thread(_):
    return threading.current_thread() is threading.main_thread()
