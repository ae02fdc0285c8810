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


async def many_later(item):
    yield item


def named(name, fn=plain, **options):
    return Stage(fn, name=name, **options)


def plan_of(*stages):
    return make_plan(stages, default_buffer=7, default_policy=ErrorPolicy.RAISE)


def names(plan):
    return [[stage.name for stage in chain.stages] for chain in plan.chains]


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
    ("member", "told"),
    [
        (named("b", many, batch=2), "batch= is for functions that return, not for generators"),
        (named("b", waits, batch=2), "batch= is not for an async def; concurrency= runs several items at once"),
        (named("b", many_later, batch=2), "batch= is for functions that return"),
        (named("b", concurrency=2), "concurrency= is for an async def"),
        (named("b", singly=True, batch=3), "singly= is not for a stage that takes several items at once"),
        (named("b", retries=1, idempotent=False), "retries= would run an item twice, which idempotent=False forbids"),
        (named("b", retries=Retry(2, backoff_s=1), idempotent=False), "retries= would run an item twice"),
        (named("b", kind="async"), "kind='async' is for an async def; kind='thread' runs other functions"),
        (named("b", on_error="side"), "on_error='side' needs an error_handler"),
        (named("b", error_handler=print), "error_handler is never called under on_error='raise'; use 'side'"),
        (named("b", on_error="drop", error_handler=print), "error_handler is never called under on_error='drop'"),
    ],
)
def test_options_that_contradict_each_other_are_refused_by_stage(member, told):
    with pytest.raises(PipelineError, match=f"stage 'b': .*{told}"):
        plan_of(named("a"), member)


def test_a_default_policy_needs_its_handlers_too():
    with pytest.raises(PipelineError, match="stage 'a': on_error='side' needs an error_handler"):
        make_plan([named("a")], default_buffer=1, default_policy=ErrorPolicy.SIDE)
    plan = make_plan([named("a", error_handler=print)], default_buffer=1, default_policy=ErrorPolicy.SIDE)
    assert plan.policies == (ErrorPolicy.SIDE,)


@pytest.mark.parametrize("member", [named("b", batch=4), named("b", waits), named("b", waits, concurrency=4)])
def test_what_takes_several_items_at_once_has_a_chain_to_itself(member):
    plan = plan_of(named("a"), member, named("c"))

    assert names(plan) == [["a"], ["b"], ["c"]]
    assert [chain.unit for chain in plan.chains] == [1, member.batch or member.concurrency, 1]


def test_an_async_generator_has_a_chain_to_itself_and_fans_out():
    plan = plan_of(named("a"), named("b", many_later), named("c"))

    assert names(plan) == [["a"], ["b"], ["c"]]
    assert [chain.fans_out for chain in plan.chains] == [False, True, False]


def test_the_buffer_before_a_stage_holds_at_least_what_it_takes_at_once():
    assert [chain.buffer for chain in plan_of(named("a", batch=32), named("b", batch=4, buffer=2)).chains] == [32, 4]


def test_timeouts_back_offs_and_what_must_not_run_twice_fuse_like_any_other():
    stages = (
        named("a", timeout=1.5), named("b", retries=Retry(2, backoff_s=1)), named("c", idempotent=False),
        named("d", on_error="emit"),
    )  # fmt: skip
    (chain,) = plan_of(*stages).chains

    assert (chain.once_from, chain.unit) == (2, 1)
    assert chain.policies[3] is ErrorPolicy.EMIT
