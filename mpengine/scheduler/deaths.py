"""What follows from a worker's death: what it held is queued again, and the item it was at is found out (K5, K6).

R1. Nothing is blamed but what the dead worker's slot names: its batch mates are queued again as they are.
R2. Where the slot names a batch and no item, the batch is run again with every item named, and the next death tells.
    Should that one name none either, the first is blamed, or this would never end.
R3. The item is run again alone, until it has cost ``crash_retries`` further workers; once at least, and with no other
    process at work, where the kernel killed its worker for want of memory (J3 of ``admission``).
R4. An item that is in a stage with ``idempotent=False`` is not run again.  One whose slot was torn half-way through a
    record may have begun, and counts as begun.
R5. A worker that was killed since its item's time was up is no crash: the stage's retries count, and the item need not
    run alone.
R6. An item whose worker was killed since it had grown too large is run again alone.  It is given up when it does that
    to a worker that has done nothing else, or to ``MOST_EXCESSES`` workers, whatever ``crash_retries`` is.
R7. A stage cannot be set up when one slot has lost ``SETUP_TRIES`` processes over it in a row, or more if
    ``crash_retries`` is more, and no worker has set it up meanwhile.  Deaths of several slots prove nothing: whatever
    kills from outside finds them all at the same thing.
R8. Workers cannot be started when one slot has lost ``START_TRIES`` processes in a row before they said hello, and none
    of any slot has said it meanwhile; each is started a little later than the one before.
R9. Where no death is endured, the first one ends the run at once, whatever the worker was at; but for workers that were
    asked to leave, or ended for R10's sake.
R10. A worker is ended when nobody wants any more what it is at.  Such an item fails, and is not run again; what else
    the worker held is queued again as it is.
"""

from __future__ import annotations

from collections import Counter

from mpengine.errors import ItemTimeoutError, MemoryLimitError, WorkerDiedError
from mpengine.records import replace
from mpengine.scheduler import commands, events
from mpengine.scheduler.events import Ending
from mpengine.scheduler.lifecycles import BatchState, WorkerMove

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mpengine.plan import ChainPlan, Plan
    from mpengine.scheduler.admission import Admission
    from mpengine.scheduler.batches import Batch
    from mpengine.scheduler.commands import Command
    from mpengine.scheduler.crew import Crew, Worker
    from mpengine.scheduler.scheduler import Settings
    from mpengine.scheduler.stock import Stock
    from mpengine.scheduler.verdicts import Verdicts

START_TRIES = 3
START_BACKOFF_S = 0.1
SETUP_TRIES = 3
MOST_EXCESSES = 3


