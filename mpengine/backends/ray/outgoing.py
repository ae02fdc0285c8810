"""What is out at actors: orders, and what their results can be made again from."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from mpengine.backends.ray.objects import Kept
from mpengine.records import dataclass
from mpengine.worker.asactor import Apart, Order
from mpengine.worker.remaking import Recipe, with_parts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mpengine.backends.ray.objects import Meter
    from mpengine.ipc.assembly import Layout
    from mpengine.plan import ChainPlan
    from mpengine.scheduler.commands import Dispatch
    from mpengine.worker.asactor import Told


@dataclass(slots=True)
class _Out:
    command: Dispatch
    parts: Sequence[Any]
    layout: Layout
    position: int  # of the item that the last result came from
    given: int  # how many results that has given


class Outgoing:
    """The batches that are out.

    Args:
        meter: counts what comes back.
        chains: of the run.

    Attributes:
        chains: the same.
    """

    def __init__(self, meter: Meter, chains: Sequence[ChainPlan] = ()) -> None:
        """Begin without any."""
        self._meter = meter
        self._out: dict[int, _Out] = {}
        self.chains = chains

    def order(self, command: Dispatch, parts: Sequence[Any], layout: Layout) -> tuple[Order, list[Any]]:
        """Return the order for a batch, and the references of what is sent beside it."""
        self._out[command.batch_id] = _Out(command, parts, layout, command.lo, command.skip)
        return self._order(command, parts, layout)

    def order_again(self, batch_id: int, ref: str) -> tuple[Order, list[Any]]:
        """Return the order once more, with recipes for what is lost.

        Args:
            batch_id: which.
            ref: the number of what was missed; all else that was made on the same machine is taken to be lost as well.
        """
        out = self._out[batch_id]
        kept = [part for part in out.parts if type(part) is Kept and part.recipe is not None and not part.is_lost]
        machines = {part.machine for part in kept if part.ref.hex() == ref} or {part.machine for part in kept}
        for part in kept:
            if part.machine in machines:
                part.is_lost = True
                self._meter.remade += 1
        return self._order(out.command, out.parts, out.layout)

    @staticmethod
    def _order(command: Dispatch, parts: Sequence[Any], layout: Layout) -> tuple[Order, list[Any]]:
        apart: list[Any] = []

        def sent(part: Any) -> Any:
            if type(part) is not Kept:
                return part
            apart.append(part.ref)
            return Apart(len(apart) - 1)

        content = [
            with_parts(part.recipe, sent) if type(part) is Kept and part.is_lost else sent(part) for part in parts
        ]
        order = Order(
            command.batch_id,
            command.chain,
            command.lo,
            command.hi,
            command.skip,
            command.careful,
            command.out_size,
            command.budget,
            command.attempted,
            tuple(content),
            layout,
        )
        return order, apart

    def manner(self, batch_id: int) -> dict[str, bool]:
        """Return how a batch is to be run.

        Whether what comes of it is wanted here, to be delivered or for a thread (P3 of ``objects``); and whether it
        must not be run twice.
        """
        chain = self.chains[self._out[batch_id].command.chain]
        is_wanted = not chain.following or any(self.chains[index].seats for index in chain.following)
        return {"is_wanted": is_wanted, "is_once": chain.once_from is not None}

    def forget(self, batch_id: int) -> None:
        """A batch is through."""
        self._out.pop(batch_id, None)

    def forget_those_of(self, worker_id: int) -> None:
        """A worker is gone; what it had comes as other orders."""
        for batch_id in [number for number, out in self._out.items() if out.command.worker_id == worker_id]:
            del self._out[batch_id]

    def results(self, told: Told, kept: Sequence[Kept]) -> list[Any]:
        """Return the payloads of a report, each large one with its recipe.

        Raises:
            KeyError: nobody has such a batch.
        """
        out = self._out[told.batch_id]
        large = iter(kept)
        payloads: list[Any] = []
        for (count, first, places), payload in zip(told.chunks, told.payloads, strict=True):
            positions: Sequence[int] = range(first, first + count) if places is None else array("I", places)
            skip = out.given if positions[0] == out.position else 0
            if isinstance(payload, int):
                lost = next(large)
                lost.recipe = self._recipe(out, (count, first, places), skip)
                payloads.append(lost)
                if lost.bale is None:
                    self._meter.stayed_bytes += lost.nbytes
            else:
                payloads.append(payload)
                self._meter.inline_bytes += len(payload)
            last = positions[-1]
            run = sum([position == last for position in positions])
            out.given = run + (skip if positions[0] == last else 0)
            out.position = last
        return payloads

    def _recipe(self, out: _Out, chunk: tuple[int, int, bytes | None], skip: int) -> Recipe:
        count, first, places = chunk
        chain = out.command.chain
        parts = tuple([part.lineage() if type(part) is Kept else part for part in out.parts])
        return Recipe(chain, parts, out.layout, first, count, places, skip, self.chains[chain].once_from is not None)
