"""What was delivered, unpacked: by the consumer, since unpickling runs the user's code."""

from __future__ import annotations

from mpengine.ipc.codec import Broken, Salvaged
from mpengine.policies import ErrorPolicy
from mpengine.scheduler import events
from mpengine.scheduler.commands import ReportFailure
from mpengine.worker.chain import UNREADABLE, format_traceback, summarize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mpengine.coordinator.failures import Failures
    from mpengine.coordinator.outlet import Delivery
    from mpengine.ipc.codec import Codec
    from mpengine.plan import Plan
    from mpengine.results import ItemError


def unpacked(
    delivery: Delivery, codec: Codec, plan: Plan, reported: Failures
) -> tuple[list[Any], tuple[events.Failure, ...]]:
    """Return the results of a delivery, and what could not be unpacked of them.

    Args:
        delivery: packed results.
        codec: unpacks.
        plan: says what takes the place of a result that cannot be unpacked.
        reported: makes the ``ItemError`` of an item that failed.
    """
    if isinstance(delivery.payload, ReportFailure):
        return [reported.item_error(delivery.payload)], ()
    try:
        values = codec.unpack(delivery.payload)
    except Exception as error:  # noqa: BLE001 - nothing of the payload can be made out: every result fails with that
        values = Salvaged(Broken(error) for _ in range(delivery.hi))
    is_salvaged = isinstance(values, Salvaged)
    if delivery.lo or delivery.hi != len(values):
        values = values[delivery.lo : delivery.hi]
    if not is_salvaged:
        return values, ()
    failures = tuple(
        events.Failure(place, 0, summarize(value.error), value.error, repr(UNREADABLE), format_traceback(value.error))
        for place, value in enumerate(values, delivery.lo)
        if type(value) is Broken  # isinstance() would ask its mates
    )
    if plan.policies[-1] is ErrorPolicy.EMIT:
        errors = iter([_stand_in(failure, delivery, plan, reported) for failure in failures])
        return [next(errors) if type(value) is Broken else value for value in values], failures
    return [value for value in values if type(value) is not Broken], failures


def _stand_in(failure: events.Failure, delivery: Delivery, plan: Plan, reported: Failures) -> ItemError:
    """Return what takes the place of a result that could not be unpacked."""
    index, last = delivery.origin[failure.position], len(plan.stages) - 1
    return reported.item_error(ReportFailure(last, index, None, ErrorPolicy.EMIT, failure))
