"""Payloads made of other payloads, which are still only referred to: nobody has looked into any of them."""

from __future__ import annotations

from mpengine.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


@dataclass(frozen=True, slots=True)
class Spliced:
    """Windows of several payloads, behind one another.

    Attributes:
        parts: (payload, lo, hi) each.
    """

    parts: tuple[tuple[Any, int, int], ...]


@dataclass(frozen=True, slots=True)
class Zipped:
    """What the branches of a mix have made of the same items, side by side.

    Attributes:
        branches: for each branch its pieces, in the order of the items: (payload, picks), where ``picks`` tells which
            values of the payload count; None: all.
    """

    branches: tuple[tuple[tuple[Any, Sequence[int] | None], ...], ...]
