"""Messages: what is sent arrives as it was, and what is no message is a ProtocolError and nothing else."""

import marshal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpengine.ipc import messages
from mpengine.ipc.messages import ProtocolError, decode, encode, frame_size

EXAMPLES = [
    messages.BeginRun(3, True, ((0, 1, 2, 3, (4,)),), [b"chain 0", b"", b"chain 2"]),
    messages.BeginRun(3, False, (), []),
    messages.RunBatch(1, 2, 3, 4, 5, True, 7, 8, (0, 0), (), [b"x" * 1000]),
    messages.ResumeBatch(2**40, 16, 1024),
    messages.EndRun(3),
    messages.Pill(),
    messages.Hello(4_000_000),
    messages.Returned(
        1, "more", 2, 3, ((2, 0, None), (1, 5, b"\5\0\0\0")), ((1, 0, "E: \udcff", b"p", "r", "t", 1, False),),
        ((1, 0, 0, 0, 0.5),), None, (0.5, 0.75, ((((3, 1),), ((0, 0.25),)),)), [b"a", memoryview(b"bc")],
    ),
    messages.Returned(1, "done", 0, 0, (), (), (), "why", (), []),
    messages.Broken(0, 1, "summary", "traceback", None),
    messages.Broken(0, 1, "summary", "traceback", b"pickled"),
    messages.RunEnded(3, ("a", "b")),
    messages.Goodbye(12),
    messages.Released(((0, 3), (2, 503))),
    messages.SetLevels(10, (("", 30), ("a.b", 10))),
    messages.Logged(
        "a.b", 20, "INFO", "text \udcff", "Traceback", None, "/a/b.py", 3, "f", 1.5, 7, "MainThread", 99, "worker",
        "parse", (("order", 5), ("who", "me"), ("share", 0.5), ("good", True), ("none", None)),
    ),
    messages.Logged("", 0, "", "", None, "stack", "", 0, None, 0.0, 0, "", 0, "", None, ()),
]  # fmt: skip


def joined(message):
    return b"".join(map(bytes, encode(message)))


def comparable(message):
    fields = {name: getattr(message, name) for name in message.__slots__}
    fields["payloads"] = [bytes(payload) for payload in fields.get("payloads", ())]
    return type(message), fields


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_every_message_arrives_as_it_was(message):
    frame = joined(message)
    assert frame_size(frame) == len(frame)
    assert comparable(decode(frame)) == comparable(message)


def test_every_kind_has_an_example():
    assert {type(message) for message in EXAMPLES} == set(messages.KINDS)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_the_size_is_told_as_soon_as_the_head_is_there_and_never_wrong(message):
    frame = joined(message)
    sizes = [frame_size(frame[:cut]) for cut in range(len(frame) + 1)]
    known = [size for size in sizes if size is not None]
    assert set(known) == {len(frame)}
    assert sizes[: messages.HEADER.size] == [None] * messages.HEADER.size


def parses(content):
    try:
        size = frame_size(content)
        if size is not None and size <= len(content):
            decode(content[:size])
    except ProtocolError:
        return False
    return True


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(content):
    assert parses(content) is (len(content) < messages.HEADER.size)


@given(st.sampled_from(EXAMPLES), st.data())
def test_a_message_with_a_wrong_byte_is_refused_or_still_a_message(message, data):
    frame = bytearray(joined(message))
    place = data.draw(st.integers(0, len(frame) - 1))
    frame[place] = data.draw(st.integers(0, 255))
    parses(bytes(frame))


@given(st.integers(0, 255), st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=64))
def test_a_head_with_wild_sizes_is_refused_or_incomplete(kind, count, meta_bytes, rest):
    parses(messages.HEADER.pack(messages.MAGIC, kind, count, meta_bytes) + rest)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple),
    max_leaves=8,
)


@given(st.integers(0, len(messages.KINDS) - 1), PLAIN)
def test_fields_of_the_wrong_type_are_refused(kind, fields):
    meta = marshal.dumps(fields)
    frame = messages.HEADER.pack(messages.MAGIC, kind, 0, len(meta)) + meta
    try:
        message = decode(frame)
    except ProtocolError:
        return
    assert isinstance(fields, tuple)
    assert type(message) is messages.KINDS[kind]


@pytest.mark.parametrize("meta", [b"", b"(", b")\1", b"\xff\xff", b"[\5\0\0\0", b"s\xff\xff\xff\x7f"])
def test_fields_that_marshal_refuses_are_refused(meta):
    frame = messages.HEADER.pack(messages.MAGIC, 0, 0, len(meta)) + meta
    with pytest.raises(ProtocolError):
        decode(frame)


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, 2**50])
def test_a_payload_that_no_memory_holds_is_refused_before_room_is_made_for_it(size):
    """A worker whose outbox user code has written to dies of it; the run must not."""
    head = messages.HEADER.pack(messages.MAGIC, 7, 1, 0) + messages.SIZE.pack(size)
    with pytest.raises(ProtocolError):
        frame_size(head)


def test_a_wrong_magic_is_refused_at_once():
    with pytest.raises(ProtocolError, match="cannot begin with"):
        frame_size(b"mpe2" + bytes(messages.HEADER.size))


@pytest.mark.parametrize("extra", [(1,), ("ab",), (("a",),), ((1, 2),), (("a", (1,)),), (("a", b"1"),), (["a", 1],)])
def test_extra_fields_of_a_record_are_pairs_of_a_name_and_a_plain_value(extra):
    with pytest.raises(ProtocolError):
        messages.Logged("", 0, "", "", None, None, "", 0, None, 0.0, 0, "", 0, "", None, extra)

    whole = messages.Logged("", 0, "", "", None, None, "", 0, None, 0.0, 0, "", 0, "", None, ())
    object.__setattr__(whole, "extra", extra)
    with pytest.raises(ProtocolError):
        decode(joined(whole))
