"""From a pipeline to a plan: checked, and neighbouring stages fused into chains.  A pure rewrite, nothing runs.

A chain is what one worker does to a batch without handing it on in between.  Stages fuse when both map one item to one
and neither asks for anything of its own (``workers=``, ``buffer=``, ``batch=``, another ``kind=``).  A generator stage
may end a chain, never stand inside one: what it yields is streamed to whichever worker is free.  An ``async def`` has a
chain to itself, since its items are under way together.  Each function of a mix is a chain, and so is what merges them.
"""

from __future__ import annotations

from mpengine.errors import PipelineError
from mpengine.mixes import Mix
from mpengine.policies import ErrorPolicy
from mpengine.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpengine.stages import Stage


@dataclass(frozen=True, slots=True)
class ChainPlan:
    """Stages that one worker runs in one go.

    Attributes:
        index: the chain's number.
        stages: its stages, in order.
        first_stage: number, in the whole pipeline, of its first stage.
        workers: at most so many workers run it; None: all may.
        buffer: at most so many items wait before it.
        fans_out: whether one item may become many.
        policies: the error policy of each stage.
        following: the chains that its results go to: one, or every branch of a mix; none: the consumer.
        joins: the branches of a mix whose results it puts together; none for any other chain.
        joined_by: the chain that puts its results together with those of other branches; None for any other chain.
        kind: where it runs: in a ``"process"``, or beside the coordinator in a ``"thread"`` or on a loop (``"async"``).
        seats: how many threads beside the coordinator run it.
        unit: batches are a multiple of so many items where that can be had: what the function takes at once.
        once_from: place of the first stage that must not be run twice for an item; None without one.
        singly: whether a worker gets one item at a time, and none in reserve.
    """

    index: int
    stages: tuple[Stage, ...]
    first_stage: int
    workers: int | None
    buffer: int
    fans_out: bool
    policies: tuple[ErrorPolicy, ...]
    following: tuple[int, ...] = ()
    joins: tuple[int, ...] = ()
    joined_by: int | None = None
    kind: str = "process"
    seats: int = 0
    unit: int = 1
    once_from: int | None = None
    singly: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is going to do.

    Attributes:
        chains: what workers do.
        tells_settled: whether somebody wants to know what becomes of every source item.
    """

    chains: tuple[ChainPlan, ...]
    tells_settled: bool = False

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Every stage, in order."""
        return tuple(stage for chain in self.chains for stage in chain.stages)

    @property
    def policies(self) -> tuple[ErrorPolicy, ...]:
        """The error policy of every stage, in order."""
        return tuple(policy for chain in self.chains for policy in chain.policies)

    @property
    def entrance(self) -> tuple[int, ...]:
        """The chains that the source's items go to: the first, or every branch of a mix."""
        merging = self.chains[0].joined_by
        return (0,) if merging is None else self.chains[merging].joins

    @property
    def upstream(self) -> tuple[tuple[int, ...], ...]:
        """For each stage, those whose results it gets: none, the one before it, or the branches of a mix."""
        found: list[tuple[int, ...]] = []
        for chain in self.chains:
            giving = chain.joins or tuple(other.index for other in self.chains if chain.index in other.following)
            last_stages = [self.chains[index].first_stage + len(self.chains[index].stages) - 1 for index in giving]
            found.append(tuple(last_stages))
            found += [(number,) for number in range(chain.first_stage, chain.first_stage + len(chain.stages) - 1)]
        return tuple(found)

    def keeps_plain(self, chain: ChainPlan) -> bool:
        """Whether what ``chain`` gives on stays in this process."""
        return all(self.chains[index].seats for index in chain.following)

    @property
    def begins_plain(self) -> bool:
        """Whether what the source gives stays in this process."""
        return all(self.chains[index].seats for index in self.entrance)

    @property
    def is_traced(self) -> bool:
        """Whether what becomes of an item is traced: it may become many or be in several places, or is asked for."""
        return self.tells_settled or self.keeps_items or any(chain.fans_out or chain.joins for chain in self.chains)

    @property
    def keeps_items(self) -> bool:
        """Whether an error handler asks for the source's item, whichever stage that has failed in."""
        return any(stage.hands_item for stage in self.stages)

    @property
    def fans_out(self) -> bool:
        """Whether any stage may turn one item into many."""
        return any(chain.fans_out for chain in self.chains)


