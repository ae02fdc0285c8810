"""The warden: an actor on each machine of the cluster that sees to the workers there, as the coordinator does at home.

    coordinator --> attach, begin, cancel, kill --> warden
    coordinator <------ deaths, and what else is told <-- warden --> control blocks and processes of its workers

A worker's process is busy with user code, and may hang in it: what has to be done about it is done from beside, and
quickly, so by somebody on the same machine.

G1. It opens each worker's control block through ``/proc``; the memory stays, whatever becomes of the worker.
G2. Who is there is watched through descriptors (pidfd), not by looking; the cancel flag is set in the control block.
G3. One thread, that of ``watch``, does everything; calls are noted, and ring for it.  But ``kill`` kills at once.
G4. What a worker was at when it died is told as it was written; without a warden, as after the loss of a machine,
    nobody knows.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections import deque
from typing import TYPE_CHECKING

from mpengine.backends.deadlines import Deadlines
from mpengine.backends.fleet import Lost
from mpengine.backends.hearing import death_from
from mpengine.backends.memory import MemoryGuard
from mpengine.cancellation import CancelFlag
from mpengine.ipc.controlblock import CANCEL_OFFSET, ControlBlock
from mpengine.ipc.lastwords import read_words
from mpengine.records import dataclass, replace
from mpengine.scheduler import events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from mpengine.ipc.controlblock import Slot
    from mpengine.worker.asactor import Greeting

MANY_S = 3600.0


@dataclass(frozen=True, slots=True)
class Passed:
    """What a warden tells: an event of a worker of the slot's ``generation``."""

    worker_id: int
    generation: int
    event: events.Event


class Ward:
    """A worker's process, as the watches know it (see ``backends.links.Link``)."""

    greeted = True

    def __init__(self, worker_id: int, generation: int, greeting: Greeting) -> None:
        """Open what there is to be opened of it.

        Raises:
            OSError: it is gone.
        """
        self.worker_id = worker_id
        self.generation = generation
        self.pid = greeting.pid
        self.is_killed = False
        with contextlib.ExitStack() as on_error:
            self.pidfd = os.pidfd_open(greeting.pid)
            on_error.callback(os.close, self.pidfd)
            folder = f"/proc/{greeting.pid}/fd"
            control_fd = os.open(f"{folder}/{greeting.control_fd}", os.O_RDWR | os.O_CLOEXEC)
            self.block = ControlBlock(control_fd, 1)
            on_error.callback(self.block.close)
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
            cancel_fd = os.open(f"{folder}/{greeting.cancel_fd}", flags)
            on_error.pop_all()
        self.flag = CancelFlag(self.block.buffer, CANCEL_OFFSET, read_fd=os.dup(cancel_fd), write_fd=cancel_fd)
        self.slot: Slot = self.block.slot(0)
        self.is_over = False

    @property
    def items(self) -> int:
        """How many items its process has done."""
        record = self.slot.read()
        return 0 if record is None else record.items

    def signal(self, signum: int) -> None:
        """Send a signal to the process alone."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signum)

    def kill(self) -> None:
        """End the process, and what it has started."""
        gone = select.poll()
        gone.register(self.pidfd, select.POLLIN)
        self.is_killed = self.is_killed or not gone.poll(0)  # else somebody else has done it
        self.signal(signal.SIGKILL)
        self.end_group()

    def end_group(self) -> None:
        """End what the process has started and left behind; its group is its own."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(0) != self.pid:
                os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let go of everything."""
        self.slot.release()
        self.flag.close()
        self.block.close()
        os.close(self.pidfd)


class Wards:
    """The workers of one machine: as much of a fleet as the watches ask for."""

    def __init__(self) -> None:
        """Begin without any."""
        self.links: dict[int, Ward] = {}

    def pid_of(self, worker_id: int) -> int | None:
        """Return the process number of a worker."""
        ward = self.links.get(worker_id)
        return None if ward is None else ward.pid

    @staticmethod
    def kill(ward: Ward) -> None:
        """End a worker's process."""
        ward.kill()

    @staticmethod
    def send_signal(ward: Ward, signum: int) -> None:
        """Send a signal to a worker's process alone."""
        ward.signal(signum)

    @staticmethod
    def payload_bytes(_: Ward) -> int:
        """Return what a worker has of payloads in its memory: none that would be counted, see ``_own_bytes``."""
        return 0


