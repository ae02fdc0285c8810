"""A world without processes for the scheduler: a source, workers and a consumer made of plain Python lists.

Values are tuples of numbers, the source's index first.  What a stage does to one is decided by a hash of both
(``Nature``), so the fake workers and the sequential model (``scheduler_model``) come to the same without sharing
anything else.  ``World`` carries out the scheduler's commands and refuses those that break a promise.
"""

from __future__ import annotations

import contextlib
import zlib
from collections import Counter, deque
from dataclasses import dataclass, field, replace

from mpengine.mixes import Mix
from mpengine.plan import make_plan
from mpengine.policies import ErrorPolicy
from mpengine.scheduler import commands, events
from mpengine.scheduler.crew import CREDIT
from mpengine.scheduler.events import Ending, Progress
from mpengine.scheduler.lifecycles import RunState
from mpengine.scheduler.payloads import Spliced, Zipped
from mpengine.scheduler.scheduler import Scheduler, Settings
from mpengine.stages import Stage


def one_to_one(item):
    return item


def one_to_many(item):
    yield item


def handle_with_item(item_error, item):
    pass


@dataclass(frozen=True)
class StageShape:
    fans_out: bool = False
    workers: int | None = None
    buffer: int | None = None  # None: fuses onto the stage before, if it may
    policy: str = "drop"
    retries: int = 0
    once: bool = False
    batch: int | None = None
    hands_item: bool = False  # whether the handler wants the source's item
    mixes: int = 0  # so many branches; 0: a plain stage

    def build(self, number):
        if self.mixes:
            merge = Stage(one_to_one, name=f"m{number}", buffer=self.buffer, on_error=self._drop)
            return Mix(tuple(self._stage(f"s{number}{'abc'[branch]}") for branch in range(self.mixes)), merge)
        return self._stage(f"s{number}")

    @property
    def _drop(self):
        return "raise" if self.policy == "raise" else "drop"

    def _stage(self, name):
        return Stage(
            one_to_many if self.fans_out and not self.mixes else one_to_one,
            name=name,
            workers=self.workers,
            buffer=self.buffer,
            on_error=self.policy,
            error_handler=(handle_with_item if self.hands_item else repr) if self.policy == "side" else None,
            retries=0 if self.once else self.retries,
            idempotent=not self.once,
            batch=None if self.fans_out and not self.mixes else self.batch,
        )


@dataclass(frozen=True)
class Shape:
    """A run to try; rates are per mille."""

    stages: tuple[StageShape, ...]
    workers: int = 2
    ordered: bool = True
    out_buffer: int = 4
    crash_retries: int = 1
    max_bytes: int = 1 << 30
    items: int = 10
    tells_length: bool = True
    seed: int = 0
    fan: int = 3
    skip: int = 0
    fail: int = 0
    deadly: int = 0
    kill: int = 0
    broken: int = 0
    unpackable: int = 0
    handler: int = 0
    max_items: int | None = None
    source_fails: bool = False

    def plan(self):
        stages = [shape.build(number) for number, shape in enumerate(self.stages)]
        return make_plan(stages, default_buffer=4, default_policy=ErrorPolicy.RAISE)


@dataclass(frozen=True)
class Passage:
    """What a chain makes of a value: ``results``, and how and in which of its stages that ended."""

    results: tuple
    end: str  # done, skip, fail, deadly or kill
    stage: int


