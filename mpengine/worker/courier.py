"""Log records of a worker on their way to the parent, whose handlers get them.

A worker has one handler, on its root logger.  What the parent has configured stays in the parent: in a forked worker
its handlers are taken off, or each line would come twice.

R1. A record is made plain here: message formatted, traceback as text, arguments dropped.  What cannot be formatted is
    sent as such; nothing of that is the stage's error.
R2. The parent tells which levels anybody wants; others end in ``Logger.isEnabledFor``, as without an engine.
R3. Which stage and which item are under way is looked up in the stack when somebody logs.  Nobody notes it beforehand:
    an item of which nothing is logged costs nothing.  Items that run together, in a list or side by side, are not told
    apart.
R4. A process that user code forks from a worker does not use the worker's outbox.
"""

from __future__ import annotations

import logging
import os
import sys
import threading

from mpengine.bounded import bounded_repr
from mpengine.ipc.messages import Logged, is_plain
from mpengine.worker.chain import Step, summarize
from mpengine.worker.loops import LOOP, NOTHING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import FrameType
    from typing import Any, Final

    from mpengine.ipc.messages import SetLevels
    from mpengine.worker.outbox import Outbox

MAX_TEXT: Final = 32_768
MAX_EXTRA: Final = 64
MAX_EXTRA_TEXT: Final = 1_000


def _note(text: str) -> logging.LogRecord:
    return logging.LogRecord("mpengine", logging.WARNING, __file__, 0, text, (), None)


_STANDARD: Final = frozenset(vars(_note(""))) | {"message", "asctime", "taskName"}
_formatter: Final = logging.Formatter()
_taken_off: list[logging.Handler] = []  # kept: a handler that is let go may close, and write what it has buffered
_levelled: set[str] = set()


class Courier(logging.Handler):
    """Turns records into messages.

    Args:
        outbox: where they go.
    """

    def __init__(self, outbox: Outbox) -> None:
        """Take records of every level: loggers have decided already (R2)."""
        super().__init__()
        self._outbox = outbox
        self._told_dropped = 0
        self._pid = os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, or have it sent."""
        if os.getpid() != self._pid:  # R4; the hook that takes this handler off has not run
            return
        try:
            message = to_message(record)
        except Exception:  # noqa: BLE001 - told on stderr, as by any handler: logging raises for nobody
            self.handleError(record)
            return
        try:
            self._outbox.put_record(message)
            dropped = self._outbox.dropped
            if dropped > self._told_dropped:
                self._told_dropped = dropped
                self._outbox.put_record(to_message(_note(f"{dropped} log records of this worker were dropped so far")))
        except BrokenPipeError:
            os._exit(1)  # the coordinator is gone (W2)


def install(outbox: Outbox) -> None:
    """Have all records of this process sent through ``outbox``, and handled by nobody else."""
    root = logging.getLogger()
    for logger in (root, *_loggers()):
        if logger.handlers:
            _taken_off.extend(logger.handlers)
            logger.handlers = []
            logger.propagate = True
    courier = Courier(outbox)
    root.addHandler(courier)
    os.register_at_fork(after_in_child=lambda: root.removeHandler(courier))


def set_levels(wanted: SetLevels) -> None:
    """Take over the parent's levels; loggers that it says nothing of inherit theirs again (R2)."""
    logging.disable(wanted.disable)
    levels = dict(wanted.levels)
    for name in _levelled - levels.keys():
        logging.getLogger(name).setLevel(logging.NOTSET)
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)
    _levelled.clear()
    _levelled.update(levels)


def levels() -> tuple[tuple[str, int], ...]:
    """Return the levels of this process's loggers, as ``messages.SetLevels`` has them."""
    named = [(logger.name, logger.level) for logger in _loggers() if logger.level]
    return (("", logging.getLogger().level), *named)


def _loggers() -> list[logging.Logger]:
    known = logging.root.manager.loggerDict.copy()
    return [logger for logger in known.values() if isinstance(logger, logging.Logger)]


# ---------------------------------------------------------------------- a record as a message


