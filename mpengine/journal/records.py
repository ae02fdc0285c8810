"""What is handed to the journal's writer, and what it keeps of items that are under way."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from mpengine.records import dataclass, field

if TYPE_CHECKING:
    from collections.abc import Sequence


class ItemState(enum.IntEnum):
    """What the journal says of an item; one that it has no row of is left."""

    DONE = 1
    FAILED = 2
    LEFT = 3
    """Under way when its run ended, or what ended it."""


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """An item, or a part of one, that failed for good.

    Attributes:
        index: the item's number in the source.
        stage: name of the stage.
        summary: the error in one line.
        item: a bounded ``repr`` of what the stage was given.
        traceback: as text.
        attempts: how often the stage tried.
        worker_id: slot of the worker that tried last; None when it failed outside any.
    """

    index: int
    stage: str
    summary: str
    item: str
    traceback: str
    attempts: int
    worker_id: int | None


@dataclass(frozen=True, slots=True)
class Taken:
    """The consumer is through with a list of results.

    Attributes:
        indices: for each result, the source index of its item.
        unsure: indices of items that this says nothing final of.
        position: where the output stands since; None where there is none that can tell.
        kept: the results as bytes, if they are to be kept.
    """

    indices: Sequence[int]
    unsure: frozenset[int]
    position: object = None
    kept: Sequence[bytes] | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """Nothing is under way any more of what came of some source items.

    Attributes:
        indices: the items.
        left: those that a cancelled run left behind, or that ended it.
        failed: those of which something failed and was dropped.
    """

    indices: Sequence[int]
    left: set[int]
    failed: set[int]


@dataclass(frozen=True, slots=True)
class Ended:
    """The run is over.

    Attributes:
        ending: how, in one line.
        seen: how many items the source gave.
        known: how many of them earlier runs had settled.
        is_whole: whether it came to its end.
    """

    ending: str
    seen: int
    known: int
    is_whole: bool


@dataclass(slots=True, eq=False)
class OpenItem:
    """An item that is under way.

    Attributes:
        key: see ``stable_key``.
        nth: how many items of that key came before it.
        row: its number in the journal; 0 before it has one.
        given: results of it that are in the output.
        is_known: whether the journal has anything of it from an earlier run.
        failures: what failed of it, the first few.
    """

    key: bytes
    nth: int
    row: int = 0
    given: int = 0
    is_known: bool = False
    failures: list[FailureRecord] = field(default_factory=list)
