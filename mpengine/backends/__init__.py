"""Where batches run: in worker processes, actors of a cluster, threads beside the coordinator, or the caller's own.

=============  ============================================================
``base``       the contract with the coordinator's loop
``inline``     all in the caller's thread, for debugging
``process``    worker processes: commands as messages, messages as events
``headstart``  the fork server on its way up, before all else is there
``fleet``      the processes of one engine: started, linked, heard, stopped
``links``      the coordinator's end of one worker
``hearing``    what a worker has told, checked
``watches``    all that is watched of workers beside what they say, which is:
``deadlines``  calls whose time is up
``memory``     workers that have grown too large
``pressure``   memory that runs short, before the kernel has to kill
``stillness``  processes that somebody has stopped
``ray``        actors of a Ray cluster
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

import weakref

from mpengine.errors import EngineError
from mpengine.settings import DEFAULT_MAX_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mpengine.backends.base import Backend, BackendOptions
    from mpengine.backends.headstart import HeadStart
    from mpengine.plan import Plan
    from mpengine.settings import EngineOptions


def make_backend(
    chosen: EngineOptions, workers: int, cores: int, plan: Plan | None = None
) -> tuple[Backend, HeadStart | None]:
    """Return the backend that an engine has chosen; only that one is imported.

    Args:
        chosen: the engine's options.
        workers: how many.
        cores: that they share.
        plan: what is about to run; None: nothing yet.

    Returns:
        The backend; and the head start of the run, where there is such a thing, to be kept until the run has begun.

    Raises:
        PipelineError: the stages will not travel.
        EngineError: this process has no descriptors left; names the limit.
    """
    if chosen.backend == "inline":
        from mpengine.backends.inline import InlineBackend

        return InlineBackend(_options(chosen, workers, cores)), None
    from mpengine.backends.standard import hold_standard_files, release_standard_files

    hold_standard_files()
    try:
        head = None
        if chosen.backend == "ray":
            from mpengine.backends.ray.backend import RayBackend

            return RayBackend(_options(chosen, chosen.workers or 0, cores), chosen.ray_options or {}), None
        if plan is not None and chosen.start_method != "fork":
            from mpengine.backends.headstart import HeadStart

            head = HeadStart(plan, chosen, workers, cores)
        from mpengine.backends.process import ProcessBackend  # a slow import, while the fork server comes up

        ahead = (lambda: None) if head is None else weakref.ref(head)
        return ProcessBackend(_options(chosen, workers, cores), ahead), head
    except BaseException as error:
        release_standard_files()
        if isinstance(error, OSError):
            from mpengine.backends.limits import explained

            raise EngineError(explained(error)) from error
        raise


def _options(chosen: EngineOptions, workers: int, cores: int) -> BackendOptions:
    from mpengine.backends.base import BackendOptions

    return BackendOptions(
        workers, chosen.start_method, tuple(chosen.preload), cores, chosen.memory_limit,
        chosen.max_bytes or DEFAULT_MAX_BYTES, chosen.keep_output, chosen.environ,
    )  # fmt: skip


def close_backend(backend: Backend) -> None:
    """Let everything of a backend go that ``make_backend`` has made; to be called once."""
    try:
        backend.close()
    finally:
        if not backend.in_caller:
            from mpengine.backends.standard import release_standard_files

            release_standard_files()
