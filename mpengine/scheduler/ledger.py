"""The books of a run: every item, in every stage, counted a batch at a time.

L1. In every stage, what has entered has been processed, or was left behind by a cancelled run.
L2. In every stage, processed == succeeded + failed + skipped.
L3. What a stage gave on is what the next one got; what the last one gave on was delivered or left behind.  What one
    branch of a mix gave on was put together with what the others gave, or lost since another branch had no result.
    What an earlier run gave is delivered beside that.
L4. Every source item ends as exactly one of delivered, filtered, dropped, failed, cancelled, or was passed over.

``check()`` holds the books against these four at the end of each run.  They come from different sides: what entered is
counted where batches are made, what was processed is reported by workers, what was delivered is counted where the
consumer takes it.  So an item lost or doubled in between shows as an imbalance, and is an ``InternalError``.
"""

from __future__ import annotations

from mpengine.errors import InternalError
from mpengine.policies import ErrorPolicy
from mpengine.records import dataclass
from mpengine.scheduler.events import Ending

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mpengine.scheduler.batches import Batch, Families, Family
    from mpengine.scheduler.commands import ReportFailure
    from mpengine.scheduler.events import Tally


@dataclass(slots=True)
class StageBook:
    """The figures of one stage; see ``StageMetrics`` for what they mean."""

    name: str
    entered: int = 0
    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    given: int = 0
    left: int = 0
    lost: int = 0
    dropped: int = 0
    emitted: int = 0
    retried: int = 0
    timed_out: int = 0
    crashed: int = 0
    busy_s: float = 0.0

    @property
    def processed(self) -> int:
        """Items that have left the stage (L2)."""
        return self.succeeded + self.failed + self.skipped


