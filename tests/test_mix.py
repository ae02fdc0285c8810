"""What a mix is, before anything runs: a frozen description that refuses what cannot be put together again."""

import pickle

import pytest

from mpengine import SKIP, Pipeline, PipelineError, Stage, mix, stage
from mpengine.mixes import Mix
from mpengine.plan import make_plan
from mpengine.policies import ErrorPolicy


def double(x):
    return 2 * x


def triple(x):
    return 3 * x


def empty():
    return []


def many(x):
    yield x


async def later_many(x):
    yield x


def names(mixed):
    return [branch.name for branch in mixed.branches], mixed.merge.name


def test_functions_become_stages_and_stages_stay():
    own = stage(triple, name="own", workers=2)
    mixed = mix(double, own, merge=sum, retries=3)
    assert names(mixed) == (["double", "own"], "sum")
    assert mixed.branches[0].retry.attempts == 3
    assert mixed.branches[1] is own


def test_a_mix_without_merge_is_named_for_its_functions():
    assert names(mix(double, triple)) == (["double", "triple"], "mix(double, triple)")
    assert mix(double, triple, name="both").name == "both"


def test_every_form_of_the_decorator_calls_the_function_for_the_list():
    def build():
        return [double, stage(triple, name="t")]

    assert names(mix(build)) == names(mix()(build)) == (["double", "t"], "build")
    assert names(mix(merge=sum)(build)) == (["double", "t"], "build")
    assert names(mix(merge=stage(sum, name="total"))(build)) == (["double", "t"], "total")
    assert mix(timeout=2.0)(build).branches[0].timeout == 2.0


def test_policies_given_to_a_mix_hold_for_its_merge_too():
    mixed = mix(double, triple, merge=sum, on_error="side", error_handler=print)
    assert {member.policy for member in (*mixed.branches, mixed.merge)} == {ErrorPolicy.SIDE}
    assert mixed.merge.error_handler is print


def test_a_mix_is_called_like_a_function():
    assert mix(double, triple)(2) == [4, 6]
    assert mix(double, triple, merge=sum)(2) == 10
    assert mix(double, lambda x: SKIP, merge=sum)(2) is SKIP
    assert mix(double, lambda x, state: state.get("missing", x))(2) == [4, 2]


def test_a_mix_pickles_and_is_never_changed():
    mixed = mix(double, triple, merge=sum)
    copy = pickle.loads(pickle.dumps(mixed))
    assert isinstance(copy, Mix)
    assert (copy(5), names(copy)) == (25, names(mixed))
    with pytest.raises(AttributeError):
        mixed.merge = None


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: mix(empty), "at least one function"),
        (lambda: mix(merge=sum)(empty), "at least one function"),
        (lambda: mix(double, many), "'many' is a generator"),
        (lambda: mix(double, later_many), "'later_many' is a generator"),
        (lambda: mix(double, merge=many), "merge='many' is a generator"),
        (lambda: mix(double, mix(triple)), "Mix(triple, merge=mix(triple)) is a mix already"),
        (lambda: mix(double, merge=mix(triple)), "Mix(triple, merge=mix(triple))"),
        (lambda: mix(double, 3), "not 3"),
        (lambda: mix(double, merge=3), "not 3"),
        (lambda: mix(double, colour=3), "colour"),
        (lambda: mix(double, batch=0), "'double': batch must be"),
        (lambda: mix()(lambda: double), "must return a list of functions"),
        (lambda: mix(merge=sum)(lambda: "ab"), "must return a list of functions"),
        (lambda: mix(merge=sum)(3), "not 3"),
        (lambda: mix(merge=sum)(double), "without arguments"),
        (lambda: Pipeline([1]).stage(mix(double), workers=2), "Mix(double, merge=mix(double)) has its options"),
        (lambda: Pipeline(mix(double)), "a source must be"),
    ],
)
def test_what_cannot_be_a_mix_is_refused_by_name(make, told):
    with pytest.raises(PipelineError) as caught:
        make()
    assert told in str(caught.value)


def test_the_plan_gives_each_branch_and_the_merge_a_chain():
    plan = make_plan(
        [stage(double), mix(double, triple, merge=sum), stage(double)], default_buffer=8,
        default_policy=ErrorPolicy.RAISE,
    )  # fmt: skip
    assert [[member.name for member in chain.stages] for chain in plan.chains] == [
        ["double"], ["double"], ["triple"], ["sum", "double"],
    ]  # fmt: skip
    assert [chain.following for chain in plan.chains] == [(1, 2), (3,), (3,), ()]
    assert [chain.joined_by for chain in plan.chains] == [None, 3, 3, None]
    assert plan.chains[3].joins == (1, 2)
    assert plan.entrance == (0,)
    assert plan.upstream == ((), (0,), (0,), (1, 2), (3,))


def test_a_mix_at_the_front_is_entered_by_all_its_branches():
    plan = make_plan([mix(double, triple)], default_buffer=8, default_policy=ErrorPolicy.RAISE)
    assert plan.entrance == (0, 1)
    assert plan.upstream == ((), (), (0, 1))


def test_a_branch_that_cannot_run_is_refused_by_name():
    with pytest.raises(PipelineError, match="'double': on_error='side' needs an error_handler"):
        make_plan([mix(Stage(double, on_error="side"))], default_buffer=8, default_policy=ErrorPolicy.RAISE)