class Nature:
    """What stages do to values."""

    def __init__(self, shape, plan):
        self.shape = shape
        self.plan = plan
        self._known = {}

    def happens(self, what, stage, value):
        return self._roll(what, stage, value) % 1000 < getattr(self.shape, what)

    def _roll(self, *what):
        return zlib.crc32(repr((self.shape.seed, *what)).encode())

    def is_slow(self, chain, value):
        """Whether a worker names the item before it runs it, unasked."""
        return self._roll("slow", chain, value) % 2 == 0

    def passage(self, chain, value):
        if (chain, value) not in self._known:
            self._known[chain, value] = self._pass(chain, value)
        return self._known[chain, value]

    def decree(self, chain, value, *results, end="done", stage=0):
        """Have a chain make just this of a value."""
        self._known[chain, value] = Passage(results, end, stage)

    def _pass(self, number, value):
        chain = self.plan.chains[number]
        last = len(chain.stages) - 1
        for place in range(len(chain.stages)):
            stage = chain.first_stage + place
            end = next(
                (what for what in ("deadly", "kill", "skip", "fail") if self.happens(what, stage, value)), "done"
            )
            if chain.fans_out and place == last:
                end = "done" if end == "skip" else end
                count = self._roll("count", stage, value) % (self.shape.fan + 1)
                return Passage(tuple((*value, result) for result in range(count)), end, place)
            if end != "done":
                return Passage((), end, place)
            value = (*value, 0)
        return Passage((value,), "done", last)


@dataclass
class FakeJob:
    chain: int
    items: list
    position: int
    hi: int
    emitted: int
    careful: bool
    out_size: int
    budget: int
    attempted: tuple = (0, 0)
    suspended: bool = False
    is_resumed: bool = False  # and its worker has not gone on with it yet: its slot may name nothing of it


@dataclass
class FakeWorker:
    state: str = "absent"
    jobs: dict[int, FakeJob] = field(default_factory=dict)
    queue: deque = field(default_factory=deque)  # of those jobs that are not suspended
    has_run: set = field(default_factory=set)  # chains
    given: int = 0


