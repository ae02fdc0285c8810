"""The coordinator's end of one warden."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from mpengine.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mpengine.worker.asactor import Greeting


@dataclass(frozen=True, slots=True)
class Unwatched:
    """A warden is gone, and with it all that was known of the workers on its machine."""

    warden: WardenLink
    error: BaseException | None


class WardenLink:
    """The warden of one machine.

    Args:
        ray: the module.
        machine: the node's number.
        actor: the handle.
        timeout_s: the shortest timeout of the run that goes on.
        post: gets what it tells, from a thread.
    """

    def __init__(
        self, ray: Any, machine: str, actor: Any, timeout_s: float | None, post: Callable[[Any], None]
    ) -> None:  # fmt: skip
        """Have it watch, and listen."""
        self._ray = ray
        self._post = post
        self.machine = machine
        self.is_gone = False
        self._actor = actor
        self._stream = actor.watch.remote()
        self._thread = threading.Thread(target=self._listen, name=f"mpengine-warden-{machine[:8]}", daemon=True)
        self.begin(timeout_s)
        self._thread.start()

    def attach(self, worker_id: int, generation: int, greeting: Greeting) -> None:
        """Have it see to a worker."""
        self._actor.attach.remote(worker_id, generation, greeting)

    def begin(self, timeout_s: float | None) -> None:
        """A run begins."""
        self._actor.begin.remote(timeout_s)

    def cancel(self) -> None:
        """Have it set all cancel flags."""
        self._actor.cancel.remote()

    def kill(self, worker_id: int, generation: int) -> None:
        """Have it end a worker."""
        self._actor.kill.remote(worker_id, generation)

    def close(self, timeout_s: float) -> None:
        """End it."""
        with contextlib.suppress(Exception):  # gone, or Ray is
            self._ray.kill(self._actor, no_restart=True)
        self._thread.join(timeout_s)

    def _listen(self) -> None:
        error: BaseException | None = None
        try:
            for ref in self._stream:
                self._post(self._ray.get(ref))
                del ref
        except BaseException as raised:  # noqa: BLE001 - told as its end
            error = raised
        self._post(Unwatched(self, error))
