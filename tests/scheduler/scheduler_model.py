"""What must be true of a scheduler: after each event (``check_invariants``), and at a run's end (``check_end``).

Every figure that the scheduler keeps step by step is counted afresh here, from the batches alone.
"""

from __future__ import annotations

from collections import Counter

from scheduler_world import mixed

from mpengine.policies import ErrorPolicy
from mpengine.scheduler import commands, events
from mpengine.scheduler.batches import BatchState
from mpengine.scheduler.crew import CREDIT
from mpengine.scheduler.events import Ending
from mpengine.scheduler.lifecycles import RunState

# ---------------------------------------------------------------------- after each event


class Watch:
    """Checks a world after each event; it remembers how full the backlogs were when one last gave up what it held."""

    def __init__(self, world):
        self.world = world
        self.ceilings = [chain.buffer for chain in world.plan.chains]

    def check(self, *, requeued=False):
        scheduler = self.world.scheduler
        assert scheduler.version % 2 == 0
        check_places(self.world)
        check_figures(scheduler)
        check_crew(scheduler.crew)
        if scheduler.state is RunState.RUNNING:
            check_workers(self.world)
            self._check_bounds(requeued=requeued)
        check_order(self.world)

    def _check_bounds(self, *, requeued):
        world, backlog = self.world, self.world.scheduler.backlog
        bypass = 1 if world.shape.ordered else 0  # B3
        for chain in world.plan.chains:
            number = chain.index
            if not chain.joins and number <= (chain.joined_by or number):
                self._check_level(chain, bypass, requeued=requeued)
            limit = backlog.limits[number]
            if limit is not None and any(self._asks_for_results(command, number) for command in world.commands):
                behind = sum(backlog.alive[number + 1 :]) + backlog.promised[number]
                assert behind <= limit + bypass, f"B2: {behind} behind chain {number}"
        stock = world.scheduler.stock
        assert stock.open_items + world.scheduler.requested <= world.scheduler.window, "S2: the source leads too far"

    def _check_level(self, chain, bypass, *, requeued):
        """B1: what waits before a chain, or is in a mix, and what may still come."""
        plan, backlog = self.world.plan, self.world.scheduler.backlog
        number, merging = chain.index, chain.joined_by
        chains = (number,) if merging is None else plan.chains[merging].joins
        feeding = [other.index for other in plan.chains if number in other.following]
        coming = sum(backlog.promised[other] for other in feeding) if feeding else self.world.scheduler.requested
        level = backlog.level(chains) + coming
        buffer = backlog.buffer_of(chains)
        if requeued:  # what a worker held waits again
            self.ceilings[number] = max(self.ceilings[number], level)
        elif level <= buffer:
            self.ceilings[number] = buffer
        assert level <= self.ceilings[number] + (bypass if feeding else 0), f"B1: {level} before chain {number}"

    def _asks_for_results(self, command, chain):
        if not isinstance(command, commands.Dispatch | commands.Resume) or command.budget == 1:
            return False
        return self.world.scheduler.stock.batches[command.batch_id].chain == chain


def check_places(world):
    """K4: each batch that is not settled is in one place, the one its state tells of."""
    scheduler = world.scheduler
    stock = scheduler.stock
    queued = {number: batch for queue in stock.backlog._queues for number, batch in queue.items()}
    assert len(queued) == sum(map(len, stock.backlog._queues)) == len(stock.backlog)
    is_running = scheduler.state is RunState.RUNNING
    held = {number: batch for worker in scheduler.crew for number, batch in worker.held.items()} if is_running else {}
    outside = {batch_id for batch_id, *_ in world.outlet}
    aside = {batch_id for batch_id, _ in world.aside} if is_running else set()
    for number, batch in stock.batches.items():
        assert batch.batch_id == number
        places = Counter(queued=number in queued, held=number in held, outside=number in outside, aside=number in aside)
        wanted = {
            BatchState.QUEUED: "queued",
            BatchState.IN_FLIGHT: "held",
            BatchState.SUSPENDED: "held",
            BatchState.READY: None,
            BatchState.TAKEN: "outside",
            BatchState.ASIDE: "aside",
            BatchState.FORKED: None,
        }[batch.state]
        assert [place for place, there in places.items() if there] == ([wanted] if wanted else []), batch
        is_through = batch.state in (BatchState.READY, BatchState.TAKEN, BatchState.ASIDE)
        assert (batch.chain == len(world.plan.chains)) == is_through
        assert queued.get(number, batch) is batch is held.get(number, batch)
        assert (batch.worker_id is not None) == (wanted == "held")
    assert queued.keys() | held.keys() | outside | aside <= stock.batches.keys()


