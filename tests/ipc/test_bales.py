"""Large payloads as one value that an object store may keep out of band."""

import pickle

import numpy as np
import pytest

from mpengine.ipc.bales import Bale, BaleCodec

LARGE = 100_000


@pytest.fixture
def codec():
    return BaleCodec(main_by_value=False)


def through_a_store(bale):
    """Return a bale as a store hands it out: its buffers left out of the pickle, and not to be written to."""
    buffers = []
    pickled = pickle.dumps(bale, protocol=5, buffer_callback=buffers.append)
    assert len(pickled) < 1000
    return pickle.loads(pickled, buffers=[bytes(buffer.raw()) for buffer in buffers])


def test_what_is_small_is_bytes(codec):
    assert codec.unpack(codec.pack([1, "two"])) == [1, "two"]
    assert type(codec.pack([1, "two"])) is bytes


def test_all_that_is_large_leaves_the_pickle(codec):
    bale = codec.pack([np.arange(LARGE), b"x" * LARGE, "y" * LARGE])

    assert type(bale) is Bale
    assert codec.weigh(bale) > 10 * LARGE
    array, content, text = codec.unpack(through_a_store(bale))
    assert (array == np.arange(LARGE)).all()
    assert (content, text) == (b"x" * LARGE, "y" * LARGE)


def test_an_array_may_be_written_to_where_it_could_be_before_and_only_there(codec):
    fixed = np.arange(LARGE)
    fixed.flags.writeable = False
    changed, kept = codec.unpack(through_a_store(codec.pack([np.arange(LARGE), fixed])))

    changed[0] = 5
    assert changed[0] == 5
    assert not kept.flags.writeable
