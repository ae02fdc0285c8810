"""Log records of a worker are seen to from the moment that ``logging`` is imported, which in most workers is never.

``logging``, and the module that sends its records (``mpengine.worker.courier``), are a sixth of what a worker imports.

Z1. Whoever imports ``logging`` first finds the courier installed when that import returns: no record gets past it.
Z2. What the parent has said of levels by then is kept, and taken over then.
"""

from __future__ import annotations

import sys

from mpengine.worker.latecomer import once_imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from mpengine.ipc.messages import SetLevels
    from mpengine.worker.outbox import Outbox

WARNING: Final = 30
"""The level of the root logger where nobody has set one, as ``logging`` has it."""

_told: list[SetLevels] = []
_waiting: list[Outbox] = []


def install(outbox: Outbox) -> None:
    """Have all records of this process sent through ``outbox``, from the first one on."""
    _waiting.append(outbox)
    once_imported("logging", _install)


def set_levels(wanted: SetLevels) -> None:
    """Take over the parent's levels, now or later (Z2)."""
    if _waiting:
        _told[:] = [wanted]
    else:
        from mpengine.worker import courier

        courier.set_levels(wanted)


def levels() -> tuple[int, tuple[tuple[str, int], ...]]:
    """Return the fields of ``messages.SetLevels`` as they are in this process."""
    if "logging" not in sys.modules:
        return 0, (("", WARNING),)
    import logging

    from mpengine.worker import courier

    return logging.root.manager.disable, courier.levels()


def _install() -> None:
    from mpengine.worker import courier

    courier.install(_waiting.pop())
    for wanted in _told:
        courier.set_levels(wanted)
    _told.clear()
