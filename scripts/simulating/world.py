"""A run of the real scheduler in simulated time.

The parent is one server: it takes in one event after the other, each for its share of ``parent_s``, so it saturates as
the real one does.  A worker does its batches one after the other and reports as a real one does: at the end of a batch,
and when an item ends ``REPORT_S`` after the last report, later on ``LONG_REPORT_S``; what it has not begun after
``KEEP_S`` it gives back.
Nothing depends on the machine but the CPU time that ``Scheduler.handle`` took, which is measured and changes nothing.
"""

from __future__ import annotations

import heapq
import random
import time
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any

from mpengine.plan import make_plan
from mpengine.policies import ErrorPolicy
from mpengine.scheduler import commands, events
from mpengine.scheduler.events import Progress
from mpengine.scheduler.lifecycles import RunState
from mpengine.scheduler.payloads import Spliced
from mpengine.scheduler.scheduler import Scheduler, Settings
from mpengine.stages import Stage
from mpengine.worker.jobs import KEEP_S, LONG_REPORT_S, REPORT_S
from simulating.outcomes import Delay, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulating.costs import Costs

PARENT_S = 30e-6
SHARES = {events.SourcePacked: 1 / 6, events.BatchReturned: 2 / 3, events.DeliveryTaken: 1 / 6}
OTHERS = 1 / 6
WIRE_S = 50e-6
SAMPLES = 200


@dataclass(frozen=True)
class Setting:
    """A run to simulate.

    Attributes:
        costs: for each chain, what makes the costs of its items.
        workers: how many there are, warm from the start.
        items: how many the source gives.
        caps: for each chain, how many workers may run it; empty: all.
        buffer: items that may wait before a chain, and for the consumer.
        ordered: whether results leave in input order.
        tells_length: whether the source says how many items it has.
        parent_s: what a batch costs the parent, from the source to the consumer.
        overhead_s: what a batch costs a worker beside its items.
        item_bytes: what an item weighs on its way.
        source_s: what an item takes to come.
        consumer_s: what the consumer does with a result.
        deaths_s: a worker is killed about so often by somebody else; 0: never.
        start_s: how long a dead worker's successor takes to come up.
        seed: of whatever is random.
        watches_delays: whether it is noted how long results wait to be delivered, item by item.
    """

    costs: tuple[Callable[[int, random.Random], Costs], ...]
    workers: int = 2
    items: int = 10_000
    caps: tuple[int | None, ...] = ()
    buffer: int = 16_384
    ordered: bool = True
    tells_length: bool = True
    parent_s: float = PARENT_S
    overhead_s: float = 20e-6
    item_bytes: int = 100
    source_s: float = 0.0
    consumer_s: float = 0.0
    deaths_s: float = 0.0
    start_s: float = 0.003
    seed: int = 1
    watches_delays: bool = False

    def plan(self) -> Any:
        """Return the plan: a chain for each of ``costs``."""
        caps = self.caps or (None,) * len(self.costs)
        stages = [Stage(_same, name=f"s{number}", workers=cap, buffer=self.buffer) for number, cap in enumerate(caps)]
        return make_plan(stages, default_buffer=self.buffer, default_policy=ErrorPolicy.DROP)


def start_of(payload: Any) -> int:
    """Return the number of a payload's first item; what was joined follows upon each other."""
    if not isinstance(payload, Spliced):
        return int(payload.start)
    ranges = [part[lo:hi] for part, lo, hi in payload.parts]
    if any(one.stop != other.start for one, other in pairwise(ranges)):
        raise RuntimeError(f"what was joined does not follow upon each other: {ranges}")
    return int(ranges[0].start)


def _same(item: Any) -> Any:
    return item


@dataclass(slots=True)
class Job:
    """A batch at a worker: items ``lo`` to ``hi`` of the source, of which those before ``position`` are reported."""

    batch_id: int
    chain: int
    lo: int
    hi: int
    shift: int  # from an item's number to its place in the payload
    out_size: int
    position: int = 0
    had_s: float = 0.0


@dataclass(slots=True)
class SimWorker:
    """A worker: ``jobs`` are its batches, the one it is at in front."""

    jobs: deque[Job] = field(default_factory=deque)
    life: int = 0  # counts its processes, so that what a dead one had in mind is not done
    is_there: bool = False
    leg_at: float = 0.0  # when it began with what it has not reported
    useful_s: float = 0.0


