"""A payload that is made of others, taken apart into what travels and a layout (see ``ipc.assembly``)."""

from __future__ import annotations

from array import array

from mpengine.scheduler.payloads import Spliced, Zipped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mpengine.ipc.assembly import Layout


def take_apart(payload: Any) -> tuple[list[Any], Layout]:
    """Return the payloads that ``payload`` is made of, and how."""
    match payload:
        case Spliced(parts):
            numbered = enumerate(parts)
            return [part for part, _, _ in parts], ("splice", tuple((n, lo, hi) for n, (_, lo, hi) in numbered))
        case Zipped(branches):
            payloads: list[Any] = []
            layout = []
            for pieces in branches:
                places = []
                for piece, picks in pieces:
                    places.append((len(payloads), None if picks is None else array("I", picks).tobytes()))
                    payloads.append(piece)
                layout.append(tuple(places))
            return payloads, ("zip", tuple(layout))
        case _:
            return [payload], ()
