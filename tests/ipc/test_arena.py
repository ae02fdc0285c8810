"""The arena: who may use which block when, with writer, reader and coordinator in one process."""

import contextlib
import gc
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from mpengine.ipc import mapping, region
from mpengine.ipc.arena import BLOCKS, LARGE_BYTES, PAGE, Block, decode_block, is_reference, parts_of, places
from mpengine.ipc.controlblock import ControlBlock
from mpengine.ipc.holdings import Arena, Stored
from mpengine.ipc.messages import ProtocolError
from mpengine.ipc.region import Region
from mpengine.records import replace
from mpengine.worker.loans import Loans

LIMIT = 64 * PAGE
SIZE = 4 * PAGE


@pytest.fixture
def block():
    made = ControlBlock.create(2, LIMIT)
    yield made
    made.close()


@pytest.fixture
def arena(block):
    made = Arena(block.fd, block.geometry)
    yield made
    made.close()


@pytest.fixture
def writer(block):
    """Worker 1, as far as the arena goes."""
    return Loans(block.fd, block.geometry, 1)


def memory_of(block):
    """Bytes that the file takes."""
    return os.fstat(block.fd).st_blocks * 512


def content(seed, size=SIZE):
    return bytes([seed % 256]) * size


def test_a_payload_of_several_parts_is_read_as_it_was_written(arena, writer):
    parts = [b"a pickle", content(1, 100_000), content(2, 33)]
    stored = arena.adopt(1, writer.store(parts))
    head, buffers = parts_of(stored.look(), stored.block.sizes)
    assert [bytes(head), *map(bytes, buffers)] == parts
    assert stored.nbytes == sum(map(len, parts))
    assert all(place % 64 == 0 for place in places(stored.block.sizes)[:-1])


def test_a_payload_that_is_no_reference_is_itself(arena, writer):
    for payload in (b"", b"\x80\x05.", memoryview(b"\x80\x05" + bytes(100))):
        assert arena.adopt(1, payload) is payload
        assert writer.accept(payload) is payload


def test_a_reference_survives_the_trip(writer):
    reference = writer.store([b"x", content(1)])
    assert is_reference(reference)
    assert is_reference(memoryview(reference))
    assert decode_block(reference).encode() == reference
    with pytest.raises(ProtocolError):
        decode_block(reference[:-1])


@pytest.mark.parametrize(
    "change",
    [
        {"region": 0}, {"region": 2}, {"region": 77}, {"number": BLOCKS}, {"offset": 2 * LIMIT}, {"offset": 1 << 63},
        {"sizes": (1 << 40,)}, {"sizes": (1 << 63, 1 << 63)}, {"sizes": ()},
    ],
)  # fmt: skip
def test_a_reference_to_what_cannot_be_is_refused(arena, writer, change):
    good = decode_block(writer.store([content(1)]))
    with pytest.raises(ProtocolError):
        arena.adopt(1, replace(good, **change).encode())
    assert isinstance(arena.adopt(1, good.encode()), Stored)


def test_a_block_that_is_in_use_is_not_told_of_again(arena, writer):
    reference = writer.store([content(1)])
    stored = arena.adopt(1, reference)
    with pytest.raises(ProtocolError):
        arena.adopt(1, reference)
    assert stored.nbytes == SIZE


def test_a_freed_block_is_used_again_and_one_that_is_looked_at_is_not(arena, writer, block):
    stored = arena.adopt(1, writer.store([content(1)]))
    first, view = stored.block, stored.look()
    part = view[10:20]
    del view, stored
    kept = decode_block(writer.store([content(2)]))
    assert (kept.number, kept.offset) != (first.number, first.offset)
    assert bytes(part) == content(1, 10)
    del part
    again = decode_block(writer.store([content(3)]))
    assert (again.number, again.offset, again.use) == (first.number, first.offset, first.use + 1)


def test_steady_work_takes_no_more_memory_than_its_first_round(arena, writer, block):
    arena.adopt(1, writer.store([content(0)]))
    taken = memory_of(block)
    for seed in range(300):
        stored = arena.adopt(1, writer.store([content(seed, SIZE - seed)]))
        assert bytes(stored.look()) == content(seed, SIZE - seed)
    assert memory_of(block) <= taken + 2 * SIZE


