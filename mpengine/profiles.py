"""Where a run's time went, and what to do about it: frozen figures, and one line of advice.

The unit is the *worker-second*: a second of one worker process (or, in a run that has none, of one thread beside the
coordinator).  Each worker-second of a run is one of these, and they add up to ``workers * elapsed_s``:

T1. **busy**: in stage functions, as the worker measured it.
T2. **transport**: the worker had a batch, from the moment it was sent to the moment its report was read, and was in no
    stage function: pickling, pipes, the coordinator's own work, and the wait for a core where there are too few.
T3. **idle**: it had no batch.  What for is decided where work is handed out, by the deepest chain that had anything:
    *source*: nothing waited, and the source had been asked for more; *end*: nothing waited, and the source had ended;
    *consumer*: results had been handed over and not been taken, and there was no room for more; *order*: there was no
    room for more (``buffer``, ``max_bytes``) for another reason, mostly since results wait for a slow one before them;
    *limit*: what waited was for a stage whose ``workers=`` were all at work; *filling*: for a list to be filled
    (``batch=``); *memory*: fewer workers may be at work while memory is tight, or an item had to run alone.
T4. **absent**: the worker was starting, or its process had died and the next one was.
T5. **lost**: it had a batch that it never reported, since it died or the run was cancelled.
"""

from __future__ import annotations

from mpengine.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

LARGE_BYTES = 64 * 1024
FULL = 0.1
"""What is less than this share of the time is nothing to act upon."""


@dataclass(frozen=True, slots=True)
class StageProfile:
    """Where the time of one stage went, in worker-seconds.

    What cannot be told of single stages of a fused chain is told of its first one: all but ``busy_s``.

    Attributes:
        name: the stage's name.
        workers: how many workers may run it at the same time.
        is_limited: whether that is fewer than there are, since it has ``workers=``.
        busy_s: in the stage's function (T1).
        transport_s: with a batch for it, but not in its function (T2).
        waited_for_input_s: idle, while nothing waited before it.
        waited_for_output_s: idle, while something waited before it and there was no room behind it.
        waited_for_workers_s: idle, while something waited before it and all workers that may run it were at work.
        batches: reports on batches of its chain.
        items: items in them.
        size_bytes: what their payloads weighed, in and out.
    """

    name: str
    workers: int = 0
    is_limited: bool = False
    busy_s: float = 0.0
    transport_s: float = 0.0
    waited_for_input_s: float = 0.0
    waited_for_output_s: float = 0.0
    waited_for_workers_s: float = 0.0
    batches: int = 0
    items: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Idleness:
    """What idle workers waited for, in worker-seconds (T3)."""

    source: float = 0.0
    end: float = 0.0
    consumer: float = 0.0
    order: float = 0.0
    limit: float = 0.0
    filling: float = 0.0
    memory: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.source + self.end + self.consumer + self.order + self.limit + self.filling + self.memory