def check_figures(scheduler):
    """Every figure kept step by step is what counting afresh gives."""
    stock, backlog = scheduler.stock, scheduler.backlog
    chains = scheduler.plan.chains
    batches = stock.batches.values()

    def count(*states, chain, what=lambda batch: batch.count):
        return sum(what(batch) for batch in batches if batch.state in states and batch.chain == chain)

    for chain in chains:
        number = chain.index
        assert backlog.waiting[number] == count(BatchState.QUEUED, chain=number)
        assert backlog.running[number] == count(BatchState.IN_FLIGHT, chain=number)
        promise = (lambda batch: batch.budget) if chain.fans_out else (lambda batch: batch.count)
        assert backlog.promised[number] == count(BatchState.IN_FLIGHT, chain=number, what=promise)
    for number in range(len(chains) + 1):
        assert backlog.alive[number] == count(*BatchState, chain=number)
    assert backlog.filled == sum(1 << number for number, queue in enumerate(backlog._queues) if queue)
    assert backlog.at_work == sum(1 << number for number, items in enumerate(backlog.running) if items)
    for chain in chains:
        is_limited = backlog.limits[chain.index] is not None
        assert backlog._behind[chain.index] == (sum(backlog.alive[chain.index + 1 :]) if is_limited else 0)
    families = {family for batch in batches for family in batch.families if family.given is not None}
    kept_bytes = sum(family.given.size_bytes for family in families)
    assert stock.held_bytes == sum(batch.size_bytes for batch in batches) + kept_bytes
    assert stock.taken == count(BatchState.TAKEN, chain=len(chains))
    assert all(batch.count >= 0 and batch.size_bytes >= 0 and batch.budget >= 0 for batch in batches)
    assert scheduler.requested >= 0
    live = Counter(family for batch in batches for family in batch.families)
    assert all(family.live == number for family, number in live.items())


def check_crew(crew):
    """W1: the crew's counts and sets are what looking through all workers gives."""
    workers = list(crew)
    ready = [worker for worker in workers if worker.is_ready]
    busy = [worker for worker in workers if worker.active]
    assert crew.ready == len(ready)
    assert crew.busy == len(busy)
    assert crew.active_processes == sum(worker.only is None for worker in busy)
    assert crew.open == sum(worker.is_open for worker in workers)
    assert crew.suspended == sum(len(worker.held) > worker.active for worker in workers)
    assert crew.spent == sum(worker.bit for worker in workers if worker.is_spent)
    idle = [worker for worker in ready if not worker.active]
    assert_mustered(crew.idle, idle)
    assert_mustered(crew.with_reserve_free, [worker for worker in ready if 0 < worker.active < CREDIT])
    pins = Counter(len(worker.pinned) for worker in ready if worker.only is None)
    assert pins == Counter({number: count for number, count in crew._by_pins.items() if number >= 0})
    for chain in range(len(crew._caps)):
        assert crew.idle_count(chain) == sum(crew.is_for(worker, chain) for worker in idle)
        assert crew.size_for(chain) == sum(crew.is_for(worker, chain) for worker in workers)
        assert crew._pinned[chain] == {worker.worker_id for worker in workers if chain in worker.pinned}
    for worker in workers:
        assert worker.aside.items() <= worker.held.items()
        assert len(worker.aside) + worker.active == len(worker.held)
        assert all(batch.state in (BatchState.SUSPENDED, BatchState.SETTLED) for batch in worker.aside.values())
        assert worker.has_lone_batch == any(batch.is_alone for batch in worker.held.values())


