"""What every backend does alike, on Ray."""

import pytest
import test_contract
from ray_suites import on_ray

pytestmark = pytest.mark.long

globals().update(
    on_ray(
        test_contract,
        # It sets an environment variable for its workers, and actors have that of the cluster; see below.
        "test_a_class_is_built_once_in_each_worker_and_closed",
    )
)


def test_a_class_is_built_once_in_each_actor_and_closed(make_engine, tmp_path):
    notes = tmp_path / "notes"

    class Noting:
        def __init__(self):
            self.note("built")

        def note(self, what):
            with notes.open("a") as file:
                file.write(what + "\n")

        def __call__(self, item):
            return item + 1

        def close(self):
            self.note("closed")

    engine = make_engine()
    assert engine.run([range(50), Noting]).unwrap().values == list(range(1, 51))
    lines = notes.read_text().split()
    assert 1 <= lines.count("built") == lines.count("closed") <= 2