@dataclass(frozen=True, slots=True)
class Profile:
    """Where the time of a run went, in worker-seconds (T1 to T5).

    Attributes:
        workers: how many there were.
        elapsed_s: seconds from the start of the run to its last event.
        stages: the stages, in order.
        idle: what idle workers waited for.
        limits_s: of ``idle.limit``, what each stage is to blame for.
        busy_s: see T1.
        transport_s: see T2.
        absent_s: see T4.
        lost_s: see T5.
        is_inline: whether all of it took place in the caller's thread, so that workers took turns, and the time in
            which they did counts as transport.
    """

    workers: int = 0
    elapsed_s: float = 0.0
    stages: tuple[StageProfile, ...] = ()
    idle: Idleness = Idleness()
    limits_s: tuple[float, ...] = ()
    busy_s: float = 0.0
    transport_s: float = 0.0
    absent_s: float = 0.0
    lost_s: float = 0.0
    is_inline: bool = False

    @property
    def capacity_s(self) -> float:
        """The worker-seconds of the run."""
        return self.workers * self.elapsed_s

    @property
    def bottleneck(self) -> str:
        """What held the run up, and what to do about it, in one line."""
        there_s = self.capacity_s - self.absent_s
        if not any(stage.batches for stage in self.stages) or there_s <= 0:
            return "there is no bottleneck: nothing was run"
        if self.is_inline:
            return self._tell_inline()
        if self.absent_s > self.capacity_s / 2:
            return (
                f"starting workers is the bottleneck: {_share(self.absent_s / self.capacity_s)} of the run; run more at"
                " a time, or keep the workers (with Engine() as engine:)"
            )
        return self._tell_worst(there_s)

    def _tell_worst(self, there_s: float) -> str:
        idle = self.idle
        stories = {
            "source": idle.source, "end": idle.end, "consumer": idle.consumer, "order": idle.order,
            "limit": idle.limit, "filling": idle.filling, "memory": idle.memory, "transport": self.transport_s,
        }  # fmt: skip
        worst = max(stories, key=stories.__getitem__)
        share = stories[worst] / there_s
        if share < FULL or (self.busy_s > stories[worst] and share < 2 * FULL):
            return self._tell_busy(there_s)
        if worst == "limit":
            return self._tell_limit(there_s)
        if worst == "transport":
            return self._tell_transport(share)
        return _STORIES[worst].format(_share(share))

    def _tell_inline(self) -> str:
        busiest = max(self.stages, key=lambda stage: stage.busy_s)
        work = _share(busiest.busy_s / (self.busy_s or 1.0))
        return f"{busiest.name} had {work} of the work; nothing ran side by side (backend='inline')"

    def _tell_busy(self, there_s: float) -> str:
        busiest = max(self.stages, key=lambda stage: stage.busy_s)
        name = f"{busiest.name} is the bottleneck"
        if len(self.stages) > 1:
            name += f", with {_share(busiest.busy_s / self.busy_s)} of the work"
        who = f"all {self.workers} workers are" if self.workers > 1 else "the only worker is"
        return f"{name}: {who} {_share(self.busy_s / there_s)} busy; make it quicker, or give the run more cores"

    def _tell_limit(self, there_s: float) -> str:
        number = max(range(len(self.stages)), key=self.limits_s.__getitem__)
        stage = self.stages[number]
        busy = _share(stage.busy_s / (there_s * stage.workers / self.workers))
        whose = "its only worker is" if stage.workers == 1 else f"its {stage.workers} workers are"
        return (
            f"{stage.name} is the bottleneck: {whose} {busy} busy, and others have nothing to do; give it more workers"
            f" (workers={stage.workers} now)"
        )

    def _tell_transport(self, share: float) -> str:
        stage = max(self.stages, key=lambda stage: stage.transport_s)
        told = f"transport is the bottleneck: {_share(share)} of the workers' time, most of it for {stage.name}"
        if stage.size_bytes >= LARGE_BYTES * max(1, stage.items):
            each = stage.size_bytes / max(1, stage.items)
            return f"{told}; its payloads are too large ({each / 1e6:,.2f} MB an item): hand over names, not contents"
        return f"{told}; its items are too small: let each do more, or give the run fewer workers"


_STORIES = {
    "source": "the source is the bottleneck: workers waited for it {} of the time; make it quicker",
    "consumer": "the consumer is the bottleneck: workers waited {} of the time for it to take results; let it do less",
    "order": "the order of results is the bottleneck: workers waited {} of the time for room, behind results that wait"
    " for their turn; a larger buffer=, or ordered=False, lets them go on",
    "end": "the end is the bottleneck: workers had nothing left to do {} of the time, while the last items were run;"
    " give the run more items at a time, or smaller ones",
    "filling": "lists that are not full are the bottleneck: workers waited {} of the time for them; a smaller batch="
    " lets them go on",
    "memory": "memory is the bottleneck: workers waited {} of the time, since not all could be at work; let items need"
    " less of it",
}


def _share(share: float) -> str:
    return f"{min(1.0, max(0.0, share)):.0%}".replace("%", " %")


def spread_over(stages: Sequence[str], figures: dict[int, StageProfile]) -> tuple[StageProfile, ...]:
    """Return a profile for each stage: those that there are, and for the others one with nothing but a name."""
    return tuple(figures.get(number) or StageProfile(name) for number, name in enumerate(stages))
