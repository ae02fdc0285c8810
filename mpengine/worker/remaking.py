"""Results that were lost with the machine they were on, made once more by whoever needs them.

L1. A recipe goes back to what the coordinator itself has sent out: the source's items.  It holds on to nothing that a
    machine could take along.
L2. Only what is needed is made again.  Items that fail now, or give less than they gave before, are ``Broken`` there,
    and fail in the stage that was to get them.
L3. What a stage with ``idempotent=False`` has made is not made again: all of it is ``Broken``.
L4. While anything is made again, the slot names the batch that it is for, and no item.  Should the process die of it,
    the scheduler finds out for which of the batch's items that is so, as for any death.
"""

from __future__ import annotations

from array import array

from mpengine.errors import StageError
from mpengine.ipc.assembly import put_together
from mpengine.ipc.codec import Broken, Salvaged
from mpengine.records import dataclass, replace
from mpengine.worker.chain import Stopped
from mpengine.worker.jobs import Job, Window
from mpengine.worker.reports import DONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from mpengine.ipc.assembly import Layout
    from mpengine.ipc.codec import Codec
    from mpengine.worker.chain import Chain, Naming, Site
    from mpengine.worker.reports import Report

MANY = 1 << 30


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a payload was made.

    Attributes:
        chain: what made it.
        parts: of what: payloads, or how those were made.
        layout: how these are put together (see ``ipc.assembly``).
        first: place, in what is put together, of the item that the first result came from.
        count: how many results.
        places: for each result, the place of its item, as bytes of unsigned ints; None: one after the other.
        skip: how many results of the first item came before these.
        is_once: whether it must not be made twice (L3).
    """

    chain: int
    parts: tuple[Any, ...]
    layout: Layout
    first: int
    count: int
    places: bytes | None = None
    skip: int = 0
    is_once: bool = False

    def positions(self) -> Sequence[int]:
        """Return, for each result, the place of its item."""
        return range(self.first, self.first + self.count) if self.places is None else array("I", self.places)


def with_parts(part: Any, change: Callable[[Any], Any]) -> Any:
    """Return a part with ``change`` made to it, or to all that its recipe goes back to."""
    if type(part) is not Recipe:
        return change(part)
    return replace(part, parts=tuple([with_parts(inner, change) for inner in part.parts]))


class Maker:
    """Makes things again.

    Args:
        codec: unpacks.
        chain: returns a chain by its number, built if need be.
        site: where.
    """

    def __init__(self, codec: Codec, chain: Callable[[int], Chain], site: Site) -> None:
        """Make nothing yet."""
        self._codec = codec
        self._chain = chain
        self._site = replace(site, slot=_Unnamed(site.slot))

    def items(self, parts: Sequence[Any], layout: Layout, lo: int, hi: int) -> list[Any]:
        """Return the items that ``parts`` make up; what was lost of them is made again.

        Args:
            parts: payloads, or their recipes.
            layout: how they are put together.
            lo: the first item that is needed.
            hi: one past the last.

        Raises:
            Stopped: the run was cancelled meanwhile.
            BrokenStageError: a chain could not be built.
        """
        if not layout and type(parts[0]) is Recipe:
            return self._make(parts[0], lo, hi)
        made = [self._make(part, 0, part.count) if type(part) is Recipe else part for part in parts]
        return put_together(self._codec, made, layout)

    def _make(self, recipe: Recipe, lo: int, hi: int) -> list[Any]:
        """Make results ``lo`` to ``hi`` of a recipe again; the others stay ``Broken``."""
        if recipe.is_once:
            return Salvaged([Broken(StageError(_ONCE))] * recipe.count)
        positions = recipe.positions()
        first, last = positions[lo], positions[hi - 1]
        before = sum([position == first for position in positions[:lo]])
        skip = before + (recipe.skip if first == positions[0] else 0)
        items = self.items(recipe.parts, recipe.layout, first, last + 1)
        reports = self._run(recipe.chain, items, Window(first, last + 1, skip), hi - lo)
        given: dict[int, list[Any]] = {}
        for report in reports:
            for position, value in zip(report.positions, report.results, strict=True):
                given.setdefault(position, []).append(value)
        errors = {failure[0]: failure[3] for report in reports for failure in report.failures}
        made = Salvaged([Broken(StageError(_LOST))] * recipe.count)
        for place in range(hi - 1, lo - 1, -1):
            position = positions[place]
            # From behind: the last result of an item is the last that was asked for, however many came before.
            values = given.get(position)
            wanted = sum([other == position for other in positions[lo : place + 1]])
            if values and len(values) >= wanted:
                made[place] = values[wanted - 1]
            else:
                made[place] = Broken(errors.get(position) or StageError(_LOST))
        return made

    def _run(self, number: int, items: list[Any], window: Window, wanted: int) -> list[Report]:
        """Run a window through a chain until it has given so many results, or is through."""
        chain = self._chain(number)
        job = Job(chain, items, window, self._site)
        reports: list[Report] = []
        try:
            while True:
                left = wanted - sum([len(report.results) for report in reports])
                report = job.advance(left if chain.fans_out else MANY)
                if report.abandoned:
                    raise Stopped
                reports.append(report)
                if (
                    report.progress == DONE
                    or report.kill is not None
                    or (chain.fans_out and len(report.results) >= left)
                ):
                    return reports
        finally:
            job.close()


_LOST = "it was lost with the machine it was on, and its stage did not give it again"
_ONCE = "it was lost with the machine it was on, and its stage is not to be run twice"


class _Unnamed:
    """Names no item, but tells how long a call may take (L4)."""

    def __init__(self, slot: Naming) -> None:
        self._slot = slot

    def begin_item(self, position: int, stage: int) -> None:
        """See ``Naming``."""

    def begin_stage(self, stage: int) -> None:
        """See ``Naming``."""

    def begin_attempt(self, stage: int, attempt: int, timeout_s: float) -> None:  # noqa: ARG002 - it is another chain's
        """See ``Naming``."""
        self._slot.begin_attempt(0, attempt, timeout_s)

    def end_attempt(self) -> bool:
        """See ``Naming``."""
        return self._slot.end_attempt()

    def describe(self, text: str) -> None:
        """See ``Naming``."""
