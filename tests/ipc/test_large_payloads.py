"""The codec with a shelf for what is large: buffers are left out of the pickle, and nobody notices."""

import pickle

import numpy as np
import pytest

from mpengine.ipc.arena import LARGE_BYTES, Block, places
from mpengine.ipc.codec import PickleCodec, pack_apart
from mpengine.ipc.salvage import Broken
from mpengine.ipc.views import Shared


class Unreadable:
    """Pickles, and will not unpickle."""

    def __reduce__(self):
        return Unreadable, (), {"a": 1}

    def __setstate__(self, state):
        raise ValueError("broken setstate")


class Unwritable:
    """Will not pickle."""

    def __reduce__(self):
        raise ValueError("broken reduce")


class Shelf:
    """Keeps what is put there, in this process."""

    def __init__(self, room=10):
        self.room = room
        self.kept = []

    def store(self, parts):
        if len(self.kept) == self.room:
            return None
        self.kept.append([bytes(part) for part in parts])
        return OnShelf(self.kept[-1])


class OnShelf(Shared):
    def __init__(self, parts):
        super().__init__(Block(0, 0, 1, 0, tuple(map(len, parts))), None)
        self.parts = parts

    def look(self):
        end = places(self.block.sizes)[-1]
        memory = bytearray(end)
        for place, part in zip(places(self.block.sizes), self.parts, strict=False):
            memory[place : place + len(part)] = part
        return memoryview(memory)


def shelved(room=10):
    codec = PickleCodec(main_by_value=True)
    codec.shelf = Shelf(room)
    return codec


LARGE = [bytes(range(256)) * 256, bytearray(LARGE_BYTES), {"a": np.arange(LARGE_BYTES, dtype=np.uint8)}]


def test_buffers_of_large_values_are_left_out_of_the_pickle():
    codec = shelved()
    payload = codec.pack([1, *LARGE, "two"])
    ((head, *buffers),) = codec.shelf.kept
    assert len(head) < 1000
    assert sorted(map(len, buffers)) == [LARGE_BYTES] * 3
    first, plain, array, other, last = codec.unpack(payload)
    assert (first, last, type(plain), type(array)) == (1, "two", bytes, bytearray)
    assert (plain, array) == (LARGE[0], LARGE[1])
    assert (other["a"] == LARGE[2]["a"]).all()
    assert codec.weigh(payload) == len(head) + 3 * LARGE_BYTES


def test_small_values_are_bytes_and_small_buffers_are_in_them():
    codec = shelved()
    items = [np.arange(100), bytes(LARGE_BYTES - 1)]
    payload = codec.pack([items[0]])
    assert type(payload) is bytes
    assert (codec.unpack(payload)[0] == items[0]).all()
    codec.pack(items)
    assert [len(parts) for parts in codec.shelf.kept] == [1]  # a large pickle, with all that is in it


@pytest.mark.parametrize("items", [[LARGE[0]], [LARGE[2]], [b"x" * LARGE_BYTES] * 70, [list(range(100_000))]])
def test_what_finds_no_room_is_a_plain_pickle(items):
    codec = shelved(room=0)
    payload = codec.pack(items)
    assert type(payload) is bytes
    assert len(payload) >= LARGE_BYTES
    assert repr(codec.unpack(payload)) == repr(items)


def test_what_pickle_cannot_do_keeps_its_buffers_once():
    codec = shelved()
    items = [np.zeros(LARGE_BYTES, np.uint8), lambda: 5]
    found = codec.unpack(codec.pack(items))
    assert len(codec.shelf.kept[0]) == 2
    assert (found[1](), len(found[0])) == (5, LARGE_BYTES)


def test_one_that_will_not_unpickle_leaves_its_large_mates_alone():
    codec = shelved()
    payload = codec.pack([np.ones(LARGE_BYTES, np.uint8), Unreadable(), np.zeros(LARGE_BYTES, np.uint8)])
    ones, broken, zeros = codec.unpack(payload)
    assert (ones.all(), type(broken), zeros.any()) == (True, Broken, False)


def test_a_buffer_in_no_order_is_pickled_or_told_as_ever():
    class Strided:
        def __reduce_ex__(self, _):
            return bytes, (pickle.PickleBuffer(memoryview(bytes(4 * LARGE_BYTES))[::2]),)

    with pytest.raises((BufferError, pickle.PicklingError)):
        shelved().pack([Strided()])


def test_checking_keeps_nothing():
    codec = shelved()
    codec.check([LARGE[0]])
    good, bad = pack_apart(codec, [LARGE[0], Unwritable()])
    assert (codec.shelf.kept, good, list(bad)) == ([], [LARGE[0]], [1])