class World:
    """Simulates one run.

    Args:
        setting: the run.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        chance = random.Random(setting.seed)  # noqa: S311 - costs, no secrets
        self.costs = [make(setting.items, chance) for make in setting.costs]
        self.plan = setting.plan()
        self.scheduler = Scheduler(
            self.plan,
            Settings(
                setting.workers,
                setting.ordered,
                setting.buffer,
                crash_retries=1000,  # nobody is to blame
                length=setting.items if setting.tells_length else None,
            ),
        )
        self.now = 0.0
        self.workers = [SimWorker() for _ in range(setting.workers)]
        self._chance = chance
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = count()
        self._mail: deque[tuple[type, tuple[Any, ...]]] = deque()
        self._is_busy = False
        self._next_item = 0
        self._asked: deque[list[int]] = deque()
        self._source_works = False
        self._outlet: deque[commands.Deliver] = deque()
        self._consumer_works = False
        self.finished = False
        self.outcome = Outcome(setting.workers)
        self.ends: dict[int, float] = {}  # of items that are watched: when their last stage was through
        self.delays = Delay()

    def run(self) -> Outcome:
        """Simulate the run to its end.

        Raises:
            RuntimeError: it stands still.
        """
        outcome = self.outcome
        ideal_s = max(sum(costs.total for costs in self.costs) / self.setting.workers, 1e-3)
        self._post(events.RunStarted)
        self._later(ideal_s / SAMPLES, self._sample, ideal_s / SAMPLES)
        if self.setting.deaths_s:
            self._later(self._chance.expovariate(1 / self.setting.deaths_s), self._kill)
        while not self.finished:
            if not self._queue:
                raise RuntimeError(f"the run stands still: {self.scheduler.ledger.story()}")
            self.now, _, do, what = heapq.heappop(self._queue)
            do(*what)
        self.scheduler.close_books()
        outcome.makespan_s = self.now
        outcome.work_s = [costs.total for costs in self.costs]
        caps = self.setting.caps or (None,) * len(self.costs)
        bounds = [costs.bound(cap or self.setting.workers) for costs, cap in zip(self.costs, caps, strict=True)]
        outcome.bound_s = max(ideal_s, *bounds)
        outcome.useful_s = sum(worker.useful_s for worker in self.workers)
        return outcome

    def _later(self, delay_s: float, do: Callable[..., None], *what: Any) -> None:
        heapq.heappush(self._queue, (self.now + delay_s, next(self._number), do, what))

    # ------------------------------------------------------------------ the parent

    def _post(self, make: type, *what: Any) -> None:
        self._mail.append((make, what))
        if not self._is_busy:
            self._take_mail()

    def _take_mail(self) -> None:
        self._is_busy = bool(self._mail)
        if not self._mail or self.finished:
            return
        make, what = self._mail.popleft()
        out = self._handle(make(self.now, *what))
        cost_s = self.setting.parent_s * SHARES.get(make, OTHERS)
        self.outcome.parent_s += cost_s
        for command in out:
            self._later(cost_s, self._carry_out, command)
        self._later(cost_s, self._take_mail)

    def _handle(self, event: events.Event) -> list[commands.Command]:
        outcome = self.outcome
        began = time.thread_time()
        out = self.scheduler.handle(event)
        outcome.cpu_s += time.thread_time() - began
        outcome.events += 1
        stock = self.scheduler.stock
        outcome.most_items = max(outcome.most_items, stock.open_items)
        outcome.most_bytes = max(outcome.most_bytes, stock.held_bytes)
        again_at = self.scheduler.look_again_at
        if again_at is not None:
            self._later(max(0.0, again_at - self.now), self._pass_time)
        return out

    def _pass_time(self) -> None:
        again_at = self.scheduler.look_again_at
        if again_at is not None and again_at <= self.now:
            self._post(events.TimePassed)

    def _carry_out(self, command: commands.Command) -> None:
        match command:
            case commands.Dispatch():
                self.outcome.batches += 1
                self.outcome.sizes.append(command.hi - command.lo)
                life = self.workers[command.worker_id].life
                self._later(WIRE_S, self._arrive, command, life)
            case commands.Deliver():
                self._outlet.append(command)
                self._consume()
            case commands.PullSource(wanted, size):
                self._asked.append([wanted, size])
                self._pull()
            case commands.StartWorker(worker_id, after_s):
                start_s = self.setting.start_s if self.workers[worker_id].life else 0.0
                self._later(after_s + start_s, self._greet, worker_id)
            case commands.FinishRun():
                self.finished = True
            case _:
                raise RuntimeError(f"nobody asked for {command}")

    # ------------------------------------------------------------------ the source and the consumer

    def _pull(self) -> None:
        if self._source_works or not self._asked:
            return
        asked = self._asked[0]
        taken = min(asked[0], asked[1], self.setting.items - self._next_item)
        self._source_works = True
        self._later(taken * self.setting.source_s + 1e-6, self._pack, taken)

    def _pack(self, taken: int) -> None:
        self._source_works = False
        if not taken:
            self._asked.clear()
            self._post(events.SourceEnded)
            return
        first = self._next_item
        self._next_item += taken
        self._asked[0][0] -= taken
        if not self._asked[0][0]:
            self._asked.popleft()
        self._post(events.SourcePacked, range(first, first + taken), taken, taken * self.setting.item_bytes)
        self._pull()

    def _consume(self) -> None:
        if self._consumer_works or not self._outlet:
            return
        command = self._outlet.popleft()
        self.outcome.delivered += command.hi - command.lo
        if self.setting.watches_delays:
            self.delays.note_delivery(self.now, range(command.payload[command.lo], command.payload[command.hi - 1] + 1))
        self._consumer_works = True
        self._later((command.hi - command.lo) * self.setting.consumer_s, self._taken, command.batch_id)

    def _taken(self, batch_id: int) -> None:
        self._consumer_works = False
        self._post(events.DeliveryTaken, batch_id)
        self._consume()

    # ------------------------------------------------------------------ workers

    def _greet(self, number: int) -> None:
        self.workers[number].is_there = True
        self._post(events.WorkerReady, number)

    def _arrive(self, command: commands.Dispatch, life: int) -> None:
        worker = self.workers[command.worker_id]
        if worker.life != life:
            return  # sent to one that has died meanwhile
        shift = -start_of(command.payload)
        lo, hi = command.lo - shift, command.hi - shift
        worker.jobs.append(Job(command.batch_id, command.chain, lo, hi, shift, command.out_size, lo))
        if len(worker.jobs) == 1:
            self._go_on(command.worker_id, self.setting.overhead_s)

    def _go_on(self, number: int, overhead_s: float) -> None:
        """Let a worker run until its next report."""
        worker = self.workers[number]
        job = worker.jobs[0]
        costs = self.costs[job.chain]
        is_last = job.chain == len(self.costs) - 1
        report_s = max(REPORT_S, min(LONG_REPORT_S, worker.useful_s)) if is_last else REPORT_S
        stop = costs.reached(job.position, job.hi, report_s)
        worker.leg_at = self.now + overhead_s
        self._later(overhead_s + costs.between(job.position, stop), self._report, number, worker.life, stop)

    def _report(self, number: int, life: int, stop: int) -> None:
        worker = self.workers[number]
        if worker.life != life:
            return
        job = worker.jobs[0]
        first, job.position = job.position, stop
        busy_s = self.costs[job.chain].between(first, stop)
        worker.useful_s += busy_s
        if self.setting.watches_delays and job.chain == len(self.costs) - 1:
            self.delays.note_end(self.now, self.costs[job.chain], first, stop)
        job.had_s += busy_s
        is_back = stop < job.hi and job.had_s >= KEEP_S
        is_done = stop == job.hi or is_back
        chunks = tuple(
            events.Chunk(range(lo, min(stop, lo + job.out_size)), min(stop, lo + job.out_size) - lo, lo + job.shift,
                         None, (min(stop, lo + job.out_size) - lo) * self.setting.item_bytes)
            for lo in range(first, stop, job.out_size)
        )  # fmt: skip
        tally = events.Tally(succeeded=stop - first, busy_s=busy_s)
        progress = Progress.GIVEN_BACK if is_back else Progress.DONE if is_done else Progress.MORE
        self._later(
            WIRE_S, self._tell, number, life, events.BatchReturned,
            (number, job.batch_id, progress, stop - first, 0, chunks, (), (tally,)),
        )  # fmt: skip
        if is_done:
            worker.jobs.popleft()
        if worker.jobs:
            self._go_on(number, self.setting.overhead_s if is_done else 0.0)

    def _tell(self, number: int, life: int, make: type, what: tuple[Any, ...]) -> None:
        if self.workers[number].life == life:
            self._post(make, *what)

    def _kill(self) -> None:
        """Somebody kills a worker; its slot names the item it was at."""
        self._later(self._chance.expovariate(1 / self.setting.deaths_s), self._kill)
        there = [number for number, worker in enumerate(self.workers) if worker.is_there]
        if not there or self.scheduler.state is not RunState.RUNNING:
            return
        number = self._chance.choice(there)
        worker = self.workers[number]
        batch_id = position = None
        if worker.jobs:
            job = worker.jobs[0]
            batch_id, position = job.batch_id, self._place(worker, job) + job.shift
        self.workers[number] = SimWorker(life=worker.life + 1, useful_s=worker.useful_s)
        self.outcome.deaths += 1
        # What the dead one had sent and nobody has read yet is read first, as in a real pipe.
        self._later(2 * WIRE_S, self._post, events.WorkerDied, number, "SIGKILL", batch_id, position)

    def _place(self, worker: SimWorker, job: Job) -> int:
        """Return the number of the item that a worker is at."""
        until = self.costs[job.chain].until
        spent_s = max(0.0, self.now - worker.leg_at)
        return min(job.hi - 1, bisect_right(until, until[job.position] + spent_s, job.position, job.hi) - 1)

    # ------------------------------------------------------------------ looking on

    def _sample(self, every_s: float) -> None:
        """Note how many workers have nothing to do while others hold items that they have not begun."""
        if self._next_item:  # from the moment on that there is anything to do
            idle = sum(worker.is_there and not worker.jobs for worker in self.workers)
            held = 0
            if idle:
                for worker in self.workers:
                    held += sum(job.hi - job.position for job in worker.jobs)
                    if worker.jobs:
                        held -= 1 + self._place(worker, worker.jobs[0]) - worker.jobs[0].position
            self.outcome.idle_s += idle * every_s
            self.outcome.stranded_s += min(idle, held) * every_s
        self._later(every_s, self._sample, every_s)