def make_plan(
    stages: Sequence[Stage | Mix], *, default_buffer: int, default_policy: ErrorPolicy, threads: int = 0
) -> Plan:  # fmt: skip
    """Return the plan for ``stages``.

    Args:
        stages: at least one.
        default_buffer: items that may wait before a chain whose first stage names no ``buffer``.
        default_policy: for stages that name no ``on_error``.
        threads: how many threads run a stage of ``kind="thread"`` that does not say; 0: it runs where all others do.

    Raises:
        PipelineError: the stages cannot run; the message says which and why.
    """
    if not stages:
        msg = "a pipeline needs at least one stage behind its source (which is what a list begins with)"
        raise PipelineError(msg)
    groups = _fuse(stages)
    first_stage = 0
    chains: list[ChainPlan] = []
    for group in groups:
        for stage in group.stages:
            _check(stage, default_policy)
        head = group.stages[0]
        chains.append(
            ChainPlan(
                index=len(chains),
                stages=tuple(group.stages),
                first_stage=first_stage,
                workers=head.workers,
                buffer=max(head.buffer or default_buffer, head.batch or 1),
                fans_out=group.stages[-1].is_generator,
                policies=tuple(stage.policy or default_policy for stage in group.stages),
                following=group.following,
                joins=group.joins,
                joined_by=group.joined_by,
                kind=head.kind if threads else "process",
                seats=_seats(head, threads) if threads else 0,
                unit=head.batch or (head.concurrency if head.is_async else 1),
                once_from=next((place for place, stage in enumerate(group.stages) if not stage.idempotent), None),
                singly=any(stage.singly for stage in group.stages),
            )
        )
        first_stage += len(group.stages)
    return Plan(tuple(chains))


@dataclass(slots=True)
class _Group:
    """A chain in the making."""

    stages: list[Stage]
    following: tuple[int, ...] = ()
    joins: tuple[int, ...] = ()
    joined_by: int | None = None


def _fuse(members: Sequence[Stage | Mix]) -> list[_Group]:
    groups: list[_Group] = []
    for member in members:
        behind = groups[-1] if groups else None
        if isinstance(member, Mix):
            first = len(groups)
            branches = tuple(range(first, first + len(member.branches)))
            merging = first + len(branches)
            groups += [_Group([branch], (merging,), joined_by=merging) for branch in member.branches]
            groups.append(_Group([member.merge], joins=branches))
        elif behind is not None and _is_plain(member) and _is_open(behind.stages):
            behind.stages.append(member)
            continue
        else:
            branches = (len(groups),)
            groups.append(_Group([member]))
        if behind is not None:
            behind.following = branches
    return groups


def _is_plain(stage: Stage) -> bool:
    """Whether ``stage`` asks for nothing of its own."""
    asks = stage.workers is not None or stage.buffer is not None or stage.batch is not None
    return not asks and stage.kind == "process" and not stage.is_async


def _is_open(group: list[Stage]) -> bool:
    """Whether something may be fused onto ``group``; its ``buffer`` stands before it and does not matter."""
    head, last = group[0], group[-1]
    takes_one = head.batch is None and not head.is_async
    return head.workers is None and takes_one and head.kind == "process" and not last.is_generator


def _seats(stage: Stage, threads: int) -> int:
    """Return how many threads run a stage: those of an ``async def`` each have an event loop of their own."""
    if stage.kind == "process":
        return 0
    if stage.kind == "async" or stage.is_async:
        return stage.workers or 1
    return stage.workers or (stage.concurrency if stage.concurrency > 1 else threads)


def _check(stage: Stage, default_policy: ErrorPolicy) -> None:
    """Refuse what cannot run, by name, before any process starts."""
    policy = stage.policy or default_policy
    if policy is ErrorPolicy.SIDE and stage.error_handler is None:
        msg = f"stage {stage.name!r}: on_error='side' needs an error_handler"
        raise PipelineError(msg)
    if policy is not ErrorPolicy.SIDE and stage.error_handler is not None:
        msg = f"stage {stage.name!r}: its error_handler is never called under on_error={policy.value!r}; use 'side'"
        raise PipelineError(msg)
    if stage.is_generator and stage.batch is not None:
        msg = f"stage {stage.name!r}: batch= is for functions that return, not for generators"
        raise PipelineError(msg)
    if stage.singly and (stage.batch or stage.is_async):
        msg = f"stage {stage.name!r}: singly= is not for a stage that takes several items at once"
        raise PipelineError(msg)
    if stage.is_async and stage.batch is not None:
        msg = f"stage {stage.name!r}: batch= is not for an async def; concurrency= runs several items at once"
        raise PipelineError(msg)
    if stage.concurrency > 1 and stage.kind == "process" and not stage.is_async:
        msg = f"stage {stage.name!r}: concurrency= is for an async def, or for kind='thread'"
        raise PipelineError(msg)
    if not stage.idempotent and stage.retry.attempts:
        msg = f"stage {stage.name!r}: retries= would run an item twice, which idempotent=False forbids"
        raise PipelineError(msg)
    if stage.kind == "async" and not stage.is_async:
        msg = f"stage {stage.name!r}: kind='async' is for an async def; kind='thread' runs other functions"
        raise PipelineError(msg)