def assert_mustered(muster, workers):
    ranks = {worker.rank for worker in workers}
    assert muster.members == sum(worker.bit for worker in workers)
    assert muster.by_rank == {rank: sum(w.bit for w in workers if w.rank == rank) for rank in ranks}
    assert +muster.count == Counter(worker.only for worker in workers)
    for worker in workers:
        aside = frozenset(batch.chain for batch in worker.aside.values())
        assert worker.rank == (worker.only, frozenset(worker.pinned), worker.quota == 0, aside)


def check_workers(world):
    """The scheduler's view of each worker is the worker's own."""
    for worker, fake in zip(world.scheduler.crew, world.workers, strict=True):
        assert worker.life.value == fake.state
        assert list(worker.held) == list(fake.jobs)
        active = [batch for batch in worker.held.values() if batch.state is BatchState.IN_FLIGHT]
        assert worker.active == len(active) <= CREDIT
        assert not any(batch.is_alone for batch in active) or len(active) == 1  # P5
        check_branches(world, active)
        for number, batch in worker.held.items():
            job = fake.jobs[number]
            assert batch.worker_id == worker.worker_id
            assert (batch.chain, batch.lo, batch.hi) == (job.chain, job.position, job.hi)
            assert (batch.state is BatchState.SUSPENDED) == job.suspended
            assert batch.skip == job.emitted
        for number, cap in enumerate(world.scheduler.crew._caps):
            assert cap is None or (number in worker.pinned) == (number in fake.has_run)


def check_branches(world, active):
    """P7: no worker has two branches of the same items, where there is one for each."""
    for batch in active:
        together = {other.chain for other in active if batch.joint is not None and other.joint is batch.joint}
        assert len(together) <= 1 or len(world.workers) < len(batch.joint.branches)


def check_order(world):
    """The order holds what is under way and nothing else, and its links agree in both directions."""
    stock = world.scheduler.stock
    elsewhere = (BatchState.TAKEN, BatchState.ASIDE)
    under_way = [
        batch
        for batch in stock.batches.values()
        if batch.state not in elsewhere and (batch.joint is None or batch.joint.place is batch)
    ]
    check_joints(stock)
    if not world.shape.ordered:
        assert not stock.order._ready
        return
    listed = list(stock.order)
    assert len(listed) == len(under_way)
    assert set(map(id, listed)) == set(map(id, under_way))
    assert stock.order._tail is (listed[-1] if listed else None)
    for before, batch in zip([None, *listed], listed, strict=False):
        assert batch.before is before
    assert not (world.scheduler.state is RunState.RUNNING and listed and listed[0].state is BatchState.READY)


def check_joints(stock):
    """Each place in a mix knows how many batches its branches still have, and the others know their place."""
    branches = Counter(
        batch.joint for batch in stock.batches.values() if batch.joint and batch.joint.place is not batch
    )
    for batch in stock.batches.values():
        if batch.state is BatchState.FORKED:
            assert batch.joint.place is batch
            assert 0 < batch.joint.open == branches.pop(batch.joint)
    assert not branches
    assert not stock.complete


# ---------------------------------------------------------------------- at the end


