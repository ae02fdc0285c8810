"""A chain in a worker: its functions, built once, and called for each item.

Classes are built, ``setup`` is called and signatures are looked at when the chain's first batch arrives, so a worker
that never runs a stage never pays for it.
"""

from __future__ import annotations

import functools
import itertools
import types

from mpengine.bounded import bounded_repr, bounded_text, stand_in, wants_out
from mpengine.errors import ItemTimeoutError, StageError
from mpengine.ipc.codec import dump_error
from mpengine.records import dataclass
from mpengine.stages import SKIP, KillSwitch, WorkerState

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, Protocol

    from mpengine.policies import Retry
    from mpengine.stages import Stage
    from mpengine.worker.capture import Capture
    from mpengine.worker.slices import Slicer
    from mpengine.worker.stopwatch import Stopwatch
else:
    Protocol = object


def summarize(error: BaseException) -> str:
    """Return the error in one line."""
    text = " ".join(bounded_text(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def format_traceback(error: BaseException) -> str:
    """Return the traceback as text, from the user's function on."""
    frames = error.__traceback__
    frames = frames.tb_next if frames else None
    import traceback  # only what fails pays for it

    try:
        return "".join(traceback.format_exception(type(error), error, frames))
    except BaseException as raised:  # it asks the error this and that, which is user code and may raise
        if wants_out(raised):
            raise
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
        self.batch = stage.batch
        self.timeout = stage.timeout
        self.is_async = stage.is_async
        self.concurrency = stage.concurrency
        self.idempotent = stage.idempotent
        self.state = WorkerState(worker_id)
        self._teardown = stage.teardown
        self._runner: asyncio.Runner | None = None
        self._built: Any = stage.fn() if stage.is_class else None
        if self._built is not None and hasattr(self._built, "__enter__"):
            self._built.__enter__()
        if stage.setup is not None:
            try:
                self._finish(stage.setup(self.state))
            except BaseException:
                self._close_loop()
                raise
        function = stage.fn if self._built is None else self._built
        self.function: Callable[..., Any] = function
        self.extra: tuple[Any, ...] = (self.state,) if stage.takes_state else ()
        self.call: Callable[[Any], Any] = self._call_with_state if self.extra else function
        if self.batch is not None:
            self._plain_call, self.call = self.call, self._call_with_list

    def _call_with_state(self, item: Any) -> Any:
        return self.function(item, self.state)

    def _call_with_list(self, items: list[Any]) -> list[Any]:
        """Return a list of results, one for each item, or raise: a call that gives anything else has failed."""
        given = self._plain_call(list(items))  # its own, to do with as it likes
        if given is SKIP:
            return [SKIP] * len(items)
        if issubclass(type(given), KillSwitch):
            raise given
        if given is None or isinstance(given, str | bytes):
            kind = type(given).__name__
            msg = f"stage {self.name!r} has batch={self.batch} and must return a list of results, not {kind}"
            raise StageError(msg)
        values = list(given)
        if len(values) != len(items):
            msg = f"stage {self.name!r} was given {len(items)} items and returned {len(values)} results"
            raise StageError(msg)
        for value in values:
            if issubclass(type(value), KillSwitch):
                raise value
        return values

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that the stage's coroutines run on; made when it is first asked for."""
        if self._runner is None:
            import asyncio

            self._runner = asyncio.Runner()
        return self._runner.get_loop()

    def _finish(self, given: object) -> None:
        """Wait for what an ``async def`` for setting up or tearing down has given; anything else is of no use."""
        if isinstance(given, types.CoroutineType):
            self.loop.run_until_complete(given)

    def map(self, items: Iterable[Any]) -> Iterator[Any]:
        """Call the function for each item, in one tight loop."""
        return map(self.function, items, *map(itertools.repeat, self.extra))

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
        for closer in (*closers, self._close_loop):
            try:
                self._finish(closer())
            except BaseException as error:  # noqa: BLE001 - told to the coordinator, which logs it; the work is done
                problems.append(f"stage {self.name!r}: tear-down failed: {summarize(error)}")
        return problems

    def _close_loop(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()


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
        self.worked_s = 0.0  # how long this worker has been at it
        self.slicer: Slicer | None = None  # made when items are so cheap that they are run in slices
        self.watches: list[Stopwatch] | None = None  # of each stage; None where nobody wants the times of items
        for number, stage in enumerate(stages):
            try:
                self.steps.append(Step(stage, worker_id))
            except Exception as error:
                self.close()
                raise BrokenStageError(number, error) from error

    def keep_times(self) -> None:
        """Keep the times of items from now on."""
        from mpengine.worker.stopwatch import Stopwatch  # for those who are observed

        self.watches = [Stopwatch() for _ in self.steps]

    @property
    def fans_out(self) -> bool:
        """Whether one item may become many."""
        return self.steps[-1].fans_out

    @property
    def is_timed(self) -> bool:
        """Whether a call may take so long and no longer."""
        return any(step.timeout is not None for step in self.steps)

    @property
    def is_plain(self) -> bool:
        """Whether its items may run in slices: nothing times them, and they are called one by one, not in groups."""
        return not self.fans_out and not any(step.batch or step.is_async or step.timeout for step in self.steps)

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

Fields = tuple["Any", ...]

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
        "",  # what it had printed, where that is kept
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


class Stopped(Exception):  # noqa: N818 - control flow of a worker, never shown
    """The run was cancelled while an item waited for its next attempt."""


class Naming(Protocol):
    """Where a job names what it is at: a slot of the control block."""

    def begin_item(self, position: int, stage: int) -> None:
        """Name an item."""

    def begin_stage(self, stage: int) -> None:
        """Name the stage that it is in."""

    def begin_attempt(self, stage: int, attempt: int, timeout_s: float) -> None:
        """Say which attempt it is in, and how long that may take."""

    def end_attempt(self) -> bool:
        """Say that the attempt is over; return whether it took too long."""

    def describe(self, text: str) -> None:
        """Say what the item is."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a job runs.

    Attributes:
        slot: where it names what it is at.
        is_cancelled: whether it is to stop.
        pause: waits so many seconds; returns whether it is to stop, at once when that is so.
        cancel_fd: becomes readable when it is to stop.
        is_watched: whether somebody ends this process when a call is late (see ``backends.deadlines``).
        capture: keeps what items print; None where nobody wants that.
    """

    slot: Naming
    is_cancelled: Callable[[], bool]
    pause: Callable[[float | None], bool]
    cancel_fd: int
    is_watched: bool = False
    capture: Capture | None = None

    def late(self, step: Step) -> ItemTimeoutError:
        """Return the error of a call that has come back too late.

        Where this process is about to be ended for that, nothing more may be begun in it, and nothing told.

        Raises:
            Stopped: the run was cancelled before the end came.
        """
        if self.is_watched:
            self.pause(None)
            raise Stopped
        return ItemTimeoutError(f"took longer than {step.timeout} s")

    def wait_for_retry(self, retry: Retry, attempts: int) -> None:
        """Wait as long as there is to wait after so many attempts.

        Raises:
            Stopped: the run was cancelled meanwhile.
        """
        if retry.backoff_s and self.pause(backoff_s(retry, attempts)):
            raise Stopped


def backoff_s(retry: Retry, attempts: int) -> float:
    """Return the seconds to wait after so many attempts, drawn within the retry's jitter."""
    import random  # a slow import, for those who wait

    return retry.wait_s(attempts, random.random())  # noqa: S311 - a delay, no secret


def attempt(
    step: Step, item: object, site: Site, *, stage: int = 0, attempts: int = 0, error: BaseException | None = None
) -> tuple[Any, BaseException | None, int]:
    """Call a stage's function until it gives something or there is no attempt left.

    Args:
        step: the stage.
        item: what to call it with.
        site: where.
        stage: the stage's place in the chain.
        attempts: how many there were already.
        error: what the last one of these came to, if that is known.

    Returns:
        What it gave, or the last error; and how many attempts there were then.

    Raises:
        Killed: the function gave or raised a ``KillSwitch``.
        Stopped: the run was cancelled meanwhile.
    """
    while error is None or step.retry.is_worth_it(error, attempts):
        if error is not None:
            site.wait_for_retry(step.retry, attempts)
        attempts += 1
        value, error = _call(step, item, site, stage, attempts)
        if error is None:
            return value, None, attempts
    return None, error, attempts


def _call(step: Step, item: object, site: Site, stage: int, attempts: int) -> tuple[Any, BaseException | None]:
    """Call a stage's function once; return what it gave, or its error."""
    value: Any = None
    error: BaseException | None = None
    is_late = False
    if step.timeout is not None:
        site.slot.begin_attempt(stage, attempts, step.timeout)
    try:
        value = step.call(item)
    except KillSwitch as switch:
        raise Killed(switch.reason) from None
    except LEAVING:
        raise
    except BaseException as raised:  # noqa: BLE001 - that is the item's error, and goes back as such
        error = raised
    finally:
        if step.timeout is not None:
            is_late = site.slot.end_attempt()
    if is_late:
        return None, site.late(step)
    if error is None and issubclass(type(value), KillSwitch):  # isinstance() would ask the value, which is user code
        raise Killed(value.reason)
    return value, error
