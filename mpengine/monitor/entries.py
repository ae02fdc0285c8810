"""A run as it is listed for others: what never changes of it, and how far it had come when that was last noted.

    +---------------------+------------------------------+
    | 4,096: the figures  | what never changes           |      ID.run, in the folder (see ``folder``)
    +---------------------+------------------------------+

E1. Each part is one line of JSON behind its checksum.  The figures are written over in place, in one call and within
    one page; a reader that meets them half written notices, and reads again.
E2. So a run is one file for as long as it lasts.  Who has it open learns how the run ended, though its name has gone:
    the last figures are written first, then the name is removed.
E3. Whoever can read the file can do to the run what its owner can: the key of its board is in it.
E4. The file of a coordinator that was killed stays, and tells by itself that it is one of those: no process with that
    number and that time of birth is there any more.
"""

from __future__ import annotations

import dataclasses
import json
import os
import zlib
from typing import Any, Final

from mpengine.records import dataclass, fields

SUFFIX: Final = ".run"
FIGURES_BYTES: Final = 4096
MAX_TEXT: Final = 500
MAX_REASON: Final = 250
MAX_NAME: Final = 80
MAX_STAGES: Final = 100
"""Characters, each of which may take twelve bytes; all of it has to fit into what a reader accepts."""
TRIES: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEntry:
    """What never changes of a run.

    Attributes:
        run_id: what it is called; short, and begins with a letter.
        pid: the coordinator's process.
        start: when that was born, by the kernel's own clock; with ``pid``, no other process ever has both.
        machine: which start of which machine, and which numbering of processes in it, ``pid`` belongs to.
        command: how the program was started.
        folder: where it was started.
        stages: the names of the stages.
        workers: how many workers it has.
        total: how many items its source has; None where nobody knows.
        fans_out: whether one item may become many, so that values tell nothing of items.
        interval_s: seconds between two snapshots on its board.
        began_at: when it began, in seconds since the epoch.
        address: of its board.
        authkey: what opens the board (E3).
        version: of the package.
    """

    run_id: str
    pid: int
    start: float
    machine: str
    command: str
    folder: str
    stages: tuple[str, ...]
    workers: int
    total: int | None
    fans_out: bool
    interval_s: float
    began_at: float
    address: str
    authkey: bytes
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFigures:
    """How far a run had come.

    Attributes:
        state: as in ``Snapshot``.
        reason: why it was cancelled; None when it was not.
        elapsed_s: how long it had gone on.
        source_items: items pulled from the source.
        delivered: values handed to the consumer.
        failed: items that failed for good, in all stages.
        noted_at: when that was noted, in seconds since the epoch.
        has_ended: whether the run is over.
    """

    state: str
    reason: str | None = None
    elapsed_s: float = 0.0
    source_items: int = 0
    delivered: int = 0
    failed: int = 0
    noted_at: float = 0.0
    has_ended: bool = False


def name_of(run_id: str) -> str:
    """Return the name of a run's file."""
    return run_id + SUFFIX


def pack(entry: RunEntry, figures: RunFigures) -> bytes:
    """Return the content of a run's file."""
    values = dataclasses.asdict(entry)
    values["authkey"] = entry.authkey.hex()
    values["stages"] = [_cut(name, MAX_NAME) for name in entry.stages[:MAX_STAGES]]
    values["command"], values["folder"] = _cut(entry.command), _cut(entry.folder)
    return pack_figures(figures) + _line(values)


def pack_figures(figures: RunFigures) -> bytes:
    """Return the part of a run's file that is written over."""
    values = dataclasses.asdict(figures)
    values["reason"] = None if figures.reason is None else _cut(figures.reason, MAX_REASON)
    return _line(values).rstrip(b"\n").ljust(FIGURES_BYTES - 1) + b"\n"


def read(fd: int) -> tuple[RunEntry, RunFigures]:
    """Return what a run's file says.

    Raises:
        ValueError: it says nothing that can be believed.
        OSError: it cannot be read.
    """
    values = _values(os.pread(fd, os.fstat(fd).st_size, FIGURES_BYTES))
    values["authkey"] = bytes.fromhex(_typed(values, "authkey", str))
    stages = _typed(values, "stages", list)
    values["stages"] = tuple(map(str, stages))
    for name, kinds in _ENTRY_KINDS.items():
        _typed(values, name, kinds)
    return RunEntry(**_known(RunEntry, values)), read_figures(fd)


def read_figures(fd: int) -> RunFigures:
    """Return the figures in a run's file, also where its name is no more (E2).

    Raises:
        ValueError: they cannot be believed.
        OSError: they cannot be read.
    """
    for _ in range(TRIES - 1):
        try:
            return _figures(fd)
        except ValueError:
            continue  # half written, by somebody who is at it (E1)
    return _figures(fd)


def _figures(fd: int) -> RunFigures:
    values = _values(os.pread(fd, FIGURES_BYTES, 0))
    for name, kinds in _FIGURES_KINDS.items():
        _typed(values, name, kinds)
    return RunFigures(**_known(RunFigures, values))


_NUMBER: Final = (int, float)
_ENTRY_KINDS: Final[dict[str, Any]] = {
    "run_id": str, "pid": int, "start": _NUMBER, "machine": str, "command": str, "folder": str, "workers": int,
    "total": (int, type(None)), "fans_out": bool, "interval_s": _NUMBER, "began_at": _NUMBER, "address": str,
    "version": str,
}  # fmt: skip
_FIGURES_KINDS: Final[dict[str, Any]] = {
    "state": str, "reason": (str, type(None)), "elapsed_s": _NUMBER, "source_items": int, "delivered": int,
    "failed": int, "noted_at": _NUMBER, "has_ended": bool,
}  # fmt: skip


def _line(values: dict[str, Any]) -> bytes:
    text = json.dumps(values).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _values(content: bytes) -> dict[str, Any]:
    mark, _, text = content.rstrip().partition(b" ")
    if mark != b"%08x" % zlib.crc32(text):
        raise ValueError("it is not whole")
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("it is no object")  # noqa: TRY004 - all that is wrong with a file is of one kind
    return values


def _typed(values: dict[str, Any], name: str, kinds: Any) -> Any:
    value = values.get(name)
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        raise ValueError(f"its {name} is {value!r:.50}")
    return value


def _known(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of ``kind``; what another version has put there besides is let be."""
    return {one.name: values[one.name] for one in fields(kind)}


def _cut(text: str, limit: int = MAX_TEXT) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
