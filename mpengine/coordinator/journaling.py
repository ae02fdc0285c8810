"""A run and its journal: what the journal is told, and by whom.

    the source's thread     an item is under way, and this is its key
    the loop                an item has failed; nothing of these items is under way any more
    the consumer            these results it has had, and its output stands there

N1. An item that was under way when its run ended, and of which ``n`` results are in the output already, is run again
    and its first ``n`` results are not delivered.  A run with a journal in which one item may become many therefore
    delivers in input order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpengine.coordinator.journaled_source import JournaledSource
from mpengine.coordinator.opening import length_of
from mpengine.errors import JournalError
from mpengine.journal.book import Book, Opening
from mpengine.journal.keys import stable_key
from mpengine.journal.memory import Memory
from mpengine.journal.records import Ended, FailureRecord, Settled, Taken
from mpengine.journal.writer import Writer
from mpengine.pickling import dump
from mpengine.processes.spawning import close_in_forked_children, forget
from mpengine.reading import name_of
from mpengine.records import replace

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from mpengine.coordinator.outlet import Delivery
    from mpengine.journal.description import Journal
    from mpengine.plan import Plan
    from mpengine.scheduler.commands import ReportFailure, SettleItems
    from mpengine.scheduler.events import Failure


class RunNotes:
    """What one run tells its journal.

    Args:
        journal: see ``Journal``.
        plan: what is run.
        total: how many items the source has; None where that is not known.
        cancel: ends the run.

    Attributes:
        seen: how many items the source has given.
        known: how many of them an earlier run has settled.
        has_ended: whether it has come to its end.
    """

    def __init__(
        self, journal: Journal, plan: Plan, total: int | None, cancel: Callable[[str, BaseException], None]
    ) -> None:  # fmt: skip
        """Open nothing yet."""
        self._journal = journal
        self._plan = plan
        self._names = [stage.name for stage in plan.stages]
        self._total = total
        self._cancel = cancel
        self._book: Book | None = None
        self._withheld: dict[int, int] = {}  # N1: results that are in the output already, by source index
        self._unsure: frozenset[int] = frozenset()
        self._in_hand: tuple[Sequence[int], list[bytes] | None] = ((), None)
        self.seen = 0
        self.known = 0
        self.has_ended = False
        self.writer: Writer

    @property
    def threads(self) -> Sequence[threading.Thread]:
        """The threads that code of ours runs on."""
        return () if self._book is None else (self.writer.thread,)

    def open(self) -> None:
        """Open the journal, and begin to write.

        Raises:
            JournalError: see ``Book``.
        """
        journal = self._journal
        opening = Opening(fingerprint_of(self._plan), self._total, close_in_forked_children, forget)
        book = Book(journal, opening)
        self.writer = Writer(
            book,
            journal.output,
            lambda problem: self._cancel(str(problem), problem),
            done_at_once=not self._plan.fans_out,
        )
        try:
            self.writer.thread.start()
        except BaseException:
            book.close()
            raise
        self._book = book

    # ------------------------------------------------------------------ the source's thread

    def remember(self) -> Memory:
        """Return what is settled."""
        assert self._book is not None  # noqa: S101 - it is open before anything is pulled
        return Memory(
            self._book.path,
            is_resumed=self._book.is_resumed,
            delivers=self._book.delivers,
            retries=self._journal.retry_failed,
            fans_out=self._plan.fans_out,
        )

    def key_of(self, item: Any) -> bytes:
        """Return the key of ``item``."""
        return stable_key(name_of(item, self._journal.key))

    def begin(self, index: int, item: Any) -> None:
        """Note that an item is under way."""
        if item.given:
            self._withheld[index] = item.given
        self.writer.open[index] = item

    def let_go(self) -> None:
        """Have nobody wait for the journal."""
        if self._book is not None:
            self.writer.let_go()

    # ------------------------------------------------------------------ the loop's thread

    def note_failure(self, report: ReportFailure) -> None:
        """Note what has failed of an item."""
        failure = report.failure
        self.writer.note_failure(
            FailureRecord(
                report.index, self._names[report.stage], failure.summary, failure.item, failure.traceback,
                failure.attempts, report.worker_id,
            )
        )  # fmt: skip

    def note_settled(self, command: SettleItems) -> None:
        """Note what has become of items."""
        self.writer.put(Settled(command.indices, command.left, command.failed))

    # ------------------------------------------------------------------ the consumer's thread

    @property
    def keeps_values(self) -> bool:
        """Whether values are kept, so that all have to be unpacked."""
        return self._book is not None and self._book.keeps_values

    def admit(
        self, delivery: Delivery, values: list[Any], failures: Sequence[Failure]
    ) -> list[Any]:  # fmt: skip
        """Note results that are handed to the consumer; return them, less those that it has had already (N1).

        Args:
            delivery: they came in.
            values: what the consumer gets of it; empty where nobody wants them.
            failures: results that could not be unpacked; where there are as many values as results, each has a value
                in its place.

        Raises:
            JournalError: a value that is to be kept cannot be pickled.
        """
        places: Sequence[int] = range(delivery.lo, delivery.hi)
        failed = {failure.position for failure in failures}
        if failed and len(values) != len(places):
            places = [place for place in places if place not in failed]
        self._unsure = frozenset(delivery.origin[place] for place in failed)
        origin = [delivery.origin[place] for place in places]
        if self._withheld:
            wanted = [self._is_new(index) for index in origin]
            values = [value for value, is_wanted in zip(values, wanted, strict=False) if is_wanted]
            origin = [index for index, is_wanted in zip(origin, wanted, strict=True) if is_wanted]
        self._in_hand = (origin, [self._kept(value) for value in values] if self.keeps_values else None)
        return values

    def _kept(self, value: Any) -> bytes:
        try:
            return dump(value)
        except Exception as error:
            text = f"the journal {self._journal.file} cannot keep a value of type {type(value).__name__}: {error}"
            raise JournalError(text) from error

    def _is_new(self, index: int) -> bool:
        left = self._withheld.get(index, 0)
        if left > 1:
            self._withheld[index] = left - 1
        elif left:
            del self._withheld[index]
        return not left

    def note_taken(self, *, is_last: bool = False) -> None:
        """Note that the consumer is through with what it was handed last, and whether nothing more will come.

        Raises:
            Exception: the output cannot be written.
        """
        origin, kept = self._in_hand
        self._in_hand = ((), None)
        output = self._journal.output
        if (origin or is_last) and self._book is not None:
            position = None if output is None else output.position(is_last=is_last)
            self.writer.put(Taken(origin, self._unsure, position, kept))

    def finish(self, ending: str, settled: Sequence[SettleItems] = ()) -> JournalError | None:
        """Write what is left, and close the journal.

        Args:
            ending: how the run has ended.
            settled: what became of the last items.

        Returns:
            What went wrong with the journal, if anything did.
        """
        if self._book is None:
            return None
        self._book = None
        for command in settled:
            self.note_settled(command)
        return self.writer.finish(Ended(ending, self.seen, self.known, self.has_ended))


def journaled(
    plan: Plan, source: object, journal: Journal, cancel: Callable[[str, BaseException], None]
) -> tuple[Plan, RunNotes, JournaledSource]:
    """Return a plan, what a run tells its journal, and its source, for a run with a journal.

    Args:
        plan: without one.
        source: of the run.
        journal: see ``Journal``.
        cancel: ends the run.
    """
    plan = replace(plan, tells_settled=True)
    total = length_of(source)
    notes = RunNotes(journal, plan, total, cancel)
    return plan, notes, JournaledSource(source, notes, at_once=total is not None)


def fingerprint_of(plan: Plan) -> str:
    """Return the stages in words: names, functions and kinds, but not what the functions do."""
    told = []
    for stage in plan.stages:
        function: Any = stage.fn
        while hasattr(function, "func"):  # a functools.partial
            function = function.func
        named = function if hasattr(function, "__qualname__") else type(function)
        kind = "generator" if stage.is_generator else stage.kind
        told.append(f"{stage.name} ({getattr(named, '__module__', '')}.{named.__qualname__}, {kind})")
    return " > ".join(told)
