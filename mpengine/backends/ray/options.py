"""``ray_options``, taken apart; ``settings`` has checked them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpengine.records import dataclass, field
from mpengine.settings import PER_ACTOR

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


@dataclass(frozen=True, slots=True)
class RayOptions:
    """What ``ray_options`` says.

    Attributes:
        address: of a running cluster; None: the one that this process is connected to, or one of its own.
        namespace: of the actors.
        init: further arguments of ``ray.init``, where that is called.
        actor: options of each worker's actor.
    """

    address: str | None = None
    namespace: str | None = None
    init: Mapping[str, Any] = field(default_factory=dict)
    actor: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def chosen(cls, options: Mapping[str, Any]) -> RayOptions:
        """Return the options in ``options``."""
        actor = {name: options[name] for name in PER_ACTOR if name in options}
        return cls(options.get("address"), options.get("namespace"), dict(options.get("init", {})), actor)
