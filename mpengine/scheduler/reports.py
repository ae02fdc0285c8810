"""Whether a report can be true, as far as that can be told from what was asked for (K9).

A report is a worker's word, and a worker runs foreign code: what follows from it (which item a result came from, how
many there may be, what the books say) is taken over only if it fits the batch.
"""

from __future__ import annotations

from mpengine.scheduler.events import Progress
from mpengine.scheduler.lifecycles import BatchState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mpengine.plan import ChainPlan
    from mpengine.scheduler.batches import Batch
    from mpengine.scheduler.events import BatchReturned, Chunk


def is_possible(report: BatchReturned, batch: Batch, chain: ChainPlan) -> bool:
    """Whether ``report`` can be of ``batch``, which its worker holds, before anything of it was taken over."""
    return (
        batch.state is BatchState.IN_FLIGHT
        and 0 <= report.consumed <= batch.count
        and (report.progress is not Progress.DONE or report.consumed == batch.count)
        and (report.progress is not Progress.GIVEN_BACK or _can_be_given_back(report, batch, chain))
        and report.emitted >= 0
        and _do_tallies_fit(report, batch, chain)
        and _do_failures_fit(report, batch, chain)
        and all(_does_chunk_fit(chunk, report, batch, chain) for chunk in report.chunks)
    )


def _can_be_given_back(report: BatchReturned, batch: Batch, chain: ChainPlan) -> bool:
    """Whether anything of the batch was done, and whatever was begun is through."""
    return 0 < report.consumed < batch.count and not chain.fans_out and report.emitted == 0


def _do_tallies_fit(report: BatchReturned, batch: Batch, chain: ChainPlan) -> bool:
    """Whether each stage got what the one before gave on, and what came out at the end was wanted."""
    entering = report.consumed
    for tally in report.tallies:
        succeeded, failed, skipped = tally.succeeded, tally.failed, tally.skipped
        if succeeded < 0 or failed < 0 or skipped < 0 or succeeded + failed + skipped != entering:
            return False
        entering = tally.succeeded
    given = sum([chunk.count for chunk in report.chunks])
    wanted = given <= batch.budget if chain.fans_out else given == entering
    return wanted and len(report.tallies) == len(chain.stages)


def _do_failures_fit(report: BatchReturned, batch: Batch, chain: ChainPlan) -> bool:
    if sum([tally.failed for tally in report.tallies]) != len(report.failures):
        return False
    places = range(batch.lo, batch.lo + report.consumed)
    stages = range(len(chain.stages))
    return all(failure.position in places and failure.stage in stages for failure in report.failures)


def _does_chunk_fit(chunk: Chunk, report: BatchReturned, batch: Batch, chain: ChainPlan) -> bool:
    """Whether each result came from an item that is through, or that a chain which fans out is in the middle of."""
    end = min(batch.hi, batch.lo + report.consumed + chain.fans_out)
    positions = chunk.positions
    if positions is None:
        return chunk.count >= 0 and batch.lo <= chunk.first and chunk.first + chunk.count <= end
    return 0 < chunk.count == len(positions) and batch.lo <= min(positions) and max(positions) < end
