"""The batch: what moves through the pipeline, and what is known of it.

A batch is a window on a payload, so that it is split without unpacking anything: both parts look at the same payload.
It is its own place in the order of results as well (``before`` and ``behind``; see ``ordering``).
"""

from __future__ import annotations

from mpengine.records import dataclass, field
from mpengine.scheduler.lifecycles import BATCH, BatchMove, BatchState, follow
from mpengine.scheduler.payloads import Zipped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mpengine.scheduler.events import Failure


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """What the source gave in one batch.

    Attributes:
        payload: a reference; never looked into.
        size_bytes: its weight.
        positions: for each item of the payload, its place among those that were pulled; None: they are the same.
    """

    payload: Any
    size_bytes: int
    positions: Sequence[int] | None = None

    def place_of(self, position: int) -> int | None:
        """Return the place in the payload of an item that was pulled; None where it could not be packed."""
        if self.positions is None:
            return position
        return self.positions.index(position) if position in self.positions else None


@dataclass(slots=True, eq=False)
class Family:
    """A source batch and all that became of it, where one item may become many.

    Sets hold source indices; they are filled a batch at a time.  ``given`` is what the source gave, kept for as long as
    anything of it is under way, where an error handler asks for that.  What ``is_known`` an earlier run has settled.
    """

    indices: range
    live: int = 0
    is_known: bool = False
    given: Given | None = None
    delivered: set[int] = field(default_factory=set)
    dropped: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)
    cancelled: set[int] = field(default_factory=set)


Families = tuple[Family, ...]
"""Those that a batch's items descend from; empty where no item can become many, and nothing has to be traced."""


def given_at(index: int, families: Families) -> tuple[Any, int] | None:
    """Return where a source item is: a payload, and its place in that; None where it is not kept."""
    for family in families:
        if family.given is not None and index in family.indices:
            place = family.given.place_of(index - family.indices.start)
            return None if place is None else (family.given.payload, place)
    return None


@dataclass(slots=True, eq=False)
class Batch:
    """Items ``lo`` to ``hi`` of a payload, on their way to ``chain``.

    Attributes:
        batch_id: unique in the run.
        chain: the chain they wait for or are in; the number of chains once they are results.
        payload: a reference.
        origin: for each item of the payload, the index of the source item it comes from.
        lo: first item.
        hi: one past the last item.
        size_bytes: its share of the payload's weight.
        state: who owns it.
        worker_id: the worker that holds it; None when none does.
        skip: results of the first item that were reported before its worker died.
        careful: whether its worker is to name each item in its slot.
        deaths: workers that died of its only item.
        is_called_off: whether nobody wants its result any more, and it is not run again.
        attempted: a stage of the chain, and how many attempts its only item has had there with workers that died.
        families: the source batches it descends from, where one item may become many.
        since: when it was made.
        joint: where it is to be put together with what other branches of a mix make of the same items.
        budget: results that its worker may still send before it suspends a fan-out.
    """

    batch_id: int
    chain: int
    payload: Any
    origin: Sequence[int]
    lo: int
    hi: int
    size_bytes: int = 0
    state: BatchState = BatchState.QUEUED
    worker_id: int | None = None
    skip: int = 0
    careful: bool = False
    deaths: int = 0
    is_called_off: bool = False
    attempted: tuple[int, int] = (0, 0)
    families: Families = ()
    joint: Joint | None = None
    since: float = 0.0
    budget: int = 0
    before: Batch | None = field(default=None, repr=False)
    behind: Batch | None = field(default=None, repr=False)

    @property
    def count(self) -> int:
        """How many items it has."""
        return self.hi - self.lo

    @property
    def is_alone(self) -> bool:
        """Whether a worker died of its only item, so that it runs beside nothing else."""
        return self.deaths > 0

    @property
    def is_plain(self) -> bool:
        """Whether nothing is known of it that its neighbours do not share, so that it can be joined with them."""
        is_marked = self.careful or self.skip or self.deaths or self.attempted[1] or self.joint
        return not (is_marked or isinstance(self.payload, Zipped))  # what a mix has put together stays as it is

    def move(self, what: BatchMove) -> None:
        """Change owner, if the table allows it."""
        self.state = follow(BATCH, self.state, what, self)

    def indices(self) -> Sequence[int]:
        """Return the source indices of its items."""
        return self.origin[self.lo : self.hi]


@dataclass(slots=True, eq=False)
class Piece:
    """Results of one branch of a mix: ``positions`` are the places of their items, in order."""

    payload: Any
    positions: Sequence[int]


@dataclass(slots=True, eq=False)
class BranchFailure:
    """An item that failed in a branch of a mix."""

    position: int
    stage: int
    failure: Failure
    worker_id: int | None


@dataclass(slots=True, eq=False)
class Joint:
    """Items that are in several branches of a mix at once.

    Attributes:
        place: the batch that holds their place in the order; its payload is what all branches get.
        branches: the chains.
        open: how many batches of the branches are not settled.
        pieces: the results so far, for each branch.
        failures: what failed so far.
    """

    place: Batch
    branches: tuple[int, ...]
    open: int = 0
    pieces: dict[int, list[Piece]] = field(default_factory=dict)
    failures: list[BranchFailure] = field(default_factory=list)

    def first_failures(self) -> list[BranchFailure]:
        """Return one failure for each item that has failed, that of its first branch; in the order of the items."""
        first: dict[int, BranchFailure] = {}
        for failed in sorted(self.failures, key=lambda failed: failed.stage):
            first.setdefault(failed.position, failed)
        return [first[position] for position in sorted(first)]

    def common(self) -> list[int]:
        """Return the places of the items that every branch has given a result for, in order."""
        failed = {failure.position for failure in self.failures}
        found: set[int] | None = None
        for branch in self.branches:
            given = {position for piece in self.pieces.get(branch, ()) for position in piece.positions}
            found = given if found is None else found & given
        return sorted((found or set()) - failed)

    def given(self, branch: int) -> int:
        """Return how many results a branch has given."""
        return sum(len(piece.positions) for piece in self.pieces.get(branch, ()))

    def zipped(self, positions: Sequence[int]) -> Zipped:
        """Return the results of all branches for the items at ``positions``, side by side."""
        wanted = set(positions)
        branches = []
        for branch in self.branches:
            pieces: list[tuple[Any, Sequence[int] | None]] = []
            for piece in sorted(self.pieces.get(branch, ()), key=lambda piece: piece.positions[0]):
                picks = [number for number, position in enumerate(piece.positions) if position in wanted]
                if picks:
                    pieces.append((piece.payload, None if len(picks) == len(piece.positions) else picks))
            branches.append(tuple(pieces))
        return Zipped(tuple(branches))


def trace(origin: Sequence[int], first: int, count: int, positions: Sequence[int] | None) -> Sequence[int]:
    """Return the source indices of results, given those of the items they came from."""
    if positions is None:
        return origin[first : first + count]
    if isinstance(origin, range):
        return list(map(origin.start.__add__, positions))
    return list(map(origin.__getitem__, positions))