class World:
    """Carries out commands, and makes up events.

    Attributes:
        handed: values handed to the consumer, in order.
        given_back: times a worker gave back what it had not begun.
        deaths: times a worker died of a value, by chain and value.
        crashed: the stage that was blamed and the results sent before, by chain and value that was given up.
    """

    def __init__(self, shape):
        self.shape = shape
        self.plan = shape.plan()
        self.nature = Nature(shape, self.plan)
        length = shape.items if shape.tells_length else None
        self.scheduler = Scheduler(
            self.plan,
            Settings(
                shape.workers, shape.ordered, shape.out_buffer, shape.crash_retries, shape.max_bytes, length,
                shape.max_items,
            ),
        )  # fmt: skip
        self.given_back = 0
        self.workers = [FakeWorker() for _ in range(shape.workers)]
        self.caps = [chain.workers for chain in self.plan.chains]
        self.next_item = 0
        self.allowance = 0
        self.batch_size = 1
        self.has_ended = False
        self.outlet = deque()
        self.aside = deque()
        self.handler_failures = []
        self.dropped_by_handler = set()
        self.handed = []
        self.taken = []
        self.refused = 0
        self.sent = {}
        self.deaths = {}
        self.crashed = {}
        self.attempted = {}
        self.begun = set()
        self.setup_deaths = Counter()
        self.reports = []
        self.cancels = []
        self.finished = False
        self.commands = []
        self._expected_crash = []
        self._crashes = 0
        self.now = 0.0
        self.steps = 0
        self.untold = []
        self.dawdles = False

    # ------------------------------------------------------------------ events in, commands out

    def tell(self, make, *args, **more):
        self.now += 0.01
        self.steps += 1
        event = make(self.now, *args, **more)
        self.untold.append(event)
        if not self.dawdles:
            self.catch_up()
        return event

    @contextlib.contextmanager
    def dawdling(self):
        """What happens meanwhile is told along with whatever happens next."""
        self.dawdles = True
        yield
        self.dawdles = False

    def catch_up(self):
        happened, self.untold = self.untold, []
        self.commands = self.scheduler.handle_all(happened)
        for command in self.commands:
            self._carry_out(command)

    def _carry_out(self, command):
        is_over = self.cancels or self.finished
        match command:
            case commands.ReportFailure():
                self._note_failure(command)
            case _ if is_over:
                raise AssertionError(f"S3: {command} after the end")
            case commands.Dispatch():
                self._dispatch(command)
            case commands.Deliver() | commands.CallHandler():
                self._take_out(command)
            case commands.Resume(worker_id, batch_id, _, budget):
                worker = self.workers[worker_id]
                assert worker.state == "ready"
                job = worker.jobs[batch_id]
                assert job.suspended
                assert budget >= 1
                job.suspended, job.is_resumed, job.budget = False, True, budget
                self._queue(worker, batch_id)
            case commands.PullSource(count, batch_size):
                self._ask_source(count, batch_size)
            case commands.StartWorker() | commands.RetireWorker():
                self._start_or_retire(command)
            case commands.CancelRun():
                self.cancels.append(command)
            case commands.FinishRun():
                self.finished = True
            case _:
                raise AssertionError(f"{command}: nobody has lied")

    def _start_or_retire(self, command):
        worker = self.workers[command.worker_id]
        if isinstance(command, commands.StartWorker):
            assert worker.state == "absent"
            self.workers[command.worker_id] = FakeWorker("starting")
        else:
            assert worker.state == "ready"
            assert not worker.jobs
            worker.state = "leaving"

    def _ask_source(self, count, batch_size):
        assert not self.has_ended
        assert 1 <= batch_size <= count
        self.allowance += count
        self.batch_size = batch_size

    def _take_out(self, command):
        match command:
            case commands.Deliver(batch_id, commands.ReportFailure() as report, 0, 1, origin):
                assert list(origin) == [report.index]
                self.handed.append(error_value(report))
                self.outlet.append((batch_id, self.handed[-1:], 0, 1))
            case commands.CallHandler(batch_id, report, given):
                assert report.policy is ErrorPolicy.SIDE
                if self.scheduler.plan.keeps_items:
                    payload, place = given
                    assert payload[place] == (report.index,), "another item than the one that failed"
                self.aside.append((batch_id, report))
            case commands.Deliver(batch_id, payload, lo, hi, origin):
                items = items_of(payload)
                assert [origin[place] for place in range(lo, hi)] == [value[0] for value in items[lo:hi]]
                self.handed += items[lo:hi]
                self.outlet.append((batch_id, items, lo, hi))

    def _dispatch(self, command):
        worker = self.workers[command.worker_id]
        assert worker.state == "ready", "a command to a dead worker"
        assert command.batch_id not in worker.jobs
        items = items_of(command.payload)
        assert 0 <= command.lo < command.hi <= len(items)
        assert command.out_size >= 1
        assert command.budget >= 1
        first = (command.chain, items[command.lo])
        assert command.skip == self.sent.get(first, 0), "K6: what was sent must be skipped, and nothing else"
        worker.jobs[command.batch_id] = FakeJob(
            command.chain, items, command.lo, command.hi, command.skip, command.careful, command.out_size,
            command.budget, command.attempted,
        )  # fmt: skip
        assert command.attempted == self.attempted.get(first, (0, 0)), "attempts that died with a worker count"
        chain = self.plan.chains[command.chain]
        is_new = not {(command.chain, value) for value in items[command.lo : command.hi]} & self.begun
        assert is_new or chain.once_from is None, "R4: an item is run twice"
        assert command.careful or chain.once_from is None
        self._queue(worker, command.batch_id)
        worker.given += command.hi - command.lo
        has_aside = any(job.suspended for job in worker.jobs.values())
        assert has_aside or worker.given <= (self.shape.max_items or worker.given), "a process is given too much"
        worker.has_run.add(command.chain)
        cap = self.caps[command.chain]
        assert cap is None or sum(command.chain in other.has_run for other in self.workers) <= cap

    def _queue(self, worker, batch_id):
        worker.queue.append(batch_id)
        assert len(worker.queue) <= CREDIT
        lone = [number for number in worker.queue if self._is_lone(worker.jobs[number])]
        assert not lone or len(worker.queue) == 1, "P5: an item that killed a worker runs beside another"

    def _is_lone(self, job):
        return job.hi - job.position == 1 and self.deaths.get((job.chain, job.items[job.position]), 0) > 0

    def _note_failure(self, command):
        self.reports.append(command)
        stage = self.plan.stages[command.stage]
        assert command.policy is stage.policy
        if command.failure.error is not None:
            assert command.failure.error[0] == command.index

    def sent_to(self, number):
        """What a worker was sent after the last event: (chain, values) each."""
        return [
            (command.chain, items_of(command.payload)[command.lo : command.hi])
            for command in self.commands
            if isinstance(command, commands.Dispatch) and command.worker_id == number
        ]

    # ------------------------------------------------------------------ the source

    @property
    def can_pack(self):
        return self.allowance > 0 and self.next_item < self.shape.items and not self.has_ended

    @property
    def can_end(self):
        return self.allowance > 0 and self.next_item == self.shape.items and not self.has_ended

    def pack(self, at_most=1000):
        count = min(self.allowance, self.batch_size, self.shape.items - self.next_item, at_most)
        pulled = [(self.next_item + place,) for place in range(count)]
        self.next_item += count
        self.allowance -= count
        bad = {place for place, value in enumerate(pulled) if self.is_unpackable(value)}
        good = [value for place, value in enumerate(pulled) if place not in bad]
        failures = tuple(
            events.Failure(place, 0, "will not pack", pulled[place], given=(pulled, place)) for place in sorted(bad)
        )
        self.tell(events.SourcePacked, good, count, 100 * len(good), failures)

    def is_unpackable(self, value):
        return self.nature.happens("unpackable", "source", value)

    def end_source(self):
        self.has_ended = True
        self.allowance = 0
        if self.shape.source_fails:
            self.tell(events.SourceFailed, ("source",), "broke")
        else:
            self.tell(events.SourceEnded)

    # ------------------------------------------------------------------ workers

    def greet(self, number):
        self.workers[number].state = "ready"
        self.tell(events.WorkerReady, number)

    def advance(self, number, units=1000, *, suspend=False):
        """Let a worker go on with its oldest job; it dies where that is deadly."""
        worker = self.workers[number]
        batch_id = worker.queue[0]
        job = worker.jobs[batch_id]
        job.is_resumed = False
        work = Work(self, job)
        work.go_on(units if self.plan.chains[job.chain].once_from is None else 1)  # each is reported by itself
        if work.is_doomed and work.is_empty:
            self.die(number, Death(batch_id, names_item=self.nature.is_slow(job.chain, job.items[job.position])))
            return
        fans_out = self.plan.chains[job.chain].fans_out
        if job.position == job.hi:
            progress = Progress.DONE
            del worker.jobs[batch_id]
        elif fans_out and work.kill is None and (job.budget == 0 or suspend):
            progress = Progress.SUSPENDED
            job.suspended = True
        elif suspend and work.kill is None and work.consumed and not fans_out:
            progress = Progress.GIVEN_BACK
            self.given_back += 1
            worker.given -= job.hi - job.position
            del worker.jobs[batch_id]
        else:
            progress = Progress.MORE
        if progress is not Progress.MORE or work.kill is not None:
            worker.queue.popleft()
        if fans_out and job.position < job.hi:
            self.sent[job.chain, job.items[job.position]] = job.emitted
        for key in [key for key in self.setup_deaths if key[0] == job.chain]:
            del self.setup_deaths[key]  # it was set up, so that what came before is forgotten
        self.tell(
            events.BatchReturned, number, batch_id, progress, work.consumed, job.emitted, work.chunks(),
            tuple(work.failures), tuple(work.tallies), work.kill,
        )  # fmt: skip

    def die(self, number, death=None):
        """A worker dies: of nothing that its slot names, or as ``death`` says."""
        worker = self.workers[number]
        death = death or Death(None)
        batch_id, position, stage = death.named(self, worker)
        begun = {number: job.position for number, job in worker.jobs.items() if self._is_begun(job)}
        if begun and (
            begun != {batch_id: position} or death.in_setup
        ):  # a slot names what has begun, unless it is torn
            death = replace(death, is_torn=True, in_setup=False)
            batch_id, position, stage = death.named(self, worker)
        attempt = 1
        self._expected_crash = []
        is_half_way = batch_id in worker.jobs and position is None and self._is_half_way(worker.jobs[batch_id])
        if death.in_setup and not is_half_way:
            self.setup_deaths[worker.jobs[batch_id].chain, number] += 1
        elif not is_half_way:
            if batch_id in worker.jobs and position == worker.jobs[batch_id].position:
                tried = worker.jobs[batch_id].attempted
                attempt = 1 + tried[1] if tried[0] == stage else 1
            self._expect_blame(worker, batch_id, position, stage, death, attempt)
        self._expect_nothing_twice(worker, None if is_half_way else batch_id, death)
        self.workers[number] = FakeWorker()
        self.tell(
            events.WorkerDied, number, "SIGKILL", batch_id, position, stage, "", death.in_setup,
            attempt, death.timed_out, death.is_torn, excess=death.excess, is_oom=death.is_oom,
        )  # fmt: skip
        new = [
            report
            for report in self.reports
            if report.failure.how is not Ending.RAISED and not self.is_branch(report.stage)
        ]
        new = [(report.index, report.stage) for report in new[self._crashes :]]
        self._crashes += len(new)
        assert sorted(new) == sorted(self._expected_crash)
        assert self.cancels or max(self.setup_deaths.values(), default=0) <= max(2, self.shape.crash_retries)

    def is_branch(self, stage):
        """Whether a stage is a branch of a mix."""
        return any(chain.joined_by is not None and chain.first_stage == stage for chain in self.plan.chains)

    def _is_begun(self, job):
        is_named = not (job.suspended or job.is_resumed)
        return is_named and (job.chain, job.items[job.position]) in self.begun

    def _is_half_way(self, job):
        """Whether it must not begin its item again, though no slot names that."""
        is_once = self.plan.chains[job.chain].once_from is not None
        return is_once and (job.suspended or (job.is_resumed and job.emitted > 0))

    def _expect_blame(self, worker, batch_id, position, stage, death, attempt):
        """Note what K5 asks for."""
        if batch_id not in worker.jobs or self.scheduler.state is not RunState.RUNNING:
            return
        job = worker.jobs[batch_id]
        if position is None and not self.scheduler.stock.batches[batch_id].careful:
            return
        value = job.items[job.position if position is None else position]
        key = job.chain, value
        chain = self.plan.chains[job.chain]
        is_once = chain.once_from is not None and stage >= chain.once_from
        if death.timed_out:
            self.attempted[key] = stage, attempt
            is_over = is_once or attempt > chain.stages[stage].retry.attempts
        else:
            was_alone = key in self.deaths
            self.deaths[key] = self.deaths.get(key, 0) + 1
            is_over = is_once or self.deaths[key] > max(self.shape.crash_retries, death.is_oom)
            if death.excess is not None:
                is_over = is_once or (was_alone and death.excess.is_fresh) or self.deaths[key] >= 3
        if is_over:
            self._expect_crash(key, stage)

    def _expect_nothing_twice(self, worker, batch_id, death):
        """Note what K6 asks for, beside the batch that the slot names."""
        if self.scheduler.state is not RunState.RUNNING:
            return
        for number, job in worker.jobs.items():
            chain = self.plan.chains[job.chain]
            is_torn = chain.once_from is not None and death.is_torn
            if number != batch_id and (is_torn or self._is_half_way(job)):
                self._expect_crash((job.chain, job.items[job.position]), len(chain.stages) - 1)

    def _expect_crash(self, key, stage):
        self.crashed[key] = stage, self.sent.get(key, 0)
        if self.plan.chains[key[0]].joined_by is not None:
            return  # told when all branches are through with the item
        self._expected_crash.append((key[1][0], self.plan.chains[key[0]].first_stage + stage))

    # ------------------------------------------------------------------ the consumer

    def take(self):
        batch_id, payload, lo, hi = self.outlet.popleft()
        broken = [place for place in range(lo, hi) if self.is_broken(payload[place])]
        self.taken += self.good(payload[lo:hi])
        failures = tuple(events.Failure(place, 0, "will not unpack", payload[place]) for place in broken)
        self.tell(events.DeliveryTaken, batch_id, failures)

    def is_broken(self, value):
        return value[1:2] != ("error",) and self.nature.happens("broken", "consumer", value)

    def good(self, values):
        """What the consumer makes of values: those that will not unpack are errors in their place, or left out."""
        last = len(self.plan.stages) - 1
        good = [(value[0], "error", last) if self.is_broken(value) else value for value in values]
        is_kept = self.plan.policies[last] is ErrorPolicy.EMIT
        return [new for new, value in zip(good, values, strict=True) if is_kept or not self.is_broken(value)]

    def let_time_pass(self):
        """Nothing happens until the scheduler wants to be told of the time."""
        self.now = max(self.now, self.scheduler.look_again_at)
        self.tell(events.TimePassed)

    def handle(self):
        """Let the oldest error handler return, or raise."""
        batch_id, report = self.aside.popleft()
        is_over = self.scheduler.state is not RunState.RUNNING
        if self.nature.happens("handler", report.stage, (report.index, report.failure.position)):
            if not is_over:
                self.handler_failures.append(report.index)
            self.tell(events.HandlerReturned, batch_id, ValueError("the handler"), "the handler")
        else:
            if not is_over:
                self.dropped_by_handler.add(report.index)
            self.tell(events.HandlerReturned, batch_id)

    def refuse(self):
        batch_id, _, lo, hi = self.outlet.popleft()
        self.refused += hi - lo
        self.tell(events.DeliveryRefused, batch_id)


