"""A worker's main loop: messages in, batches through chains, reports out.  One thread, the main one.

    inbox --> SetLevels, BeginRun, RunBatch, ResumeBatch, EndRun, Pill --> this loop
    this loop --> Hello, Returned, Released, Broken, RunEnded, Goodbye --> outbox <-- Logged <-- whoever logs

W1. The worker writes to its own slot, its own outbox and nothing else that anybody reads (K1, K3).
W2. It leaves on a pill, on the end of its inbox, and when its parent dies, which the lifeline sees to.
W3. A batch that the cancel flag interrupts is dropped without a word: the coordinator counts it as left behind.
W4. User code's ``SystemExit`` and ``KeyboardInterrupt`` end the worker like any other death.
"""

from __future__ import annotations

import contextlib
import os
import sys

from mpengine import pickling
from mpengine.cancellation import CancelFlag, bind_flag
from mpengine.ipc import messages
from mpengine.ipc.assembly import put_together
from mpengine.ipc.codec import PickleCodec, dump_error
from mpengine.ipc.controlblock import CANCEL_OFFSET, ControlBlock
from mpengine.ipc.lastwords import leave_words
from mpengine.ipc.mpqueue import MPQueue
from mpengine.ipc.stackfile import open_stack_file
from mpengine.worker import logwatch
from mpengine.worker.chain import UNREADABLE, BrokenStageError, Chain, Site, failure_of, pickled
from mpengine.worker.jobs import Job, Window
from mpengine.worker.loans import Loans
from mpengine.worker.outbox import Outbox
from mpengine.worker.packing import are_light, pack_results
from mpengine.worker.reports import DONE, GIVEN_BACK, SUSPENDED, Report, Tally

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from mpengine.ipc.codec import Codec
    from mpengine.ipc.controlblock import Slot
    from mpengine.worker.boot import WorkerBoot
    from mpengine.worker.capture import Capture


def run_worker(boot: WorkerBoot) -> None:
    """Serve until told to leave; the entry point of every worker process."""
    match boot.options:
        case {"threads": int(threads), "variables": tuple(variables)}:
            from mpengine.worker.threadpools import limit_loaded

            limit_loaded(threads, variables)
        case _:
            pass
    block = ControlBlock(boot.control_fd, boot.slots)
    event = CancelFlag(block.buffer, CANCEL_OFFSET, read_fd=boot.cancel_fd)
    bind_flag(event)
    leave_words(boot.control_fd, block.words_start(boot.worker_id))
    open_stack_file()
    inbox = MPQueue(reader_fd=boot.inbox_fd)
    outbox = Outbox(MPQueue(writer_fd=boot.outbox_fd))
    logwatch.install(outbox)
    codec = PickleCodec(main_by_value=False)  # what its own __main__ lacks does not pickle by name in the first place
    loans = codec.shelf = Loans(boot.control_fd, block.geometry, boot.worker_id)
    capture = None
    match boot.options:
        case {"keep_output": (int(coordinator), (int(out), int(err)), int(limit_bytes))}:
            from mpengine.worker.capture import Capture

            capture = Capture.of(coordinator, (out, err), limit_bytes)
        case _:
            pass
    worker = Worker(boot.worker_id, inbox, outbox, block.slot(boot.worker_id), event, codec, loans, capture)
    try:
        try:
            outbox.put(messages.Hello(os.getpid()))
            worker.serve()
        finally:
            outbox.send_records()
        if capture is not None:
            capture.close()
    except KeyboardInterrupt:
        sys.exit(130)  # user code wants out (W4); a traceback of ours would tell nobody anything
    except BrokenPipeError:
        os._exit(1)  # the coordinator is gone; so are we, a moment before the lifeline sees to it (W2)


