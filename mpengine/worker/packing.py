"""What a job has done, made ready to be sent: results in chunks, positions, failures, tallies.

A result that will not pickle is its item's error, in the stage that made it; its mates are sent.
"""

from __future__ import annotations

from array import array

from mpengine.ipc.arena import is_reference
from mpengine.ipc.codec import pack_apart
from mpengine.worker.chain import failure_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mpengine.ipc.codec import Codec
    from mpengine.ipc.messages import Buffer
    from mpengine.worker.jobs import Job
    from mpengine.worker.reports import Report

LIGHT_BYTES = 1 << 16

ChunkFields = tuple[int, int, bytes | None]


def pack_results(job: Job, report: Report, codec: Codec, out_size: int) -> tuple[list[ChunkFields], list[Any]]:
    """Pack a report's results; those that will not pack become failures of the report.

    Args:
        job: where the report comes from.
        report: is changed where a result will not pack.
        codec: packs.
        out_size: at most so many results to a chunk.

    Returns:
        The chunks' fields, as in ``messages.Returned``, and their payloads.
    """
    chunks: list[ChunkFields] = []
    payloads: list[Any] = []
    for start in range(0, len(report.results), out_size):
        results: list[Any] = report.results
        positions: Sequence[int] = report.positions
        if len(results) > out_size:
            results, positions = results[start : start + out_size], positions[start : start + out_size]
        try:
            payload = codec.pack(results)
        except Exception:  # noqa: BLE001 - told result by result
            _, bad = pack_apart(codec, results)
            positions = _fail_unpackable(job, report, positions, bad)
            results = [result for place, result in enumerate(results) if place not in bad]
            if not results:
                continue
            payload = codec.pack(results)
        is_run = not job.fans_out and positions[-1] - positions[0] == len(positions) - 1
        chunks.append((len(results), positions[0], None if is_run else array("I", positions).tobytes()))
        payloads.append(payload)
    return chunks, payloads


def are_light(payloads: Sequence[Buffer]) -> bool:
    """Whether a report's results are so light that they may come late."""
    return sum(map(len, payloads)) <= LIGHT_BYTES and not any(map(is_reference, payloads))


def _fail_unpackable(
    job: Job, report: Report, positions: Sequence[int], bad: dict[int, BaseException]
) -> Sequence[int]:
    """Turn results that will not pack into failures; return the positions of the others."""
    last = len(report.tallies) - 1
    tally = report.tallies[last]
    seen = {failure[0] for failure in report.failures}
    for place, error in bad.items():
        position = positions[place]
        if position in seen:
            continue  # one item gave several such results; it fails once
        seen.add(position)
        report.failures.append(failure_of(position, last, error, job.item(position), 1, "its result will not pickle: "))
        tally.failed += 1
        if job.is_at(position):
            job.drop_stream(report)
        else:
            tally.succeeded -= 1
    return [position for place, position in enumerate(positions) if place not in bad]
