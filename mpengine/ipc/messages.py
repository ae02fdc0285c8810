"""Every message between coordinator and worker: small named types, with a check on what arrives.

A message on the wire is a header, its fields (by marshal, since they are plain numbers, strings, bytes and tuples), and
any number of payloads, which are not looked into.

M1. A message is one of the classes below.  There is no sentinel value that somebody's item could be mistaken for.
M2. What does not parse, or has a field of the wrong type, is a ``ProtocolError``: that worker's end, not the run's.
"""

from __future__ import annotations

import marshal
import struct
from operator import attrgetter

from mpengine.errors import EngineError
from mpengine.records import dataclass, fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Final

Buffer = bytes | bytearray | memoryview

HEADER: Final = struct.Struct("<4sBxHI")
SIZE: Final = struct.Struct("<Q")
MAGIC: Final = b"mpe1"
MAX_META_BYTES: Final = 1 << 30
MAX_FRAME_BYTES: Final = 1 << 40


class ProtocolError(EngineError):
    """Bytes arrived that are no message."""


@dataclass(frozen=True, slots=True)
class BeginRun:
    """To a worker: a run begins; the payload holds its chains.

    ``taken`` are the fields of blocks of its region that are in use; see ``arena.Block``.  ``keeps_times`` is whether
    somebody wants to know the times of items.
    """

    run_id: int
    keeps_times: bool
    taken: tuple[tuple[Any, ...], ...]
    payloads: Sequence[Buffer] = ()


@dataclass(frozen=True, slots=True)
class RunBatch:
    """To a worker: run items ``lo`` to ``hi`` of the payload; see ``scheduler.commands.Dispatch``.

    ``layout`` tells how the payload is put together from those of the message; see ``ipc.assembly``.
    """

    batch_id: int
    chain: int
    lo: int
    hi: int
    skip: int
    careful: bool
    out_size: int
    budget: int
    attempted: tuple[int, int]
    layout: tuple[Any, ...]
    payloads: Sequence[Buffer] = ()


@dataclass(frozen=True, slots=True)
class ResumeBatch:
    """To a worker: go on with a suspended batch for ``budget`` results, in chunks of ``out_size``."""

    batch_id: int
    out_size: int
    budget: int


@dataclass(frozen=True, slots=True)
class EndRun:
    """To a worker: the run is over; tear the stages down and say so."""

    run_id: int


@dataclass(frozen=True, slots=True)
class Pill:
    """To a worker: leave.  The poison pill, told from any item by its type."""


@dataclass(frozen=True, slots=True)
class Hello:
    """From a worker: it is there."""

    pid: int


@dataclass(frozen=True, slots=True)
class Returned:
    """From a worker: how far it is with a batch, and what came of it; see ``scheduler.events.BatchReturned``.

    ``chunks`` are (count, first, positions as bytes of unsigned ints or None), one for each payload; ``failures`` are
    the fields of ``scheduler.events.Failure``; ``tallies`` those of ``Tally``.  ``timing`` is empty, or when this was
    begun, when it was through, and for each stage the times of items, as in ``worker.stopwatch``.
    """

    batch_id: int
    progress: str
    consumed: int
    emitted: int
    chunks: tuple[tuple[int, int, bytes | None], ...]
    failures: tuple[tuple[Any, ...], ...]
    tallies: tuple[tuple[int, int, int, int, float], ...]
    kill: str | None
    timing: tuple[Any, ...]
    payloads: Sequence[Buffer] = ()


@dataclass(frozen=True, slots=True)
class Broken:
    """From a worker: a stage of a chain could not be loaded or set up."""

    chain: int
    stage: int
    summary: str
    traceback: str
    error: bytes | None


@dataclass(frozen=True, slots=True)
class RunEnded:
    """From a worker: the run's stages are torn down; ``problems`` tells what went wrong with that."""

    run_id: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Goodbye:
    """From a worker: it leaves because it was told to."""

    batches: int


@dataclass(frozen=True, slots=True)
class Released:
    """From a worker: it does not look at some payloads any more; ``blocks`` are (region, number) of each."""

    blocks: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class SetLevels:
    """To a worker: which log records are wanted.

    ``disable`` is the level of ``logging.disable``; ``levels`` are (logger's name, level) of every logger that has a
    level of its own, the root logger, whose name is empty, first.
    """

    disable: int
    levels: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Logged:
    """From a worker: a log record, formatted as far as that needs the worker.

    ``stage`` is the stage that was under way; ``extra`` are (name, value) of what the caller has added, plain values;
    ``batch_id`` and ``position`` name the item that was under way, where that can be told.
    """

    name: str
    level: int
    level_name: str
    message: str
    exc_text: str | None
    stack: str | None
    path: str
    line: int
    function: str | None
    created: float
    thread: int
    thread_name: str
    process: int
    process_name: str
    stage: str | None
    extra: tuple[tuple[str, Any], ...]
    batch_id: int | None = None
    position: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no pair of a name and a plain value (M2)."""
        for pair in self.extra:
            if type(pair) is not tuple or len(pair) != 2 or type(pair[0]) is not str or not is_plain(pair[1]):  # noqa: PLR2004
                msg = f"a Logged with the wrong extra fields: {pair!r:.200}"
                raise ProtocolError(msg)


def is_plain(value: object) -> bool:
    """Whether ``value`` is one of the kinds that a log record's extra fields may have on the wire."""
    return value is None or type(value) in (str, int, float, bool)