class Sequential:
    """The run as a plain loop would have done it, but for the items that workers died of."""

    def __init__(self, world):
        self.world = world
        self.succeeded = Counter()
        self.failed = Counter()
        self.skipped = Counter()
        self.fates = {"failed": set(), "dropped": set(), "delivered": set()}
        self.values = [value for index in range(world.next_item) for value in self._source_item((index,))]

    def _fail(self, stage, index):
        """Note a failure; return what takes the item's place."""
        self.failed[stage] += 1
        return self._verdict(stage, index)

    def _verdict(self, stage, index):
        policy = self.world.plan.stages[stage].policy
        if policy is ErrorPolicy.EMIT:
            self.fates["delivered"].add(index)
            return [(index, "error", stage)]
        self.fates["failed" if policy is ErrorPolicy.RAISE else "dropped"].add(index)
        return []

    def _source_item(self, value):
        if self.world.is_unpackable(value):
            for chain in self.world.plan.entrance:
                self.failed[self.world.plan.chains[chain].first_stage] += 1
            return self._verdict(0, value[0])
        return self._into(self.world.plan.entrance, value)

    def _into(self, following, value):
        """Take a value into the chains that follow: none, one, or the branches of a mix."""
        chains = self.world.plan.chains
        if not following:
            return self._consume(value)
        if chains[following[0]].joined_by is None:
            return self._through(following[0], value)
        results = []
        failed = []
        for branch in following:
            found, stage = self._branch(branch, value)
            results += found
            failed += [] if stage is None else [stage]
        if failed:
            return self._verdict(failed[0], value[0])
        if len(results) < len(following):
            return []
        return self._through(chains[following[0]].joined_by, mixed(results))

    def _branch(self, number, value):
        """Return what a branch gives, and the stage it fails in, if it does."""
        world, stage = self.world, self.world.plan.chains[number].first_stage
        passage = world.nature.passage(number, value)
        if (number, value) in world.crashed or passage.end == "fail":
            self.failed[stage] += 1
            return [], stage
        self.succeeded[stage] += passage.end == "done"
        self.skipped[stage] += passage.end == "skip"
        return list(passage.results), None

    def _through(self, number, value):
        world = self.world
        chain = world.plan.chains[number]
        passage = world.nature.passage(number, value)
        stage, end, results = passage.stage, passage.end, passage.results
        if (number, value) in world.crashed:
            stage, sent = world.crashed[number, value]
            end, results = "fail", results[:sent]
        for place in range(chain.first_stage, chain.first_stage + stage):
            self.succeeded[place] += 1
        if end == "done":
            self.succeeded[chain.first_stage + stage] += 1
        elif end == "skip":
            self.skipped[chain.first_stage + stage] += 1
        error = self._fail(chain.first_stage + stage, value[0]) if end == "fail" else []
        return [found for result in results for found in self._into(chain.following, result)] + error

    def _consume(self, value):
        world = self.world
        last = len(world.plan.stages) - 1
        if world.is_broken(value):
            error = self._fail(last, value[0])
            if not world.plan.chains[-1].fans_out:
                self.succeeded[last] -= 1
            else:
                self.failed[last] -= 1  # the item did well; only something that it gave did not
            return error
        self.fates["delivered"].add(value[0])
        return [value]


def check_end(world):
    """The books balance and tell the truth; the values are those of the plain loop."""
    world.scheduler.close_books()
    assert world.scheduler.state is RunState.FINISHED
    ledger, model = world.scheduler.ledger, Sequential(world)
    good = world.good(world.handed)
    values = [value for value in good if value[1:2] != ("error",)]
    assert len(set(values)) == len(values), "delivered twice"
    if world.cancels:
        if world.shape.ordered:
            assert good == model.values[: len(good)]
            fatal = world.cancels[0].failure
            if fatal is not None and fatal.failure.summary != "will not unpack":
                assert all(value[0] <= fatal.index for value in good), "delivered behind an item that ends the run"
        else:
            assert set(good) <= set(model.values)
    else:
        assert world.finished
        assert good == world.taken
        assert good == model.values if world.shape.ordered else sorted(good, key=repr) == sorted(model.values, key=repr)
        _check_stages(world, ledger, model)
    assert ledger.source_items == world.next_item == ledger.settled
    assert ledger.values == len(world.taken)
    _check_fates(world, ledger, model)
    assert not world.scheduler.stock.batches
    check_figures(world.scheduler)
    for index, book in enumerate(ledger.stages):
        endings = Counter(report.failure.how for report in world.reports if report.stage == index)
        told = (endings[Ending.CRASHED] + endings[Ending.OVER_MEMORY], endings[Ending.TIMED_OUT])
        # An item that has failed in two branches of a mix is told of once.
        assert world.is_branch(index) or (book.crashed, book.timed_out) == told
        assert book.crashed + book.timed_out >= sum(told)


