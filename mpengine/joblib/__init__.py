"""A backend for joblib: what runs under ``joblib.Parallel`` runs in this package's workers.

===========  ===================================================================
``backend``  ``MpengineBackend``: what joblib calls
``crews``    the workers of calls, warm between them
``arrays``   large arrays: written once, and mapped by workers
``remote``   what runs in a worker
===========  ===================================================================

Whoever imports this has registered it: ``joblib.parallel_config("mpengine")`` works from then on.
"""

from __future__ import annotations

try:
    import joblib as _joblib
except ModuleNotFoundError as error:
    if error.name != "joblib":
        raise
    msg = "the backend for joblib takes joblib, which is not installed: pip install 'mpengine[joblib]'"
    raise ModuleNotFoundError(msg, name="joblib") from error

from mpengine.joblib.backend import MpengineBackend

__all__ = ["NAME", "MpengineBackend", "register", "shutdown"]

NAME = "mpengine"


def register(*, make_default: bool = False) -> None:
    """Make the backend known to joblib, as ``"mpengine"``; importing this module has done so already.

    Args:
        make_default: whether ``Parallel`` takes it where no backend is named.
    """
    _joblib.register_parallel_backend(NAME, MpengineBackend, make_default=make_default)


def shutdown() -> None:
    """End the workers that wait for another call; those that are in a call end with it.

    They are started again by the next call.  Without this they go after ``idle_worker_timeout`` seconds without a call,
    and when the program ends.
    """
    from mpengine.joblib.crews import shutdown as end

    end()


register()
