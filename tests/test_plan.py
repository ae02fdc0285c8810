"""From a pipeline to a plan: what fuses, what does not, and what is refused before anything is started."""

from __future__ import annotations

import pytest

from mpengine.errors import PipelineError
from mpengine.plan import make_plan
from mpengine.policies import ErrorPolicy, Retry
from mpengine.stages import Stage


def plain(item):
    return item


def many(item):
    yield item


async def waits(item):
    return item


def plan_of(*stages):
    return make_plan(stages, default_buffer=7, default_policy=ErrorPolicy.RAISE)


def names(plan):
    return [[stage.name for stage in chain.stages] for chain in plan.chains]


def named(name, fn=plain, **options):
    return Stage(fn, name=name, **options)


def test_stages_that_ask_for_nothing_fuse():
    assert names(plan_of(named("a"), named("b"), named("c"))) == [["a", "b", "c"]]


@pytest.mark.parametrize("options", [{"workers": 1}, {"buffer": 3}])
def test_a_stage_that_asks_for_something_of_its_own_begins_a_chain(options):
    assert names(plan_of(named("a"), named("b", **options)))[:2] == [["a"], ["b"]]


def test_nothing_fuses_onto_a_stage_with_workers_of_its_own():
    assert names(plan_of(named("a", workers=2), named("b"), named("c"))) == [["a"], ["b", "c"]]


def test_a_buffer_stands_before_a_stage_and_does_not_keep_the_next_one_from_fusing():
    assert names(plan_of(named("a", buffer=2), named("b"))) == [["a", "b"]]


def test_a_generator_ends_a_chain_and_never_stands_inside_one():
    plan = plan_of(named("a"), named("b", many), named("c"), named("d", many), named("e"))

    assert names(plan) == [["a", "b"], ["c", "d"], ["e"]]
    assert [chain.fans_out for chain in plan.chains] == [True, True, False]
    assert plan.fans_out


def test_what_has_retries_policies_or_a_set_up_fuses_like_any_other():
    stages = (named("a", retries=3), named("b", on_error="drop"), named("c", setup=plain, teardown=plain))

    assert names(plan_of(*stages)) == [["a", "b", "c"]]


def test_chains_know_their_number_their_first_stage_their_workers_and_their_buffer():
    plan = plan_of(named("a"), named("b"), named("c", workers=3), named("d", buffer=2))

    assert [(chain.index, chain.first_stage, chain.workers, chain.buffer) for chain in plan.chains] == [
        (0, 0, None, 7),
        (1, 2, 3, 7),
        (2, 3, None, 2),
    ]


def test_each_stage_has_its_policy_or_the_default():
    (chain,) = plan_of(named("a"), named("b", on_error="drop")).chains

    assert chain.policies == (ErrorPolicy.RAISE, ErrorPolicy.DROP)


def test_the_stages_of_a_plan_are_those_of_the_pipeline_in_order():
    stages = (named("a"), named("b", many), named("c", workers=1))

    assert plan_of(*stages).stages == stages


def test_a_pipeline_without_stages_cannot_run():
    with pytest.raises(PipelineError, match="at least one stage"):
        plan_of()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kind": "thread"}, "kind='thread'"),
        ({"kind": "async"}, "kind='async'"),
        ({"timeout": 1.5}, "timeout="),
        ({"batch": 4}, "batch="),
        ({"concurrency": 4}, "concurrency="),
        ({"idempotent": False}, "idempotent=False"),
        ({"retries": Retry(2, backoff_s=0.1)}, r"Retry\(backoff_s=...\)"),
        ({"on_error": "emit"}, "on_error='emit'"),
        ({"on_error": "side"}, "on_error='side'"),
    ],
)
def test_what_this_version_cannot_run_is_refused_by_stage_and_option(options, told):
    with pytest.raises(PipelineError, match=f"stage 'b': {told} cannot run in this version"):
        plan_of(named("a"), named("b", **options))


def test_an_async_function_is_refused():
    with pytest.raises(PipelineError, match="stage 'waits': an async def function cannot run"):
        plan_of(Stage(waits))


def test_everything_that_cannot_run_is_told_at_once():
    with pytest.raises(PipelineError, match=r"timeout=, batch=, on_error='emit' cannot run"):
        plan_of(named("a", timeout=1, batch=2, on_error="emit"))


def test_a_default_policy_that_cannot_run_is_refused_too():
    with pytest.raises(PipelineError, match="on_error='emit'"):
        make_plan([named("a")], default_buffer=1, default_policy=ErrorPolicy.EMIT)
