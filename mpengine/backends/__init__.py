"""Where batches run: in worker processes, in threads beside the coordinator, or all in the caller's own thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpengine.backends.base import Backend
    from mpengine.settings import EngineOptions


def make_backend(chosen: EngineOptions, workers: int, cores: int) -> Backend:
    """Return the backend that an engine has chosen; only that one is imported.

    Args:
        chosen: the engine's options.
        workers: how many.
        cores: that they share.
    """
    from mpengine.backends.base import BackendOptions

    options = BackendOptions(workers, chosen.start_method, tuple(chosen.preload), cores)
    if chosen.backend == "inline":
        from mpengine.backends.inline import InlineBackend

        return InlineBackend(options)
    from mpengine.backends.process import ProcessBackend

    return ProcessBackend(options)
