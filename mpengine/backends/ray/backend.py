"""The backend of Ray actors: the scheduler's commands as calls, what the calls give as events.

    commands --> calls --> actor --> reports --> thread of its link --+--> news --> events
                             |                                        |
                   control block, process --> warden, on its machine -+

A worker's end is told when nothing more can come from it, with what its warden knows of it.  Payloads are references
(see ``objects``); a batch whose payload was lost is sent once more, with the recipe in the payload's place.
"""

from __future__ import annotations

import queue
import time
from typing import TYPE_CHECKING

from mpengine.backends.base import run_ids
from mpengine.backends.headstart import dump_chains
from mpengine.backends.hearing import returned_from
from mpengine.backends.parcels import take_apart
from mpengine.backends.ray import links
from mpengine.backends.ray.cluster import Cluster
from mpengine.backends.ray.making import ActorMaker
from mpengine.backends.ray.objects import KeepingCodec, Kept, Meter
from mpengine.backends.ray.options import RayOptions
from mpengine.backends.ray.outgoing import Outgoing
from mpengine.backends.ray.warden import Passed
from mpengine.backends.ray.wardens import Unwatched, WardenLink
from mpengine.ipc import messages
from mpengine.records import replace
from mpengine.scheduler import events
from mpengine.worker import logwatch
from mpengine.worker.chain import summarize

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from mpengine.backends.base import BackendOptions
    from mpengine.backends.local import LocalWorkers
    from mpengine.ipc.codec import Codec
    from mpengine.plan import ChainPlan, Plan
    from mpengine.scheduler.commands import Dispatch, Resume

LEAVE_S = 1.0
"""How long Ray may take to end an actor before its process is killed."""
BURIAL_S = 5.0
"""How long the news of a death may take."""


