"""Stages and pipelines: frozen descriptions that refuse what cannot be meant where it is written."""

from __future__ import annotations

import dataclasses
import functools
import pickle

import cloudpickle
import pytest

from mpengine import SKIP, KillSwitch, Pipeline, Stage, WorkerState, stage
from mpengine.errors import EngineError, PipelineError
from mpengine.policies import ErrorPolicy, Retry


def double(number):
    return 2 * number


def add(number, amount):
    return number + amount


def counted(item, state):
    state.update(seen=state.get("seen", 0) + 1)
    return item, state.values["seen"]


def many(item):
    yield item


class Model:
    def __init__(self):
        self.weight = 3

    def __call__(self, item):
        return self.weight * item


class ModelWithState:
    def __call__(self, item, state):
        return item, state.worker_id


class ManyModel:
    def __call__(self, item):
        yield item


async def waits(item):
    return item


@stage(retries=2)
def decorated(item):
    return item + 1


# ---------------------------------------------------------------------- stages


def test_a_stage_stays_callable():
    assert Stage(double)(4) == 8
    assert decorated(4) == 5
    assert Stage(Model)(4) == 12
    assert Stage(counted)("x") == ("x", 1)
    assert Stage(counted)("x", WorkerState(3)) == ("x", 1)


def test_a_stage_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        decorated.retries = 3


def test_a_stage_has_the_name_of_its_function():
    assert Stage(double).name == "double"
    assert Stage(functools.partial(add, amount=1)).name == "add"
    assert Stage(functools.partial(functools.partial(add), amount=1)).name == "add"
    assert Stage(Model()).name == "Model"
    assert Stage(double, name="twice").name == "twice"
    assert decorated.__name__ == decorated.__wrapped__.__name__ == "decorated"


def test_the_decorator_comes_bare_and_with_options():
    assert isinstance(stage(double), Stage)
    assert stage(workers=2)(double).workers == 2
    assert decorated.retry == Retry(attempts=2)


def test_an_option_that_there_is_not_is_named():
    with pytest.raises(PipelineError, match="a stage has no option 'bufer', 'worker'"):
        stage(double, worker=2, bufer=3)


@pytest.mark.parametrize("option", ["workers", "buffer", "batch", "concurrency"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
def test_counts_are_whole_numbers_of_at_least_one(option, value):
    with pytest.raises(PipelineError, match=f"stage 'double': {option} must be a whole number of at least 1, not"):
        Stage(double, **{option: value})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"timeout": 0}, "timeout must be more than 0 seconds, not 0"),
        ({"timeout": "1"}, "timeout must be more than 0 seconds, not '1'"),
        ({"kind": "thraed"}, "kind must be one of 'process', 'thread', 'async', not 'thraed'"),
        ({"setup": 3}, "setup must be callable, not 3"),
        ({"teardown": "x"}, "teardown must be callable"),
        ({"error_handler": ()}, "error_handler must be callable"),
        ({"on_error": "explode"}, "on_error must be an ErrorPolicy or one of 'raise', 'drop', 'emit', 'side'"),
        ({"retries": -1}, "retries must be a whole number of at least 0, not -1"),
        ({"retries": "2"}, "retries must be a number or a Retry, not '2'"),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused_with_stage_option_and_value(options, told):
    with pytest.raises(PipelineError, match="stage 'double': ") as caught:
        Stage(double, **options)

    assert told in str(caught.value)


def test_only_what_can_be_called_is_a_stage_and_only_once():
    with pytest.raises(PipelineError, match="a stage needs something callable, not 3"):
        Stage(3)
    with pytest.raises(PipelineError, match=r"is a Stage already; use dataclasses.replace"):
        Stage(decorated)


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (double, (False, False, False, False)),
        (counted, (False, False, False, True)),
        (many, (False, True, False, False)),
        (functools.partial(many), (False, True, False, False)),
        (ManyModel, (True, True, False, False)),
        (ManyModel(), (False, True, False, False)),
        (Model, (True, False, False, False)),
        (ModelWithState, (True, False, False, True)),
        (ModelWithState(), (False, False, False, True)),
        (waits, (False, False, True, False)),
        (functools.partial(add, amount=2), (False, False, False, False)),
        (lambda item, state=None: item, (False, False, False, True)),
        (lambda item, other=None: item, (False, False, False, False)),
        (lambda *items: items, (False, False, False, False)),
        (len, (False, False, False, False)),
        (int, (False, False, False, False)),  # its instances cannot be called
    ],
)
def test_a_stage_knows_what_kind_of_function_it_has(fn, expected):
    made = Stage(fn, name="it")

    assert (made.is_class, made.is_generator, made.is_async, made.takes_state) == expected


