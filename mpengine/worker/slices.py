"""Cheap items, a slice at a time: one tight loop for each stage, and the item that raises found by counting."""

from __future__ import annotations

from itertools import islice

from mpengine.stages import SKIP, KillSwitch
from mpengine.worker.chain import LEAVING, Fields, Killed, attempt, failure_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from mpengine.worker.chain import Site, Step
    from mpengine.worker.reports import Tally

Places = list[int] | range


def map_slice(  # noqa: PLR0913, PLR0917 - one stage of one slice
    step: Step, stage: int, values: list[Any], positions: Places, tally: Tally, found: list[Fields], site: Site
) -> tuple[list[Any], Places]:  # fmt: skip
    """Run one stage over a slice; return the values that go on, and the places of their items.

    ``list.extend`` keeps what came before an exception, so its length tells which item raised; a ``StopIteration`` out
    of user code ends it early without a word, which the length tells too.
    """
    results: list[Any] = []
    start = 0
    while start < len(values):
        before = len(results)
        error: BaseException | None = None
        try:
            results.extend(step.map(islice(values, start, None)))
        except KillSwitch as switch:
            raise Killed(switch.reason) from None
        except LEAVING:
            raise
        except BaseException as raised:  # noqa: BLE001 - the item's error, unless a retry mends it
            error = raised
        start += len(results) - before
        if start == len(values):
            break
        item = values[start]
        if error is None:
            error = StopIteration("raised by the stage's function")
        value, error, attempts = attempt(step, item, site, stage=stage, attempts=1, error=error)
        tally.retried += attempts - 1
        if error is None:
            results.append(value)
        else:
            tally.failed += 1
            found.append(failure_of(positions[len(results)], stage, error, item, attempts))
            if type(positions) is range:
                positions = [*positions]
            del positions[len(results)]
        start += 1
    results, kept = _without_skipped(results)
    if kept is not None:
        tally.skipped += len(positions) - len(kept)
        positions = [positions[place] for place in kept]
    tally.succeeded += len(results)
    return results, positions


def _without_skipped(results: list[Any]) -> tuple[list[Any], list[int] | None]:
    """Return the results that go on, and their places among all; None: that is all of them.

    Raises:
        Killed: one of them is a ``KillSwitch``.
    """
    kinds = _kinds(results)
    if any(issubclass(kind, KillSwitch) for kind in kinds):
        raise Killed(next(value.reason for value in results if issubclass(type(value), KillSwitch)))
    if not any(kind is type(SKIP) for kind in kinds):
        return results, None
    kept = [place for place, value in enumerate(results) if value is not SKIP]
    return [results[place] for place in kept], kept


def _kinds(values: list[Any]) -> Iterable[type]:
    try:
        return set(map(type, values))
    except Exception:  # noqa: BLE001 - a user's metaclass may have no hash, or one that raises
        return list(map(type, values))
