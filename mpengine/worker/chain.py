"""A chain in a worker: its functions, built once, and called for each item.

Classes are built, ``setup`` is called and signatures are looked at when the chain's first batch arrives, so a worker
that never runs a stage never pays for it.
"""

from __future__ import annotations

import functools
import itertools
import traceback
from typing import TYPE_CHECKING, Any

from mpengine.errors import ItemTimeoutError, StageError
from mpengine.ipc.codec import dump_error
from mpengine.results import bounded_repr, bounded_text, stand_in
from mpengine.stages import KillSwitch, WorkerState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from mpengine.stages import Stage


def summarize(error: BaseException) -> str:
    """Return the error in one line."""
    text = " ".join(bounded_text(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def format_traceback(error: BaseException) -> str:
    """Return the traceback as text, from the user's function on."""
    frames = error.__traceback__
    frames = frames.tb_next if frames else None
    try:
        return "".join(traceback.format_exception(type(error), error, frames))
    except Exception:  # noqa: BLE001 - it asks the error this and that, which is user code and may raise
        return "".join(["Traceback (most recent call last):\n", *traceback.format_tb(frames), summarize(error), "\n"])


class Step:
    """A stage that is ready to be called.

    Args:
        stage: what to build.
        worker_id: for the stage's ``WorkerState``.

    Raises:
        Exception: whatever building the class or calling ``setup`` raises.
    """

    def __init__(self, stage: Stage, worker_id: int) -> None:
        """Build the stage's class, if it is one, and call its ``setup``."""
        self.name = stage.name
        self.retry = stage.retry
        self.fans_out = stage.is_generator
        self.state = WorkerState(worker_id)
        self._teardown = stage.teardown
        self._built: Any = stage.fn() if stage.is_class else None
        if self._built is not None and hasattr(self._built, "__enter__"):
            self._built.__enter__()
        if stage.setup is not None:
            stage.setup(self.state)
        function = stage.fn if self._built is None else self._built
        self._function = function
        self._extra: tuple[Any, ...] = (self.state,) if stage.takes_state else ()
        self.call: Callable[[Any], Any] = self._call_with_state if self._extra else function

    def _call_with_state(self, item: Any) -> Any:
        return self._function(item, self.state)

    def map(self, items: Iterable[Any]) -> Iterator[Any]:
        """Call the function for each item, in one tight loop."""
        return map(self._function, items, *map(itertools.repeat, self._extra))

    def close(self) -> list[str]:
        """Tear the stage down; return what went wrong with that, one line each."""
        problems = []
        closers: list[Callable[[], object]] = []
        if self._teardown is not None:
            closers.append(functools.partial(self._teardown, self.state))
        if hasattr(self._built, "__exit__"):
            closers.append(functools.partial(self._built.__exit__, None, None, None))
        elif hasattr(self._built, "close"):
            closers.append(self._built.close)
        for closer in closers:
            try:
                closer()
            except Exception as error:  # noqa: BLE001 - told to the coordinator, which logs it
                problems.append(f"stage {self.name!r}: tear-down failed: {summarize(error)}")
        return problems


class Chain:
    """The stages that a worker runs in one go.

    Args:
        stages: what to build.
        worker_id: for the stages' ``WorkerState``.

    Raises:
        BrokenStageError: a stage could not be built; names which.
    """

    def __init__(self, stages: Sequence[Stage], worker_id: int) -> None:
        """Build every stage, in order; those already built are torn down if one fails."""
        self.steps: list[Step] = []
        self.item_s: float | None = None  # what an item has cost lately; None before anything is known
        for number, stage in enumerate(stages):
            try:
                self.steps.append(Step(stage, worker_id))
            except Exception as error:
                self.close()
                raise BrokenStageError(number, error) from error

    @property
    def fans_out(self) -> bool:
        """Whether one item may become many."""
        return self.steps[-1].fans_out

    def close(self) -> list[str]:
        """Tear every stage down, last first; return what went wrong with that."""
        return [problem for step in reversed(self.steps) for problem in step.close()]


class BrokenStageError(StageError):
    """A stage could not be loaded or set up.

    Args:
        stage: its number in the chain.
        error: what was raised.
    """

    def __init__(self, stage: int, error: BaseException) -> None:
        """Keep both, with the traceback as text."""
        super().__init__(summarize(error))
        self.stage = stage
        self.error = error
        self.traceback = format_traceback(error)


class _Unreadable:
    """Stands for an item that never came to be."""

    def __repr__(self) -> str:
        return "<could not be unpickled>"


UNREADABLE = _Unreadable()

Fields = tuple[Any, ...]

LEAVING = (SystemExit, KeyboardInterrupt)
"""What user code raises to end its process, not its item."""


def failure_of(position: int, stage: int, error: BaseException, item: object, attempts: int, what: str = "") -> Fields:
    """Return the fields of a ``scheduler.events.Failure``, with the exception as it is; ``what`` begins the summary."""
    how = "timed out" if type(error) is ItemTimeoutError else "raised"
    return (
        position,
        stage,
        what + summarize(error),
        error,
        bounded_repr(item),
        format_traceback(error),
        attempts,
        how,
    )


def pickled(failure: Fields) -> Fields:
    """Return the same fields with the exception pickled, ready to travel."""
    position, stage, summary, error, *others = failure
    dumped = dump_error(error)
    if dumped is None:
        dumped = dump_error(stand_in(error))
    return (position, stage, summary, dumped, *others)


class Killed(Exception):  # noqa: N818 - control flow of a worker, never shown
    """A stage function returned or raised a ``KillSwitch``."""

    def __init__(self, reason: str) -> None:
        """Keep the reason."""
        super().__init__(reason)
        self.reason = reason


def attempt(step: Step, item: object) -> tuple[Any, BaseException | None, int]:
    """Call a stage's function until it gives something or there is no attempt left.

    Returns:
        What it gave, or the last error; and how many attempts that took.

    Raises:
        Killed: the function gave or raised a ``KillSwitch``.
    """
    attempts = 0
    while True:
        attempts += 1
        try:
            value = step.call(item)
        except KillSwitch as switch:
            raise Killed(switch.reason) from None
        except LEAVING:
            raise
        except BaseException as error:  # noqa: BLE001 - that is the item's error, and goes back as such
            if not step.retry.is_worth_it(error, attempts):
                return None, error, attempts
        else:
            if issubclass(type(value), KillSwitch):  # isinstance() would ask the value, which is user code
                raise Killed(value.reason)
            return value, None, attempts
