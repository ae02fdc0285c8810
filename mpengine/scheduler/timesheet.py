"""Where the workers' time goes: a few additions for each event, none for an item.

A worker that has a batch is accounted for when it reports: the time since its last report, or since it was sent
something when it had nothing, was for that batch's chain.  Workers that have none are counted: so many, for so long,
for one cause.  ``profiles`` has the terms (T1 to T5).

H1. How long workers were idle is one clock, which runs as many times as fast as there are idle ones.  A chain remembers
    what that clock showed when its own state last changed (nothing waits; no room behind it; no worker for it), so that
    nobody looks through all chains.
H2. Chains that run as threads beside the coordinator have clocks of their own; their time is no process's time.
"""

from __future__ import annotations

import enum

from mpengine.profiles import Idleness, Profile, StageProfile, spread_over

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mpengine.plan import Plan
    from mpengine.scheduler.admission import Admission
    from mpengine.scheduler.batches import Batch
    from mpengine.scheduler.crew import Crew, Worker
    from mpengine.scheduler.events import BatchReturned
    from mpengine.scheduler.intake import Intake
    from mpengine.scheduler.stock import Stock


class Wait(enum.IntEnum):
    """What the idle workers of a chain wait for."""

    INPUT = 0
    """Nothing waits before it, or too little to begin with."""
    OUTPUT = 1
    """There is no room behind it."""
    WORKERS = 2
    """Nobody who may run it is free."""
    NOTHING = 3
    """They do not wait: something has come, and there was nobody idle to ask."""


class Cause(enum.IntEnum):
    """What keeps idle workers idle; in the order of the fields of ``Idleness``."""

    SOURCE = 0
    END = 1
    CONSUMER = 2
    ORDER = 3
    LIMIT = 4
    FILLING = 5
    MEMORY = 6


