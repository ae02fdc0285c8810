"""Stages with ``batch=n``: one call for a list of items, as many results back.

A call that fails would take every item of its list along.  So it is followed by a call for each item alone, and only
those that fail then have failed; but not where the stage must not be run twice for an item.
"""

from __future__ import annotations

from mpengine.worker.chain import Stopped, attempt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mpengine.worker.chain import Site, Step

Outcome = tuple["Any", BaseException | None, int]
"""What an item came to, or its error; and how many attempts it took."""


def call_group(step: Step, items: Sequence[Any], site: Site, attempts: int) -> tuple[list[Outcome], int]:
    """Call a stage with a list of items.

    Args:
        step: the stage.
        items: what to call it with.
        site: where.
        attempts: how many ended with workers that died.

    Returns:
        What became of each item; and how many further attempts that took, a call for one item alone being none.

    Raises:
        Killed: the function gave or raised a ``KillSwitch``.
        Stopped: the run was cancelled meanwhile.
    """
    outcomes, retried = _call(step, items, site, attempts)
    if outcomes[0][1] is None or len(items) == 1 or not step.idempotent:
        return outcomes, retried
    outcomes = []
    for item in items:
        if site.is_cancelled():
            raise Stopped
        alone, further = _call(step, [item], site, 0)
        outcomes += alone
        retried += further
    return outcomes, retried


def _call(step: Step, items: Sequence[Any], site: Site, before: int) -> tuple[list[Outcome], int]:
    given, error, attempts = attempt(step, items, site, attempts=before)
    values = [None] * len(items) if error is not None else given
    return [(value, error, attempts) for value in values], attempts - before - 1