def test_what_does_not_fit_is_refused_and_fits_once_there_is_room(arena, writer):
    held = []
    while (reference := writer.store([content(len(held))])) is not None:
        held.append(arena.adopt(1, reference))
    assert LIMIT * 3 // 4 <= sum(stored.nbytes for stored in held) <= LIMIT
    assert writer.store([content(1, 2 * LIMIT)]) is None
    assert [bytes(stored.look()[:1])[0] for stored in held] == list(range(len(held)))
    held.clear()
    assert writer.store([content(1, LIMIT // 2)]) is not None  # what was freed makes room for another size


def test_all_writers_share_one_limit(arena, block, writer):
    other = Loans(block.fd, block.geometry, 0)
    held = []
    while (reference := writer.store([content(1)])) is not None:
        held.append(arena.adopt(1, reference))
    assert other.store([content(1)]) is None
    assert arena.store([content(1)]) is None
    del held[: len(held) // 2]
    assert writer.store([content(1)]) is not None  # this takes back what was freed; a part of it goes to the others
    assert other.store([content(1)]) is not None
    assert arena.store([content(1)]) is not None


def test_there_are_only_so_many_blocks(arena, writer, monkeypatch):
    monkeypatch.setattr(region, "BLOCKS", 3)
    held = [arena.adopt(1, writer.store([b"x"])) for _ in range(3)]
    assert writer.store([b"x"]) is None
    held.pop()
    assert writer.store([b"x"]) is not None


def test_memory_that_cannot_be_had_is_no_room(arena, writer, block, monkeypatch):
    def refuse(*_):
        raise OSError(28, "no space")

    writer.store([b"x"])
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert writer.store([content(1)]) is None


def test_what_one_writes_to_a_payload_nobody_else_sees(arena, writer, block):
    stored = arena.adopt(1, writer.store([content(1)]))
    reader = Loans(block.fd, block.geometry, 0)
    view = stored.look()
    view[:5] = b"mine!"
    loan = reader.accept(arena.lend(0, stored))
    other = loan.look()
    other[PAGE] = 9
    assert bytes(other) == content(1, PAGE) + b"\x09" + content(1, SIZE - PAGE - 1)
    assert bytes(view) == b"mine!" + content(1, SIZE - 5)


def test_what_was_written_to_a_payload_is_gone_with_its_last_view(arena, writer):
    first = arena.adopt(1, writer.store([content(1)]))
    view = first.look()
    view[:] = content(7)
    offset = first.block.offset
    del view, first
    second = arena.adopt(1, writer.store([content(2)]))
    assert second.block.offset == offset
    assert bytes(second.look()) == content(2)


def test_where_the_kernel_tells_nothing_of_pages_nothing_stale_is_read(arena, writer, monkeypatch):
    def refuse(path, *_):
        raise FileNotFoundError(path)

    monkeypatch.setattr(mapping.os, "open", refuse)
    for seed in range(5):
        view = arena.adopt(1, writer.store([content(seed)])).look()
        assert bytes(view) == content(seed)
        view[:] = content(99)


def test_a_loan_ends_when_its_last_view_does(arena, writer, block):
    reader = Loans(block.fd, block.geometry, 0)
    stored = arena.adopt(1, writer.store([content(1)]))
    key = (1, stored.block.number)
    loan = reader.accept(arena.lend(0, stored))
    del stored
    view = loan.look()
    del loan
    assert reader.take_ended() == ()
    assert decode_block(writer.store([content(2)])).number != key[1]  # it is still lent
    del view
    assert reader.take_ended() == (key,)
    assert reader.take_ended() == ()
    arena.take_back(0, [key])
    assert decode_block(writer.store([content(3)])).number == key[1]


def test_a_payload_lent_twice_comes_back_twice(arena, writer):
    stored = arena.adopt(1, writer.store([content(1)]))
    key = (1, stored.block.number)
    arena.lend(0, stored)
    arena.lend(0, stored)
    del stored
    arena.take_back(0, [key])
    assert arena.taken(1)
    arena.take_back(0, [key])
    assert not arena.taken(1)
    with pytest.raises(ProtocolError):
        arena.take_back(0, [key])


@pytest.mark.parametrize("blocks", [[(1, 0)], [("x",)], [(0, 0, 0)]])
def test_a_worker_cannot_return_what_it_has_not(arena, writer, blocks):
    with pytest.raises(ProtocolError):
        arena.take_back(0, blocks)


def test_a_dead_worker_keeps_nothing(arena, writer, block):
    reader = arena.adopt(1, writer.store([content(1)]))
    lent = arena.store([content(2)])
    arena.lend(1, lent)
    number = lent.block.number
    writer.store([content(3)])  # and dies before it tells of that
    writer.store([content(4)])
    before = memory_of(block)
    del lent
    arena.bury(1)
    assert memory_of(block) <= before - 2 * SIZE
    assert bytes(reader.look()) == content(1)
    assert arena.store([content(5)]).block.number == number


def test_the_next_process_leaves_alone_what_is_in_use(arena, writer, block):
    held = [arena.adopt(1, writer.store([content(seed)])) for seed in range(5)]
    del held[1], held[2]
    arena.bury(1)
    following = Loans(block.fd, block.geometry, 1)
    following.begin([block.fields() for block in arena.taken(1)])
    mine = []
    while (reference := following.store([content(50 + len(mine))])) is not None:
        mine.append(arena.adopt(1, reference))
    assert [bytes(stored.look()) for stored in held] == [content(0), content(2), content(4)]
    assert [bytes(stored.look()) for stored in mine] == [content(50 + seed) for seed in range(len(mine))]
    before = len(mine)
    held.clear()
    mine.clear()
    while (reference := following.store([content(1)])) is not None:
        mine.append(arena.adopt(1, reference))
    assert len(mine) >= before + 2  # what the first process left is room by now


def test_the_arena_goes_when_nobody_looks_and_what_is_kept_stays(block):
    arena = Arena(block.fd, block.geometry)
    writer = Loans(block.fd, block.geometry, 1)
    kept = [arena.adopt(1, writer.store([content(1)])), arena.store([content(2)])]
    dropped = [arena.adopt(1, writer.store([content(3)])), arena.store([content(4)])]
    view = kept[0].look()
    del dropped
    arena.close()
    arena.close()
    assert memory_of(block) < 3 * SIZE + memory_of_tables(block)
    assert arena.store([content(5)]) is None
    with contextlib.closing(block):
        pass
    second = kept.pop().look()  # for the first time
    kept.clear()
    assert (bytes(view), bytes(second)) == (content(1), content(2))


def memory_of_tables(block):
    return block.geometry.window


def test_what_is_let_go_of_after_the_end_takes_no_memory(block):
    arena = Arena(block.fd, block.geometry)
    held = [arena.store([content(seed)]) for seed in range(4)]
    arena.close()
    before = memory_of(block)
    held.pop(0)
    assert memory_of(block) <= before - SIZE


def test_a_forked_copy_frees_nothing(arena, writer):
    stored = arena.adopt(1, writer.store([content(1)]))
    pid = os.fork()
    if pid == 0:
        del stored
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert decode_block(writer.store([content(2)])).number != stored.block.number
    assert bytes(stored.look()) == content(1)


def test_a_cycle_of_everything_is_collected_in_any_order(block):
    arena = Arena(block.fd, block.geometry)
    stored = arena.store([content(1)])
    cycle = [arena, stored, stored.look()]
    cycle.append(cycle)
    arena.cycle = cycle
    del arena, stored, cycle
    gc.collect()


def is_copy(view):
    return type(view.obj) is bytearray


def test_where_much_is_looked_at_the_rest_is_copied_and_its_block_is_free_at_once(arena):
    views = []
    while not (views and is_copy(views[-1])):
        views.append(arena.store([content(len(views))]).look())
    assert LIMIT // 4 < sum(view.nbytes for view in views[:-1]) <= LIMIT // 4 + SIZE
    assert [bytes(view) for view in views] == [content(seed) for seed in range(len(views))]
    assert len(arena.taken(2)) == len(views) - 1
    views.clear()
    assert not is_copy(arena.store([content(1)]).look())


def test_who_looks_second_gets_a_copy_of_what_was_sent(arena):
    stored = arena.store([content(1)])
    first = stored.look()
    first[:] = content(2)
    second = stored.look()
    second[0] = 3
    assert bytes(first) == content(2)
    assert bytes(second) == b"\x03" + content(1, SIZE - 1)
    del first
    assert bytes(stored.look()) == content(1)


def test_there_is_no_arena_without_a_limit():
    block = ControlBlock.create(1)
    arena, writer = Arena(block.fd, block.geometry), Loans(block.fd, block.geometry, 0)
    assert (arena.store([b"x"]), writer.store([b"x"])) == (None, None)
    with pytest.raises(ProtocolError):
        arena.adopt(0, Block(0, 0, 1, 0, (4,)).encode())
    block.close()


def test_there_is_none_where_memory_cannot_be_mapped(arena, writer, monkeypatch):
    def refuse(*_, **__):
        raise OSError(12, "no memory")

    monkeypatch.setattr(mapping.Mapping, "__init__", refuse)
    assert (arena.store([b"x"]), writer.store([b"x"])) == (None, None)


def test_who_cannot_map_the_arena_reads_it(arena, writer, block, monkeypatch):
    stored = arena.adopt(1, writer.store([b"head", content(1)]))

    def refuse(*_, **__):
        raise OSError(12, "no memory")

    monkeypatch.setattr(mapping.Mapping, "__init__", refuse)
    view = stored.look()
    head, (body,) = parts_of(view, stored.block.sizes)
    assert (bytes(head), bytes(body), view.readonly) == (b"head", content(1), False)


def test_what_cannot_be_had_any_more_is_an_error_and_nobody_elses_file(block, monkeypatch):
    arena = Arena(block.fd, block.geometry)
    stored = arena.store([content(1)])

    def refuse(*_, **__):
        raise OSError(12, "no memory")

    monkeypatch.setattr(mapping.Mapping, "__init__", refuse)
    arena.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        stored.look()


def test_of_several_threads_that_look_at_once_one_gets_the_view(arena):
    for seed in range(20):
        stored = arena.store([content(seed)])
        with ThreadPoolExecutor(4) as pool:
            views = list(pool.map(lambda _, stored=stored: stored.look(), range(4)))
        assert sum(not is_copy(view) for view in views) == 1
        assert all(bytes(view) == content(seed) for view in views)


def test_a_region_is_written_from_any_buffer(arena):
    for part in (b"bytes", bytearray(b"array"), memoryview(b"readonly"), memoryview(bytearray(b"writable"))):
        stored = arena.store([part])
        assert bytes(stored.look()) == bytes(part)
    assert isinstance(arena._own, Region)
    assert LARGE_BYTES % PAGE == 0
