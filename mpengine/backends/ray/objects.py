"""Payloads that stay where they are: an object of Ray's store each, of which the coordinator has a reference.

P1. The coordinator owns every one of them, also those that an actor has made (they are what its calls return): so they
    do not end with the actor.  They end with the machine that they are on, and with the last reference.
P2. What is small goes through the coordinator, inside orders and reports.  (Ray does so with objects under 100 kB in
    any case; one message is quicker than two.)
P3. What is wanted at the coordinator, to be delivered or for a stage on one of its threads, is fetched as soon as it is
    told of, and counts as told when it is here.  Nothing else is ever fetched; ``Meter`` counts what is.
P4. What was lost with a machine is made again from what this process has sent out itself (see ``worker.remaking``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpengine.ipc.bales import Bale, BaleCodec
from mpengine.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mpengine.ipc.messages import Buffer
    from mpengine.worker.remaking import Recipe


class Kept:
    """A payload in the object store.

    Args:
        ref: refers to a ``Bale``.
        nbytes: what it weighs.
        recipe: how to make it again; None: the coordinator has put it there itself.
        machine: where it was made; the coordinator's own has no name here.

    Attributes:
        bale: the bale, where it was fetched.
        is_lost: whether it cannot be had any more.
    """

    __slots__ = ("bale", "is_lost", "machine", "nbytes", "recipe", "ref")

    def __init__(self, ref: Any, nbytes: int, recipe: Recipe | None = None, machine: str = "") -> None:
        """Keep the reference."""
        self.ref = ref
        self.nbytes = nbytes
        self.recipe = recipe
        self.machine = machine
        self.bale: Bale | None = None
        self.is_lost = False

    def lineage(self) -> Any:
        """Return what it can be made again from (L1 of ``remaking``)."""
        return self if self.recipe is None else self.recipe


@dataclass(slots=True)
class Meter:
    """Counts what has come to the coordinator, and what has not.

    Attributes:
        fetched_bytes: of results that were fetched from the object store.
        inline_bytes: of results that came with reports, being small.
        stayed_bytes: of results that stayed where they were made.
        sent_bytes: of the source's items that were put into the object store.
        remade: how often a payload had to be made again.
    """

    fetched_bytes: int = 0
    inline_bytes: int = 0
    stayed_bytes: int = 0
    sent_bytes: int = 0
    remade: int = 0


class KeepingCodec(BaleCodec):
    """The coordinator's codec: what is large goes into the object store at once.

    Args:
        ray: the module.
        meter: counts.
    """

    def __init__(self, ray: Any, meter: Meter) -> None:
        """Pickle by value what lives in ``__main__``: no actor has that."""
        super().__init__(main_by_value=True)
        self._ray = ray
        self._meter = meter
        self.shelf = self

    def store(self, parts: Sequence[Buffer]) -> Kept:
        """See ``codec.Shelf``."""
        bale = Bale(list(parts), [not memoryview(part).readonly for part in parts[1:]])
        self._meter.sent_bytes += bale.nbytes
        return Kept(self._ray.put(bale), bale.nbytes)

    def unpack(self, payload: Any) -> list[Any]:
        """See ``Codec``."""
        if type(payload) is Kept:
            payload = self.fetch(payload)
        return super().unpack(payload)

    def fetch(self, kept: Kept) -> Bale:
        """Return what is kept, brought here if need be; raises what ``ray.get`` raises."""
        if kept.bale is None:
            kept.bale = self._ray.get(kept.ref)
            self._meter.fetched_bytes += kept.nbytes
        return kept.bale

    def weigh(self, payload: Any) -> int:
        """See ``Codec``."""
        return payload.nbytes if type(payload) is Kept else super().weigh(payload)