class Deaths:
    """Finds out what is to be done about dead workers.

    Args:
        plan: the chains.
        stock: the batches.
        verdicts: gets the items that are given up.
        out: gets the commands.
        settings: how many further deaths an item may cause after its first, and whether there may be any death.
        admission: told of items whose workers were killed for want of memory, and that are run again.
    """

    def __init__(
        self, plan: Plan, stock: Stock, verdicts: Verdicts, out: list[Command], settings: Settings,
        admission: Admission,
    ) -> None:  # fmt: skip
        """Begin without a death."""
        self._admission = admission
        self._plan = plan
        self._stock = stock
        self._verdicts = verdicts
        self._out = out
        self._crash_retries = settings.crash_retries
        self._endures = settings.endures_deaths
        self._failed_starts: Counter[int] = Counter()  # in a row, by slot (R8)
        self._setup_deaths: dict[int, Counter[int]] = {}  # of each chain, by slot

    def note_greeting(self) -> None:
        """A worker has come up: those that did not are forgotten."""
        self._failed_starts.clear()

    def note_setup(self, chain: int) -> None:
        """A chain's stages were set up: the deaths before that are forgotten."""
        self._setup_deaths.pop(chain, None)

    def take_in(
        self, worker: Worker, held: list[Batch], event: events.WorkerDied, *, was_ready: bool, was_leaving: bool
    ) -> None:
        """Queue what a dead worker held, blame what is to blame, and have the worker replaced.

        Args:
            worker: the slot.
            held: the batches it had, the one sent first in front.
            event: tells of the death.
            was_ready: whether it had said hello.
            was_leaving: whether it had been asked to leave.
        """
        was_called_off, worker.is_called_off = worker.is_called_off, False
        if not (self._endures or was_leaving or was_called_off):
            story = f"a worker died: {_tell(event)}"
            self._verdicts.end(story, _death(story, event), at_once=True)  # R9
            return
        begun = [batch for batch in held if self._has_begun(batch, event) and not batch.is_called_off]
        for batch in reversed(held):  # each goes to the front, so the one sent first ends up first
            self._stock.requeue(batch)
        for batch in held:
            if batch.is_called_off:
                self._give_up(batch, 0, event, CALLED_OFF)
            elif batch.batch_id == event.batch_id and batch not in begun and not was_called_off:
                self._blame(batch, event)
        for batch in begun:
            self._give_up_begun(batch, event)
        if not was_ready:
            self._failed_starts[worker.worker_id] += 1
            if self._failed_starts[worker.worker_id] >= START_TRIES:
                self._verdicts.end(f"workers die while they start: {event.how}", None)
        if self._verdicts.ending is None:
            worker.move(WorkerMove.START)
            tries = self._failed_starts[worker.worker_id]
            after_s = START_BACKOFF_S * 2 ** (tries - 1) if tries else 0.0
            self._out.append(commands.StartWorker(worker.worker_id, after_s))

    def call_off(self, event: events.ItemsCalledOff, crew: Crew) -> None:
        """End the workers that are at items nobody wants any more, and give up those that wait (R10)."""
        unwanted = [
            batch
            for batch in self._stock.batches.values()
            if batch.chain < len(self._plan.chains) and event.items.issuperset(batch.origin[batch.lo : batch.hi])
        ]
        for batch in unwanted:
            batch.is_called_off = True
            if batch.state is BatchState.QUEUED:
                self._give_up(batch, 0, events.WorkerDied(event.at, 0, CALLED_OFF), CALLED_OFF)
        for worker in crew:
            held = next(iter(worker.held.values()), None)  # what it is at; what it has in reserve is not ended for
            if held is not None and held.is_called_off and not worker.is_distrusted:
                worker.is_called_off = True
                worker.distrust()
                self._out.append(commands.KillWorker(worker.worker_id, CALLED_OFF, is_wanted=True))

    def _has_begun(self, batch: Batch, event: events.WorkerDied) -> bool:
        """Whether the first item of ``batch``, which the slot does not name, must not be run again (R4)."""
        if self._plan.chains[batch.chain].once_from is None or _names_item(event, batch):
            return False
        # Of one that was to be resumed the slot may name nothing yet; what it has given tells that it has begun.
        return batch.state is BatchState.SUSPENDED or batch.skip > 0 or event.is_torn

    def _give_up_begun(self, batch: Batch, event: events.WorkerDied) -> None:
        chain = self._plan.chains[batch.chain]
        batch = self._single_out(batch, batch.lo)
        # What is told of the item that the worker was at, and what it was killed for, is not told of this one.
        event = replace(event, attempt=1, item="", where="", trace="", timed_out=False, excess=None, output="")
        self._give_up(batch, len(chain.stages) - 1, event, f"the worker died ({event.how}), and {_ONCE}")

    def _blame(self, batch: Batch, event: events.WorkerDied) -> None:
        """A worker died at ``batch``: find the item, and run it again or give it up."""
        chain = self._plan.chains[batch.chain]
        if event.in_setup:
            self._blame_setup(chain, event)  # R7
            return
        position = event.position
        if position is None or not _names_item(event, batch):
            if not batch.careful:
                batch.careful = True  # R2
                return
            position = batch.lo
        batch = self._single_out(batch, position)
        place = min(event.stage, len(chain.stages) - 1)  # a slot may tell anything (K9)
        is_over = chain.once_from is not None and place >= chain.once_from  # R4
        if event.timed_out:
            self._blame_timeout(batch, place, event, is_over=is_over)
            return
        was_alone = batch.is_alone
        batch.deaths += 1
        if event.excess is not None:
            is_proven = (was_alone and event.excess.is_fresh) or batch.deaths >= MOST_EXCESSES  # R6
            if is_over or is_proven:
                self._give_up(batch, place, event, _tell_excess(event.excess))
        elif is_over:
            self._give_up(batch, place, event, f"the worker died ({event.how}), and {_ONCE}")
        elif batch.deaths > max(self._crash_retries, event.is_oom):  # R3
            self._give_up(batch, place, event, f"the worker died ({_tell(event)}), {batch.deaths} times with this item")
        elif event.is_oom:
            self._admission.suspect(event.at, batch)

    def _blame_timeout(self, batch: Batch, place: int, event: events.WorkerDied, *, is_over: bool) -> None:
        """The time of an item was up: another attempt, if its stage has any left (R5)."""
        chain = self._plan.chains[batch.chain]
        stage = chain.stages[place]
        before = batch.attempted[1] if batch.attempted[0] == place else 0
        batch.attempted = (place, event.attempt)
        retries = event.attempt - before - 1  # in the dead worker, which cannot report them any more
        is_retried = not is_over and stage.retry.is_worth_it(ItemTimeoutError(), event.attempt)
        self._stock.ledger.stages[chain.first_stage + place].retried += retries + is_retried
        if is_retried:
            return
        self._give_up(batch, place, event, f"took longer than {stage.timeout} s")

    def _single_out(self, batch: Batch, position: int) -> Batch:
        """Make the item at ``position`` a batch of its own, run with care from now on."""
        if position + 1 < batch.hi:
            self._stock.split(batch, position + 1)
        if batch.lo < position:
            batch = self._stock.split(batch, position)  # the later part first, so that the earliest ends up in front
        batch.careful = True
        return batch

    def _give_up(self, batch: Batch, place: int, event: events.WorkerDied, story: str) -> None:
        """The only item of ``batch`` has failed for good."""
        chain = self._plan.chains[batch.chain]
        stage = chain.first_stage + place
        how, kind = Ending.CRASHED, WorkerDiedError.__name__
        if event.timed_out:
            how, kind = Ending.TIMED_OUT, ItemTimeoutError.__name__
        elif event.excess is not None:
            how, kind = Ending.OVER_MEMORY, MemoryLimitError.__name__
        attempts = event.attempt if event.timed_out else max(1, batch.deaths)
        failure = events.Failure(
            batch.lo, place, f"{kind}: {story}{event.where}", None, event.item, event.trace, attempts, how,
            exit=event.how, peak_rss=event.peak_rss, output=event.output,
        )  # fmt: skip
        self._stock.ledger.cut_off(chain.first_stage, stage, how)
        error = self._verdicts.judge_in(batch, stage, failure, event.worker_id)
        if error is not None:
            self._stock.order.insert([error], ahead_of=batch)
        self._stock.settle(batch)

    def _blame_setup(self, chain: ChainPlan, event: events.WorkerDied) -> None:
        """A worker died while it built a chain's stages: no item is to blame, and none will fare better."""
        slots = self._setup_deaths.setdefault(chain.index, Counter())
        slots[event.worker_id] += 1
        deaths = slots[event.worker_id]
        if deaths > max(SETUP_TRIES - 1, self._crash_retries):
            names = ", ".join(repr(stage.name) for stage in chain.stages)
            how = f"the worker died ({event.how})" if event.excess is None else _tell_excess(event.excess)
            story = f"stage {names} could not be set up: {how}, {deaths} times in a row"
            self._verdicts.end(story, WorkerDiedError(story))


def _names_item(event: events.WorkerDied, batch: Batch) -> bool:
    """Whether the dead worker's slot names an item of ``batch``."""
    return batch.batch_id == event.batch_id and event.position is not None and batch.lo <= event.position < batch.hi


def _tell(event: events.WorkerDied) -> str:
    return f"{event.how} by the kernel, out of memory" if event.is_oom else event.how


def _death(story: str, event: events.WorkerDied) -> WorkerDiedError:
    error = WorkerDiedError(story)
    error.how, error.peak_rss = event.how, event.peak_rss
    return error


def _tell_excess(excess: events.Excess) -> str:
    return f"its worker had {excess.rss:,} bytes of memory, over memory_limit, {excess.limit:,}"


CALLED_OFF = "nobody wants its result any more"
_ONCE = "its stage is not to be run twice"