def items_of(payload):
    """What a worker makes of a payload that is made of others."""
    if isinstance(payload, Spliced):
        return [value for part, lo, hi in payload.parts for value in part[lo:hi]]
    if isinstance(payload, Zipped):
        branches = [
            [value for piece, picks in pieces for value in (piece if picks is None else [piece[n] for n in picks])]
            for pieces in payload.branches
        ]
        return [mixed(values) for values in zip(*branches, strict=True)]
    return payload


def mixed(values):
    """What a merging stage is given, as one value: the item's index, and what each branch has made of it."""
    assert len({value[0] for value in values}) == 1, "values of different items side by side"
    return (values[0][0], *((*value, number) for number, value in enumerate(values)))


def error_value(report):
    """What stands for an ``ItemError`` among the values."""
    return (report.index, "error", report.stage)


def begin(shape, *, greets=True, size=1, knows_cost=True):
    """Return a world whose run has begun, all of whose workers have said hello.

    Args:
        shape: the run.
        greets: whether they have.
        size: how many items make a batch at first.
        knows_cost: whether items are known to cost nothing, so that a worker may have a batch in reserve at once.
    """
    world = World(shape)
    for sizer in world.scheduler.sizers:
        sizer.size = size
        sizer.learnt = knows_cost
        sizer.is_long = not knows_cost
    world.tell(events.RunStarted)
    for number in range(shape.workers if greets else 0):
        world.greet(number)
    return world


