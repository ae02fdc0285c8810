"""What is answered to whom: names, tokens, headers, sizes."""

import asyncio
import json

import pytest

from mpengine.dashboard import site
from mpengine.dashboard.hub import MAX_VIEWERS, Hub
from mpengine.dashboard.site import MAX_BODY_BYTES, make_site
from mpengine.dashboard.wire import MAX_REASON, Frame, Request

TOKEN = "a-token"
KNOWN = {"authorization": f"Bearer {TOKEN}"}


class Answer:
    def __init__(self, messages):
        self.status = messages[0]["status"]
        self.headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
        self.body = b"".join(message.get("body", b"") for message in messages[1:])


class Caller:
    """Calls the site as a web server would."""

    def __init__(self):
        self.asked = []
        self.hub = Hub(self.asked.append)
        self.site = make_site(self.hub, TOKEN, ["machine"])

    def __call__(self, path, method="GET", headers=(), body=(b"",)):
        return asyncio.run(self.call(path, method, headers, body))

    async def call(self, path, method, headers, body):
        headers = {"host": "127.0.0.1:8000", **dict(headers)}
        path, _, query = path.partition("?")
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()], "root_path": "",
            "scheme": "http", "server": ("127.0.0.1", 8000), "http_version": "1.1", "asgi": {"version": "3.0"},
        }  # fmt: skip
        chunks = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in body]
        chunks[-1]["more_body"] = False
        self.chunks = iter(chunks)
        sent = []

        async def receive():
            for chunk in self.chunks:
                return chunk
            return await asyncio.Event().wait()

        async def send(message):
            sent.append(message)

        await self.site(scope, receive, send)
        return Answer(sent)


@pytest.fixture
def call():
    return Caller()


OURS = ["127.0.0.1:1", "127.0.0.1", "[::1]:80", "[::1]", "localhost:9", "LOCALHOST.", "machine"]
OTHERS = ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil", "[::1].evil", "[x]:1", "machine.evil:80"]


@pytest.mark.parametrize("host", OURS)
def test_a_name_of_this_machine_is_answered_s2(call, host):
    assert call("/", headers={"host": host}).status == 200


@pytest.mark.parametrize("host", OTHERS)
def test_a_name_of_somebody_else_is_turned_away_whatever_it_knows_s2(call, host):
    paths = ["/", "/main.js", f"/events?token={TOKEN}", "/check"]

    assert {call(path, headers={"host": host, **KNOWN}).status for path in paths} == {421}
    assert call("/cancel", "POST", {"host": host, **KNOWN}, [b'{"reason": "x"}']).status == 421
    assert call.asked == []


@pytest.mark.parametrize("path", ["/", "/main.js", "/dashboard.css", "/nothing", "/check", "/events"])
def test_every_answer_forbids_what_the_page_does_not_need_s3(call, path):
    headers = call(path).headers

    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in headers


def test_the_page_is_whole_and_holds_nothing_from_elsewhere(call):
    page = call("/").body.decode()

    assert "://" not in page
    assert '<script type="module" src="main.js">' in page
    assert " style=" not in page
    assert "onclick" not in page
    for name in ("main.js", "dashboard.css", "icon.svg"):
        assert call(f"/{name}").status == 200
        assert "//" not in call(f"/{name}").body.decode().replace("// ", "").replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize("path", ["/live.py", "/__init__.py", "/..%2fsite.py", "/page", "/.", "/a/b"])
def test_no_file_but_those_of_the_page_is_answered(call, path):
    assert call(path).status == 404


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": TOKEN}, {"authorization": "Bearer "}, {"authorization": f"Bearer {TOKEN}x"},
                {"authorization": "Bearer \u00e4"}, {"authorization": f"Basic {TOKEN}"}, {"cookie": f"token={TOKEN}"}],
)  # fmt: skip
def test_without_the_token_nothing_is_read_or_changed(call, headers):
    assert call("/check", headers=headers).status == 403
    assert call("/cancel", "POST", headers, [b'{"reason": "x"}']).status == 403
    assert call("/events?token=wrong", headers=headers).status == 403
    assert call("/events", headers=headers).status == 403
    assert call.asked == []


def test_the_token_is_compared_in_constant_time(call, monkeypatch):
    compared = []
    monkeypatch.setattr(site.hmac, "compare_digest", lambda *both: compared.append(both) or False)

    assert call("/check", headers=KNOWN).status == call("/events?token=x").status == 403
    assert compared == [(b"a-token", b"a-token"), (b"x", b"a-token")]


def test_who_has_the_token_cancels_the_run(call):
    assert call("/check", headers=KNOWN).status == 204
    assert call("/cancel", "POST", KNOWN, [b'{"rea', b'son": " enough "}']).status == 202
    assert call("/cancel", "POST", KNOWN, [json.dumps({"reason": ""}).encode()]).status == 202
    assert call("/cancel", "POST", KNOWN, [json.dumps({"reason": "x" * 1000}).encode()]).status == 202
    assert call.asked == [
        Request(cancel="enough"), Request(cancel="cancelled from the dashboard"), Request(cancel="x" * MAX_REASON),
    ]  # fmt: skip


@pytest.mark.parametrize("body", [b"", b"reason=x", b"[]", b'{"reason": 1}', b"\xff", b"[" * 2000])
def test_a_body_that_says_nothing_changes_nothing(call, body):
    assert call("/cancel", "POST", KNOWN, [body]).status == 400
    assert call.asked == []


def test_of_a_body_that_is_too_long_the_rest_is_not_read_s4(call):
    chunk = b"x" * MAX_BODY_BYTES
    answer = call("/cancel", "POST", KNOWN, [chunk] * 100)

    assert answer.status == 400
    assert len(list(call.chunks)) == 98


def test_nothing_is_changed_but_by_a_post(call):
    assert call("/cancel", "GET", KNOWN).status in {404, 405}
    assert call.asked == []


def test_another_pages_request_is_turned_away(call):
    headers = {**KNOWN, "origin": "http://127.0.0.1:9000"}

    assert call("/cancel", "POST", headers, [b'{"reason": "x"}']).status == 403
    assert call("/cancel", "POST", {**KNOWN, "origin": "null"}, [b'{"reason": "x"}']).status == 403
    assert call.asked == []
    assert call("/cancel", "POST", {**KNOWN, "origin": "http://127.0.0.1:8000"}, [b'{"reason": "x"}']).status == 202


def test_events_are_streamed_to_who_has_the_token(call):
    call.hub.take(Frame.FULL, b"{}")
    call.hub.take(Frame.BYE, b"")
    answer = call(f"/events?token={TOKEN}")

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.body == b"retry: 1000\n\nevent: step\ndata: {}\n\nevent: end\ndata: {}\n\n"


def test_one_viewer_too_many_is_told_so(call):
    call.hub._viewers = MAX_VIEWERS

    assert call(f"/events?token={TOKEN}").status == 503
