"""What the source gives, taken in."""

from __future__ import annotations

from mpengine.records import replace
from mpengine.scheduler.events import Chunk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mpengine.plan import Plan
    from mpengine.scheduler.batches import Batch
    from mpengine.scheduler.events import SourcePacked, SourcePassed, SourceRecalled
    from mpengine.scheduler.intake import Intake
    from mpengine.scheduler.stock import Stock
    from mpengine.scheduler.verdicts import Verdicts


class Arrivals:
    """Takes in what the source gives.

    Args:
        plan: the chains.
        stock: the batches.
        intake: has asked for it.
        verdicts: applies the error policies to what could not be packed.
    """

    def __init__(self, plan: Plan, stock: Stock, intake: Intake, verdicts: Verdicts) -> None:
        """Keep what it needs."""
        self._plan = plan
        self._stock = stock
        self._intake = intake
        self._verdicts = verdicts

    def packed(self, event: SourcePacked, *, leaves: bool) -> None:
        """Take in items; ``leaves`` behind what was pulled while the run was being cancelled (S3)."""
        self._intake.came(event.pulled)
        stock, plan = self._stock, self._plan
        indices, families = stock.admit(event.pulled)
        if leaves:
            stock.add_source(Chunk(event.payload, event.pulled), indices, families)
            stock.leave_all()
            stock.release(families)
            return
        failures = sorted(event.failures, key=lambda failure: failure.position)
        errors: list[tuple[int, Batch | None]] = []
        for failure in failures:
            for chain in plan.entrance:
                stock.ledger.reject(plan.chains[chain].first_stage)
            error = self._verdicts.judge(0, failure, indices[failure.position], None, families)
            if error is not None:
                errors.append((failure.position, error))
        chunk = Chunk(event.payload, event.pulled - len(failures), size_bytes=event.size_bytes)
        if failures:
            lacking = {failure.position for failure in failures}
            chunk = replace(chunk, positions=[place for place in range(event.pulled) if place not in lacking])
        stock.add_source(chunk, indices, families, errors)
        stock.release(families)

    def recalled(self, event: SourceRecalled, *, leaves: bool) -> None:
        """Take in results of items that an earlier run has settled."""
        self._intake.came(1)  # to the source they are one
        stock = self._stock
        indices, families = stock.admit(event.pulled)
        for family in families:
            family.is_known = True
        stock.ledger.recalled += event.pulled
        stock.ledger.values_recalled += len(event.positions)
        chunk = Chunk(event.payload, len(event.positions), positions=event.positions, size_bytes=event.size_bytes)
        stock.add_source(chunk, indices, families)
        if leaves:
            stock.leave_all()
        stock.release(families)

    def passed(self, event: SourcePassed) -> None:
        """Count items that an earlier run has settled, and that nothing is to be done for."""
        self._stock.ledger.source_items += event.count
        self._stock.ledger.passed += event.count