Message = (
    BeginRun
    | RunBatch
    | ResumeBatch
    | EndRun
    | Pill
    | Hello
    | Returned
    | Broken
    | RunEnded
    | Goodbye
    | Released
    | SetLevels
    | Logged
)

KINDS: Final[tuple[type[Any], ...]] = (
    BeginRun, RunBatch, ResumeBatch, EndRun, Pill, Hello, Returned, Broken, RunEnded, Goodbye, SetLevels, Logged,
    Released,
)  # fmt: skip
_NUMBER: Final = {kind: number for number, kind in enumerate(KINDS)}
_FIELDS: Final = {kind: tuple(f.name for f in fields(kind) if f.name != "payloads") for kind in KINDS}
_META: Final = {kind: attrgetter(*names) for kind, names in _FIELDS.items() if len(names) > 1}
_BY_TEXT: Final = {
    "int": int, "str": str, "bool": bool, "float": float, "bytes | None": bytes, "str | None": str,
    "int | None": int,
}  # fmt: skip
_TYPES: Final = {
    kind: tuple((_BY_TEXT.get(str(f.type), tuple), "None" in str(f.type)) for f in fields(kind) if f.name != "payloads")
    for kind in KINDS
}
_USUAL: Final = {
    kind: tuple(type(None) if may_be_none else is_a for is_a, may_be_none in _TYPES[kind]) for kind in KINDS
}
_CARRIES: Final = {kind for kind in KINDS if any(f.name == "payloads" for f in fields(kind))}


def encode(message: Message) -> list[Buffer]:
    """Return the message as buffers, to be written one behind the other."""
    kind = type(message)
    get = _META.get(kind)
    meta = marshal.dumps(get(message) if get else tuple([getattr(message, name) for name in _FIELDS[kind]]))
    payloads: Sequence[Buffer] = message.payloads if kind in _CARRIES else ()  # type: ignore[union-attr]
    sizes = [memoryview(payload).nbytes for payload in payloads]
    head = HEADER.pack(MAGIC, _NUMBER[kind], len(sizes), len(meta))
    return [b"".join([head, *map(SIZE.pack, sizes), meta]), *payloads]


def frame_size(view: Buffer) -> int | None:
    """Return the size in bytes of the message that ``view`` begins with; None if too little of it is there to tell.

    Raises:
        ProtocolError: no message begins like that.
    """
    if len(view) < HEADER.size:
        return None
    magic, kind, count, meta_bytes = HEADER.unpack_from(view)
    if magic != MAGIC or kind >= len(KINDS) or meta_bytes > MAX_META_BYTES:
        msg = f"a message cannot begin with {bytes(view[: HEADER.size])!r}"
        raise ProtocolError(msg)
    start = HEADER.size + count * SIZE.size
    if len(view) < start:
        return None
    sizes = struct.unpack_from(f"<{count}Q", view, HEADER.size)
    size: int = start + meta_bytes + sum(sizes)
    if size > MAX_FRAME_BYTES:
        msg = f"a message of {size} bytes cannot be meant"
        raise ProtocolError(msg)
    return size


def decode(frame: Buffer) -> Message:
    """Return the message in ``frame``, which is whole; its payloads are views into ``frame``.

    Raises:
        ProtocolError: it is no message (M2).
    """
    _, number, count, meta_bytes = HEADER.unpack_from(frame)
    sizes = struct.unpack_from(f"<{count}Q", frame, HEADER.size)
    start = HEADER.size + count * SIZE.size
    view = memoryview(frame)
    kind = KINDS[number]
    try:
        values = marshal.loads(view[start : start + meta_bytes])  # noqa: S302 - checked below, and marshal runs no code
    except (EOFError, ValueError, TypeError) as error:
        msg = f"a {kind.__name__} that does not parse: {error}"
        raise ProtocolError(msg) from None
    _check(kind, values)
    if kind not in _CARRIES:
        return kind(*values)  # type: ignore[no-any-return]
    payloads = []
    start += meta_bytes
    for size in sizes:
        payloads.append(view[start : start + size])
        start += size
    return kind(*values, payloads)  # type: ignore[no-any-return]


def _check(kind: type[Any], values: object) -> None:
    if type(values) is tuple and tuple(map(type, values)) == _USUAL[kind]:
        return
    wanted = _TYPES[kind]
    good = isinstance(values, tuple) and len(values) == len(wanted)
    if good and isinstance(values, tuple):
        for value, (is_a, may_be_none) in zip(values, wanted, strict=True):
            good = good and (isinstance(value, is_a) or (may_be_none and value is None))
    if not good:
        msg = f"a {kind.__name__} with the wrong fields: {values!r:.200}"
        raise ProtocolError(msg)
