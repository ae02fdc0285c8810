"""Items, results, exceptions and stages that raise at whatever is asked of them: the item's error or no matter at all.

``Sulky`` and ``Classless`` in ``test_contract.py`` are some of the values; here are the rest, and the exceptions.
"""

import functools
import os

import engine_stages as stages
import pytest
import trap_stages as traps
import unruly_stages as unruly

from mpengine import Err, ItemError, Retry, StageError, stage
from mpengine.sinks import JsonLinesSink, SinkError

FEW, MANY = 5, 3000  # one by one, and a slice at a time
ERRORS = {
    unruly.RefusingError: True,
    unruly.UntouchableError: True,
    unruly.FrozenError: True,
    unruly.FrozenForGoodError: False,
    unruly.FalseNameError: True,
    unruly.ChangelingError: False,
}


@pytest.fixture(params=["inline", pytest.param("fork", marks=pytest.mark.slow)])
def kind(request):
    return request.param


@pytest.fixture
def engine(kind, make_engine):
    with make_engine(kind, metrics_interval_s=0) as engine:
        yield engine


def fail_at_two(error):
    def fail(x):
        if x == 2:
            raise error(7)
        return x

    return fail


def as_it_arrives(error, kind):
    return error if ERRORS[error] or kind == "inline" else StageError


@pytest.mark.parametrize("count", [FEW, MANY])
def test_items_and_results_that_refuse_every_question_come_through(engine, count):
    items = [unruly.Refusing(x) for x in range(count)]
    result = engine.run([items, stages.keep, stages.keep])
    assert [value.number for value in result.unwrap().values] == list(range(count))
    assert engine.run([items, unruly.open_up]).unwrap().values == list(range(count))
    assert [value.number for value in engine.iter([iter(items), stages.keep])] == list(range(count))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Python tells what __del__ raises
def test_items_and_results_that_refuse_to_go_come_through(engine):
    result = engine.run([map(unruly.RefusingToGo, range(FEW)), stages.keep, stages.keep])
    assert [value.number for value in result.unwrap().values] == list(range(FEW))


def test_an_exception_that_refuses_every_question_is_its_items_and_no_more(kind, engine):
    for error in ERRORS:
        for count, retries in ((FEW, 0), (MANY, 0), (FEW, Retry(1, on=(OSError,)))):
            result = engine.run([range(count), stage(fail_at_two(error), on_error="drop", retries=retries)])
            assert result.is_ok, error
            assert result.report.values == [x for x in range(count) if x != 2]
            (failed,) = result.report.errors
            assert (failed.index, failed.attempts) == (2, 1)
            assert type(failed.error) is as_it_arrives(error, kind)
            assert error.__name__ in f"{type(failed.error).__name__} {failed}"
            assert "in fail" in failed.traceback


def test_a_run_can_end_with_such_an_exception_or_give_it_as_a_value(kind, engine):
    for error in ERRORS:
        result = engine.run([range(FEW), fail_at_two(error)])
        assert isinstance(result, Err), error
        assert type(result.cause) is as_it_arrives(error, kind)
        assert error.__name__ in result.reason
        with pytest.raises(as_it_arrives(error, kind)):
            list(engine.iter([range(FEW), fail_at_two(error)]))
        values = engine.run([range(FEW), stage(fail_at_two(error), on_error="emit")]).unwrap().values
        assert [type(x.error) for x in values if type(x) is ItemError] == [as_it_arrives(error, kind)]


def test_sources_set_ups_and_handlers_may_raise_such_an_exception(kind, engine):
    for error in (unruly.RefusingError, unruly.FrozenError, unruly.ChangelingError, unruly.FalseNameError):

        def refuse(*_, error=error):
            raise error(7)

        def source(error=error):
            yield 1
            raise error(7)

        side = stage(fail_at_two(ValueError), on_error="side", error_handler=refuse)
        for pipeline in ([source, stages.keep], [range(FEW), side]):
            result = engine.run(pipeline)
            assert isinstance(result, Err)
            assert type(result.cause) is error
        result = engine.run([range(FEW), stage(stages.keep, setup=refuse)])
        assert type(result.cause) is as_it_arrives(error, kind)
        report = engine.run([range(FEW), stage(stages.keep, teardown=refuse)]).unwrap()
        assert report.values == list(range(FEW))


def test_a_stage_of_which_only_the_call_may_be_asked_runs(engine):
    member = stage(unruly.RefusingStage(), name="refusing")
    assert engine.run([range(FEW), member]).unwrap().values == [2 * x for x in range(FEW)]
    with_state = stage(unruly.RefusingStageWithState(), name="refusing")
    assert engine.run([range(FEW), with_state]).unwrap().values == list(range(1, FEW + 1))


@pytest.mark.slow
def test_values_without_a_class_to_ask_for_are_no_matter_beside_one_that_will_not_unpickle(make_engine):
    home = os.getpid()
    bad = functools.partial(traps.WhenUnpickled, traps.act_at_home, "raise", "", home)
    engine = make_engine("fork", on_error="drop", workers=1)
    give = stage(lambda items: [bad() if x == 3 else stages.Classless() for x in items], batch=30, name="give")
    report = engine.run([range(30), give]).unwrap()  # in one pickle
    assert [type(value) for value in report.values] == [stages.Classless] * 29
    assert [error.index for error in report.errors] == [3]


def test_an_async_source_may_give_values_without_a_class_to_ask_for(engine):
    async def source():
        for _ in range(FEW):
            yield stages.Classless()

    assert engine.run([source, lambda x: 1]).unwrap().values == [1] * FEW


@pytest.mark.parametrize("make", [unruly.Refusing, stages.Classless, lambda: {"a": stages.Classless()}])
def test_a_value_that_refuses_to_become_json_is_told_by_its_type(tmp_path, make):
    value = make()
    with JsonLinesSink(os.open(tmp_path / "lines", os.O_CREAT | os.O_WRONLY)) as sink:
        with pytest.raises(SinkError, match=f"value 0 of type .*{type(value).__name__} is not JSON"):
            sink.write(value)
        sink.write(1)
    assert (tmp_path / "lines").read_text() == "1\n"