class RayBackend:
    """See ``Backend``.

    Args:
        options: how many workers, and what is watched of them.
        chosen: ``ray_options``.

    Attributes:
        meter: what has come to this process, and what has not.

    Raises:
        EngineError: there is no Ray, or none can be reached or started.
    """

    in_caller = False
    runs_user_code = False

    def __init__(self, options: BackendOptions, chosen: Mapping[str, Any]) -> None:
        """Connect; no actor is made yet."""
        asked = RayOptions.chosen(chosen)
        self._cluster = Cluster(asked, options.cores)
        self._ray = self._cluster.ray
        self.workers = options.workers or self._cluster.cpus()
        self._maker = ActorMaker(self._cluster, asked, self.workers, options.memory_limit)
        self.meter = Meter()
        self._keeping = KeepingCodec(self._ray, self.meter)
        self.codec: Codec = self._keeping
        self.run_id = 0
        self.keeps_times = False
        self.on_warning: Callable[[str], object] = lambda _: None
        self.on_record: Callable[[messages.Logged, int, int], object] = lambda *_: None
        self._news: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._happened: list[events.Event] = []
        self._links: dict[int, links.Link] = {}
        self._generations: dict[int, int] = {}
        self._wardens: dict[str, WardenLink] = {}
        self._outgoing = Outgoing(self.meter)
        self._dumped: Any = None
        self._levels = messages.SetLevels(0, ())
        self._timeout_s: float | None = None
        self._seats: dict[int, ChainPlan] = {}
        self._local: LocalWorkers | None = None
        self._problems: list[str] = []
        self._is_hurried = self._is_cancelled = False

    # ------------------------------------------------------------------ a run

    def begin(self, plan: Plan) -> None:
        """See ``Backend``."""
        dumped = dump_chains(plan)
        while (news := self._next_news(0.0)) is not None:  # who has died or said hello since the last run
            self._take_in(news)
        self._happened = []
        timeouts = [stage.timeout for chain in plan.chains if not chain.seats for stage in chain.stages]
        self._timeout_s = min((timeout for timeout in timeouts if timeout is not None), default=None)
        seats = [chain for chain in plan.chains for _ in range(chain.seats)]
        self._seats = dict(enumerate(seats, self.workers))
        if seats:
            from mpengine.backends.local import LocalWorkers

            self._local = LocalWorkers(plan, self.codec, self._news.put, keeps_times=self.keeps_times)
        self.run_id = next(run_ids)
        self._levels = messages.SetLevels(*logwatch.levels())
        self._dumped = self._ray.put(dumped)
        self._outgoing = Outgoing(self.meter, plan.chains)
        self._problems = []
        self._is_hurried = self._is_cancelled = False
        for warden in self._wardens.values():
            warden.begin(self._timeout_s)
        for link in self._links.values():
            link.begin(self.keeps_times, self._levels, self._dumped)

    def start_worker(self, worker_id: int) -> None:
        """See ``Backend``."""
        if worker_id in self._seats:
            self._running_local().start(worker_id, self._seats[worker_id])
            return
        link = self._links.get(worker_id)
        if link is None:
            self._start(worker_id)
        elif link.is_ready:
            self._happened.append(events.WorkerReady(time.monotonic(), worker_id, link.items))

    def _start(self, worker_id: int) -> None:
        generation = self._generations[worker_id] = self._generations.get(worker_id, -1) + 1
        actor = self._maker.make_worker(worker_id)
        link = links.Link(self._ray, worker_id, generation, actor, self._keeping, self._news.put)
        link.begin(self.keeps_times, self._levels, self._dumped)
        self._links[worker_id] = link

    def _warden_of(self, machine: str) -> WardenLink:
        warden = self._wardens.get(machine)
        if warden is None:
            actor = self._maker.make_warden(machine)
            warden = self._wardens[machine] = WardenLink(self._ray, machine, actor, self._timeout_s, self._news.put)
        return warden

    def dispatch(self, command: Dispatch) -> None:
        """See ``Backend``."""
        if command.worker_id in self._seats:
            self._running_local().order(command)
            return
        link = self._links.get(command.worker_id)
        if link is None:
            return  # it is dead, which is about to be told
        parts, layout = take_apart(command.payload)
        order, apart = self._outgoing.order(command, parts, layout)
        link.run(order, apart, **self._outgoing.manner(command.batch_id))

    def resume(self, command: Resume) -> None:
        """See ``Backend``."""
        if command.worker_id in self._seats:
            self._running_local().order(command)
            return
        link = self._links.get(command.worker_id)
        if link is not None:
            link.resume(command.batch_id, command.out_size, command.budget, **self._outgoing.manner(command.batch_id))

    def retire(self, worker_id: int, grace_s: float) -> None:
        """See ``Backend``."""
        link = self._links.get(worker_id)
        if link is not None:
            link.end(self.run_id)
            link.leave_by = time.monotonic() + grace_s

    def kill(self, worker_id: int) -> None:
        """See ``Backend``."""
        link = self._links.get(worker_id)
        if link is not None:
            link.kill()

    # ------------------------------------------------------------------ what has happened

    def wait(self, timeout_s: float | None) -> list[events.Event]:
        """See ``Backend``."""
        news = self._next_news(0.0 if self._happened else links.wait_s(self._links.values(), timeout_s))
        while news is not None:
            self._take_in(news)
            news = self._next_news(0.0)
        self._look(time.monotonic())
        happened, self._happened = self._happened, []
        return happened

    def _next_news(self, timeout_s: float | None) -> Any:
        """Return what comes next; None when nothing has come in time, or somebody rang."""
        try:
            return self._news.get(timeout=timeout_s) if timeout_s != 0 else self._news.get_nowait()
        except queue.Empty:
            return None

    def _look(self, at: float) -> None:
        """See to workers that are to leave and have not, and to those whose warden says nothing of their end."""
        for link in list(self._links.values()):
            if link.leave_by is not None and link.leave_by <= at:
                link.leave_by = None
                link.kill()
            if link.is_gone and (link.gone_at + links.WORD_S <= at or link.warden is None or link.warden.is_gone):
                self._tell_death(link)

    def _take_in(self, news: Any) -> None:
        if isinstance(news, links.Gone):
            self._lose(news)
        elif isinstance(news, Passed):
            self._take_word(news)
        elif isinstance(news, Unwatched):
            self._lose_warden(news.warden)
        elif isinstance(news, links.News):
            if self._links.get(news.link.worker_id) is news.link and not news.link.is_gone:
                self._hear(news, news.link)
        else:
            self._happened.append(news)  # of a thread beside this one

    def _hear(self, news: links.News, link: links.Link) -> None:
        match news:
            case links.Heard(_, told, kept):
                self._take_report(link, told, kept)
            case links.Greeted(_, greeting):
                link.greeting = greeting
                link.warden = self._warden_of(greeting.machine)
                link.warden.attach(link.worker_id, link.generation, greeting)
            case links.Broken(_, unbuilt):
                stage = self._outgoing.chains[unbuilt.chain].first_stage + unbuilt.stage
                at, error = time.monotonic(), (unbuilt.error, unbuilt.traceback)
                self._happened.append(events.StageBroken(at, link.worker_id, stage, unbuilt.summary, error))
            case links.Missed(_, batch_id, ref):  # sent again, with recipes for what is not there
                order, apart = self._outgoing.order_again(batch_id, ref)
                link.run(order, apart, **self._outgoing.manner(batch_id))
            case links.Ended(_, run_id, problems, logged):
                for record in logged:
                    self.on_record(record, link.worker_id, self.run_id)
                link.served = run_id
                if run_id == self.run_id:
                    self._problems.extend(problems)
                if link.leave_by is not None:
                    link.let_go()
                    link.leave_by = time.monotonic() + LEAVE_S
            case links.Gone():
                pass  # _take_in() has seen to it

    def _take_report(self, link: links.Link, told: Any, kept: tuple[Kept, ...]) -> None:
        for logged in told.logged:
            self.on_record(logged, link.worker_id, self.run_id)
        try:
            payloads = self._outgoing.results(told, kept)
            event = returned_from(time.monotonic(), link.worker_id, told, payloads, self.codec)
        except (TypeError, ValueError, KeyError):
            link.kill()  # what it says cannot be (K9)
            return
        link.items += event.consumed
        if event.progress in (events.Progress.DONE, events.Progress.GIVEN_BACK):
            self._outgoing.forget(told.batch_id)
        self._happened.append(event)

    def _take_word(self, passed: Passed) -> None:
        link = self._links.get(passed.worker_id)
        is_of_all = isinstance(passed.event, events.StartFailed)
        if not is_of_all and (link is None or link.generation != passed.generation):
            return
        if link is not None and isinstance(passed.event, events.WorkerDied):
            link.death = passed.event
            link.let_go()
            link.stop_listening()
            if link.is_gone:
                self._tell_death(link)
        elif link is not None and isinstance(passed.event, events.WorkerReady):
            link.is_ready = True
            self._happened.append(events.WorkerReady(time.monotonic(), link.worker_id, link.items))
        else:
            self._happened.append(replace(passed.event, at=time.monotonic()))

    def _lose(self, gone: links.Gone) -> None:
        link = gone.link
        if self._links.get(link.worker_id) is not link or link.is_gone:
            return
        link.is_gone = True
        link.gone_at = time.monotonic()
        if gone.error is not None and not isinstance(gone.error, self._ray.exceptions.RayActorError):
            self.on_warning(f"worker {link.worker_id} is ended: {summarize(gone.error)}")
        if gone.error is not None:  # else it was asked to listen no more
            link.kill()
        if link.death is not None or link.warden is None or link.warden.is_gone:
            self._tell_death(link)

    def _lose_warden(self, warden: WardenLink) -> None:
        warden.is_gone = True
        if self._wardens.get(warden.machine) is warden:
            del self._wardens[warden.machine]
        for link in list(self._links.values()):
            if link.warden is warden:
                link.let_go()
                link.stop_listening()
                if link.is_gone:
                    self._tell_death(link)

    def _tell_death(self, link: links.Link) -> None:
        del self._links[link.worker_id]
        self._outgoing.forget_those_of(link.worker_id)
        self._happened.append(link.end_told(time.monotonic()))

    def _running_local(self) -> LocalWorkers:
        assert self._local is not None  # noqa: S101 - begin() has made it where there are seats
        return self._local

    # ------------------------------------------------------------------ the end

    def wake(self) -> None:
        """See ``Backend``."""
        self._news.put(None)

    def cancel(self) -> None:
        """See ``Backend``."""
        self._is_cancelled = True
        if self._local is not None:
            self._local.cancel()
        for warden in self._wardens.values():
            warden.cancel()

    def hurry(self) -> None:
        """See ``Backend``."""
        self._is_hurried = True
        if self._local is not None:
            self._local.hurry()
        self.wake()

    def finish(self, *, keep: bool, grace_s: float) -> list[str]:
        """See ``Backend``."""
        local, self._local = self._local, None
        if local is not None:
            self._problems += local.finish(0.0 if self._is_hurried else grace_s)
        for link in self._links.values():
            if link.leave_by is None:
                link.end(self.run_id)
        late = self._await(lambda link: link.is_ready and link.served != self.run_id, grace_s)
        if late and grace_s and not self._is_cancelled:
            who = ", ".join(str(link.worker_id) for link in late)
            self._problems.append(f"worker {who}: tear-down took over {grace_s} s; killed")
        if not keep or late or self._is_cancelled:  # whose flag is set, it stays set
            self._let_go()
        self._happened = []
        self._outgoing = Outgoing(self.meter)
        self._dumped = None
        return self._problems

    def _await(self, is_awaited: Callable[[links.Link], bool], patience_s: float) -> list[links.Link]:
        """Wait until no worker is awaited any more; return those that still are when the time is up."""
        deadline = time.monotonic() + patience_s
        while awaited := [link for link in self._links.values() if is_awaited(link)]:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or self._is_hurried:
                return awaited
            self.wait(left_s)
        return []

    def _let_go(self) -> None:
        """End every actor, and wait until they are gone; in order first, by force where that takes too long."""
        self._is_hurried = False
        threads = list(self._links.values())
        for link in threads:
            link.let_go()
            link.stop_listening()
        for link in self._await(lambda _: True, LEAVE_S):
            link.kill()
        self._await(lambda _: True, BURIAL_S)
        self._links.clear()
        for link in threads:
            link.join(BURIAL_S)
        wardens, self._wardens = self._wardens, {}
        for warden in wardens.values():
            warden.close(BURIAL_S)
        while self._next_news(0.0) is not None:
            pass

    def pids(self) -> list[int]:
        """See ``Backend``; the numbers are those of the machines that the workers are on."""
        return [link.greeting.pid for link in list(self._links.values()) if link.greeting is not None]

    def pid_of(self, worker_id: int) -> int | None:
        """See ``Backend``."""
        link = self._links.get(worker_id)
        return None if link is None or link.greeting is None else link.greeting.pid

    def record_of(self, worker_id: int) -> None:
        """See ``Backend``; what a worker is at is known on its machine."""

    def close(self) -> None:
        """See ``Backend``."""
        try:
            self._let_go()
        finally:
            self._cluster.close()
