"""A job in a worker: a command, or a call of a function that is told of like one.

    item (number, arguments) --> permit, where one is needed --> child or call --> ``Outcome``

J1. A command that fails raises ``CommandFailedError`` with its outcome, so that it is a failed item to the engine: it
    is retried, counted and shown as such.
J2. Small outputs travel with the outcome.  A larger one is handed over as the file that it is, and is never in memory.
J3. A job that was ended to make room runs again: it has not failed, nor been attempted.
J4. Once no more is to start, what has been handed out is skipped; once the run is cancelled, what runs is ended.
"""

from __future__ import annotations

import functools
import json
import os
import select
import signal
import time
from typing import TYPE_CHECKING, Any

from mpengine import cancellation
from mpengine.programs import children
from mpengine.programs.outcomes import NOT_FOUND, NOT_STARTED, TIMED_OUT, CommandFailedError, Outcome
from mpengine.programs.wires import Address, Wire
from mpengine.records import dataclass
from mpengine.stages import SKIP, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mpengine.programs.templates import Template
    from mpengine.stages import WorkerState

INLINE_BYTES = 1 << 16
"""Outputs up to here travel with the outcome."""
Item = tuple[int, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What every worker is told.

    Attributes:
        address: of the switchboard.
        folder: where outputs are kept while a command runs.
        template: the command; None for a function.
        timeout_s: how long a command may take; 0: any time, or as the switchboard says.
        asks: whether to ask before anything starts.
        names: whether the outcome is to hold the command as a line.
    """

    address: Address
    folder: str
    template: Template | None = None
    timeout_s: float = 0.0
    asks: bool = False
    names: bool = False


def command_stage(orders: Orders, **options: Any) -> Stage:
    """Return the stage that runs a command for each item."""
    setup = functools.partial(_set_up_commands, orders)
    return Stage(_run, singly=True, setup=setup, teardown=_tear_down, **options)


def function_stage(function: Callable[..., Any], name: str, orders: Orders, **options: Any) -> Stage:
    """Return the stage that calls a function for each item, and tells what came of it as a line of JSON.

    Args:
        function: gets the argument; a list of them, where there are several.
        name: how the function is called in an outcome.
        orders: see ``Orders``.
        options: of the stage.
    """
    setup = functools.partial(_set_up_calls, orders, function, name)
    return Stage(_run, name=name, singly=True, setup=setup, teardown=_tear_down, **options)


def _set_up_commands(orders: Orders, state: WorkerState) -> None:
    assert orders.template is not None  # noqa: S101 - command_stage() is for those that have one
    state.update(runner=Commands(orders, orders.template, state.worker_id + 1))


def _set_up_calls(orders: Orders, function: Callable[..., Any], name: str, state: WorkerState) -> None:
    state.update(runner=Calls(orders, function, name))


def _run(item: Item, state: WorkerState) -> Any:
    return state.values["runner"].run(*item)


def _tear_down(state: WorkerState) -> None:
    runner = state.values.pop("runner", None)
    if runner is not None:
        runner.close()


class _Runner:
    """What commands and calls have in common.

    Args:
        orders: see ``Orders``.
    """

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._wire = Wire(orders.address)
        flag = cancellation.bound_flag()
        self._cancel_fd = -1 if flag is None else flag.fileno()

    def close(self) -> None:
        """Hang up."""
        self._wire.close()

    def _may_start(self) -> bool:
        self._wire.hear()
        if self._wire.is_stopped or cancellation.cancelled():
            return False
        return not self._orders.asks or self._wire.may_start(self._cancel_fd)

    def _is_over(self) -> None:
        if self._orders.asks:
            self._wire.done()


class Calls(_Runner):
    """Calls a function.

    Args:
        orders: see ``Orders``.
        function: what to call.
        name: how it is called in an outcome.
    """

    def __init__(self, orders: Orders, function: Callable[..., Any], name: str) -> None:
        super().__init__(orders)
        self._function = function
        self._name = name

    def run(self, seq: int, args: Sequence[str]) -> Any:
        """Call the function with the arguments of a job.

        Raises:
            Exception: whatever it raises; a ``TypeError`` or ``ValueError`` where its value is not JSON.
        """
        if not self._may_start():
            return SKIP
        started_at, began = time.time(), time.perf_counter()
        try:
            value = self._function(args[0] if len(args) == 1 else list(args))
        finally:
            self._is_over()
        runtime_s = time.perf_counter() - began
        line = b"" if value is SKIP else json.dumps(value, allow_nan=False).encode("ascii") + b"\n"
        return Outcome(seq, started_at, runtime_s, out=line, command=call_text(self._name, args), pid=os.getpid())


def call_text(name: str, args: Sequence[str]) -> str:
    """Return a call of a function as a line."""
    import shlex

    return shlex.join([name, *args])


class Commands(_Runner):
    """Runs commands.

    Args:
        orders: see ``Orders``.
        template: the command.
        slot: the number of this worker, from 1.
    """

    def __init__(self, orders: Orders, template: Template, slot: int) -> None:
        super().__init__(orders)
        self._template = template
        self._fill = template.filler()
        self._slot = slot
        self._environ = dict(os.environb)
        self._poll = select.poll()
        self._poll.register(self._wire, select.POLLIN)
        if self._cancel_fd != -1:
            self._poll.register(self._cancel_fd, select.POLLIN)

    def run(self, seq: int, args: Sequence[str]) -> Any:
        """Run the command with the arguments of a job.

        Raises:
            CommandFailedError: it has failed.
        """
        words = self._fill(seq, self._slot, args)
        command = self._template.text(words) if self._orders.names else ""
        while self._may_start():
            out = children.nameless_file(self._orders.folder)
            try:
                err = children.nameless_file(self._orders.folder)
                try:
                    outcome = self._run_once(seq, words, command, out, err)
                finally:
                    os.close(err)
            finally:
                os.close(out)
                self._is_over()
            if outcome is None:
                continue  # J3, or the run is cancelled, which is found out when it asks whether it may start
            if not outcome.is_well:
                raise CommandFailedError(outcome)
            return outcome
        return SKIP

    def _run_once(self, seq: int, words: list[str], command: str, out: int, err: int) -> Outcome | None:
        started_at, began = time.time(), time.perf_counter()
        try:
            child = children.start(words, self._environ, out, err)
        except (OSError, ValueError) as error:
            exitval = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_STARTED
            reason = getattr(error, "strerror", None) or str(error)
            text = f"mpengine: cannot run {words[0]}: {reason}\n".encode("utf-8", "surrogateescape")
            return Outcome(seq, started_at, time.perf_counter() - began, exitval, err=text, command=command)
        pid = child.pid
        exitcode, is_late = self._wait(child)
        if exitcode is None:
            return None
        runtime_s = time.perf_counter() - began
        exitval, signum = (exitcode, 0) if exitcode >= 0 else (0, -exitcode)
        if is_late:
            exitval, signum = TIMED_OUT, signum or signal.SIGTERM
        kept = self._outputs(seq, out, err)
        return Outcome(seq, started_at, runtime_s, exitval, int(signum), *kept, command, pid)

    def _wait(self, child: children.Child) -> tuple[int | None, bool]:
        """Wait for a child's end, or bring it about.

        Returns:
            How it ended, None if that is not to count; and whether its time was up.
        """
        began_at = time.monotonic()
        wire, poll, fd = self._wire, self._poll, child.fd
        if fd != -1:
            poll.register(fd, select.POLLIN)
        try:
            while True:
                limit_s = self._orders.timeout_s or wire.limit_s
                left_s = began_at + limit_s - time.monotonic() if limit_s else None
                if left_s is not None and left_s <= 0 and not child.has_ended():
                    return child.end(), True
                waits = [wait_s for wait_s in (left_s, child.look_s) if wait_s is not None]
                ready = poll.poll(max(0.0, 1000 * min(waits)) if waits else None)
                if any(found == fd for found, _ in ready) or (fd == -1 and child.has_ended()):
                    return child.bury(), False
                wire.hear()
                if wire.is_to_end or cancellation.cancelled():
                    wire.is_to_end = False
                    child.end()
                    return None, False
        except BaseException:  # whatever ends this worker's call ends its child with it
            child.end()
            raise
        finally:
            if fd != -1:
                poll.unregister(fd)

    def _outputs(self, seq: int, out: int, err: int) -> tuple[bytes | None, bytes | None]:
        """Return what a command has written, None for what was handed over (J2)."""
        kept: list[bytes | None] = []
        large: list[tuple[int, int]] = []
        for which, fd in ((1, out), (2, err)):
            size = os.fstat(fd).st_size
            if size > INLINE_BYTES:
                large.append((which, fd))
                kept.append(None)
            else:
                kept.append(os.pread(fd, size, 0) if size else b"")
        if large:
            self._wire.hand_over(seq, large)
        return kept[0], kept[1]