def pack_all(world):
    """Give the scheduler all that it has asked the source for."""
    while world.can_pack:
        world.pack()


@dataclass(frozen=True)
class Death:
    """What the slot of a dead worker names.

    Attributes:
        batch_id: the batch; one that the worker does not hold was finished just before.
        ahead: how many items, run and not reported, lie before the one it was at.
        names_item: whether it names the item where it need not.
        at_payload: it was still unpacking the batch, and names no item at all.
        in_setup: it was still building the chain's stages.
        timed_out: it was killed because its item's time was up.
        is_torn: its slot held half a record, so that it names nothing.
        excess: what it was killed for, if that was its memory.
        is_oom: whether the kernel killed it, for want of memory.
    """

    batch_id: int | None
    ahead: int = 0
    names_item: bool = True
    at_payload: bool = False
    in_setup: bool = False
    timed_out: bool = False
    is_torn: bool = False
    excess: events.Excess | None = None
    is_oom: bool = False

    def named(self, world, worker):
        """Return batch, position and stage."""
        if self.is_torn or self.batch_id is None:
            return None, None, 0
        if self.batch_id not in worker.jobs:
            return self.batch_id, 0, 0
        job = worker.jobs[self.batch_id]
        if (
            self.in_setup
            or self.at_payload
            or not (self.names_item or job.careful or world.plan.chains[job.chain].fans_out)
        ):
            return self.batch_id, None, 0
        ahead = self.ahead if world.plan.chains[job.chain].once_from is None else 0
        position = min(job.position + ahead, job.hi - 1)
        return self.batch_id, position, world.nature.passage(job.chain, job.items[position]).stage


