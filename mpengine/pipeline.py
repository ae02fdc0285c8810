"""Pipelines: a source and the stages its items go through.  Frozen; what runs where is decided in ``plan``."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterable, Callable, Iterable, Sequence

from mpengine.errors import PipelineError
from mpengine.mixes import Mix, as_member
from mpengine.reading import Reader, Source
from mpengine.records import replace
from mpengine.stages import Stage, StageFunction, stage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mpengine.coordinator.awaiting import AsyncResultStream
    from mpengine.coordinator.stream import ResultStream
    from mpengine.engine import Engine
    from mpengine.journal.description import JournalLike
    from mpengine.metrics import Snapshot
    from mpengine.reading import Reading
    from mpengine.results import Err, Ok
    from mpengine.sinks.base import Sink

PipelineSource = Iterable["Any"] | AsyncIterable["Any"] | Callable[[], "Any"]


class Pipeline:
    """A source and the stages its items go through.

    ``Pipeline(source) >> a >> b`` makes a new pipeline at each step; none is ever changed.  What is kept beside the
    description is only whether this pipeline was cancelled, and which engines run it now.

    Args:
        source: an iterable, an async iterable, a function without arguments that returns one, or another pipeline.
        stages: stages or plain callables.

    Raises:
        PipelineError: the source or a stage is none of these.
    """

    def __init__(self, source: PipelineSource | Pipeline, stages: Sequence[Stage | Mix | StageFunction] = ()) -> None:
        """Check source and stages."""
        prefix: tuple[Stage | Mix, ...] = ()
        if isinstance(source, Pipeline):
            prefix = source.stages
            source = source.source
        if not (isinstance(source, Iterable | AsyncIterable) or callable(source)) or isinstance(source, Stage | Mix):
            msg = f"a source must be an iterable, async or not, a function returning one, or a Pipeline, not {source!r}"
            raise PipelineError(msg)
        self._source = source
        self._stages = prefix + tuple(as_member(member) for member in stages)
        self._lock = threading.Lock()
        self._cancelled: str | None = None
        self._engines: set[Engine] = set()

    @property
    def source(self) -> PipelineSource:
        """Where the items come from."""
        return self._source

    @property
    def stages(self) -> tuple[Stage | Mix, ...]:
        """What they go through."""
        return self._stages

    @property
    def all_stages(self) -> tuple[Stage | Mix, ...]:
        """The stages, behind the one that makes items of what the source has read, where it has to be made."""
        reading = self._source.reading if isinstance(self._source, Source | Reader) else None
        return self._stages if reading is None else (reading_stage(reading, self._stages), *self._stages)

    @property
    def cancelled(self) -> str | None:
        """The reason this pipeline was cancelled for; None when it was not."""
        return self._cancelled

    def stage(self, fn: Stage | Mix | StageFunction, **options: Any) -> Pipeline:
        """Return this pipeline with one stage more.

        Args:
            fn: a stage, or what to make one of.
            options: as for ``Stage``; of a stage that is one already, they replace its own.

        Raises:
            PipelineError: ``fn`` cannot be called, or an option is unknown or is not what it can be.
        """
        added: Stage | Mix
        if isinstance(fn, Mix):
            if options:
                msg = f"{fn!r} has its options already; give them to mix()"
                raise PipelineError(msg)
            added = fn
        else:
            added = replace(fn, **options) if isinstance(fn, Stage) else stage(fn, **options)
        return Pipeline(self._source, (*self._stages, added))

    def with_source(self, source: PipelineSource | Pipeline) -> Pipeline:
        """Return the same stages behind another source.

        Args:
            source: as for ``Pipeline``; the stages of a pipeline come before these.

        Raises:
            PipelineError: it can be no source.
        """
        return Pipeline(source, self._stages) if not isinstance(source, Pipeline) else source >> self

    def __rshift__(self, other: object) -> Pipeline:
        """Return this pipeline with ``other`` behind it: a stage, a callable, or a pipeline less its source."""
        if isinstance(other, Pipeline):
            return Pipeline(self._source, (*self._stages, *other.stages))
        return Pipeline(self._source, (*self._stages, as_member(other)))

    def run(self, engine: Engine | None = None, *, collect: bool = True, journal: JournalLike = None) -> Ok | Err:
        """Run the pipeline to its end.

        Args:
            engine: runs it; None: an engine with its defaults, made and closed for this run.
            collect: whether the report keeps the values.
            journal: where what is done is kept: a path, or a ``Journal``.

        Returns:
            ``Ok(report)`` or ``Err(reason, cause, report)``.

        Raises:
            PipelineError: the pipeline cannot run.
            EngineError: the engine runs another pipeline at this moment, or is closed.
        """
        return self._engine(engine).run(self, collect=collect, journal=journal)

    def iter(self, engine: Engine | None = None, *, journal: JournalLike = None) -> ResultStream:
        """Return the results as they come; see ``Engine.iter``.

        Args:
            engine: as for ``run``.
            journal: as for ``run``.

        Returns:
            An iterator and context manager that raises the run's cause when the run fails.

        Raises:
            PipelineError: the pipeline cannot run.
            EngineError: the engine runs another pipeline at this moment, is closed, or this pipeline was cancelled.
        """
        return self._engine(engine).iter(self, journal=journal)

    def to(self, sink: Sink, engine: Engine | None = None, *, journal: JournalLike = None) -> Ok | Err:
        """Run the pipeline to its end, and write what comes out.

        Args:
            sink: where to; it is begun, and closed in the end.
            engine: as for ``run``.
            journal: keeps what is done, and how far the output is; with ``Journal(path, resume=True)`` both go on.

        Returns:
            ``Ok(report)`` or ``Err(reason, cause, report)``; a value that could not be written is the cause of one.

        Raises:
            OSError: the output cannot be opened.
            PipelineError: the pipeline cannot run.
            EngineError: the engine runs another pipeline at this moment, or is closed; the output or the journal cannot
                be used.
        """
        from mpengine.results import Err as Failed
        from mpengine.results import Report
        from mpengine.sinks.base import SinkError, write

        if self._cancelled is not None:
            return Failed(self._cancelled, None, Report(ok=False))
        if journal is not None:
            from mpengine.journal.description import as_journal

            journal = as_journal(journal)
            journal = journal and replace(journal, output=sink)
        sink.open()
        try:
            stream = self.iter(engine, journal=journal)
        except BaseException:
            sink.abort()
            raise
        problem: SinkError | None = None
        with stream:
            try:
                write(stream, sink)
            except SinkError as error:
                problem = error
            except BaseException:
                if stream.result is None:
                    raise  # not what ended the run
        result = stream.result
        assert result is not None  # noqa: S101 - it has ended
        if problem is None or (not result.is_ok and result.cause is problem):
            return result
        return Failed(str(problem), problem, replace(result.report, ok=False))

    async def arun(
        self, engine: Engine | None = None, *, collect: bool = True, journal: JournalLike = None
    ) -> Ok | Err:
        """Run the pipeline to its end while the caller's event loop goes on; see ``Engine.arun``."""
        return await self._engine(engine).arun(self, collect=collect, journal=journal)

    def aiter(self, engine: Engine | None = None, *, journal: JournalLike = None) -> AsyncResultStream:
        """Return the results for ``async for``; see ``Engine.aiter``."""
        return self._engine(engine).aiter(self, journal=journal)

    def cancel(self, reason: str = "cancelled") -> None:
        """Cancel the runs of this pipeline, now and from now on: ``run()`` then returns that ``Err`` at once.

        From any thread or signal handler, any number of times.

        Args:
            reason: becomes the results' reason; the first one stays.
        """
        if (
            self._cancelled is None
        ):  # two at once: either reason is the first; no lock, so that a signal handler may call
            self._cancelled = reason
        for engine in tuple(self._engines):
            engine.cancel(reason)

    def snapshot(self) -> Snapshot:
        """Return the figures of the run that goes on now, or empty ones."""
        from mpengine.metrics import Snapshot

        for engine in tuple(self._engines):
            return engine.snapshot()
        return Snapshot()

    @staticmethod
    def _engine(engine: Engine | None) -> Engine:
        if engine is not None:
            return engine
        from mpengine.engine import Engine as DefaultEngine

        return DefaultEngine()

    def attach(self, engine: Engine) -> None:
        """Note that ``engine`` runs this pipeline; called by the engine."""
        with self._lock:
            self._engines = {*self._engines, engine}

    def detach(self, engine: Engine) -> None:
        """Note that ``engine`` is done with this pipeline; called by the engine."""
        with self._lock:
            self._engines = self._engines - {engine}

    def __repr__(self) -> str:
        """Return source and stages in the notation that makes them."""
        return " >> ".join([f"Pipeline({type(self._source).__name__})", *(stage.name for stage in self._stages)])


