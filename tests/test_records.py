"""Records are dataclasses to everybody but the importer; each test holds one beside the standard library's."""

import copy
import dataclasses
import inspect
import pickle
import sys

import pytest

from mpengine import records


def both(name, annotations, members=None, **options):
    """A record and a dataclass with the same members."""
    made = []
    for kind, field in ((records, records.field), (dataclasses, dataclasses.field)):
        given = {key: field(**value) if isinstance(value, dict) else value for key, value in (members or {}).items()}
        bare = type(name, (), {"__annotations__": annotations, "__module__": __name__, **given})
        made.append(kind.dataclass(**options)(bare))
    return made


@records.dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int = 2
    others: list[int] = records.field(default_factory=list)


@records.dataclass(slots=True)
class Counter:
    start: int
    total: int = records.field(init=False, default=0)

    def __post_init__(self):
        self.total += self.start


CALLS = [
    ((), {}), ((1,), {}), ((1, 3), {}), ((1,), {"y": 3}), ((), {"x": 1}), ((1,), {"x": 1}), ((1, 2, 3, 4), {}),
    ((1,), {"z": 1}), ((1,), {"others": [5]}),
]  # fmt: skip


@pytest.mark.parametrize("times", [1, 10])
@pytest.mark.parametrize(("args", "kwargs"), CALLS)
def test_calls_do_the_same_before_and_after_init_is_compiled(args, kwargs, times):
    mine, standard = both(
        "Made", {"x": "int", "y": "int", "others": "list"}, {"y": 2, "others": {"default_factory": list}}, slots=True
    )
    outcomes = []
    for cls in (mine, standard):
        for _ in range(times):
            try:
                outcome = repr(cls(*args, **kwargs))
            except TypeError as error:
                outcome = str(error).rpartition("__init__")[2]
        outcomes.append(outcome)
    assert outcomes[0] == outcomes[1]


def test_no_instance_shares_what_a_factory_made():
    made = [Point(1) for _ in range(10)]
    assert len({id(point.others) for point in made}) == 10


def test_a_field_that_is_no_argument_gets_its_default_and_post_init_runs():
    assert [Counter(3).total for _ in range(10)] == [3] * 10
    with pytest.raises(TypeError):
        Counter(3, 4)


def test_equality_hash_repr_and_matching_go_by_the_fields():
    mine, standard = both("Pair", {"a": "int", "b": "int"}, frozen=True, slots=True)
    assert mine(1, 2) == mine(1, 2) != mine(1, 3)
    assert mine(1, 2) != standard(1, 2)
    assert hash(mine(1, 2)) == hash(standard(1, 2))
    assert repr(mine(1, 2)) == repr(standard(1, 2))
    assert mine.__match_args__ == standard.__match_args__
    assert mine.__slots__ == standard.__slots__


@pytest.mark.parametrize("options", [{}, {"eq": False}, {"frozen": True}])
def test_what_is_hashable_is_as_in_the_standard_library(options):
    mine, standard = both("One", {"a": "int"}, **options)
    assert (mine.__hash__ is None) == (standard.__hash__ is None)


def test_a_frozen_record_refuses_to_change():
    point = Point(1)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'x'"):
        point.x = 3
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'x'"):
        del point.x
    assert point.x == 1


def test_pickle_copy_and_the_standard_library_take_it_for_a_dataclass():
    point = Point(1, others=[5])
    assert pickle.loads(pickle.dumps(point)) == copy.deepcopy(point) == point
    assert dataclasses.is_dataclass(point)
    assert dataclasses.asdict(point) == {"x": 1, "y": 2, "others": [5]}
    assert dataclasses.replace(point, y=3) == records.replace(point, y=3) == Point(1, 3, [5])
    assert [one.name for one in dataclasses.fields(Point)] == [one.name for one in records.fields(Point)]
    if sys.version_info >= (3, 13):
        assert copy.replace(point, y=3) == Point(1, 3, [5])


def test_signatures_are_those_of_a_dataclass():
    mine, standard = both("Keyed", {"a": "int", "b": "str"}, {"b": {"default": "x", "kw_only": True}})
    assert inspect.signature(mine) == inspect.signature(standard)


def test_a_dataclass_may_build_on_a_record():
    @dataclasses.dataclass(frozen=True)
    class Further(Point):
        z: int = 3

    assert Further(1, z=4).z == 4
    assert inspect.signature(Further).parameters.keys() == {"x", "y", "others", "z"}


def test_default_values_stay_on_a_class_without_slots():
    mine, standard = both("Plain", {"a": "int", "b": "list"}, {"a": 5, "b": {"default_factory": list}})
    assert mine.a == standard.a == 5
    assert not hasattr(mine, "b")
    assert not hasattr(standard, "b")
