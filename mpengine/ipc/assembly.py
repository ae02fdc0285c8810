"""A batch's items put together from several payloads: lists behind one another, or the branches of a mix side by side.

A layout is plain numbers, so that it travels with a message.  It is one of::

    ()                                     all items of the one payload
    ("splice", ((number, lo, hi), ...))    items lo to hi of each payload, behind one another
    ("zip", (((number, picks), ...), ...)) for each branch its pieces, behind one another; then one list for each item,
                                           with the value of each branch.  picks: which items of the piece, as bytes of
                                           unsigned ints; None: all
"""

from __future__ import annotations

from array import array

from mpengine.ipc.codec import Broken, Salvaged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mpengine.ipc.codec import Codec

Layout = tuple["Any", ...]


def put_together(codec: Codec, payloads: Sequence[Any], layout: Layout) -> list[Any]:
    """Return the items that ``layout`` describes; a ``Salvaged`` where one of them is a ``Broken``.

    Raises:
        StageError: nothing can be made out of a payload.
    """
    lists = [codec.unpack(payload) for payload in payloads]
    if not layout:
        return lists[0]
    kind, parts = layout
    if kind == "splice":
        items = [item for number, lo, hi in parts for item in lists[number][lo:hi]]
    else:
        branches = [[value for number, picks in pieces for value in _pick(lists[number], picks)] for pieces in parts]
        items = [_whole(list(values)) for values in zip(*branches, strict=True)]
    return Salvaged(items) if any(isinstance(each, Salvaged) for each in lists) else items


def _pick(values: list[Any], picks: bytes | None) -> list[Any]:
    return values if picks is None else [values[place] for place in array("I", picks)]


def _whole(values: list[Any]) -> Any:
    """Return the values of all branches, or the ``Broken`` among them."""
    return next((value for value in values if type(value) is Broken), values)
