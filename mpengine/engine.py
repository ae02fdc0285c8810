"""The engine: what a user holds.  ``run`` to the end, ``iter`` as results come, ``cancel`` from anywhere.

The caller's thread is the consumer: it unpacks results and waits; the loop has a thread of its own, though not inline.
"""

from __future__ import annotations

import os
import threading

from mpengine.backends import make_backend
from mpengine.backends.cores import available_cores
from mpengine.coordinator.live import check_free, close_backend
from mpengine.coordinator.publishing import Publisher
from mpengine.coordinator.scribe import WARNING, Scribe
from mpengine.coordinator.signals import signals_held
from mpengine.errors import EngineClosedError, EngineError
from mpengine.metrics import Snapshot
from mpengine.mixes import Mix
from mpengine.pipeline import Pipeline, Stages, as_pipeline, result_of_none
from mpengine.plan import Plan, make_plan
from mpengine.policies import ErrorPolicy
from mpengine.settings import EngineOptions
from mpengine.stages import Stage
from mpengine.stages import stage as make_stage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, Self

    from mpengine.backends.base import Backend
    from mpengine.coordinator.awaiting import AsyncResultStream, Consumer, Entrance
    from mpengine.coordinator.run import Run
    from mpengine.coordinator.stream import ResultStream
    from mpengine.journal.description import JournalLike
    from mpengine.monitor.board import BoardAddress, Proxy
    from mpengine.monitor.observing import Observer
    from mpengine.results import Err, Ok


