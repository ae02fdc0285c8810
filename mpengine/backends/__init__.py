"""Where batches run: in worker processes, in threads beside the coordinator, or all in the caller's own thread.

=============  ============================================================
``base``       the contract with the coordinator's loop
``inline``     all in the caller's thread, for debugging
``process``    worker processes: commands as messages, messages as events
``fleet``      the processes of one engine: started, linked, heard, stopped
``links``      the coordinator's end of one worker
``hearing``    what a worker has told, checked
``watches``    all that is watched of workers beside what they say, which is:
``deadlines``  calls whose time is up
``memory``     workers that have grown too large
``pressure``   memory that runs short, before the kernel has to kill
``stillness``  processes that somebody has stopped
``local``      threads beside the coordinator
``here``       what jobs in this very process need
``parcels``    payloads made of others, taken apart
``cores``      how many cores this process may use
``cgroups``    the control groups that bind this process
``standard``   standard files that are closed
``limits``     which limit of the system an error is about
=============  ============================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpengine.backends.limits import explained
from mpengine.errors import EngineError
from mpengine.settings import DEFAULT_MAX_BYTES

if TYPE_CHECKING:
    from mpengine.backends.base import Backend
    from mpengine.settings import EngineOptions


def make_backend(chosen: EngineOptions, workers: int, cores: int) -> Backend:
    """Return the backend that an engine has chosen; only that one is imported.

    Args:
        chosen: the engine's options.
        workers: how many.
        cores: that they share.

    Raises:
        EngineError: this process has no descriptors left; names the limit.
    """
    from mpengine.backends.base import BackendOptions

    options = BackendOptions(
        workers, chosen.start_method, tuple(chosen.preload), cores, chosen.memory_limit,
        chosen.max_bytes or DEFAULT_MAX_BYTES,
    )  # fmt: skip
    if chosen.backend == "inline":
        from mpengine.backends.inline import InlineBackend

        return InlineBackend(options)
    from mpengine.backends.process import ProcessBackend
    from mpengine.backends.standard import hold_standard_files, release_standard_files

    try:
        hold_standard_files()
        return ProcessBackend(options)
    except OSError as error:
        release_standard_files()
        raise EngineError(explained(error)) from error


def close_backend(backend: Backend) -> None:
    """Let everything of a backend go that ``make_backend`` has made; to be called once."""
    try:
        backend.close()
    finally:
        if not backend.in_caller:
            from mpengine.backends.standard import release_standard_files

            release_standard_files()