class Worker:
    """The loop's state.

    Args:
        worker_id: the slot's number.
        inbox: messages for this worker.
        outbox: messages from it.
        slot: its place in the control block.
        event: the cancel flag.
        codec: items to payloads and back.
        loans: its side of the arena.
        capture: keeps what items print, if anybody wants that.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - all that a worker has
        self, worker_id: int, inbox: MPQueue, outbox: Outbox, slot: Slot, event: CancelFlag, codec: Codec, loans: Loans,
        capture: Capture | None = None,
    ) -> None:  # fmt: skip
        """Begin without a run."""
        self._worker_id = worker_id
        self._inbox = inbox
        self._outbox = outbox
        self._slot = slot
        self._site = Site(slot, event.is_set, event.wait, event.fileno(), is_watched=True, capture=capture)
        self._codec = codec
        self._loans = loans
        self._dumped: Sequence[messages.Buffer] = ()
        self._chains: dict[int, Chain] = {}
        self._suspended: dict[int, Job] = {}
        self._keeps_times = False
        self._batches = 0
        self._is_light = True  # what was reported last

    def serve(self) -> None:
        """Take messages until a pill comes."""
        while True:
            try:
                message = self._inbox.get()
            except EOFError:
                return
            match message:
                case messages.RunBatch():
                    self._run_batch(message)
                case messages.ResumeBatch():
                    job = self._suspended.pop(message.batch_id)
                    self._work(message.batch_id, job, message.budget, message.out_size)
                case messages.BeginRun():
                    self._dumped = message.payloads
                    self._keeps_times = message.keeps_times
                    self._loans.begin(message.taken)
                case messages.SetLevels():
                    logwatch.set_levels(message)
                case messages.EndRun():
                    self._outbox.put(messages.RunEnded(message.run_id, tuple(self._end_run())))
                case messages.Pill():
                    self._end_run()
                    self._outbox.put(messages.Goodbye(self._batches))
                    return
                case _:
                    msg = f"a worker does not take a {type(message).__name__}"
                    raise messages.ProtocolError(msg)
            ended = self._loans.take_ended()
            if ended:
                self._outbox.put(messages.Released(ended))

    def _run_batch(self, message: messages.RunBatch) -> None:
        payloads = list(map(self._loans.accept, message.payloads))
        self._slot.begin_setup(message.batch_id)
        try:
            chain = self._chain(message.chain)
        except BrokenStageError as broken:
            report = messages.Broken(
                message.chain, broken.stage, str(broken), broken.traceback, dump_error(broken.error)
            )
            self._outbox.put(report)
            return
        self._slot.begin_batch(message.batch_id)
        try:
            items = put_together(self._codec, payloads, message.layout)
        except Exception as error:  # noqa: BLE001 - nothing of the payload can be made out: every item fails with that
            self._fail_all(message, error, len(chain.steps))
            return
        place, attempts = message.attempted
        window = Window(message.lo, message.hi, message.skip, message.careful, (place, attempts))
        job = Job(chain, items, window, self._site)
        job.gives_back = True
        job.is_patient = self._is_light and message.chain == len(self._dumped) - 1
        self._work(message.batch_id, job, message.budget, message.out_size)

    def _work(self, batch_id: int, job: Job, budget: int, out_size: int) -> None:
        """Let a job go on until it is done, put aside, or there is no use in it any more."""
        self._slot.begin_batch(batch_id)
        items = 0
        while True:
            report = job.advance(budget)
            if report.abandoned:
                job.close()
                break
            if not job.careful:
                self._slot.begin_batch(batch_id)  # packing may kill us too, which no one item is to blame for
            self._send(batch_id, job, report, out_size)
            items += report.consumed
            budget -= len(report.results)
            if report.progress == SUSPENDED:
                self._suspended[batch_id] = job
                break
            if report.progress in {DONE, GIVEN_BACK} or report.kill is not None:
                job.close()
                break
        self._slot.end_batch(items)
        self._batches += 1
        self._flush_streams()

    def _send(self, batch_id: int, job: Job, report: Report, out_size: int) -> None:
        chunks, payloads = pack_results(job, report, self._codec, out_size)
        self._is_light = are_light(payloads)
        job.is_patient &= self._is_light
        self._outbox.put(_returned(batch_id, report, tuple(chunks), payloads))

    def _fail_all(self, message: messages.RunBatch, error: BaseException, steps: int) -> None:
        report = report_unreadable(range(message.lo, message.hi), error, steps)
        self._outbox.put(_returned(message.batch_id, report, (), ()))
        self._slot.end_batch(0)

    def _chain(self, number: int) -> Chain:
        """Return a chain, built when its first batch comes.

        Raises:
            BrokenStageError: it cannot be loaded, or a stage of it cannot be set up.
        """
        chain = self._chains.get(number)
        if chain is None:
            chain = self._chains[number] = Chain(load_stages(self._dumped, number), self._worker_id)
            if self._keeps_times:
                chain.keep_times()
        return chain

    def _end_run(self) -> list[str]:
        """Tear everything of the run down; return what went wrong with that."""
        for job in self._suspended.values():
            job.close()
        self._suspended.clear()
        problems = [problem for chain in self._chains.values() for problem in chain.close()]
        self._chains.clear()
        self._dumped = ()
        self._flush_streams()
        return problems

    def _flush_streams(self) -> None:
        """Write out what user code has printed, so that nothing of it is lost if this process is killed later."""
        if self._site.capture is not None:
            self._site.capture.take()
            return
        flush_streams()


def flush_streams() -> None:
    """Write out what user code has printed, as far as its streams take it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed or broken: the user's own business
            stream.flush()


def load_stages(dumped: Sequence[messages.Buffer], number: int) -> Any:
    """Return the stages of chain ``number``, from the coordinator's own bytes.

    Raises:
        BrokenStageError: they cannot be loaded.
    """
    try:
        return pickling.loads(dumped[number])
    except Exception as error:
        raise BrokenStageError(0, error) from error


def report_unreadable(positions: range, error: BaseException, steps: int) -> Report:
    """Return the report on a batch of whose payload nothing can be made out: every item has failed with that."""
    report = Report([Tally() for _ in range(steps)], consumed=len(positions), progress=DONE)
    for position in positions:
        report.tallies[0].failed += 1
        report.failures.append(failure_of(position, 0, error, UNREADABLE, 1))
    return report


def _returned(
    batch_id: int, report: Report, chunks: tuple[Any, ...], payloads: Sequence[messages.Buffer]
) -> messages.Returned:
    return messages.Returned(
        batch_id,
        report.progress,
        report.consumed,
        report.emitted,
        chunks,
        tuple(map(pickled, report.failures)),
        tuple([tally.fields() for tally in report.tallies]),
        report.kill,
        report.timing,
        payloads,
    )
