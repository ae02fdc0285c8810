"""The backend of worker processes: the scheduler's commands as messages, the workers' messages as events.

    commands --> messages --> inbox --> worker --> outbox --> messages --> events
                                           |
                        slot, exit status -+--> WorkerDied

A worker is believed after its message has been checked; one whose message cannot be is killed, and its death is told
like any other (K9).
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque

from mpengine.backends.base import run_ids
from mpengine.backends.fleet import Fleet, Happening, Heard, Lost
from mpengine.backends.headstart import dump_chains
from mpengine.backends.hearing import returned_from
from mpengine.backends.parcels import take_apart
from mpengine.backends.watches import Watches
from mpengine.ipc import messages
from mpengine.ipc.codec import PickleCodec
from mpengine.ipc.holdings import Stored
from mpengine.scheduler import events
from mpengine.worker import logwatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mpengine.backends.base import BackendOptions
    from mpengine.backends.headstart import HeadStart
    from mpengine.backends.links import Link
    from mpengine.backends.local import LocalWorkers
    from mpengine.ipc.codec import Codec
    from mpengine.ipc.controlblock import SlotRecord
    from mpengine.plan import ChainPlan, Plan
    from mpengine.scheduler.commands import Dispatch, Resume


class ProcessBackend:
    """See ``Backend``.

    Args:
        options: how many workers, and how they start.
        ahead: looks for the head start of the first run, which is that run's own (S2).
    """

    in_caller = False
    runs_user_code = False

    def __init__(self, options: BackendOptions, ahead: Callable[[], HeadStart | None] = lambda: None) -> None:
        """Start nothing yet."""
        self._options = options
        self.workers = options.workers
        self._ahead = ahead
        self._pickles = PickleCodec(main_by_value=options.start_method != "fork")
        self.codec: Codec = self._pickles
        self._fleet: Fleet | None = None
        self._plan: Plan | None = None
        self.run_id = 0
        self.keeps_times = False
        self._dumped: list[bytes] = []
        self._happened: list[events.Event] = []
        self._problems: list[str] = []
        self._timeouts: list[float | None] = []
        self._timed: dict[int, int] = {}  # the chain of every batch that has a timeout
        self._watches = Watches(options.memory_limit, self._warn)
        self._seats: dict[int, ChainPlan] = {}
        self._local: LocalWorkers | None = None
        self._local_happened: deque[events.Event] = deque()
        self._is_cancelled = False
        self._is_hurried = False
        self.on_warning: Callable[[str], object] = lambda _: None
        self.on_record: Callable[[messages.Logged, int, int], object] = lambda *_: None
        self._levels = messages.SetLevels(0, ())
        # Two sockets, not a pipe: their close() cannot be overtaken by a wake() that has read the number already.
        self._bell_r, self._bell_w = socket.socketpair()
        for bell in (self._bell_r, self._bell_w):
            bell.setblocking(False)  # noqa: FBT003 - the standard library's signature

    # ------------------------------------------------------------------ a run

    def begin(self, plan: Plan) -> None:
        """See ``Backend``."""
        ahead = self._ahead()
        self._dumped = dump_chains(plan) if ahead is None or ahead.plan is not plan else ahead.dumped
        self._timeouts = [
            min((stage.timeout for stage in chain.stages if stage.timeout is not None), default=None)
            for chain in plan.chains
        ]
        self._timed = {}
        seats = [chain for chain in plan.chains for _ in range(chain.seats)]
        self._seats = dict(enumerate(seats, self._options.workers))
        if seats:
            from mpengine.backends.local import LocalWorkers  # a slow import, for stages that are no process's

            self._local = LocalWorkers(plan, self.codec, self._post_local, keeps_times=self.keeps_times)
        else:
            self._local = None
        self._plan = plan
        self.run_id = next(run_ids)
        self._levels = messages.SetLevels(*logwatch.levels())
        self._is_cancelled = self._is_hurried = False
        self._problems = []
        if self._fleet is None:
            self._fleet = Fleet(self._options, self._bell_r.fileno(), None if ahead is None else ahead.take())
            self._pickles.shelf = self._fleet.arena
        for happening in self._fleet.wait(0):  # who has died or said hello since the last run
            self._take_in(happening)
        self._happened = []
        self._watches = Watches(self._options.memory_limit, self._warn)
        for link in self._fleet.links.values():
            self._send_run(self._fleet, link)

    def start_worker(self, worker_id: int) -> None:
        """See ``Backend``."""
        if worker_id in self._seats:
            self._running_local().start(worker_id, self._seats[worker_id])
            return
        fleet = self._running_fleet()
        link = fleet.links.get(worker_id)
        if link is None:
            link = fleet.start(worker_id)
            self._send_run(fleet, link)
        elif link.greeted:
            self._happened.append(events.WorkerReady(time.monotonic(), worker_id, link.items))

    def _send_run(self, fleet: Fleet, link: Link) -> None:
        fleet.send(link, self._levels)
        taken = () if link.greeted else tuple([block.fields() for block in fleet.arena.taken(link.worker_id)])
        fleet.send(link, messages.BeginRun(self.run_id, self.keeps_times, taken, self._dumped))

    def dispatch(self, command: Dispatch) -> None:
        """See ``Backend``."""
        if command.worker_id in self._seats:
            self._running_local().order(command)
            return
        fleet = self._running_fleet()
        if command.worker_id not in fleet.links:
            return  # it is dead, which is about to be told
        parts, layout = take_apart(command.payload)
        payloads = [fleet.arena.lend(command.worker_id, part) if type(part) is Stored else part for part in parts]
        message = messages.RunBatch(
            command.batch_id,
            command.chain,
            command.lo,
            command.hi,
            command.skip,
            command.careful,
            command.out_size,
            command.budget,
            command.attempted,
            layout,
            payloads,
        )
        self._watch(command.worker_id, command.batch_id, command.chain)
        self._send(command.worker_id, message)

    def _watch(self, worker_id: int, batch_id: int, chain: int) -> None:
        timeout_s = self._timeouts[chain]
        if timeout_s is not None and worker_id in self._running_fleet().links:  # else it is dead, as below
            self._timed[batch_id] = chain
            self._watches.deadlines.watch(worker_id, batch_id, timeout_s, time.monotonic())

    def resume(self, command: Resume) -> None:
        """See ``Backend``."""
        if command.worker_id in self._seats:
            self._running_local().order(command)
            return
        if command.batch_id in self._timed:
            self._watch(command.worker_id, command.batch_id, self._timed[command.batch_id])
        self._send(command.worker_id, messages.ResumeBatch(command.batch_id, command.out_size, command.budget))

    def _send(self, worker_id: int, message: messages.Message) -> None:
        fleet = self._running_fleet()
        link = fleet.links.get(worker_id)
        if link is not None:  # else it is dead, which is about to be told
            fleet.send(link, message, asks=True)

    def retire(self, worker_id: int, grace_s: float) -> None:
        """See ``Backend``."""
        fleet = self._running_fleet()
        link = fleet.links.get(worker_id)
        if link is not None:
            fleet.send(link, messages.EndRun(self.run_id))
            fleet.send_pill(link, at_once=False)
            self._watches.deadlines.expect_end(worker_id, time.monotonic() + grace_s)

    def kill(self, worker_id: int) -> None:
        """See ``Backend``."""
        fleet = self._running_fleet()
        link = fleet.links.get(worker_id)
        if link is not None:
            fleet.kill(link)

    def wait(self, timeout_s: float | None) -> list[events.Event]:
        """See ``Backend``."""
        if self._happened:
            timeout_s = 0
        fleet = self._running_fleet()
        for happening in fleet.wait(self._watches.wait_s(time.monotonic(), timeout_s)):
            self._take_in(happening)
        self._happened += self._watches.look(fleet, time.monotonic())
        while self._local_happened:
            self._happened.append(self._local_happened.popleft())
        happened, self._happened = self._happened, []
        return happened

    def _post_local(self, event: events.Event) -> None:
        """Take in an event of a thread beside this one."""
        self._local_happened.append(event)
        self.wake()

    def _running_local(self) -> LocalWorkers:
        assert self._local is not None  # noqa: S101 - begin() has made it where there are seats
        return self._local

    def _running_fleet(self) -> Fleet:
        assert self._fleet is not None  # noqa: S101 - begin() comes first
        return self._fleet

    # ------------------------------------------------------------------ what has happened

    def _take_in(self, happening: Happening) -> None:
        at = time.monotonic()
        if isinstance(happening, Heard):
            try:
                event = self._event_of(at, happening.link, happening.message)
            except (TypeError, ValueError, messages.ProtocolError):
                self._running_fleet().kill(happening.link)
                return
            if event is not None:
                self._happened.append(event)
        elif isinstance(happening, Lost):
            self._running_fleet().arena.bury(happening.worker_id)  # only now: all that it had sent has been taken in
            self._happened.append(self._watches.death_of(at, happening))
        else:
            summary = happening.reason.strip().splitlines()[-1] if happening.reason.strip() else "no reason given"
            self._happened.append(events.StartFailed(at, summary, happening.reason))

    def _warn(self, story: str) -> None:
        self.on_warning(story)

    def _event_of(self, at: float, link: Link, message: messages.Message) -> events.Event | None:
        match message:
            case messages.Returned():
                arena = self._running_fleet().arena
                payloads = [arena.adopt(link.worker_id, payload) for payload in message.payloads]
                event = returned_from(at, link.worker_id, message, payloads, self.codec)
                self._note_report(link, event)
                return event
            case messages.Hello():
                link.greeted = True
                return events.WorkerReady(at, link.worker_id)
            case messages.Broken():
                assert self._plan is not None  # noqa: S101 - begin() comes first
                link.inbox.answered()
                stage = self._stage_number(message)
                error = (message.error, message.traceback)
                return events.StageBroken(at, link.worker_id, stage, message.summary, error)
            case _:
                self._take_note(link, message)
                return None

    def _take_note(self, link: Link, message: messages.Message) -> None:
        """Take in what is no news for the scheduler."""
        match message:
            case messages.Released():
                self._running_fleet().arena.take_back(link.worker_id, message.blocks)
            case messages.RunEnded():
                link.served = message.run_id
                if message.run_id == self.run_id:
                    self._problems.extend(message.problems)
            case messages.Logged():
                self.on_record(message, link.worker_id, self.run_id)
            case messages.Goodbye():
                pass
            case _:
                msg = f"a worker does not send a {type(message).__name__}"
                raise messages.ProtocolError(msg)

    def _note_report(self, link: Link, event: events.BatchReturned) -> None:
        link.items += event.consumed
        if event.progress is not events.Progress.MORE:
            link.inbox.answered()
            if event.batch_id in self._timed:
                self._watches.deadlines.forget(link.worker_id, event.batch_id)
            if event.progress is not events.Progress.SUSPENDED:
                self._timed.pop(event.batch_id, None)

    def _stage_number(self, message: messages.Broken) -> int:
        assert self._plan is not None  # noqa: S101 - begin() comes first
        stage = self._plan.chains[message.chain].first_stage + message.stage
        if not 0 <= stage < len(self._plan.stages):
            msg = f"there is no stage {stage}"
            raise messages.ProtocolError(msg)
        return stage

    # ------------------------------------------------------------------ the end

    def cancel(self) -> None:
        """See ``Backend``."""
        self._is_cancelled = True
        if self._local is not None:
            self._local.cancel()
        if self._fleet is not None:
            self._fleet.cancel()

    def hurry(self) -> None:
        """See ``Backend``."""
        self._is_hurried = True
        if self._local is not None:
            self._local.hurry()
        self.wake()

    def finish(self, *, keep: bool, grace_s: float) -> list[str]:
        """See ``Backend``."""
        fleet = self._fleet
        local, self._local = self._local, None
        if local is not None:
            self._problems += local.finish(0.0 if self._is_hurried else grace_s)
            self._local_happened.clear()
        if fleet is None:
            return []
        if not self._is_cancelled:
            for link in fleet.links.values():
                fleet.send(link, messages.EndRun(self.run_id))
        if keep and not self._is_cancelled:
            self._await_teardown(fleet, grace_s)
        else:
            self._let_go(fleet, grace_s)
        return self._problems

    def _await_teardown(self, fleet: Fleet, grace_s: float) -> None:
        """Wait until every worker that took part has torn its stages down; if one does not, all have to go."""
        deadline = time.monotonic() + grace_s
        while late := [link for link in fleet.links.values() if link.greeted and link.served != self.run_id]:
            left_s = deadline - time.monotonic()
            is_last = left_s <= 0 or self._is_hurried
            for happening in fleet.wait(max(0.0, left_s)):  # what has come while this process was stopped counts too
                self._take_in(happening)
            late = [link for link in late if link.served != self.run_id and fleet.links.get(link.worker_id) is link]
            if is_last and late:
                self._tell_late([link.worker_id for link in late], grace_s)
                self._let_go(fleet, 0.0)
                return

    def _let_go(self, fleet: Fleet, grace_s: float) -> None:
        if not self._is_cancelled:
            for link in fleet.links.values():
                fleet.send_pill(link, at_once=False)
        try:
            late = fleet.climb(grace_s, lambda: self._is_hurried, self._take_in)
            if late and grace_s and not self._is_cancelled:
                self._tell_late(late, grace_s)
        finally:
            self._fleet = None
            fleet.close()

    def _tell_late(self, worker_ids: list[int], grace_s: float) -> None:
        self._problems.append(f"worker {', '.join(map(str, worker_ids))}: tear-down took over {grace_s} s; killed")

    def wake(self) -> None:
        """See ``Backend``."""
        with contextlib.suppress(OSError):  # full, so it rings already; or closed, so nobody listens any more
            self._bell_w.send(b"!", socket.MSG_NOSIGNAL)

    def pids(self) -> list[int]:
        """See ``Backend``."""
        fleet = self._fleet
        return [] if fleet is None else fleet.pids()

    def pid_of(self, worker_id: int) -> int | None:
        """See ``Backend``."""
        fleet = self._fleet
        return None if fleet is None else fleet.pid_of(worker_id)

    def record_of(self, worker_id: int) -> SlotRecord | None:
        """See ``Backend``."""
        return None if self._fleet is None else self._fleet.record_of(worker_id)

    def close(self) -> None:
        """See ``Backend``."""
        fleet = self._fleet
        if fleet is not None:
            for link in fleet.links.values():
                fleet.send_pill(link, at_once=True)
            self._let_go_quietly(fleet)
        for bell in (self._bell_r, self._bell_w):
            bell.close()

    def _let_go_quietly(self, fleet: Fleet) -> None:
        self._is_cancelled = True
        self._let_go(fleet, 1.0)
