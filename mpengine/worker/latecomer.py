"""What is to be done once a module is there, for those who do not want to import it themselves.

``multiprocessing`` is a tenth of a fork server's start, and most workers never ask it anything.  Those that do have to
find it as if it had been there from the beginning.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any


def once_imported(name: str, then: Callable[[], None]) -> None:
    """Call ``then`` now if the module is imported, else at the end of its import, before anybody has it.

    Args:
        name: the module's full name.
        then: what is to be done; what it raises fails the import.
    """
    if name in sys.modules:
        then()
    else:
        sys.meta_path.insert(0, _Expecting(name, then))


class _Expecting:
    """A finder that finds one module, once, by asking all others."""

    def __init__(self, name: str, then: Callable[[], None]) -> None:
        self._name = name
        self._then = then

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See ``importlib.abc.MetaPathFinder``."""
        if name != self._name or self not in sys.meta_path:
            return None
        others: list[Any] = sys.meta_path[sys.meta_path.index(self) + 1 :]
        spec: ModuleSpec | None = next(filter(None, (other.find_spec(name, path, target) for other in others)), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Telling(spec.loader, self._tell)  # type: ignore[assignment]  # all that a loader needs
        return spec

    def _tell(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            self._then()


class _Telling:
    """A loader that tells when it is done."""

    def __init__(self, loader: Any, tell: Callable[[], None]) -> None:
        self._loader = loader
        self._tell = tell

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """See ``importlib.abc.Loader``."""
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        """See ``importlib.abc.Loader``."""
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader  # who looks at the module later finds nothing of us
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._tell()
