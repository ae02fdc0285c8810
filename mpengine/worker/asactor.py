"""A worker that is an actor of a cluster engine: calls in, reports out.  It knows nothing of that engine.

    begin, run, resume, end --> this object, in its process's main thread --> reports, one after the other

Y1. Calls come one at a time and are answered in order; ``run`` and ``resume`` answer with as many reports as there are.
Y2. What it is at is in a control block of its own, a memory file that somebody else on the same machine may open: that
    is how its end can be told, its calls timed, and the cancel flag set, whatever user code does meanwhile.
Y3. A report that has large results goes ahead of them: first how many there are, then each by itself, so that whoever
    calls never has to hold them.
Y4. As in ``main``: what the cancel flag interrupts is dropped, and user code's ``SystemExit`` ends the process.
"""

from __future__ import annotations

import contextlib
import os
import sys

from mpengine.cancellation import CancelFlag, bind_flag
from mpengine.ipc.bales import Bale, BaleCodec
from mpengine.ipc.codec import dump_error
from mpengine.ipc.controlblock import CANCEL_OFFSET, ControlBlock
from mpengine.ipc.lastwords import leave_words
from mpengine.records import dataclass
from mpengine.worker import logwatch
from mpengine.worker.chain import LEAVING, BrokenStageError, Chain, Site, Stopped, pickled
from mpengine.worker.jobs import Job, Window
from mpengine.worker.main import flush_streams, load_stages, report_unreadable
from mpengine.worker.packing import pack_results
from mpengine.worker.remaking import Maker, with_parts
from mpengine.worker.reports import DONE, GIVEN_BACK, SUSPENDED, Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, NoReturn

    from mpengine.ipc.assembly import Layout
    from mpengine.ipc.messages import Logged, SetLevels


@dataclass(frozen=True, slots=True)
class Order:
    """A batch to run; as ``scheduler.commands.Dispatch``, but for its payload, which is in ``parts`` and ``layout``."""

    batch_id: int
    chain: int
    lo: int
    hi: int
    skip: int
    careful: bool
    out_size: int
    budget: int
    attempted: tuple[int, int]
    parts: tuple[Any, ...]
    layout: Layout


@dataclass(frozen=True, slots=True)
class Apart:
    """Stands, among the parts of an order, for one that is sent beside it.

    Attributes:
        number: which.
    """

    number: int


@dataclass(frozen=True, slots=True)
class Told:
    """A report on a batch, ready to travel; fields as in ``messages.Returned``.

    Attributes:
        payloads: of the chunks; an int stands for a large one, and tells what it weighs; it comes next by itself.
        logged: records that were logged meanwhile.
    """

    batch_id: int
    progress: str
    consumed: int
    emitted: int
    chunks: tuple[Any, ...]
    failures: tuple[Any, ...]
    tallies: tuple[tuple[int, int, int, int, float], ...]
    kill: str | None
    timing: tuple[Any, ...]
    payloads: tuple[bytes | int, ...]
    logged: tuple[Logged, ...]

    @property
    def apart(self) -> int:
        """How many payloads come by themselves."""
        return sum([type(payload) is int for payload in self.payloads])


@dataclass(frozen=True, slots=True)
class Unbuilt:
    """A chain could not be built; fields as in ``messages.Broken``."""

    chain: int
    stage: int
    summary: str
    traceback: str
    error: bytes | None


@dataclass(frozen=True, slots=True)
class Greeting:
    """What others need to know of a worker's process.

    Attributes:
        pid: its number.
        machine: names the machine it is on.
        control_fd: its descriptor of the control block.
        cancel_fd: its descriptor of the end that wakes whoever waits for the cancel flag.
    """

    pid: int
    machine: str
    control_fd: int
    cancel_fd: int


class Records:
    """Log records that wait for the next report."""

    MOST = 1_000

    def __init__(self) -> None:
        """Begin without any."""
        self._waiting: list[Logged] = []
        self.dropped = 0

    def put_record(self, logged: Logged) -> None:
        """Keep a record; the engine below logs as well, which is no news of ours."""
        if logged.name.partition(".")[0] == "ray":
            return
        if len(self._waiting) < self.MOST:
            self._waiting.append(logged)
        else:
            self.dropped += 1

    def take(self) -> tuple[Logged, ...]:
        """Return those that wait."""
        taken = tuple(self._waiting)
        del self._waiting[: len(taken)]  # others threads may have added some
        return taken


