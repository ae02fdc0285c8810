import pytest

import mpengine


@pytest.fixture
def make_executor():
    """Make executors that are gone after the test, however that ends."""
    made = []

    def make(workers=2, **options):
        made.append(mpengine.Executor(workers, **options))
        return made[-1]

    yield make
    for executor in made:
        executor.kill_workers()
        executor.shutdown()


@pytest.fixture(params=["forkserver", "spawn", "fork"])
def start_method(request):
    return request.param


@pytest.fixture(params=["break", "retry"])
def on_worker_death(request):
    return request.param
