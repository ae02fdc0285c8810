"""Descriptors on their way from one process to another."""

import contextlib
import os
from pathlib import Path

import pytest

from mpengine.worker import passing


@pytest.fixture
def pair():
    """Both ends of a new pair."""
    ends = passing.make_pair()
    yield ends
    for end in ends:
        end.close()


def test_descriptors_arrive_with_their_message_and_are_not_inherited(pair):
    ours, theirs = pair
    reader, writer = os.pipe()
    passing.send_fds(ours, b"take these", [reader, writer])
    content, (reader_there, writer_there) = passing.recv_fds(theirs, 100, 6)
    os.write(writer_there, b"x")
    assert (content, os.read(reader, 1)) == (b"take these", b"x")
    assert not os.get_inheritable(reader_there)
    assert not os.get_inheritable(writer_there)
    assert not any(os.get_inheritable(end.fileno()) for end in pair)
    for fd in (reader, writer, reader_there, writer_there):
        os.close(fd)


def test_no_more_descriptors_are_taken_than_there_is_room_for(pair):
    ours, theirs = pair
    reader, writer = os.pipe()
    before = set(Path("/proc/self/fd").iterdir())
    passing.send_fds(ours, b"three", [reader, writer, writer])
    content, fds = passing.recv_fds(theirs, 100, 1)
    assert content == b"three"
    assert len(fds) <= 2  # the kernel rounds up
    assert len(set(Path("/proc/self/fd").iterdir()) - before) == len(fds)
    for fd in (reader, writer, *fds):
        os.close(fd)


def test_messages_stay_whole_and_the_end_is_an_empty_one(pair):
    ours, theirs = pair
    ours.sendall(b"one")
    ours.sendall(b"two")
    assert passing.recv_fds(theirs, 100, 1) == (b"one", [])
    assert passing.recv_fds(theirs, 100, 1) == (b"two", [])
    ours.close()
    assert passing.recv_fds(theirs, 100, 1) == (b"", [])


def test_a_descriptor_that_was_given_is_adopted_with_its_kind(pair):
    ours, theirs = pair
    with contextlib.closing(passing.adopt(theirs.detach())) as adopted:
        ours.sendall(b"whole")
        assert adopted.recv(100) == b"whole"
        assert (adopted.family, adopted.type) == (ours.family, ours.type)
