"""How a run ended: ``Ok(report)`` or ``Err(reason, cause, report)``, two small frozen classes.

After the shape of outcome's ``Value`` and ``Error``: a tagged union that matches structurally and can be unwrapped.
"""

from __future__ import annotations

import contextlib

from mpengine import pickling
from mpengine.bounded import bounded_text, stand_in
from mpengine.errors import EngineError
from mpengine.metrics import Snapshot
from mpengine.profiles import Profile
from mpengine.records import dataclass, field, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal, NoReturn

MAX_REPORTED_ERRORS = 1000


@dataclass(frozen=True, slots=True)
class ItemError:
    """An item that failed for good.

    Attributes:
        stage: name of the stage it failed in.
        index: the item's number in the source, from 0.
        item: a bounded ``repr`` of what the stage was given.
        error: the exception, or a ``StageError`` that names it when it cannot travel.
        traceback: the traceback as text, as it was in the worker.
        attempts: how often the stage tried.
        worker_id: slot of the worker that tried last; None when it failed outside any worker.
        output: the end of what it had printed, where the engine has ``keep_output``.
    """

    stage: str
    index: int
    item: str
    error: BaseException
    traceback: str = ""
    attempts: int = 1
    worker_id: int | None = None
    output: str = ""

    def __str__(self) -> str:
        """Return one line that names stage, item and error."""
        text = " ".join(bounded_text(self.error).split())
        item = f" ({self.item})" if self.item else ""
        return f"{self.stage}: item {self.index}{item}: {type(self.error).__name__}: {text}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle, with a stand-in where the exception itself does not survive the trip."""
        survives = False
        with contextlib.suppress(Exception):  # whatever a foreign exception does when pickled
            survives = isinstance(pickling.loads(pickling.dumps(self.error)), BaseException)  # our own bytes
        error = self.error if survives else stand_in(self.error)
        return ItemError, (
            self.stage, self.index, self.item, error, self.traceback, self.attempts, self.worker_id, self.output,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did.

    Attributes:
        values: what came out, in input order unless the engine is unordered; empty with ``collect=False``.
        errors: the first 1,000 items that failed for good.
        snapshot: the figures at the end.
        duration_s: seconds from start to end, tear-down included.
        ok: whether the run went to its end (dropped items do not change that).
        profile: where the time went.
    """

    values: list[Any] = field(default_factory=list)
    errors: list[ItemError] = field(default_factory=list)
    snapshot: Snapshot = field(default_factory=Snapshot)
    duration_s: float = 0.0
    ok: bool = True
    profile: Profile = field(default_factory=Profile)

    @property
    def bottleneck(self) -> str:
        """What held the run up, and what to do about it, in one line; worked out when it is asked for."""
        return self.profile.bottleneck

    def __repr__(self) -> str:
        """Return the figures that matter, however many values there are."""
        ending = "ok" if self.ok else "not ok"
        return f"<Report {ending}: {len(self.values)} values, {len(self.errors)} errors, {self.duration_s:.3f} s>"


@dataclass(frozen=True, slots=True)
class Ok:
    """The run went to its end."""

    report: Report

    def with_values(self, values: list[Any]) -> Ok:
        """Return the same result, its report with ``values``."""
        return Ok(replace(self.report, values=values))

    @property
    def is_ok(self) -> Literal[True]:
        """True."""
        return True

    def unwrap(self) -> Report:
        """Return the report."""
        return self.report


@dataclass(frozen=True, slots=True)
class Err:
    """The run was cancelled or failed.

    Attributes:
        reason: the first reason given.
        cause: the exception behind it, if there is one.
        report: what was done until then.
    """

    reason: str
    cause: BaseException | None
    report: Report

    def with_values(self, values: list[Any]) -> Err:
        """Return the same result, its report with ``values``."""
        return Err(self.reason, self.cause, replace(self.report, values=values))

    @property
    def is_ok(self) -> Literal[False]:
        """False."""
        return False

    def unwrap(self) -> NoReturn:
        """Raise the cause, or an ``EngineError`` with the reason when there is none."""
        raise self.exception()

    def __bool__(self) -> Literal[False]:
        """False, so that ``if engine.run(...):`` means what it says."""
        return False

    def exception(self) -> BaseException:
        """Return what ``unwrap`` raises."""
        return self.cause if self.cause is not None else EngineError(self.reason)


Result = Ok | Err
