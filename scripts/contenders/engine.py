"""mpengine, at its defaults.

An engine warms up before it is measured, as every pool does.  What is asked for beyond the defaults belongs to the
case: a stage of its own where stages are not to be fused, and batches of one where that is what is compared.
"""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from contenders.jobs import Job


@contextmanager
def mpengine(
    job: Job, *, fuse: bool = True, stream: bool = False, one_by_one: str = ""
) -> Iterator[Callable[[Job], Iterable[Any]]]:
    """Use ``run``, or ``iter`` where results are looked at and let go.

    Args:
        job: what the engine is made for.
        fuse: whether stages may be fused, as they are unless they ask for something of their own.
        stream: whether results are taken as they come.
        one_by_one: one item at a time: by ``"batch"``, where the function gets lists of one, by ``"buffer"``, which
            leaves room for one item only, or by a ``"patch"`` of the scheduler, which sends each by itself.
    """
    from mpengine import Engine, stage

    if one_by_one == "patch":
        import mpengine.scheduler.scheduler

        mpengine.scheduler.scheduler.MAX_BATCH = 1
    own = {"workers": job.workers} if not fuse else {"buffer": 1} if one_by_one == "buffer" else {}
    if one_by_one == "batch":
        stages = [stage(functools.partial(called_with_each, function), batch=1) for function in job.stages]
    else:
        stages = [stage(function, **own) for function in job.stages]
    with Engine(job.workers) as engine:
        if stream or job.keep is not None:
            yield lambda job: engine.iter(stages, job.source())
        else:
            yield lambda job: engine.run(stages, job.source()).unwrap().values


def called_with_each(function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    """Do a stage's work with a list."""
    return [function(item) for item in items]
