"""A journal as figures; also while a run writes it."""

from __future__ import annotations

import socket
import sqlite3
from typing import TYPE_CHECKING, Any, Final

import psutil

from mpengine.errors import JournalError
from mpengine.journal import schema
from mpengine.journal.records import ItemState

if TYPE_CHECKING:
    from pathlib import Path

MOST_FAILURES: Final = 1000
_CLOCK_S: Final = 2.0
"""The kernel tells when a process was started by a clock that is set apart from the one a run's begin is read from."""


def read(path: Path) -> dict[str, Any]:
    """Return what a journal says, as plain dicts, lists, strings and numbers, of one moment.

    Keys: ``path``, ``format``, ``fingerprint``, ``output``, ``position``, ``keeps_values``; ``state``, which is
    ``running``, ``finished`` (the source came to its end and nothing is left) or ``interrupted``; ``done``, ``failed``,
    ``left`` (None where the source was never read to its end, and its length is not known); ``runs``; ``causes``, how
    often what has failed; ``failures``, the newest ``MOST_FAILURES``, and ``failure_count``.

    Raises:
        JournalError: there is none, or the file is none.
    """
    if not path.is_file():
        raise JournalError(f"there is no journal {path}")
    connection = schema.connect(path, writes=False)
    try:
        if schema.is_empty(connection):
            raise JournalError(f"{path} is empty: no run has begun it")
        connection.execute("BEGIN")
        return _facts(connection, path)
    except sqlite3.Error as error:
        raise JournalError(f"cannot read the journal {path}: {error}") from error
    finally:
        connection.close()


def _facts(connection: sqlite3.Connection, path: Path) -> dict[str, Any]:
    notes = schema.notes_of(connection)
    by_run: dict[int, dict[int, int]] = {}
    for run, state, count in connection.execute("SELECT run, state, count(*) FROM items GROUP BY run, state"):
        by_run.setdefault(run, {})[state] = count
    done, failed = (
        sum(counts.get(state, 0) for counts in by_run.values()) for state in (ItemState.DONE, ItemState.FAILED)
    )
    runs = [_run(row, by_run) for row in connection.execute(_RUNS)]
    left = _left(runs, done + failed)
    for run in runs[:-1]:
        if run["ended_at"] is None:
            run["ending"] = "killed"
    last = runs[-1] if runs else None
    state = "interrupted"
    if last is not None and last["ended_at"] is None:
        if _is_alive(last):
            state = last["ending"] = "running"
        else:
            last["ending"] = "killed"
    elif last is not None and last["is_whole"] and not left:
        state = "finished"
    causes = connection.execute(
        "SELECT stage, substr(summary, 1, instr(summary || ':', ':') - 1) AS error, count(*) AS count FROM failures"
        " GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2"
    )
    found = connection.execute(
        "SELECT stage, source_index, repr, summary, traceback, attempts, worker, run, state FROM failures"
        " ORDER BY failure DESC LIMIT ?",
        (MOST_FAILURES,),
    )
    names = ("stage", "index", "item", "error", "traceback", "attempts", "worker_id", "run", "state")
    failures = [dict(zip(names, row, strict=True)) for row in found]
    for failure in failures:
        failure["state"] = "failed" if failure["state"] == ItemState.FAILED else "ended the run"
    return {
        "path": str(path),
        "format": schema.VERSION,
        "state": state,
        "fingerprint": notes["fingerprint"],
        "output": notes["output"],
        "position": notes["position"],
        "keeps_values": notes["keeps_values"] == "true",
        "done": done,
        "failed": failed,
        "left": left,
        "runs": runs,
        "causes": [{"stage": stage, "error": error, "count": count} for stage, error, count in causes],
        "failure_count": connection.execute("SELECT count(*) FROM failures").fetchone()[0],
        "failures": failures,
    }


_RUN: Final = ("run", "pid", "host", "version", "began_at", "ended_at", "ending", "total", "seen", "known", "is_whole")
_RUNS: Final = (
    "SELECT run, pid, host, version, began_at, ended_at, ending, total, seen, known, is_whole FROM runs ORDER BY run"
)


def _run(row: tuple[Any, ...], by_run: dict[int, dict[int, int]]) -> dict[str, Any]:
    run = dict(zip(_RUN, row, strict=True))
    counts = by_run.get(run["run"], {})
    run["is_whole"] = bool(run["is_whole"])
    run["done"], run["failed"] = counts.get(ItemState.DONE, 0), counts.get(ItemState.FAILED, 0)
    return run


def _left(runs: list[dict[str, Any]], settled: int) -> int | None:
    """Return how many items are left, as far as the newest run that knows tells.

    A run that has read its source to the end knows how many of those it has met were settled.  Of any other, and once
    another has gone on behind it, it is taken that its source has what the journal has.
    """
    for run in reversed(runs):
        if run["is_whole"] and run is not runs[-1]:
            return max(0, int(run["seen"]) - settled)
        if run["is_whole"]:
            return max(0, int(run["seen"] - run["known"] - run["done"] - run["failed"]))
        if run["total"] is not None:
            return max(0, int(run["total"]) - settled)
    return None


def _is_alive(run: dict[str, Any]) -> bool:
    if run["host"] != socket.gethostname():
        return True  # nobody here can tell
    try:
        process = psutil.Process(run["pid"])
        has_ended = process.status() == psutil.STATUS_ZOMBIE
        return not has_ended and process.create_time() <= run["began_at"] + _CLOCK_S  # or another has its number now
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