def test_a_stage_that_is_found_by_its_name_travels_as_its_name():
    assert pickle.loads(pickle.dumps(decorated)) is decorated
    assert len(pickle.dumps(decorated)) < 100


def test_a_stage_of_a_function_in_a_module_travels_with_its_options():
    copy = pickle.loads(pickle.dumps(Stage(double, name="twice", workers=2, on_error="drop")))

    assert (copy.fn, copy.name, copy.workers, copy.policy) == (double, "twice", 2, ErrorPolicy.DROP)


def test_a_changed_copy_of_a_decorated_stage_finds_its_function_by_the_stages_name():
    copy = pickle.loads(pickle.dumps(dataclasses.replace(decorated, name="other")))

    assert (copy.name, copy.fn) == ("other", decorated.fn)


def test_a_stage_of_a_lambda_travels_by_value():
    amount = 3
    copy = pickle.loads(cloudpickle.dumps(Stage(lambda item: item + amount, retries=1)))

    assert copy(1) == 4
    assert copy.retry.attempts == 1


def test_there_is_one_skip_in_every_process():
    assert pickle.loads(pickle.dumps(SKIP)) is SKIP
    assert repr(SKIP) == "SKIP"


def test_a_kill_switch_keeps_its_reason_through_a_pickle():
    assert pickle.loads(pickle.dumps(KillSwitch("enough"))).reason == "enough"
    assert KillSwitch().reason == "kill switch"


def test_worker_state_keeps_values_by_name():
    state = WorkerState(4)
    state.update(a=1, b=2)
    state.update(a=3)

    assert (state.worker_id, state.get("a"), state.get("c"), state.get("c", 5)) == (4, 3, None, 5)
    assert state.values == {"a": 3, "b": 2}


# ---------------------------------------------------------------------- pipelines


def stage_names(pipeline):
    return [member.name for member in pipeline.stages]


def test_each_step_makes_a_new_pipeline():
    start = Pipeline([1, 2])
    longer = start >> double >> decorated

    assert stage_names(start) == []
    assert stage_names(longer) == ["double", "decorated"]
    assert longer.source is start.source


def test_stage_adds_one_with_options():
    pipeline = Pipeline([1]).stage(double, workers=2).stage(decorated, name="again")

    assert [(member.name, member.workers) for member in pipeline.stages] == [("double", 2), ("again", None)]
    assert decorated.name == "decorated"


def test_a_pipeline_on_the_right_brings_its_stages_and_not_its_source():
    source = [1]
    joined = Pipeline(source) >> double >> (Pipeline([9]) >> decorated)

    assert joined.source is source
    assert stage_names(joined) == ["double", "decorated"]


def test_a_pipeline_as_a_source_brings_both():
    source = [1]
    first = Pipeline(source) >> double

    for joined in (Pipeline(first, [decorated]), Pipeline([9], [decorated]).with_source(first)):
        assert joined.source is source
        assert stage_names(joined) == ["double", "decorated"]


def test_with_source_keeps_the_stages():
    other = [2]
    pipeline = (Pipeline([1]) >> double).with_source(other)

    assert pipeline.source is other
    assert stage_names(pipeline) == ["double"]


@pytest.mark.parametrize("source", [3, None, decorated])
def test_what_gives_no_items_is_no_source(source):
    with pytest.raises(PipelineError, match="a source must be an iterable"):
        Pipeline(source)


@pytest.mark.parametrize("member", [3, None, "double"])
def test_what_cannot_be_called_is_no_stage(member):
    with pytest.raises(PipelineError, match="a stage must be a Stage or something callable"):
        Pipeline([1]) >> member


def test_a_pipeline_shows_how_it_was_made():
    assert repr(Pipeline(range(3)) >> double >> decorated) == "Pipeline(range) >> double >> decorated"


def test_a_cancelled_pipeline_refuses_to_run_with_the_first_reason():
    pipeline = Pipeline([1]) >> double
    pipeline.cancel("first")
    pipeline.cancel("second")

    result = pipeline.run()

    assert not result.is_ok
    assert result.reason == pipeline.cancelled == "first"
    with pytest.raises(EngineError, match="first"):
        pipeline.iter()


def test_the_snapshot_of_a_pipeline_that_does_not_run_is_empty():
    assert (Pipeline([1]) >> double).snapshot().state == "idle"