class Ledger:
    """The books.

    Args:
        names: of the stages, in order.
        fans_out: for each stage, whether one item may become many.
        upstream: for each stage, those whose results it gets: none, one, or the branches of a mix; by default the one
            before it.
    """

    def __init__(
        self, names: Sequence[str], fans_out: Sequence[bool],
        upstream: Sequence[Sequence[int]] | None = None, *, is_traced: bool = False,
    ) -> None:  # fmt: skip
        """Open empty books."""
        self.stages = [StageBook(name) for name in names]
        self._fans_out = tuple(fans_out)
        self._upstream = upstream or [(), *((number,) for number in range(len(self.stages) - 1))]
        self._by_family = any(fans_out) or is_traced
        self.source_items = 0
        self.passed = 0  # source items that an earlier run has settled, of which nothing is delivered
        self.recalled = 0  # source items that an earlier run has settled, whose results are delivered
        self.values_recalled = 0
        self.values = 0  # handed to the consumer; differs from `delivered` only where one item may become many
        self.delivered = 0
        self.filtered = 0
        self.dropped = 0
        self.failed = 0
        self.cancelled = 0
        self.values_left = 0
        self.emitted = 0  # values, delivered or left, that are the ItemError of an item that failed

    @property
    def settled(self) -> int:
        """Source items of which nothing is under way any more."""
        return self.delivered + self.filtered + self.dropped + self.failed + self.cancelled + self.passed

    def enter(self, stage: int, count: int) -> None:
        """``count`` items now wait for ``stage``."""
        self.stages[stage].entered += count

    def tally(self, first_stage: int, tallies: Sequence[Tally], given: int) -> None:
        """Book what a worker reports of a chain: ``given`` results came out at its end."""
        for number, tally in enumerate(tallies, first_stage):
            book = self.stages[number]
            book.succeeded += tally.succeeded
            book.failed += tally.failed
            book.skipped += tally.skipped
            book.retried += tally.retried
            book.busy_s += tally.busy_s
            if number > first_stage:
                book.entered += tallies[number - first_stage - 1].succeeded
            if not self._by_family:
                self.filtered += tally.skipped
        last = first_stage + len(tallies) - 1
        for number in range(first_stage, last):
            self.stages[number].given = self.stages[number].succeeded
        self.stages[last].given += given

    def reject(self, stage: int) -> None:
        """A source item never reached a worker: it failed in ``stage``, outside of any."""
        self.stages[stage].entered += 1
        self.stages[stage].failed += 1

    def lose(self, stage: int, count: int) -> None:
        """``count`` results of a branch of a mix have no match."""
        self.stages[stage].lost += count

    def unpackable(self, stage: int, count: int) -> None:
        """``count`` results of ``stage`` reached the parent and could not be unpacked there: they failed after all."""
        book = self.stages[stage]
        book.given -= count
        if not self._fans_out[stage]:  # elsewhere the item did well, only something that it gave did not
            book.succeeded -= count
            book.failed += count

    def cut_off(self, first_stage: int, stage: int, how: Ending) -> None:
        """The item that waited for the chain that begins with ``first_stage`` failed in ``stage`` with its worker."""
        for number in range(first_stage, stage):
            book = self.stages[number]
            book.succeeded += 1
            book.given += 1
            self.stages[number + 1].entered += 1
        self.stages[stage].failed += 1
        self.note_ending(stage, how)

    def note_ending(self, stage: int, how: Ending) -> None:
        """Count what an item has failed of."""
        if how in (Ending.CRASHED, Ending.OVER_MEMORY):
            self.stages[stage].crashed += 1
        elif how is Ending.TIMED_OUT:
            self.stages[stage].timed_out += 1

    def fail(self, report: ReportFailure, families: Families, policy: ErrorPolicy | None = None) -> None:
        """A source item, or a part of it, failed for good; ``policy`` where it is not the report's that counts."""
        policy = policy or report.policy
        if policy is ErrorPolicy.EMIT:  # what takes the item's place is delivered in its stead
            self.stages[report.stage].emitted += 1
            self.emitted += 1
            return
        is_fatal = policy is ErrorPolicy.RAISE
        if not is_fatal:
            self.stages[report.stage].dropped += 1
        if families:
            family = _family_of(families, report.index)
            (family.failed if is_fatal else family.dropped).add(report.index)
        elif is_fatal:
            self.failed += 1
        else:
            self.dropped += 1

    def deliver(self, batch: Batch, count: int) -> None:
        """The consumer took ``batch``, ``count`` values of which it could unpack."""
        self.values += count
        if not batch.families:
            self.delivered += count
        for family in batch.families:
            family.delivered.update(_members(batch, family))

    def leave(self, stage: int | None, batch: Batch) -> None:
        """A cancelled run leaves ``batch`` behind before ``stage``; None: after the last one."""
        if stage is None:
            self.values_left += batch.count
        else:
            self.stages[stage].left += batch.count
        self.abandon(batch)

    def abandon(self, batch: Batch) -> None:
        """A cancelled run leaves the source items of ``batch`` behind."""
        if not batch.families:
            self.cancelled += batch.count
        for family in batch.families:
            family.cancelled.update(_members(batch, family))

    def close_family(self, family: Family) -> None:
        """Nothing of ``family`` is under way any more; book what became of its source items (L4)."""
        failed = family.failed
        cancelled = family.cancelled - failed
        dropped = family.dropped - failed - cancelled
        delivered = family.delivered - failed - cancelled - dropped
        self.failed += len(failed)
        self.cancelled += len(cancelled)
        self.dropped += len(dropped)
        self.delivered += len(delivered)
        self.filtered += len(family.indices) - len(failed) - len(cancelled) - len(dropped) - len(delivered)

    def check(self) -> None:
        """Hold the books against L1 to L4.

        Raises:
            InternalError: they do not balance; the message tells where and shows the books.
        """
        for book, giving in zip(self.stages, self._upstream, strict=True):
            if book.entered != book.processed + book.left:
                self._fail(f"L1: {book.name}: {book.entered} entered, {book.processed} processed, {book.left} left")
            given = [self.stages[number].given - self.stages[number].lost for number in giving] or [
                self.source_items - self.passed - self.recalled
            ]
            for entered in given:
                if book.entered != entered:
                    self._fail(f"L3: {book.name}: {book.entered} entered, {entered} were given on to it")
        entered = self.stages[-1].given + self.values_recalled
        for book, fans_out in zip(self.stages, self._fans_out, strict=True):
            if not fans_out and book.given != book.succeeded:
                self._fail(f"L3: {book.name}: {book.succeeded} succeeded, {book.given} were given on")
        if entered + self.emitted != self.values + self.values_left:
            results = f"{entered} results, {self.emitted} errors in the place of others"
            self._fail(f"L3: {results}, {self.values} delivered, {self.values_left} left")
        if self.settled != self.source_items:
            self._fail(f"L4: {self.source_items} source items, {self.settled} accounted for")

    def _fail(self, what: str) -> None:
        msg = f"the ledger does not balance: {what}\n{self.story()}"
        raise InternalError(msg)

    def story(self) -> str:
        """Return the books as text."""
        totals = {name: value for name, value in vars(self).items() if isinstance(value, int) and name[0] != "_"}
        return "\n".join([str(totals), *map(str, self.stages)])


def _family_of(families: Families, index: int) -> Family:
    return next(family for family in families if index in family.indices)


def _members(batch: Batch, family: Family) -> Iterable[int]:
    """Return the source indices of ``batch`` that belong to ``family``."""
    indices = batch.indices()
    return indices if len(batch.families) == 1 else [index for index in indices if index in family.indices]