class Engine:
    """Runs pipelines over worker processes, one pipeline at a time.

    As a context manager it keeps its workers warm between runs; without one, every run starts and ends its own.

    Args:
        workers: how many; None: the cores this process may use (affinity and cgroup quota), or the CPUs of the cluster.
            The thread pools of numeric libraries are limited so that workers times threads are these cores.
        start_method: ``"forkserver"``, ``"spawn"`` or ``"fork"``.
        ordered: whether results come in input order.
        buffer: items that may wait before a stage that names no ``buffer`` of its own; 16,384 by default.
        on_error: the ``ErrorPolicy`` of stages that name none.
        grace_s: seconds that workers get to leave before they are terminated.
        crash_retries: how many further deaths an item may cause before it fails.
        memory_limit: bytes of resident memory for each worker, looked at ten times a second.  One that is over it is
            replaced between items; an item that takes a worker over it alone fails with a ``MemoryLimitError``.
        max_items_per_worker: a worker is replaced after so many items.
        max_bytes: what the payloads under way may weigh together; 1 GiB by default.
        backend: ``"process"``; ``"ray"`` for a cluster; or ``"inline"``, all in this thread, for debugging.
        preload: modules that the fork server imports once, so that workers start with them.
        metrics_interval_s: seconds between snapshots on the metrics board, which a run gets after so long if asked for,
            else after four times as long; 0: never.  Inline runs have no board.
        observers: are told what happens, in bulk, by a thread of the engine's; see ``monitor.observing``.
        keep_output: so many bytes of what an item prints are kept for its error; items then run one by one.
        ray_options: of ``backend="ray"``; see :doc:`cluster`.

    Raises:
        ValueError: an option is not what it can be; the message names it.
    """

    def __init__(  # noqa: PLR0913 - the contract's options, all but the first by keyword
        self,
        workers: int | None = None,
        *,
        start_method: str = "forkserver",
        ordered: bool = True,
        buffer: int | None = None,
        on_error: ErrorPolicy | str = ErrorPolicy.RAISE,
        grace_s: float = 5.0,
        crash_retries: int = 1,
        memory_limit: int | None = None,
        max_items_per_worker: int | None = None,
        max_bytes: int | None = None,
        backend: str = "process",
        preload: Sequence[str] = (),
        metrics_interval_s: float = 0.5,
        observers: Sequence[Observer] = (),
        keep_output: int = 0,
        ray_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Check every option; nothing is started before the first run."""
        self._options = EngineOptions(
            workers=workers, start_method=start_method, ordered=ordered, buffer=buffer, grace_s=grace_s,
            crash_retries=crash_retries, memory_limit=memory_limit, max_items_per_worker=max_items_per_worker,
            max_bytes=max_bytes, backend=backend, preload=preload, metrics_interval_s=metrics_interval_s,
            observers=observers, keep_output=keep_output, ray_options=ray_options,
        )  # fmt: skip
        self._policy = ErrorPolicy.parse(on_error)
        self._cores = available_cores()
        self.workers = workers or self._cores
        self.metrics_interval_s = metrics_interval_s
        self._starting = threading.RLock()
        self._run: Run | None = None
        self._backend: Backend | None = None
        self._entrance: Entrance | None = None
        self._last_snapshot = Snapshot()
        self._scribe = Scribe()
        self._publisher = Publisher(metrics_interval_s, self._scribe)
        self._is_warm = self._is_closed = False
        self._pid = os.getpid()

    def run(
        self, stages: Stages, source: object = None, *, collect: bool = True, journal: JournalLike = None
    ) -> Ok | Err:
        """Run a pipeline to its end.

        In the main thread, the first SIGINT or SIGTERM cancels the run in order (unless the program has handlers of its
        own), and the next one at once; the result is then an ``Err`` with the signal's name as its reason.

        Args:
            stages: a ``Pipeline``, or a list of stages and plain callables.
            source: where the items come from; None: the pipeline's own, or the list's first member.
            collect: whether the report keeps the values.
            journal: where what is done is kept: a path, or a ``Journal``.

        Returns:
            ``Ok(report)``, or ``Err(reason, cause, report)`` when the run was cancelled or failed.  What items or
            workers do is never raised.

        Raises:
            PipelineError: the pipeline cannot run.
            EngineError: this engine runs another pipeline at this moment, or is closed, or can start no process.
            JournalError: the journal cannot be begun, or gone on with.
        """
        pipeline = as_pipeline(stages, source)
        if pipeline.cancelled is not None:
            return result_of_none(pipeline.cancelled)
        return self._run_to_end(self._make_run(pipeline, journal=journal), pipeline, collect=collect)

    def _run_to_end(self, run: Run, pipeline: Pipeline, *, collect: bool) -> Ok | Err:
        values: list[Any] = []
        with run.watch_signals():
            self._start(run, pipeline)
            try:
                run.take_all(values, collect=collect)
            except BaseException as error:  # noqa: BLE001 - Ctrl-C in user code of this thread; becomes the result
                run.cancel(type(error).__name__, error)
            result = run.conclude().with_values(values)
            if not result.is_ok and isinstance(result.cause, Exception):
                # For whoever does not look at the result.
                self._scribe.note(WARNING, "the run has failed: %s", result.reason)
                self._scribe.close()
        return run.with_interrupt(result)

    async def arun(
        self, stages: Stages, source: object = None, *, collect: bool = True, journal: JournalLike = None
    ) -> Ok | Err:
        """Run a pipeline to its end, as ``run`` does, while the caller's event loop goes on.

        Cancelling the awaiting task cancels the run, waits until nothing is left of it, and then goes on as a
        cancellation; ``asyncio.timeout`` works.  An async source is pulled on the caller's own loop.  Arguments, result
        and errors are those of ``run``.
        """
        pipeline = as_pipeline(stages, source)
        if pipeline.cancelled is not None:
            return result_of_none(pipeline.cancelled)
        consumer = await self._begin_awaited(
            pipeline, journal, lambda consumer: self._run_to_end(consumer.run, pipeline, collect=collect)
        )
        return await consumer.result()

    def aiter(self, stages: Stages, source: object = None, *, journal: JournalLike = None) -> AsyncResultStream:
        """Return the results for ``async for``, as they come, bounded by what the consumer takes.

        The run begins when the first result is asked for.  Cancelling the task that waits for one is as in ``arun``.
        Arguments are those of ``iter``.

        Returns:
            An async iterator and async context manager, which raises the run's cause when the run fails; closing or
            dropping it early cancels the run.

        Raises:
            PipelineError: the pipeline cannot run.
            EngineError: the pipeline was cancelled; or, with the first result, this engine runs another pipeline at
                this moment or is closed.
        """
        from mpengine.coordinator.awaiting import AsyncResultStream

        pipeline = as_pipeline(stages, source)
        if pipeline.cancelled is not None:
            raise EngineError(pipeline.cancelled)
        self._plan(pipeline)
        return AsyncResultStream(
            lambda: self._begin_awaited(
                pipeline, journal, lambda consumer: consumer.serve_batches(lambda: self._start(consumer.run, pipeline))
            )
        )

    def iter(self, stages: Stages, source: object = None, *, journal: JournalLike = None) -> ResultStream:
        """Return the results as they come, bounded by what the consumer takes.

        Args:
            stages: as for ``run``.
            source: as for ``run``.
            journal: as for ``run``.

        Returns:
            An iterator that raises the run's cause when the run fails; closing or dropping it early cancels the run.

        Raises:
            PipelineError: the pipeline cannot run.
            EngineError: this engine runs another pipeline at this moment, is closed, or the pipeline was cancelled.
            JournalError: as for ``run``.
        """
        pipeline = as_pipeline(stages, source)
        if pipeline.cancelled is not None:
            raise EngineError(pipeline.cancelled)
        run = self._make_run(pipeline, journal=journal)
        from mpengine.coordinator.stream import ResultStream

        return ResultStream.begun(run, lambda: self._start(run, pipeline))

    def map(
        self,
        fn: Callable[..., Any] | Stage,
        iterable: Iterable[Any],
        *,
        journal: JournalLike = None,
        **stage_options: Any,
    ) -> ResultStream:
        """Return ``fn`` of each item as results come: a pipeline of one stage.

        Args:
            fn: what to run for each item.
            iterable: the items; any source will do.
            journal: as for ``run``.
            stage_options: see ``Stage``; of a stage that is one already, they replace its own.

        Returns:
            As ``iter``.

        Raises:
            PipelineError: an option is not what it can be, or the stage cannot run.
            EngineError: as for ``iter``.
        """
        if isinstance(fn, Stage | Mix):
            return self.iter(Pipeline(iterable).stage(fn, **stage_options), journal=journal)
        return self.iter([make_stage(fn, **stage_options)], iterable, journal=journal)

    async def _begin_awaited(
        self, pipeline: Pipeline, journal: JournalLike, serve: Callable[[Consumer], Ok | Err]
    ) -> Consumer:
        import asyncio

        from mpengine.coordinator.awaiting import Entrance
        from mpengine.coordinator.opening import on_loop

        self._entrance = self._entrance or Entrance()
        source = on_loop(pipeline.source, asyncio.get_running_loop())
        return await self._entrance.begin(lambda: self._make_run(pipeline, source, journal), serve)

    def _plan(self, pipeline: Pipeline) -> Plan:
        return make_plan(
            pipeline.all_stages,
            default_buffer=self._options.items_waiting,
            default_policy=self._policy,
            threads=0 if self._options.backend == "inline" else self.workers,
        )

    def _make_run(self, pipeline: Pipeline, source: object = None, journal: JournalLike = None) -> Run:
        plan = self._plan(pipeline)
        source = pipeline.source if source is None else source
        with self._starting:
            check_free(self._run, self._pid, is_closed=self._is_closed)
            head = None
            if self._backend is None:
                self._backend, head = make_backend(self._options, self.workers, self._cores, plan)
                self.workers = self._backend.workers
            from mpengine.coordinator.run import Run  # slow imports, for which the fork server need not wait
            from mpengine.coordinator.runoptions import RunOptions

            options = RunOptions.chosen(
                self._options, self.workers, keep=self._is_warm, scribe=self._scribe, journal=journal
            )
            return Run(plan, source, self._backend, options, lambda run: self._end(run, pipeline), head)

    def _start(self, run: Run, pipeline: Pipeline) -> None:
        with self._starting:
            check_free(self._run, self._pid, is_closed=self._is_closed)
            if self._backend is not run.backend:
                raise EngineError("this engine ran another pipeline meanwhile; it runs one at a time")
            self._run = run
        pipeline.attach(self)
        try:
            run.start()
        except BaseException:
            self._end(run, pipeline)
            raise
        if pipeline.cancelled is not None:
            run.cancel(pipeline.cancelled)
        with self._starting:
            # Inline there is one thread, for debuggers' sake; and somebody may have closed the engine by now.
            if self._run is run and not run.in_caller:
                self._publisher.begin(run.snapshot, run)

    def _end(self, run: Run, pipeline: Pipeline) -> None:
        """A run is over: keep its last figures, and let the workers go unless they are to stay warm."""
        pipeline.detach(self)
        with self._starting:
            if run.result is not None:
                self._last_snapshot = run.result.report.snapshot
                self._publisher.end(self._last_snapshot)
            self._run = None
            is_kept = self._is_warm and not self._is_closed
            backend, self._backend = (None, self._backend) if is_kept else (self._backend, None)
        self._let_go(backend)

    def _let_go(self, backend: Backend | None) -> None:
        """End what is not to be kept, and have everything logged."""
        try:
            close_backend(backend)
        finally:
            if backend is not None:
                self._publisher.close()
            self._scribe.close()

    def cancel(self, reason: str = "cancelled", *, at_once: bool = False) -> None:
        """End the run that goes on, if one does; from any thread or signal handler, at any moment.

        Args:
            reason: becomes the result's reason; the first one wins.
            at_once: do not give workers their ``grace_s``.
        """
        run = self._run
        if run is not None:
            run.cancel(reason)
            if at_once:
                run.hurry()

    def snapshot(self) -> Snapshot:
        """Return the figures of the run that goes on, or of the last one, or ``idle`` ones; from any thread."""
        run = self._run
        return self._last_snapshot if run is None else run.snapshot()

    def metrics(self) -> Proxy | None:
        """Return the metrics board: ``snapshot().as_dict()``, published every ``metrics_interval_s``.

        Returns:
            A ``multiprocessing`` ``DictProxy``, whose ``copy()`` gives one whole snapshot; None until there is a board.
        """
        return self._publisher.board if os.getpid() == self._pid else None

    @property
    def metrics_address(self) -> BoardAddress | None:
        """The arguments that ``mpengine.monitor.board.attach`` takes in any process; None until there is a board."""
        return self._publisher.address if os.getpid() == self._pid else None

    def pids(self) -> list[int]:
        """Return the process numbers of the live workers, in no order; none inline.  From any thread."""
        backend = self._backend
        return [] if backend is None else backend.pids()

    def close(self) -> None:
        """Cancel what runs, and let every worker go; idempotent."""
        self._is_closed = True
        if os.getpid() != self._pid:
            return  # a forked child's copy: the workers are the parent's
        closing = self._backend  # what has to hurry, also when it is no longer the engine's
        with signals_held(closing.hurry if closing is not None else lambda: None):
            run = self._run
            if run is not None:
                run.end("the engine was closed")
                if run.result is None:
                    return  # closed from within the run: whoever concludes it lets the workers go (_end)
            with self._starting:
                backend, self._backend = self._backend, None
            self._let_go(backend)

    def __repr__(self) -> str:
        """Return what tells engines apart."""
        state = "closed" if self._is_closed else "idle" if self._run is None else "running"
        return f"<Engine {self._options.backend}, {self.workers} workers, {state}>"

    def __enter__(self) -> Self:
        """Keep workers warm from now on.

        Raises:
            EngineClosedError: the engine is closed.
        """
        if self._is_closed:
            raise EngineClosedError("the engine is closed")
        self._is_warm = True
        return self

    def __exit__(self, *_: object) -> None:
        """Close the engine."""
        self.close()