def reading_stage(reading: Reading, stages: Sequence[Stage | Mix]) -> Stage:
    """Return the stage that reads a source's records.

    What cannot be read fails as an item of the first of the ``stages`` would: it has that one's policy.
    """
    if not stages:
        return Stage(reading.function, name=reading.name)
    head = stages[0].branches[0] if isinstance(stages[0], Mix) else stages[0]
    kind = "process" if head.kind == "process" else "thread"
    return Stage(
        reading.function, name=reading.name, kind=kind, on_error=head.on_error, error_handler=head.error_handler
    )


def with_dead_letters(pipeline: Pipeline, handler: Callable[[Any, Any], object]) -> Pipeline:
    """Return the pipeline, its stages that name no error policy with SIDE and this handler."""

    def sided(member: Stage) -> Stage:
        return replace(member, on_error="side", error_handler=handler) if member.on_error is None else member

    return Pipeline(
        pipeline.source,
        [
            replace(member, branches=tuple(map(sided, member.branches)), merge=sided(member.merge))
            if isinstance(member, Mix)
            else sided(member)
            for member in pipeline.stages
        ],
    )


Stages = Pipeline | Sequence["Any"]
"""What an engine can be asked to run."""


def as_pipeline(stages: Stages, source: object = None) -> Pipeline:
    """Return what an engine was asked to run as a pipeline.

    Args:
        stages: a pipeline, or a list of stages and plain callables.
        source: replaces the pipeline's own; None: its own, or the list's first member.

    Raises:
        PipelineError: it is no pipeline.
    """
    if isinstance(stages, Pipeline):
        return stages if source is None else stages.with_source(source)  # type: ignore[arg-type]
    if isinstance(stages, Stage) or not isinstance(stages, Sequence) or isinstance(stages, str | bytes):
        msg = f"stages must be a Pipeline or a list of stages, not {stages!r:.200}; for one function there is map()"
        raise PipelineError(msg)
    members = list(stages)
    if source is None:
        if not members:
            msg = "an empty list is no pipeline: it has no source"
            raise PipelineError(msg)
        source = members.pop(0)
        if isinstance(source, Stage):
            msg = f"the list begins with the stage {source.name!r}; without source= it has to begin with its source"
            raise PipelineError(msg)
    return Pipeline(source, members)  # type: ignore[arg-type]


def result_of_none(reason: str) -> Err:
    """Return the result of a pipeline that was cancelled, for ``reason``, before it was run."""
    from mpengine.results import Err, Report  # not needed before a run has ended, and the fork server need not wait

    return Err(reason, None, Report(ok=False))
