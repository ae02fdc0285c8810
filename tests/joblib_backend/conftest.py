"""What every test of the backend for joblib begins and ends with: no workers that wait for another call."""

import joblib
import pytest

import mpengine.joblib


@pytest.fixture(scope="module", autouse=True)
def _tracker_of_joblib_is_there_before():
    """Have the one process of joblib's own that stays for good started before anybody looks what a test leaves.

    It ends with these tests: others look at all the children that there are.
    """
    from joblib.externals.loky.backend import resource_tracker

    resource_tracker.ensure_running()
    yield
    resource_tracker._resource_tracker._stop()


@pytest.fixture
def backend():
    """Have ``Parallel`` take the backend, and two workers, where it is not told otherwise."""
    with joblib.parallel_config("mpengine", n_jobs=2):
        yield
    mpengine.joblib.shutdown()
