"""Log records of a worker are seen to from the moment that ``logging`` is imported, which in most workers is never.

``logging``, and the module that sends its records (``mpengine.worker.courier``), are a sixth of what a worker imports.

Z1. Whoever imports ``logging`` first finds the courier installed when that import returns: no record gets past it.
Z2. What the parent has said of levels by then is kept, and taken over then.
"""

from __future__ import annotations

import sys
from importlib import util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any, Final

    from mpengine.ipc.messages import SetLevels
    from mpengine.worker.outbox import Outbox

WARNING: Final = 30
"""The level of the root logger where nobody has set one, as ``logging`` has it."""

_told: list[SetLevels] = []
_waiting: list[_Finder] = []


def install(outbox: Outbox) -> None:
    """Have all records of this process sent through ``outbox``, from the first one on."""
    if "logging" in sys.modules:
        _install(outbox)
    else:
        _waiting.append(_Finder(outbox))
        sys.meta_path.insert(0, _waiting[0])


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


def _install(outbox: Outbox) -> None:
    from mpengine.worker import courier

    courier.install(outbox)
    for wanted in _told:
        courier.set_levels(wanted)
    _told.clear()


class _Finder:
    """Finds ``logging``, once, as it would be found without this."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "logging":
            return None
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]
        spec = util.find_spec(name)
        if spec is not None and spec.loader is not None:
            loader: Any = _Loader(spec.loader, self.outbox)
            spec.loader = loader
        return spec


class _Loader:
    """Loads ``logging``, and has the courier installed before anybody else can use it (Z1)."""

    def __init__(self, real: Any, outbox: Outbox) -> None:
        self._real = real
        self._outbox = outbox

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._real.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._real
        if module.__spec__ is not None:
            module.__spec__.loader = self._real
        self._real.exec_module(module)
        _waiting.clear()
        _install(self._outbox)
