"""The actors, as Ray wants them told: which calls answer with as many objects as there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ray

from mpengine.backends.ray.warden import Warden
from mpengine.worker.asactor import ActorWorker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpengine.backends.ray.warden import Passed
    from mpengine.ipc.bales import Bale
    from mpengine.worker.asactor import Order, Told, Unbuilt


class RayWorker(ActorWorker):
    """A worker."""

    def machine(self) -> str:
        """Return the number of the node that this process is on."""
        return str(ray.get_runtime_context().get_node_id())

    @ray.method(num_returns="streaming")  # type: ignore[untyped-decorator]
    def run(self, order: Order, *apart: Bale) -> Iterator[Told | Unbuilt | Bale]:
        """See ``ActorWorker``."""
        yield from super().run(order, *apart)

    @ray.method(num_returns="streaming")  # type: ignore[untyped-decorator]
    def resume(self, batch_id: int, out_size: int, budget: int) -> Iterator[Told | Unbuilt | Bale]:
        """See ``ActorWorker``."""
        yield from super().resume(batch_id, out_size, budget)


class RayWarden(Warden):
    """A warden."""

    @ray.method(num_returns="streaming")  # type: ignore[untyped-decorator]
    def watch(self) -> Iterator[Passed]:
        """See ``Warden``."""
        yield from super().watch()
