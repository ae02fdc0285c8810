"""What a worker process has told, as events: its reports, checked field by field (K9), and its death."""

from __future__ import annotations

import signal
from array import array

from mpengine.backends.base import failure_from
from mpengine.ipc.lastwords import Stack
from mpengine.records import replace
from mpengine.scheduler import events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mpengine.backends.fleet import Lost
    from mpengine.ipc import messages
    from mpengine.ipc.codec import Codec

_FATAL = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL})


def death_from(
    at: float, lost: Lost, *, timed_out: bool = False, excess: events.Excess | None = None, is_oom: bool = False
) -> events.WorkerDied:
    """Return the event of a process being gone.

    Args:
        at: when.
        lost: what is known of it.
        timed_out: whether it was killed since a call of its was overdue.
        excess: what it was killed for, if that was its memory.
        is_oom: whether the kernel killed it, for want of memory.
    """
    record = lost.record
    stack = lost.stack if timed_out or -lost.exitcode in _FATAL else Stack()
    died = events.WorkerDied(
        at, lost.worker_id, name_exit(lost.exitcode), timed_out=timed_out, excess=excess, is_oom=is_oom,
        is_torn=record is None, where=stack.where, trace=stack.trace, peak_rss=lost.peak_rss,
        output=lost.output,
    )  # fmt: skip
    if record is None:
        return died
    return replace(
        died,
        batch_id=record.batch_id,
        position=record.position,
        stage=record.stage,
        item=record.text,
        in_setup=record.in_setup,
        attempt=record.attempt,
    )


def name_exit(exitcode: int) -> str:
    """Return an exit code in words: a signal by its name, or the code."""
    if exitcode < 0:
        try:
            return signal.Signals(-exitcode).name
        except ValueError:
            return f"signal {-exitcode}"
    return f"exit code {exitcode}"


def returned_from(
    at: float, worker_id: int, message: messages.Returned, payloads: Sequence[Any], codec: Codec
) -> events.BatchReturned:
    """Return the event of a report.

    Args:
        at: when it came.
        worker_id: whose it is.
        message: the report.
        payloads: those of the message, as what they are (see ``Arena.adopt``).
        codec: weighs them.

    Raises:
        TypeError, ValueError: its fields are not what they should be.
    """
    chunks = []
    for (count, first, places), payload in zip(message.chunks, payloads, strict=True):
        positions = None if places is None else array("I", places)
        if count < 1 or (positions is not None and len(positions) != count):
            msg = f"a chunk of {count} results"
            raise ValueError(msg)
        chunks.append(events.Chunk(payload, count, first, positions, codec.weigh(payload)))
    return events.BatchReturned(
        at,
        worker_id,
        message.batch_id,
        events.Progress(message.progress),
        message.consumed,
        message.emitted,
        tuple(chunks),
        tuple(map(failure_from, message.failures)),
        tuple(events.Tally(*tally) for tally in message.tallies),
        message.kill,
        message.timing,
    )