def _check_stages(world, ledger, model):
    for number, book in enumerate(ledger.stages):
        assert book.succeeded == model.succeeded[number], book
        assert book.failed == model.failed[number], book
        assert book.skipped == model.skipped[number], book
        assert book.left == 0


def _check_fates(world, ledger, model):
    """L4: each source item is accounted for once, as what became of it."""
    reported = {True: set(world.handler_failures), False: set()}
    for report in world.reports:
        if report.policy is not ErrorPolicy.EMIT:
            reported[report.policy is ErrorPolicy.RAISE].add(report.index)
    assert ledger.failed == len(reported[True])
    assert min(ledger.filtered, ledger.cancelled, ledger.delivered) >= 0
    if world.cancels:
        assert ledger.dropped <= len(reported[False] - reported[True])
        return
    dropped = model.fates["dropped"]
    assert reported[False] == dropped
    assert not reported[True]
    assert ledger.dropped == len(dropped)
    assert ledger.delivered == len(model.fates["delivered"] - dropped)
    assert ledger.cancelled == 0
    assert ledger.filtered == world.next_item - len(model.fates["delivered"] | dropped)


# ---------------------------------------------------------------------- a fair world


def run_to_the_end(world, watch, choose=None):
    """Let everything that can happen happen until the run is over; a run that stands still is a deadlock.

    Args:
        world: the world.
        watch: checks it.
        choose: picks one of the things that can happen; None: all of them in turn.
    """
    limit = world.steps + 200 + 40 * world.shape.items * (1 + world.shape.fan) ** 2 * len(world.plan.stages)
    turn = 0
    while not (world.cancels or world.finished):
        possible = possibilities(world)
        if not possible and world.untold:
            world.catch_up()
            watch.check()
            continue
        assert possible, f"deadlock: {world.scheduler.backlog.__dict__} {list(world.scheduler.stock.batches.values())}"
        assert world.steps < limit, "the run does not come to its end"
        turn += 1
        happen = possible[turn % len(possible)] if choose is None else choose(possible)
        if choose is not None and happen in (world.pack, world.take) and choose([True, False]):
            with world.dawdling():
                happen()
            continue
        before = requeues(world)
        happen()
        watch.check(requeued=requeues(world) > before)


def requeues(world):
    """How often something that a worker held came to wait again."""
    return world.given_back + sum(worker.deaths for worker in world.scheduler.crew)


def possibilities(world):
    found = []
    if world.can_pack:
        found.append(world.pack)
    if world.can_end:
        found.append(world.end_source)
    if world.outlet:
        found.append(world.take)
    if world.aside:
        found.append(world.handle)
    if world.scheduler.look_again_at is not None and world.now < world.scheduler.look_again_at:
        found.append(world.let_time_pass)
    for number, worker in enumerate(world.workers):
        if worker.state == "starting":
            found.append(lambda number=number: world.greet(number))
        elif worker.state == "leaving":
            found.append(lambda number=number: world.die(number))
        elif worker.queue:
            found.append(lambda number=number: world.advance(number))
    return found


def see_off(world, watch, *, takes):
    """What still happens once a run is cancelled: late hellos, reports, deaths; the consumer takes some and leaves."""
    for number, worker in enumerate(world.workers):
        if worker.state == "starting":
            world.greet(number)
        elif worker.queue and number % 2:
            world.advance(number, 1)
        elif worker.state == "ready":
            world.die(number)
        watch.check()
    if world.can_pack:
        world.pack()
    if world.aside:
        world.handle()
    while world.outlet:
        if takes > 0:
            world.take()
        else:
            world.refuse()
        takes -= 1
        watch.check()
    world.tell(events.CancelRequested, "too late")
