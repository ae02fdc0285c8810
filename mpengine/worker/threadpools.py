"""The thread pools of numeric libraries, limited so that workers times threads are the cores there are.

A library for linear algebra starts as many threads as the machine has cores, in each process.  With a worker for each
core those are cores times cores threads, which slow one another down.  Two ways to tell a library:

- Its environment variable, which it reads when it is loaded.  That is enough for a worker that loads it, and for the
  fork server, which has the variables before it preloads anything.
- ``threadpoolctl``, where it is installed, for a library that is loaded already: a forked worker has its parent's.

Whoever has set a variable has decided, and is left alone.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Final

VARIABLES: Final = {
    "openmp": "OMP_NUM_THREADS",
    "openblas": "OPENBLAS_NUM_THREADS",
    "mkl": "MKL_NUM_THREADS",
    "blis": "BLIS_NUM_THREADS",
    "vecLib": "VECLIB_MAXIMUM_THREADS",
    "numexpr": "NUMEXPR_NUM_THREADS",
}
"""Library, as ``threadpoolctl`` calls it, and the variable it reads."""

_FOR_ALL: Final = VARIABLES["openmp"]

_LOADERS: Final = ("numpy", "scipy", "sklearn", "torch", "faiss", "cv2", "numba", "pandas")
"""Modules that load such libraries: asking ``threadpoolctl`` costs some milliseconds, which others need not pay."""


def threads_for(cores: int, workers: int) -> int:
    """Return how many threads each of ``workers`` may have."""
    return max(1, cores // workers)


def variables_for(threads: int, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that limit libraries to ``threads``, but for those that the user has set in ``environ``.

    The others of these libraries go by ``OMP_NUM_THREADS`` where they have no variable of their own, so who has set
    that one has decided for all of them.
    """
    if environ.get(_FOR_ALL):
        return {}
    return {name: str(threads) for name in VARIABLES.values() if not environ.get(name)}


def limit_loaded(threads: int, names: Collection[str]) -> None:
    """Limit the libraries that this process has loaded already, if there are any and ``threadpoolctl`` is there.

    Args:
        threads: how many each may use.
        names: the variables that the user has not set.
    """
    if not names or not any(name in sys.modules for name in _LOADERS):
        return
    import importlib.util  # a slow import

    if importlib.util.find_spec("threadpoolctl") is None:
        return
    from threadpoolctl import ThreadpoolController

    for library in ThreadpoolController().lib_controllers:
        if VARIABLES.get(library.internal_api, _FOR_ALL) in names:
            library.set_num_threads(threads)
