"""The key of an item: the same in every process and every version of Python, whatever else is in the input.

Items are written down in a form of their own, with a tag for each type, and hashed.  Not by ``hash()``, which differs
from process to process, and not as a pickle, which differs with what else an object shares its parts with.

What has no such form raises: a key that changed from one run to the next would have everything run again.
"""

from __future__ import annotations

import enum
import struct
import sys
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from hashlib import blake2b
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from mpengine.errors import PipelineError

if TYPE_CHECKING:
    from collections.abc import Callable

KEY_BYTES: Final = 16

_pack_length: Final = struct.Struct("<Q").pack
_pack_float: Final = struct.Struct("<d").pack


class _Formless(Exception):  # noqa: N818 - never leaves this module
    """Something has no form that is the same everywhere."""


def stable_key(item: object) -> bytes:
    """Return a hash of ``item`` of ``KEY_BYTES`` bytes, which is the same wherever and whenever it is made.

    Items may be None, bool, int, float, complex, str, bytes, paths, enums, dates and times, ``Decimal``, ``Fraction``,
    ``UUID``, ranges, numpy arrays and scalars, dataclasses; and tuples, lists, dicts and sets of such.

    Raises:
        PipelineError: it is of another type, or holds something that is.
    """
    kind = type(item)
    if kind is str:
        form = b"s" + item.encode("utf-8", "surrogatepass")  # type: ignore[attr-defined]  # the common cases first
    elif kind is int:
        form = b"i%d" % item  # type: ignore[str-format]
    else:
        try:
            form = _form(item)
        except _Formless as error:
            raise PipelineError(f"{error}; give the journal a key= function, which makes a name for an item") from None
        except RecursionError:
            msg = f"an item of type {_name(kind)} holds itself, so that it has no key; give the journal a key= function"
            raise PipelineError(msg) from None
    return blake2b(form, digest_size=KEY_BYTES).digest()


def _form(item: Any) -> bytes:
    write = _WRITERS.get(type(item))
    if write is not None:
        return write(item)
    if isinstance(item, enum.Enum):
        return _joined(b"E", [type(item).__qualname__.encode(), item.name.encode()])
    if isinstance(item, PurePath):
        return b"P" + str(item).encode("utf-8", "surrogatepass")
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        return _joined(b"N", [type(item).__qualname__.encode(), *map(_form, item)])
    if hasattr(type(item), "__dataclass_fields__"):
        from dataclasses import fields

        parts = [_joined(b"", [field.name.encode(), _form(getattr(item, field.name))]) for field in fields(item)]
        return _joined(b"C", [type(item).__qualname__.encode(), *parts])
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(item, numpy.ndarray | numpy.generic):
        return _form_of_array(item)
    raise _Formless(f"an item with something of type {_name(type(item))} has no key that stays the same")


def _form_of_array(array: Any) -> bytes:
    if array.dtype.hasobject:
        raise _Formless("an array of objects has no key that stays the same")
    shape = ",".join(map(str, array.shape)).encode()
    return _joined(b"A", [str(array.dtype.descr).encode(), shape, array.tobytes()])


def _joined(tag: bytes, parts: list[bytes]) -> bytes:
    """Return the parts with their lengths, so that no two lists of parts look the same."""
    return tag + b"".join([_pack_length(len(part)) + part for part in parts])


def _name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


_WRITERS: Final[dict[type, Callable[[Any], bytes]]] = {
    type(None): lambda _: b"n",
    bool: lambda item: b"b1" if item else b"b0",
    int: lambda item: b"i%d" % item,
    float: lambda item: b"f" + _pack_float(item),
    complex: lambda item: b"c" + _pack_float(item.real) + _pack_float(item.imag),
    str: lambda item: b"s" + item.encode("utf-8", "surrogatepass"),
    bytes: lambda item: b"y" + item,
    bytearray: lambda item: b"Y" + bytes(item),
    tuple: lambda item: _joined(b"t", list(map(_form, item))),
    list: lambda item: _joined(b"l", list(map(_form, item))),
    set: lambda item: _joined(b"S", sorted(map(_form, item))),
    frozenset: lambda item: _joined(b"F", sorted(map(_form, item))),
    dict: lambda item: _joined(b"d", sorted(_joined(b"", [_form(key), _form(item[key])]) for key in item)),
    range: lambda item: b"r%d,%d,%d" % (item.start, item.stop, item.step),
    datetime: lambda item: b"T" + item.isoformat().encode(),
    date: lambda item: b"D" + item.isoformat().encode(),
    time: lambda item: b"H" + item.isoformat().encode(),
    timedelta: lambda item: b"L%d,%d,%d" % (item.days, item.seconds, item.microseconds),
    Decimal: lambda item: b"e" + str(item).encode(),
    Fraction: lambda item: b"q" + str(item).encode(),
    UUID: lambda item: b"u" + item.bytes,
}