def to_message(record: logging.LogRecord) -> Logged:
    """Return the record's message (R1)."""
    try:
        message, exc_text = record.getMessage(), _exc_text(record)
    except RecursionError:
        raise  # as in the standard library: only its catcher has room to do something about it
    except Exception as error:  # noqa: BLE001 - arguments are the user's; the record says what is wrong with them
        message, exc_text = f"{bounded_repr(record.msg)} (does not format: {summarize(error)})", None
    stage, batch_id, position = under_way()
    return Logged(
        name=_text(record.name),
        level=int(record.levelno or 0),
        level_name=_text(record.levelname),
        message=_text(message),
        exc_text=None if exc_text is None else _text(exc_text[-MAX_TEXT:]),
        stack=None if record.stack_info is None else _text(record.stack_info),
        path=_text(record.pathname),
        line=int(record.lineno or 0),
        function=None if record.funcName is None else _text(record.funcName),
        created=float(record.created),
        thread=int(record.thread or 0),
        thread_name=_text(record.threadName),
        process=int(record.process or os.getpid()),
        process_name=_text(record.processName),
        stage=stage,
        extra=tuple(_extra(record)),
        batch_id=batch_id,
        position=position,
    )


def _text(value: object) -> str:
    return str(value)[:MAX_TEXT]


def _exc_text(record: logging.LogRecord) -> str | None:
    if record.exc_text is None and record.exc_info:
        return _formatter.formatException(record.exc_info)
    return record.exc_text


def _extra(record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
    added = [(name, value) for name, value in vars(record).items() if name not in _STANDARD]
    for name, value in added[:MAX_EXTRA]:
        if type(value) is str:
            yield str(name), value[:MAX_EXTRA_TEXT]
        else:
            yield str(name), value if is_plain(value) else bounded_repr(value)


# ---------------------------------------------------------------------- which stage, which item

Whereabouts = tuple[str | None, int | None, int | None]
"""Name of a stage, number of a batch, place of an item in the batch's payload; None for what is not known."""


def under_way() -> Whereabouts:
    """Return what the main thread is at (R3)."""
    frames = sys._current_frames()  # noqa: SLF001 - documented; the underscore warns of what it is used for
    return whereabouts(frames.get(threading.main_thread().ident or 0))


def whereabouts(frame: FrameType | None) -> Whereabouts:
    """Return the stage and the item that ``frame`` was called for, at whatever distance."""
    stage: str | None = None
    batch_id = position = None
    given: Mapping[str, Any] = {}  # what stages have given, in a loop over quick items
    while frame is not None and batch_id is None:
        if frame.f_code.co_filename == LOOP:
            given = frame.f_locals
        elif str(frame.f_globals.get("__name__", "")).startswith("mpengine.worker."):
            known = frame.f_locals
            if stage is None:
                stage = _stage_in(known)
            match frame.f_code.co_name:
                case "_through" | "_run_stream" if position is None:
                    position = known.get("position")
                case "map_slice":
                    done = len(known["results"]) if "results" in known else 0
                    position = known["positions"][done] if done < len(known["positions"]) else None
                case "_at_once":
                    done, places = len(known.get("results", ())), known["sliced"].places
                    position = places[done] if done < len(places) else None
                    stage = stage or _stage_in_loop(known["self"].steps, given)
                case "_work":
                    batch_id = known.get("batch_id")
                case _:
                    pass
        frame = frame.f_back
    return (stage, batch_id, position) if stage is not None and position is not None else (stage, None, None)


def _stage_in_loop(steps: Sequence[Step], given: Mapping[str, Any]) -> str:
    """Return the stage that a loop is at: the first one that has not given anything to the next."""
    number = 0
    while number + 1 < len(steps) and given.get(f"v{number + 1}", NOTHING) is not NOTHING:
        number += 1
    return steps[number].name


def _stage_in(known: Mapping[str, Any]) -> str | None:
    for value in known.values():
        step = value
        if str(type(value).__module__).startswith("mpengine.worker."):  # ours: no user code is asked for it
            step = getattr(value, "_step", value)
        if issubclass(type(step), Step):
            name: str | None = getattr(step, "name", None)
            return name
    return None
