"""joblib runs its calls on this package's workers."""

import sys

import mpengine.joblib


def square(number: int) -> int:
    """Return the square of a number."""
    return number * number


mpengine.joblib.register()
from joblib import Parallel, delayed, parallel_config  # noqa: E402 - where it is missing, ours is to tell

with parallel_config("mpengine", n_jobs=2):
    found = Parallel()(delayed(square)(number) for number in range(5))
if found != [0, 1, 4, 9, 16]:
    sys.exit(f"{found}")
print("joblib: good")
