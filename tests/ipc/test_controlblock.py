"""The control block: a record is read whole or not at all, and a dead worker's half record is noticed."""

import os

import pytest

from mpengine.ipc import controlblock
from mpengine.ipc.controlblock import CANCEL_OFFSET, HEADER_BYTES, SLOT_BYTES, ControlBlock


@pytest.fixture
def block():
    made = ControlBlock.create(3)
    yield made
    made.close()


@pytest.fixture
def slot(block):
    made = block.slot(1)
    yield made
    made.release()


def test_a_fresh_slot_names_nothing(slot):
    record = slot.read()
    assert (record.batch_id, record.position, record.items, record.batches) == (None, None, 0, 0)


def test_a_slot_names_batch_item_and_stage(slot):
    slot.begin_batch(7)
    assert (slot.read().batch_id, slot.read().position) == (7, None)
    slot.begin_item(5, 0)
    slot.begin_stage(2)
    record = slot.read()
    assert (record.batch_id, record.position, record.stage) == (7, 5, 2)
    assert record.began_at == record.heartbeat_at > 0
    slot.begin_batch(8)
    assert (slot.read().batch_id, slot.read().position) == (8, None)
    slot.end_batch(40)
    record = slot.read()
    assert (record.batch_id, record.position, record.batches, record.items) == (None, None, 1, 40)


@pytest.mark.parametrize("step", ["begin_batch", "begin_item", "end_batch"])
def test_a_record_half_written_is_noticed(block, slot, step, monkeypatch):
    """The writer dies in the middle of a record, at each word of it; the reader believes none of it, or all."""
    arguments = {"begin_batch": (9,), "begin_item": (3, 1), "end_batch": (5,)}[step]
    slot.begin_batch(1)
    slot.begin_item(0, 0)
    before = slot.read()
    words = slot._words
    for writes in range(12):
        dying = block.slot(1)
        dying._words = DyingWords(words, writes)
        try:
            getattr(dying, step)(*arguments)
        except Dead:
            record = slot.read()
            assert record is None or (writes == 0 and record == before)
        else:
            assert slot.read() is not None
            break
        finally:
            words[:] = memoryview(bytes(SLOT_BYTES)).cast("Q")
            slot.begin_batch(1)
            slot.begin_item(0, 0)
            before = slot.read()
    assert writes > 4


class Dead(BaseException):
    pass


class DyingWords:
    """Words that let only so many writes through."""

    def __init__(self, words, writes):
        self._words = words
        self._left = writes

    def __getitem__(self, place):
        return self._words[place]

    def __setitem__(self, place, value):
        if self._left == 0:
            raise Dead
        self._left -= 1
        self._words[place] = value


def test_a_record_that_changes_while_it_is_read_is_read_again(slot):
    class Changing:
        """A writer that is at work during the first two reads."""

        def __init__(self, words):
            self._words = words
            self.reads = 0

        def __getitem__(self, place):
            found = self._words[place]
            if isinstance(place, slice):
                self.reads += 1
                if self.reads < 3:
                    self._words[controlblock.SEQ] += 2
            return found

        def release(self):
            self._words.release()

    slot.begin_batch(4)
    slot._words = changing = Changing(slot._words)
    assert slot.read().batch_id == 4
    assert changing.reads == 3
    changing.reads = -1000
    assert slot.read() is None


def test_a_cleared_slot_is_as_new(slot):
    slot.begin_batch(3)
    slot._words[controlblock.SEQ] += 1  # died in the middle of a record
    assert slot.read() is None
    slot.clear()
    assert slot.read().batch_id is None


def test_slots_and_flag_share_no_byte(block):
    slots = [block.slot(number) for number in range(3)]
    block.buffer[CANCEL_OFFSET] = 1
    for number, slot in enumerate(slots):
        slot.begin_batch(100 + number)
    assert [slot.read().batch_id for slot in slots] == [100, 101, 102]
    assert block.buffer[CANCEL_OFFSET] == 1
    assert CANCEL_OFFSET < HEADER_BYTES
    for slot in slots:
        slot.release()


def test_another_mapping_of_the_file_sees_the_same(block, slot):
    other = ControlBlock(os.dup(block.fd), 3)
    seen = other.slot(1)
    slot.begin_batch(11)
    assert seen.read().batch_id == 11
    seen.release()
    other.close()
    other.close()
