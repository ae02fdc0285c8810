"""The threads of a library that a forked worker has from its parent are limited; numpy brings one."""

import sys

import numpy as np

from mpengine import Engine


def most_threads(_: int) -> int:
    """Return how many threads the libraries of this worker may use at most."""
    from threadpoolctl import threadpool_info

    np.zeros((2, 2)) @ np.zeros((2, 2))
    return max(library["num_threads"] for library in threadpool_info())


engine = Engine(start_method="fork")  # as many workers as cores: a thread for each
found = engine.run([range(engine.workers), most_threads]).unwrap().values
if set(found) != {1}:
    sys.exit(f"threads: {found}")
print("blas: good")
