"""Items of a batch that is made of several payloads."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpengine.backends.parcels import take_apart
from mpengine.errors import StageError
from mpengine.ipc.assembly import put_together
from mpengine.ipc.codec import PickleCodec, PlainCodec
from mpengine.ipc.salvage import Broken, Salvaged
from mpengine.scheduler.payloads import Spliced, Zipped

PLAIN = PlainCodec()


def assembled(payload, codec=PLAIN):
    return put_together(codec, *take_apart(payload))


def test_one_payload_is_its_items():
    assert assembled([1, 2, 3]) == [1, 2, 3]


@given(st.lists(st.tuples(st.lists(st.integers(), max_size=8), st.integers(0, 8), st.integers(0, 8)), min_size=1))
def test_windows_of_payloads_come_behind_one_another(parts):
    expected = [item for items, lo, hi in parts for item in items[lo:hi]]
    assert assembled(Spliced(tuple(parts))) == expected


def test_branches_stand_side_by_side():
    branches = (
        (([10, 11], None), ([12], None)),
        (([0, 20, 0, 21], (1, 3)), ([22, 0], (0,))),
    )
    assert assembled(Zipped(branches)) == [[10, 20], [11, 21], [12, 22]]


def test_picks_travel_as_bytes():
    _, (kind, layout) = take_apart(Zipped(((([1, 2], [1]),),)))
    assert kind == "zip"
    assert array("I", layout[0][0][1]).tolist() == [1]


def test_what_could_not_be_unpickled_stays_told_from_its_mates():
    broken = Broken(ValueError("no"))
    salvaged = Salvaged([1, broken, 3])
    items = assembled(Spliced((([0], 0, 1), (salvaged, 0, 3))))
    assert isinstance(items, Salvaged)
    assert items == [0, 1, broken, 3]


def test_an_item_of_which_one_branch_could_not_be_unpickled_is_broken():
    broken = Broken(ValueError("no"))
    items = assembled(Zipped((((Salvaged([broken, 1]), None),), (([2, 3], None),))))
    assert isinstance(items, Salvaged)
    assert items == [broken, [1, 3]]


def test_branches_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="zip"):
        assembled(Zipped(((([1, 2], None),), (([1], None),))))


def test_pickled_payloads_are_put_together_and_garbage_is_told():
    codec = PickleCodec(main_by_value=False)
    parts = ((codec.pack([1, 2, 3]), 1, 3), (codec.pack(["a"]), 0, 1))
    assert assembled(Spliced(parts), codec) == [2, 3, "a"]
    with pytest.raises((StageError, Exception)):
        assembled(Spliced(((b"garbage", 0, 1),)), codec)
