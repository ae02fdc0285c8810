"""The socket between a run and its web server: what may come, and that nobody waits."""

import os
import socket

import pytest

from mpengine.dashboard.address import Place, is_loopback, listen, url_of
from mpengine.dashboard.wire import (
    HEAD_BYTES,
    MAX_FRAME_BYTES,
    MAX_REASON,
    MAX_REQUEST_BYTES,
    Frame,
    Link,
    Request,
    WireError,
    framed,
    read_head,
)


@pytest.fixture
def pair():
    ours, theirs = (plug.detach() for plug in socket.socketpair())
    yield Link(ours), theirs
    os.close(ours)
    os.close(theirs)


def test_a_frame_says_what_it_is_and_how_long():
    frame = framed(Frame.FULL, b"{}")

    assert read_head(frame[:HEAD_BYTES]) == (Frame.FULL, 2)
    assert frame[HEAD_BYTES:] == b"{}"


@pytest.mark.parametrize("head", [b"\0\0\0\0\0", b"\xff\0\0\0\0", b"\x01" + (MAX_FRAME_BYTES + 1).to_bytes(4, "big")])
def test_what_is_no_frame_is_refused(head):
    with pytest.raises(WireError):
        read_head(head)


def test_a_request_arrives_as_it_was_sent(pair):
    link, theirs = pair
    sent = [Request(viewers=3), Request(wants_full=True), Request(cancel="enough\nof that")]
    line = b"".join(request.as_line() for request in sent)
    os.write(theirs, line[:40])
    first = link.requests()
    os.write(theirs, line[40:])

    assert first + link.requests() == sent


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{}", b"[]", b"\xff", b'{"viewers": "3", "wants_full": false, "cancel": null}',
        b'{"viewers": null, "wants_full": 1, "cancel": null}', b'{"viewers": null, "wants_full": true, "cancel": 7}',
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(pair, line):
    link, theirs = pair
    os.write(theirs, line + b"\n")

    with pytest.raises(WireError):
        link.requests()


def test_a_request_that_does_not_end_is_refused(pair):
    link, theirs = pair
    os.write(theirs, b"x" * (MAX_REQUEST_BYTES + 1))

    with pytest.raises(WireError):
        link.requests()


def test_a_reason_is_cut():
    assert Request.read(Request(cancel="x" * 1000).as_line()).cancel == "x" * MAX_REASON


def test_what_is_not_taken_waits_and_nobody_waits_for_it(pair):
    link, theirs = pair
    frame = framed(Frame.STEP, b"x" * (4 << 20))
    link.send(frame)
    was_clear = link.is_clear
    received = b""
    while len(received) < len(frame):
        received += os.read(theirs, 1 << 20)
        link.flush()

    assert not was_clear
    assert link.is_clear
    assert received == frame


def test_one_who_has_hung_up_is_noticed():
    ours, theirs = (plug.detach() for plug in socket.socketpair())
    link = Link(ours)
    os.close(theirs)
    try:
        with pytest.raises(EOFError):
            link.requests()
        with pytest.raises(OSError, match="Broken pipe"):
            link.send(framed(Frame.BYE))
    finally:
        os.close(ours)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("", "127.0.0.1", 0),
        ("8000", "127.0.0.1", 8000),
        (":8000", "127.0.0.1", 8000),
        ("localhost", "localhost", 0),
        ("localhost:0", "localhost", 0),
        ("[::1]:8000", "::1", 8000),
        ("[::1]", "::1", 0),
        (" 0.0.0.0:80 ", "0.0.0.0", 80),
    ],
)
def test_a_place_is_read_in_every_form(text, host, port):
    assert Place.parse(text) == Place(host, port)


@pytest.mark.parametrize(
    "text", ["host:", "host:http", "host:-1", "host:65536", "::1", "[::1]x", "a b:1", "jobs:fn", "http://x:1", "h:1²"]
)
def test_what_is_no_place_is_named(text):
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        Place.parse(text)


def test_a_listener_is_on_this_machine_alone_and_its_url_ends_with_the_token():
    with listen(Place()) as listener:
        port = listener.getsockname()[1]

        assert is_loopback(listener)
        assert url_of(listener, Place(), "t0ken") == f"http://127.0.0.1:{port}/#t0ken"


def test_a_listener_for_everybody_is_known_as_such_and_named_as_the_machine_is():
    place = Place("0.0.0.0", 0)
    with listen(place) as listener:
        assert not is_loopback(listener)
        assert url_of(listener, place, "t").startswith(f"http://{socket.gethostname()}:")


def test_a_port_that_is_taken_is_named():
    with listen(Place()) as listener:
        taken = Place("127.0.0.1", listener.getsockname()[1])

        with pytest.raises(OSError, match=rf"the dashboard cannot listen on 127.0.0.1:{taken.port}: Address already"):
            listen(taken)
