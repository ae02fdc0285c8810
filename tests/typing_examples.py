"""What a type checker makes of programs that use the package; nothing here is ever run.

mypy reads this file in strict mode, as ``setup.cfg`` tells it to.  Where a program has to be refused, the line says
with which error, and mypy complains of an ignore that nothing needs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Executor as StandardExecutor
from concurrent.futures import Future
from typing import Any, assert_never, assert_type

from mpengine import (
    SKIP,
    CancelEvent,
    DeadLetter,
    Engine,
    EngineError,
    Err,
    ErrorPolicy,
    Executor,
    ItemError,
    Journal,
    KillSwitch,
    Mix,
    Ok,
    Pipeline,
    PipelineError,
    Report,
    Retry,
    Snapshot,
    Stage,
    StageMetrics,
    WorkerDiedError,
    WorkerMetrics,
    WorkerState,
    cancelled,
    dead_letters,
    mix,
    sinks,
    sources,
    stage,
)
from mpengine.testing import assert_no_orphans

# Stages, in every form.


@stage
def bare(line: str) -> int:
    return int(line)


@stage()
def with_parentheses(line: str) -> int:
    return int(line)


@stage(name="halve", workers=2, buffer=8, retries=Retry(2, on=(OSError, ValueError)), on_error=ErrorPolicy.DROP)
def with_options(number: int) -> object:
    return SKIP if number % 2 else number // 2


@stage(setup=lambda state: state.update(seen=0), teardown=lambda state: state.values.clear(), on_error="drop")
def with_state(line: str, state: WorkerState) -> str:
    state.update(seen=state.get("seen", 0) + 1)
    return f"{state.worker_id}: {line}"


@stage
def many(line: str) -> Iterator[str]:
    yield from line.split()


@stage
def until_told(number: int) -> int | KillSwitch:
    return KillSwitch("told to stop") if cancelled() else number


@stage
class Model:
    def __call__(self, item: str) -> str:
        return item

    def close(self) -> None: ...


def plain(item: str) -> str:
    return item


def stages_are_stages() -> None:
    assert_type(bare, Stage)
    assert_type(with_parentheses, Stage)
    assert_type(with_options, Stage)
    assert_type(with_state, Stage)
    assert_type(many, Stage)
    assert_type(Model, type[Model])  # mypy takes no notice of what a decorator makes of a class
    assert_type(stage(plain), Stage)
    assert_type(stage(plain, name="plain", retries=1), Stage)
    assert_type(stage(len), Stage)
    assert_type(stage(str), Stage)
    assert_type(stage(lambda item: item), Stage)
    assert_type(stage(retries=1), Callable[[Callable[..., Any]], Stage])
    assert_type(Stage(plain, workers=1, timeout=2.5, error_handler=print), Stage)
    assert_type(bare("7"), Any)
    assert_type(with_options.retry, Retry)
    assert_type(with_options.policy, ErrorPolicy | None)


def what_is_no_stage_is_refused() -> None:
    stage("plain")  # type: ignore[call-overload]
    Stage(plain, "name")  # type: ignore[call-arg]
    Stage(plain, retires=1)  # type: ignore[call-arg]
    Stage(plain, workers="two")  # type: ignore[arg-type]
    bare.name = "another"  # type: ignore[misc]


# Mixes, in every form.


@mix
def builder() -> list[Callable[..., Any]]:
    return [bare, len]


@mix(merge=sum, on_error="drop")
def builder_with_options() -> list[Callable[..., Any]]:
    return [bare, len]


def mixes() -> None:
    assert_type(mix(bare, len, merge=max), Mix)
    assert_type(mix(len, name="one", retries=2), Mix)
    assert_type(builder, Mix)
    assert_type(builder_with_options, Mix)
    assert_type(Pipeline(["1"]) >> builder, Pipeline)
    assert_type(Pipeline(["1"]).stage(builder_with_options), Pipeline)
    mix(7)  # type: ignore[call-overload]


# Pipelines.


async def later() -> AsyncIterator[str]:
    yield "1"


def opened() -> Iterator[str]:
    yield "1"


def pipelines_are_pipelines(engine: Engine) -> None:
    pipeline = Pipeline(["1", "2"]) >> bare >> plain >> Model >> (lambda item: item) >> str
    assert_type(pipeline, Pipeline)
    assert_type(Pipeline(later()) >> bare, Pipeline)
    assert_type(Pipeline(opened) >> bare, Pipeline)
    assert_type(Pipeline(pipeline, [bare, plain]), Pipeline)
    assert_type(pipeline >> pipeline, Pipeline)
    assert_type(pipeline.stage(plain, workers=1).stage(bare), Pipeline)
    assert_type(pipeline.with_source(range(3)), Pipeline)
    assert_type(pipeline.stages, tuple[Stage | Mix, ...])
    assert_type(pipeline.cancelled, str | None)
    assert_type(pipeline.run(), Ok | Err)
    assert_type(pipeline.run(engine, collect=False), Ok | Err)
    assert_type(pipeline.snapshot(), Snapshot)
    assert_type(next(pipeline.iter()), Any)
    pipeline.cancel("enough")


def what_is_no_source_is_refused() -> None:
    Pipeline(7)  # type: ignore[arg-type]
    Pipeline([1], plain)  # type: ignore[arg-type]


# Engines.


def engines_run_pipelines(pipeline: Pipeline) -> None:
    with Engine(2, start_method="spawn", ordered=False, on_error="drop", grace_s=1, preload=["json"]) as engine:
        assert_type(engine, Engine)
        assert_type(engine.run(pipeline), Ok | Err)
        assert_type(engine.run(pipeline, ["3"], collect=False), Ok | Err)
        assert_type(engine.run([["1"], bare, plain]), Ok | Err)
        assert_type(engine.run([bare, plain], ["1"]), Ok | Err)
        assert_type(engine.snapshot(), Snapshot)
        assert_type(engine.pids(), list[int])
        engine.cancel("enough", at_once=True)


def engines_give_results_as_they_come(engine: Engine, pipeline: Pipeline) -> None:
    for value in engine.iter(pipeline):
        assert_type(value, Any)
    for value in engine.map(bare, opened(), workers=1):
        assert_type(value, Any)
    with engine.map(lambda number: number + 1, range(3), retries=2) as results:
        assert_type(next(results), Any)
        assert_type(list(results), list[Any])
        assert_type(results.snapshot(), Snapshot)
        assert_type(results.result, Ok | Err | None)


def what_an_engine_cannot_be_is_refused() -> None:
    Engine(2, "spawn")  # type: ignore[call-arg]
    Engine(worker=2)  # type: ignore[call-arg]
    Engine(workers="2")  # type: ignore[arg-type]


async def engines_run_in_asyncio(engine: Engine, pipeline: Pipeline) -> None:
    assert_type(await engine.arun(pipeline), Ok | Err)
    async for value in engine.aiter(pipeline):
        assert_type(value, Any)


# Inputs and outputs.


def inputs_and_outputs(engine: Engine) -> None:
    lines = Pipeline(sources.lines("in.txt")) >> bare
    assert_type(lines.to(sinks.jsonl("out.jsonl"), engine, journal=Journal("job.db", resume=True)), Ok | Err)
    assert_type(engine.run(lines, journal="job.db"), Ok | Err)
    failed: Iterable[object] = dead_letters("failed.jsonl")
    Stage(plain, on_error="side", error_handler=DeadLetter("failed.jsonl"))
    with assert_no_orphans():
        engine.run([failed, plain])


# Results.


def results_match(result: Ok | Err) -> Report:
    match result:
        case Ok(report):
            assert_type(report, Report)
        case Err(reason, cause, report):
            assert_type(reason, str)
            assert_type(cause, BaseException | None)
            assert_type(report, Report)
        case _:
            assert_never(result)
    return report


def a_match_that_forgets_one_is_refused(result: Ok | Err) -> None:
    match result:  # type: ignore[exhaustive-match]
        case Ok():
            pass


def results_are_told_apart(result: Ok | Err) -> None:
    assert_type(result.report, Report)
    assert_type(result.unwrap(), Report)
    if result.is_ok:
        assert_type(result, Ok)
    else:
        assert_type(result, Err)
        assert_type(result.reason, str)
        assert_type(result.exception(), BaseException)


def an_ok_has_no_reason(result: Ok) -> None:
    print(result.reason)  # type: ignore[attr-defined]
    result.report = Report()  # type: ignore[misc]


def reports_tell(report: Report) -> None:
    assert_type(report.values, list[Any])
    assert_type(report.errors, list[ItemError])
    assert_type(report.errors[0].error, BaseException)
    assert_type(report.errors[0].worker_id, int | None)
    assert_type(report.snapshot.stages, tuple[StageMetrics, ...])
    assert_type(report.snapshot.workers, tuple[WorkerMetrics, ...])
    assert_type(report.snapshot.as_dict(), dict[str, Any])
    assert_type(report.duration_s, float)


def errors_are_a_tree(engine: Engine, pipeline: Pipeline) -> None:
    try:
        engine.run(pipeline).unwrap()
    except WorkerDiedError as error:
        assert_type(error, WorkerDiedError)
    except PipelineError as error:
        as_value_error: ValueError = error
        print(as_value_error)
    except EngineError:
        raise


def the_flag_is_an_event(event: CancelEvent) -> None:
    event.set()
    assert_type(event.wait(0.5), bool)
    assert_type(cancelled(), bool)


def an_executor_is_one_of_the_standard_librarys(executor: Executor) -> None:
    standard: StandardExecutor = executor
    with standard:
        pass
    with executor as same:
        assert_type(same, Executor)
    assert_type(executor.submit(divmod_of, 7, by=3), Future[tuple[int, int]])
    assert_type(executor.map(str, range(3), chunksize=2, buffersize=4), Iterator[str])
    executor.submit(divmod_of, "7")  # type: ignore[arg-type]
    Executor(2, on_worker_death="ignore")  # type: ignore[arg-type]


def divmod_of(number: int, *, by: int = 2) -> tuple[int, int]:
    return divmod(number, by)