class Timesheet:
    """Keeps account.

    Args:
        plan: the chains.
        crew: the workers.
        stock: the batches.
        intake: what was asked of the source.
        admission: how many processes may be at work.
    """

    def __init__(self, plan: Plan, crew: Crew, stock: Stock, intake: Intake, admission: Admission) -> None:
        """Begin with nothing."""
        count = len(plan.chains)
        self._plan = plan
        self._crew = crew
        self._stock = stock
        self._intake = intake
        self._admission = admission
        self._at: float | None = None
        self._began_at = 0.0
        self._has_processes = not all(chain.seats for chain in plan.chains)
        local = [chain.index for chain in plan.chains if chain.seats]
        self._kinds: list[int | None] = [*([None] if self._has_processes else []), *local]
        self._clock_of = [chain.index if chain.seats else None for chain in plan.chains]
        self._clocks: dict[int | None, float] = dict.fromkeys(self._kinds, 0.0)
        self._engaged_s = [0.0] * count
        self._batches = [0] * count
        self._items = [0] * count
        self._bytes = [0] * count
        self._lost_s = 0.0
        self._waits = [[0.0] * len(Wait) for _ in range(count)]
        self._states = [Wait.INPUT] * count
        self._marks = [0.0] * count
        self._filled = 0
        self._refused: dict[int, Wait] = {}  # chains that an idle worker could not go on with, in this event
        self._causes = [0.0] * len(Cause)
        self._limits_s = [0.0] * count
        self._cause = Cause.SOURCE
        self._limited_by = 0

    # ------------------------------------------------------------------ in step with events

    def advance(self, at: float) -> None:
        """Let time pass until ``at``: since the last event nothing has changed."""
        if self._at is None:
            self._at = self._began_at = at
            return
        passed_s, self._at = at - self._at, at
        for kind in self._kinds:
            idle = self._crew.idle.count[kind]
            if idle:
                idle_s = idle * passed_s
                self._clocks[kind] += idle_s
                if kind is None or not self._has_processes:
                    self._causes[self._cause] += idle_s
                    if self._cause is Cause.LIMIT:
                        self._limits_s[self._limited_by] += idle_s

    def refuse(self, chain: int, wait: Wait) -> None:
        """An idle worker could not go on with ``chain``; those that are told of first are deeper."""
        self._refused.setdefault(chain, wait)

    def forget_refusals(self) -> None:
        """Something was handed out, after which the same may be possible."""
        self._refused.clear()

    def take_down(self) -> None:
        """Note what idle workers wait for from here on, at the end of an event."""
        filled = self._stock.backlog.filled
        changed = filled ^ self._filled
        self._filled = filled
        while changed:
            chain = changed.bit_length() - 1
            changed ^= 1 << chain
            self._enter(chain, Wait.NOTHING if filled >> chain & 1 else Wait.INPUT)
        for chain, wait in self._refused.items():
            self._enter(chain, wait)
        if self._crew.idle.members:
            self._cause = self._find_cause()
        self._refused.clear()

    def _enter(self, chain: int, wait: Wait) -> None:
        clock = self._clocks[self._clock_of[chain]]
        self._waits[chain][self._states[chain]] += clock - self._marks[chain]
        self._marks[chain] = clock
        self._states[chain] = wait

    def _find_cause(self) -> Cause:
        if self._filled and self._admission.is_limited(self._stock.now):
            return Cause.MEMORY
        for chain, wait in self._refused.items():
            if wait is Wait.OUTPUT or (self._has_processes and self._clock_of[chain] is not None):
                continue  # what is in the way of its results is told below (H2)
            self._limited_by = chain
            return Cause.LIMIT if wait is Wait.WORKERS else Cause.FILLING
        if not self._refused and (self._intake.has_ended or self._intake.requested):
            return Cause.END if self._intake.has_ended else Cause.SOURCE
        return Cause.CONSUMER if self._stock.taken else Cause.ORDER

    def engage(self, worker: Worker, batch: Batch, report: BatchReturned) -> None:
        """A worker reports on ``batch``, of which nothing has been taken over yet."""
        chain = batch.chain
        size_bytes = batch.size_bytes * report.consumed // (batch.count or 1)
        for chunk in report.chunks:
            size_bytes += chunk.size_bytes
        self._engaged_s[chain] += self._stock.now - worker.since
        worker.since = self._stock.now
        self._batches[chain] += 1
        self._items[chain] += report.consumed
        self._bytes[chain] += size_bytes

    def lose(self, worker: Worker) -> None:
        """A worker has died; whatever it was at was not reported (T5)."""
        if worker.active and (worker.only is None or not self._has_processes):
            self._lost_s += self._stock.now - worker.since

    # ------------------------------------------------------------------ at the end

    def profile(self) -> Profile:
        """Return where the time went until the last event."""
        at = self._began_at if self._at is None else self._at
        books = self._stock.ledger.stages
        chains = self._plan.chains
        own = [chain for chain in chains if not (chain.seats and self._has_processes)]
        stages: dict[int, StageProfile] = {}
        limits_s = [0.0] * len(books)
        for chain in chains:
            self._enter(chain.index, self._states[chain.index])
            numbers = range(chain.first_stage, chain.first_stage + len(chain.stages))
            busy_s = sum(books[number].busy_s for number in numbers)
            size = self._crew.size_for(chain.index)
            workers = self._crew.cap_of(chain.index) or size
            waits = self._waits[chain.index]
            for number in numbers:
                stages[number] = StageProfile(books[number].name, workers, workers < size, books[number].busy_s)
            stages[chain.first_stage] = StageProfile(
                books[chain.first_stage].name, workers, workers < size, books[chain.first_stage].busy_s,
                max(0.0, self._engaged_s[chain.index] - busy_s), waits[Wait.INPUT], waits[Wait.OUTPUT],
                waits[Wait.WORKERS], self._batches[chain.index], self._items[chain.index], self._bytes[chain.index],
            )  # fmt: skip
            limits_s[chain.first_stage] = self._limits_s[chain.index]
        own_stages = [
            stages[number]
            for chain in own
            for number in range(chain.first_stage, chain.first_stage + len(chain.stages))
        ]
        unreported_s = sum(
            at - worker.since
            for worker in self._crew
            if worker.active and (worker.only is None or not self._has_processes)
        )
        busy_s, transport_s = (
            sum(stage.busy_s for stage in own_stages),
            sum(stage.transport_s for stage in own_stages),
        )
        workers = self._crew.processes if self._has_processes else sum(chain.seats for chain in chains)
        elapsed_s = at - self._began_at
        lost_s = self._lost_s + unreported_s
        there_s = busy_s + transport_s + lost_s + sum(self._causes)
        return Profile(
            workers, elapsed_s, spread_over([book.name for book in books], stages), Idleness(*self._causes),
            tuple(limits_s), busy_s, transport_s, max(0.0, workers * elapsed_s - there_s), lost_s,
        )  # fmt: skip
