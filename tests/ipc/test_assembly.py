"""Items put together from several payloads, by a layout of plain numbers that travels with them."""

import pickle
from array import array

import pytest

from mpengine.backends.parcels import take_apart
from mpengine.errors import StageError
from mpengine.ipc.assembly import put_together
from mpengine.ipc.codec import PickleCodec, PlainCodec
from mpengine.ipc.salvage import Broken, Salvaged
from mpengine.scheduler.payloads import Spliced, Zipped

CODECS = [PickleCodec(main_by_value=False), PlainCodec()]


class Refuses:
    def __reduce__(self):
        return refuse, ()


def refuse():
    raise RuntimeError("will not be unpickled")


@pytest.fixture(params=CODECS, ids=["pickled", "plain"])
def codec(request):
    return request.param


def picks(*places):
    return array("I", places).tobytes()


def test_without_a_layout_the_one_payload_is_all(codec):
    assert put_together(codec, [codec.pack([1, 2])], ()) == [1, 2]


def test_windows_of_payloads_come_behind_one_another(codec):
    payloads = [codec.pack([1, 2, 3]), codec.pack([4, 5])]
    assert put_together(codec, payloads, ("splice", ((0, 1, 3), (1, 0, 1), (0, 0, 1)))) == [2, 3, 4, 1]


def test_branches_come_side_by_side_as_a_new_list_for_each_item(codec):
    payloads = [codec.pack([1, 2]), codec.pack([3]), codec.pack(["a", "b", "c", "d"])]
    layout = ("zip", (((0, None), (1, None)), ((2, picks(0, 2, 3)),)))
    assert put_together(codec, payloads, layout) == [[1, "a"], [2, "c"], [3, "d"]]


def test_lists_and_pickles_may_stand_side_by_side():
    """Where one branch is a thread of this process, and another one is not."""
    codec = CODECS[0]
    layout = ("zip", (((0, None),), ((1, None),)))
    assert put_together(codec, [[1, 2], codec.pack([3, 4])], layout) == [[1, 3], [2, 4]]


def test_branches_of_different_lengths_are_refused(codec):
    with pytest.raises(ValueError, match="zip"):
        put_together(codec, [codec.pack([1]), codec.pack([1, 2])], ("zip", (((0, None),), ((1, None),))))


@pytest.mark.parametrize("layout", [("splice", ((0, 0, 3), (1, 0, 1))), ("zip", (((0, None),), ((1, None),)))])
def test_what_will_not_unpickle_spoils_its_own_item_alone(layout):
    codec = CODECS[0]
    payloads = [codec.pack([1, Refuses(), 3]), codec.pack(["a", "b", "c"])]
    items = put_together(codec, payloads, layout)
    assert isinstance(items, Salvaged)
    assert [type(item) is Broken for item in items[:3]] == [False, True, False]
    assert items[0] in (1, [1, "a"])


def test_a_payload_that_nothing_can_be_made_out_of_is_an_error():
    with pytest.raises(StageError):
        put_together(CODECS[0], [b"nonsense", CODECS[0].pack([1])], ("splice", ((0, 0, 1), (1, 0, 1))))


@pytest.mark.parametrize(
    ("payload", "wanted"),
    [
        ([1, 2, 3], [1, 2, 3]),
        (Spliced((([1, 2, 3], 1, 3), ([4], 0, 1))), [2, 3, 4]),
        (Zipped(((([1, 2], None), ([3], None)), (([4, 5, 6, 7], [0, 2, 3]),))), [[1, 4], [2, 6], [3, 7]]),
    ],
    ids=["plain", "spliced", "zipped"],
)
def test_what_is_taken_apart_is_put_together_the_same(payload, wanted):
    payloads, layout = take_apart(payload)
    assert put_together(CODECS[1], payloads, pickle.loads(pickle.dumps(layout))) == wanted
