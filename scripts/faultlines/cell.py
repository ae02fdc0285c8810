"""The program of one cell: python -m faultlines.cell PEER FAULT FOLDER.

Notes every outcome in the folder at once, a JSON value a line, so that what has come is known however this ends.
PEER is the name of an adapter in ``faultlines.peers``, or ``module:name``.
"""

from __future__ import annotations

import functools
import gc
import importlib
import json
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from faultlines import items
from faultlines.peers import Failure, Job


def main(peer: str, fault: str, folder: str) -> None:
    """Run the job with the peer."""
    # As in a terminal, whatever started this; and a crash of a worker is no reason to fill the disk.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    stops = fault == items.CONSUMER_STOPS
    job = Job(
        functools.partial(items.work, fault, folder),
        functools.partial(items.source, fault),
        items.MANY if stops else items.ITEMS,
        items.TIMEOUT_S if fault in items.TIMED else None,
        to_the_end=not stops,
    )
    module, _, name = peer.rpartition(":")
    adapter = getattr(importlib.import_module(module or "faultlines.peers"), name)
    with Path(folder, "events").open("a", buffering=1) as events:

        def note(**event: Any) -> None:
            events.write(json.dumps(event) + "\n")

        try:
            with adapter(job) as outcomes:
                note(began=True)
                for count, outcome in enumerate(outcomes, 1):
                    note(**_told(outcome))
                    if stops and count == items.TAKEN:
                        break
                del outcomes
                gc.collect()
        except ModuleNotFoundError as error:
            note(missing=str(error))
        except Exception as error:
            note(**_told(Failure(None, error)))
            raise
        note(ended=True)


def _told(outcome: Any) -> dict[str, Any]:
    """Return an outcome as the JSON it is noted as."""
    if isinstance(outcome, Failure):
        return {"error": type(outcome.error).__name__, "text": _story(outcome.error), "index": outcome.index}
    return {"value": outcome if isinstance(outcome, int) else repr(outcome)}


def _story(error: BaseException | str | None) -> str:
    """Return all that an error says, with its notes and causes."""
    told = []
    while error is not None and len(told) < 5:  # noqa: PLR2004 - no chain worth reading is longer
        told.append("\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]))
        error = getattr(error, "__cause__", None)
    return "\n".join(told)[:4000]


if __name__ == "__main__":
    main(*sys.argv[1:])