class Work:
    """What a fake worker does to a job for one report."""

    def __init__(self, world, job):
        self._world = world
        self._job = job
        self._chain = world.plan.chains[job.chain]
        self._results = []
        self._positions = []
        self._figures = [{"succeeded": 0, "failed": 0, "skipped": 0} for _ in self._chain.stages]
        self.failures = []
        self.consumed = 0
        self.kill = None
        self.is_doomed = False

    @property
    def is_empty(self):
        return not self.consumed and not self._results and self.kill is None

    @property
    def tallies(self):
        return [events.Tally(**figures, busy_s=0.004 * self.consumed) for figures in self._figures]

    def go_on(self, units):
        job, nature = self._job, self._world.nature
        while units > 0 and job.position < job.hi and not (self._chain.fans_out and job.budget == 0):
            passage = nature.passage(job.chain, job.items[job.position])
            units -= 1
            if job.emitted < len(passage.results) and (self._chain.fans_out or passage.end == "done"):
                self._begin()
                self._results.append(passage.results[job.emitted])
                self._positions.append(job.position)
                job.emitted += 1
                job.budget -= 1
                if self._chain.fans_out:
                    continue
            if passage.end == "deadly":
                self.is_doomed = True
                return
            if passage.end == "kill":
                self.kill = "the switch"
                return
            self._consume(passage)

    def _begin(self):
        """Note that an item has come to a stage that must not be run twice."""
        if self._chain.once_from is not None:
            self._world.begun.add((self._job.chain, self._job.items[self._job.position]))

    def _consume(self, passage):
        job = self._job
        if passage.stage >= (self._chain.once_from or 0):
            self._begin()
        for figures in self._figures[: passage.stage]:
            figures["succeeded"] += 1
        kind = {"done": "succeeded", "fail": "failed", "skip": "skipped"}[passage.end]
        self._figures[passage.stage][kind] += 1
        if passage.end == "fail":
            failure = events.Failure(job.position, passage.stage, "failed", job.items[job.position])
            self.failures.append(failure)
        self.consumed += 1
        job.position += 1
        job.emitted = 0

    def chunks(self):
        size = self._job.out_size
        return tuple(
            self._chunk(self._results[start : start + size], self._positions[start : start + size])
            for start in range(0, len(self._results), size)
        )

    def _chunk(self, results, positions):
        is_run = not self._chain.fans_out and positions[-1] - positions[0] == len(positions) - 1
        return events.Chunk(results, len(results), positions[0], None if is_run else positions, 100 * len(results))
