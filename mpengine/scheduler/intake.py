"""What is asked of the source: no more than the first chain can use, never more than the window has room for (S2)."""

from __future__ import annotations

from mpengine.scheduler.backlog import lead_bound
from mpengine.scheduler.commands import PullSource
from mpengine.scheduler.crew import CREDIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpengine.scheduler.admission import Admission
    from mpengine.scheduler.batching import BatchSizer
    from mpengine.scheduler.crew import Crew
    from mpengine.scheduler.scheduler import Settings
    from mpengine.scheduler.stock import Stock

SHORT_S = 0.002
MOST_AHEAD = 16
AHEAD = 0


class Intake:
    """Asks the source for items.

    Args:
        settings: see ``Settings``.
        stock: the batches.
        crew: the workers.
        sizers: for each chain, how large its batches ought to be.
        admission: whether there is hardly any memory left.

    Attributes:
        window: how many items may be under way, those asked for included.
        requested: items that were asked for and have not come.
        has_ended: whether no more will come.
    """

    def __init__(
        self, settings: Settings, stock: Stock, crew: Crew, sizers: Sequence[BatchSizer], admission: Admission
    ) -> None:
        """Begin with nothing asked for."""
        plan = stock.plan
        self._settings = settings
        self._stock = stock
        self._crew = crew
        self._admission = admission
        self._entrance = plan.entrance
        self._sizers = [sizers[chain] for chain in self._entrance]
        self._buffer = stock.backlog.buffer_of(self._entrance)
        self._at_once = stock.backlog.at_once(self._entrance)
        self._takers = max(map(crew.size_for, self._entrance)) * CREDIT
        self.window = lead_bound(plan, settings)
        self.requested = 0
        self.has_ended = False

    def came(self, items: int) -> None:
        """The source gave ``items``."""
        self.requested = max(0, self.requested - items)

    def end(self) -> None:
        """No more will come, not even what was asked for."""
        self.has_ended = True
        self.requested = 0

    def look_ahead(self) -> None:
        """Tell the sizer of a pipeline's one chain how many items nobody has begun, where that is known (Z5, Z6)."""
        length = self._settings.length
        if length is not None and self._sizers[0].leaves:
            chain = self._entrance[0]
            unpulled = 0 if self.has_ended else max(0, length - self._stock.ledger.source_items)
            self._sizers[0].left = unpulled + self._stock.backlog.waiting[chain]

    def _ahead(self, sizer: BatchSizer, size: int) -> int:
        """Return how many items are to wait, or to be on their way here.

        That is two batches for each worker.  Where those are over in less than ``SHORT_S``, as many more as make up for
        that: the source's thread is woken for several at once.
        """
        ahead = self._takers * size
        batch_s = sizer.item_s * size
        if not 0 < batch_s < SHORT_S:
            return ahead
        more = min(MOST_AHEAD, SHORT_S / batch_s)
        if sizer.item_bytes:
            more = min(more, sizer.most_bytes / (sizer.item_bytes * size))
        return int(ahead * max(1.0, more))

    def ask(self) -> PullSource | None:
        """Return what is to be asked for now, if anything is."""
        stock, settings = self._stock, self._settings
        if self._admission.is_tight and (stock.open_items or self.requested):
            return None
        if settings.is_prompt:
            return self._ask_for_the_idle()
        sizer = self._sizers[0] if len(self._sizers) == 1 else min(self._sizers, key=lambda sizer: sizer.size)
        size = min(sizer.size, self._at_once)
        under_way = stock.open_items + self.requested
        waiting = stock.backlog.level(self._entrance) + self.requested
        ahead = min(self._ahead(sizer, size), self._buffer)
        if waiting > ahead - max(size, ahead // 2):  # so that the source's thread is woken for several batches
            return None
        room = ahead - waiting
        room = min(room, self.window - under_way)
        if sizer.item_bytes and under_way:
            free = (settings.max_bytes - stock.held_bytes) / sizer.item_bytes
            room = min(room, int(free) - self.requested)
        if settings.length is not None:
            remaining = settings.length - stock.ledger.source_items - self.requested
            share = -(-remaining * CREDIT // self._takers)  # one for each worker: what shares a pickle shares its fate
            size = min(size, sizer.in_units(share))
            if remaining > 0:
                room = min(room, remaining)
                size = min(size, remaining)
            elif self.requested:
                return None  # what was asked for is to come first; then one more, which tells whether that was the end
            else:
                room, size = min(room, 1), 1
        if room < size:  # never less than a batch: a window that opens by crumbs would end in batches of crumbs
            return None
        room -= room % size
        self.requested += room
        return PullSource(room, size)

    def _ask_for_the_idle(self) -> PullSource | None:
        """Return what is to be asked for where an item is to stay with its source until somebody is free for it."""
        waiting = self._stock.backlog.level(self._entrance) + self.requested
        room = min(self._crew.idle.count[None] + AHEAD - waiting, self.window - self._stock.open_items - self.requested)
        if room <= 0:
            return None
        self.requested += room
        return PullSource(room, 1)