class Warden:
    """The actor.

    Args:
        memory_limit: bytes of resident memory that a worker may have; None: any number.
    """

    def __init__(self, memory_limit: int | None) -> None:
        """Watch nobody yet."""
        self._memory_limit = memory_limit
        self._wards = Wards()
        self._fleet: Any = self._wards
        self._calls: deque[Callable[[], list[Passed]]] = deque()
        self._bell_r, self._bell_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._bell_r, select.POLLIN)
        self._timeout_s: float | None = None
        self._deadlines = Deadlines()
        self._memory = MemoryGuard(memory_limit, _own_bytes)
        self._is_over = False

    # ------------------------------------------------------------------ from the coordinator

    def attach(self, worker_id: int, generation: int, greeting: Greeting) -> None:
        """See to a worker from now on."""
        self._note(lambda: self._attach(worker_id, generation, greeting))

    def begin(self, timeout_s: float | None) -> None:
        """A run begins; its calls may take ``timeout_s`` at the shortest."""
        self._note(lambda: self._begin(timeout_s))

    def cancel(self) -> None:
        """Set every worker's cancel flag."""
        self._note(self._cancel)

    def kill(self, worker_id: int, generation: int) -> None:
        """End a worker's process."""
        ward = self._wards.links.get(worker_id)
        if ward is not None and ward.generation == generation:
            ward.kill()

    def leave(self) -> None:
        """Watch nobody any more."""
        self._is_over = True
        self._ring()

    def watch(self) -> Iterator[Passed]:
        """Tell what becomes of the workers, as it happens."""
        while not self._is_over:
            for fd, _ in self._poll.poll(self._wait_s() * 1000):
                if fd == self._bell_r:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._bell_r, 4096)
                else:
                    yield self._bury(fd)
            while self._calls:
                # A list cannot be sent to, which is what Ray does to all that is yielded from.
                for passed in self._calls.popleft()():  # noqa: UP028
                    yield passed
            at = time.monotonic()
            if self._deadlines.has_any:
                self._deadlines.enforce(self._fleet, at)
            for event in self._memory.look(self._fleet, at):
                worker_id = event.worker_id if isinstance(event, events.WorkerBloated) else -1
                yield Passed(
                    worker_id, self._wards.links[worker_id].generation if worker_id in self._wards.links else -1, event
                )

    # ------------------------------------------------------------------ the thread of watch()

    def _note(self, call: Callable[[], list[Passed]]) -> None:
        self._calls.append(call)
        self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full, so it rings already
            os.write(self._bell_w, b"!")

    def _wait_s(self) -> float:
        at = time.monotonic()
        waits_s = [self._deadlines.wait_s(at), self._memory.wait_s(at) if self._wards.links else None]
        return min([MANY_S, *(wait_s for wait_s in waits_s if wait_s is not None)])

    def _attach(self, worker_id: int, generation: int, greeting: Greeting) -> list[Passed]:
        try:
            ward = Ward(worker_id, generation, greeting)
        except OSError:  # it is gone already; the coordinator hears that from Ray
            return []
        self._wards.links[worker_id] = ward
        self._poll.register(ward.pidfd, select.POLLIN)
        self._expect(ward)
        return [Passed(worker_id, generation, events.WorkerReady(0.0, worker_id))]

    def _expect(self, ward: Ward) -> None:
        if self._timeout_s is not None:
            self._deadlines.watch(ward.worker_id, 0, self._timeout_s, time.monotonic())

    def _begin(self, timeout_s: float | None) -> list[Passed]:
        self._timeout_s = timeout_s
        self._deadlines = Deadlines()
        self._memory = MemoryGuard(self._memory_limit, _own_bytes)
        for ward in self._wards.links.values():
            self._expect(ward)
        return []

    def _cancel(self) -> list[Passed]:
        for ward in self._wards.links.values():
            with contextlib.suppress(OSError):  # nobody is left to be told
                ward.flag.set()
        return []

    def _bury(self, pidfd: int) -> Passed:
        self._poll.unregister(pidfd)
        ward = next(ward for ward in self._wards.links.values() if ward.pidfd == pidfd)
        ward.end_group()
        record = ward.slot.read()
        words = read_words(ward.block.fd, ward.block.words_start(0))
        timed_out = self._deadlines.bury(ward.worker_id, ward.generation)
        excess = self._memory.bury(ward.worker_id, ward.generation)
        lost = Lost(ward.worker_id, ward.generation, -signal.SIGKILL, record, words)
        died = death_from(0.0, lost, timed_out=timed_out, excess=excess)
        if words.where and not ward.is_killed:
            died = replace(died, how="a fatal signal", where=words.where, trace=words.trace)
        elif not ward.is_killed:
            died = replace(died, how="killed from outside, or ended by itself")
        del self._wards.links[ward.worker_id]
        ward.close()
        return Passed(ward.worker_id, ward.generation, died)


def _own_bytes(pid: int) -> int:
    """Return the memory of a process that it shares with nobody: the object store's is not the worker's."""
    import psutil

    memory = psutil.Process(pid).memory_info()
    return int(memory.rss - memory.shared)