class ActorWorker:
    """The actor.

    Args:
        worker_id: the slot's number.
        place: the coordinator's current folder and ``sys.path``, used where they are here as well; None: they are not
            asked for.
    """

    def __init__(self, worker_id: int, place: tuple[str, tuple[str, ...]] | None) -> None:
        """Make the control block (Y2); the calling thread is the one that user code runs in."""
        if place is not None:
            folder, path = place
            with contextlib.suppress(OSError):
                os.chdir(folder)
            sys.path[:] = [*path, *(entry for entry in sys.path if entry not in path)]
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)  # what user code starts is ended with this process, and Ctrl-C is the coordinator's
        self._worker_id = worker_id
        self._block = ControlBlock.create(1)
        self._flag = CancelFlag(self._block.buffer, CANCEL_OFFSET)
        self._slot = self._block.slot(0)
        leave_words(self._block.fd, self._block.words_start(0))
        self._records = Records()
        logwatch.install(self._records)  # type: ignore[arg-type]  # of an outbox it asks no more than this has
        self._codec = BaleCodec(main_by_value=False)
        self._site = Site(self._slot, self._flag.is_set, self._flag.wait, self._flag.fileno(), is_watched=True)
        self._maker = Maker(self._codec, self._chain, self._site)
        self._dumped: Sequence[bytes] = ()
        self._chains: dict[int, Chain] = {}
        self._suspended: dict[int, Job] = {}
        self._keeps_times = False
        bind_flag(self._flag)

    def machine(self) -> str:
        """Return what names this machine."""
        return ""

    def greet(self) -> Greeting:
        """Tell what others need to know."""
        return Greeting(os.getpid(), self.machine(), self._block.fd, self._flag.write_fd)

    def begin(self, keeps_times: bool, levels: SetLevels, dumped: Sequence[bytes]) -> None:  # noqa: FBT001 - it travels
        """Get ready for a run."""
        self._dumped = dumped
        self._keeps_times = keeps_times
        logwatch.set_levels(levels)

    def run(self, order: Order, *apart: Bale) -> Iterator[Told | Unbuilt | Bale]:
        """Run a batch."""
        self._slot.begin_setup(order.batch_id)
        try:
            chain = self._chain(order.chain)
            self._slot.begin_batch(order.batch_id)
            items = self._maker.items(_whole(order.parts, apart), order.layout, order.lo, order.hi)
        except BrokenStageError as broken:
            error = dump_error(broken.error)
            yield Unbuilt(order.chain, broken.stage, str(broken), broken.traceback, error)
            return
        except Stopped:
            return
        except Exception as error:  # noqa: BLE001 - nothing of the payload can be made out: every item fails with that
            yield self._fail_all(order, error, len(chain.steps))
            return
        window = Window(order.lo, order.hi, order.skip, order.careful, order.attempted)
        job = Job(chain, items, window, self._site)
        job.gives_back = True
        yield from self._work(order.batch_id, job, order.budget, order.out_size)

    def resume(self, batch_id: int, out_size: int, budget: int) -> Iterator[Told | Unbuilt | Bale]:
        """Go on with a batch that was put aside."""
        yield from self._work(batch_id, self._suspended.pop(batch_id), budget, out_size)

    def end(self) -> tuple[tuple[str, ...], tuple[Logged, ...]]:
        """Tear everything of the run down; return what went wrong with that, and what was logged."""
        for job in self._suspended.values():
            job.close()
        self._suspended.clear()
        problems = [problem for chain in self._chains.values() for problem in chain.close()]
        self._chains.clear()
        self._dumped = ()
        flush_streams()
        return tuple(problems), self._records.take()

    # ------------------------------------------------------------------ inside

    def _work(self, batch_id: int, job: Job, budget: int, out_size: int) -> Iterator[Told | Bale]:
        """Let a job go on until it is done, put aside, or there is no use in it any more."""
        self._slot.begin_batch(batch_id)
        items = 0
        while True:
            report = self._advance(job, budget)
            if report.abandoned:
                job.close()
                break
            if not job.careful:
                self._slot.begin_batch(batch_id)  # packing may kill us too, which no one item is to blame for
            chunks, payloads = pack_results(job, report, self._codec, out_size)
            items += report.consumed
            budget -= len(report.results)
            is_last = report.progress in {DONE, GIVEN_BACK, SUSPENDED} or report.kill is not None
            if is_last:
                self._put_aside(batch_id, job, report)
            yield self._told(batch_id, report, tuple(chunks), payloads)
            for payload in payloads:
                if type(payload) is Bale:
                    yield payload
            if is_last:
                break
        self._slot.end_batch(items)

    def _put_aside(self, batch_id: int, job: Job, report: Report) -> None:
        """Keep a job that is to go on later, and close any other."""
        if report.progress == SUSPENDED:
            self._suspended[batch_id] = job
        else:
            job.close()
        flush_streams()

    @staticmethod
    def _advance(job: Job, budget: int) -> Report:
        try:
            return job.advance(budget)
        except LEAVING as leaving:
            _leave(leaving)

    def _told(self, batch_id: int, report: Report, chunks: tuple[Any, ...], payloads: Sequence[bytes | Bale]) -> Told:
        return Told(
            batch_id,
            report.progress,
            report.consumed,
            report.emitted,
            chunks,
            tuple(map(pickled, report.failures)),
            tuple([tally.fields() for tally in report.tallies]),
            report.kill,
            report.timing,
            tuple([payload if isinstance(payload, bytes) else payload.nbytes for payload in payloads]),
            self._records.take(),
        )

    def _fail_all(self, order: Order, error: BaseException, steps: int) -> Told:
        report = report_unreadable(range(order.lo, order.hi), error, steps)
        self._slot.end_batch(0)
        return self._told(order.batch_id, report, (), ())

    def _chain(self, number: int) -> Chain:
        """Return a chain, built when its first batch comes.

        Raises:
            BrokenStageError: it cannot be loaded, or a stage of it cannot be set up.
        """
        chain = self._chains.get(number)
        if chain is None:
            stages = load_stages(self._dumped, number)
            try:
                chain = self._chains[number] = Chain(stages, self._worker_id)
            except LEAVING as leaving:
                _leave(leaving)
            if self._keeps_times:
                chain.keep_times()
        return chain


def _leave(leaving: BaseException) -> NoReturn:
    """End this process, as user code wants it (Y4)."""
    flush_streams()
    code = leaving.code if isinstance(leaving, SystemExit) else 130
    os._exit(code if isinstance(code, int) else int(code is not None))


def _whole(parts: Sequence[Any], apart: Sequence[Bale]) -> list[Any]:
    """Return parts with what was sent beside them in its places, in recipes as well."""
    return [with_parts(part, lambda part: apart[part.number] if type(part) is Apart else part) for part in parts]
