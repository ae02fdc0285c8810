"""The program that one contender runs in, for one turn: python -m contenders.seat ORDER, as JSON.

It tells what happens on the pipe whose number the order names, a JSON value a line: when all is ready, then what was
measured, and then that it has ended.  What it measures is in ``WAYS``.
"""

from __future__ import annotations

import functools
import gc
import importlib
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from measuring import Moment

from contenders import jobs

if TYPE_CHECKING:
    from collections.abc import Callable


def main(order: dict[str, Any]) -> None:
    """Do what was ordered."""
    pipe = int(order["pipe"])
    os.set_inheritable(pipe, False)  # noqa: FBT003 - its only parameter

    def tell(**event: Any) -> None:
        os.write(pipe, json.dumps(event).encode() + b"\n")

    module, _, name = order["way"].rpartition(":")
    try:
        getattr(importlib.import_module(module or __name__), name)(order, tell)
    except ModuleNotFoundError as error:
        tell(fault=f"not installed: {error.name}")
    except Exception as error:
        tell(fault=f"{type(error).__name__}: {str(error)[:200]}")
        raise
    tell(ended=True)


def contender_of(order: dict[str, Any]) -> Any:
    """Return the context manager that was ordered; bare processes are told the name of the job."""
    module, _, name = order["contender"].rpartition(":")
    found = getattr(importlib.import_module(module), name)
    options = {**order["options"], **({"name": order["job"]} if name == "bare" else {})}
    return functools.partial(found, **options)


def throughput(order: dict[str, Any], tell: Callable[..., None]) -> None:
    """Measure a run from its first item to its last result, in a contender that has warmed up."""
    make = functools.partial(jobs.make, order["job"], workers=order["workers"])
    job, warm_up = make(order["count"]), make(min(order["warm_up"], order["count"]))
    with contender_of(order)(job) as run:
        fault = warm_up.fault(kept_of(warm_up, run))
        if fault:
            tell(fault=f"warming up: {fault}")
            return
        gc.collect()
        tell(ready=True)
        load, before = os.getloadavg()[0], Moment()
        began = time.perf_counter()
        kept = kept_of(job, run)
        seconds = time.perf_counter() - began
        after = Moment()
        tell(
            fault=job.fault(kept),
            seconds=seconds,
            cpu_s=after.own_s - before.own_s,
            foreign=after.foreign_since(before),
            load=load,
        )
        del kept


def kept_of(job: jobs.Job, run: Callable[[jobs.Job], Any]) -> list[Any]:
    """Run a job, and return what the consumer keeps; the iterator lives until then."""
    from contenders.stdlib import Kept

    results = run(job)
    return results if isinstance(results, Kept) else job.kept(results)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
