"""What is answered to whom (W5).

=================  =======  ============================================================================
``/``              anybody  the page, which holds nothing of the run
``/NAME``          anybody  its style and its programs
``/check``         token    nothing; whether the token is good
``/events``        token    server-sent events, from now on until the run is over
``POST /cancel``   token    cancels the run, for the reason in its body
=================  =======  ============================================================================

S1. The token comes in a header, or for ``/events``, where a browser sends none, in the query; there is no cookie, which
    a browser would send to every other port of this machine too.  It is compared in constant time.
S2. Host has to be an IP address, ``localhost``, or a name of this machine's: a page of somebody else's whose name
    suddenly leads here has its own.
S3. Nobody else's page may read an answer (no CORS) or frame the page, which loads nothing from elsewhere (CSP).
S4. Of a body so much is read as is allowed, and no more.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from mpengine.dashboard.wire import MAX_REASON

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from mpengine.dashboard.hub import Hub

MAX_BODY_BYTES: Final = 2048
PAGE: Final = "index.html"
_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def make_site(hub: Hub, token: str, names: Iterable[str]) -> ASGIApp:
    """Return what a web server runs.

    Args:
        hub: everybody who looks.
        token: what they have to know.
        names: what they may call this machine, besides its addresses and ``localhost``.
    """
    files = _read_files()

    async def page(request: Request) -> Response:
        name = request.path_params.get("name", PAGE)
        if name not in files:
            return PlainTextResponse("not found", 404)
        return Response(files[name], headers={"content-type": _TYPES[name.rpartition(".")[2]]})

    async def check(request: Request) -> Response:
        return Response(status_code=204) if _is_known(_bearer(request), token) else _refusal()

    async def events(request: Request) -> Response:
        if not _is_known(request.query_params.get("token", ""), token):
            return _refusal()
        if hub.is_crowded:
            return PlainTextResponse("as many as may are looking", 503)
        return StreamingResponse(hub.look(), headers={"content-type": "text/event-stream"})

    async def cancel(request: Request) -> Response:
        if not _is_known(_bearer(request), token):
            return _refusal()
        reason = _reason(await _body(request))
        if reason is None:
            return PlainTextResponse('the body has to be {"reason": TEXT}', 400)
        hub.cancel(reason)
        return Response(status_code=202)

    return Guard(
        Starlette(
            routes=[
                Route("/", page),
                Route("/check", check),
                Route("/events", events),
                Route("/cancel", cancel, methods=["POST"]),
                Route("/{name}", page),
            ]
        ),
        names,
    )


class Guard:
    """Turns away whoever calls this machine by another's name (S2), and has all answers carry the headers (S3).

    Args:
        app: what is guarded.
        names: what this machine may be called.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        self._app = app
        self._names = {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        if scope["type"] != "http":
            return
        request = Request(scope)
        if not self._is_ours(request.headers.get("host", "")):
            await PlainTextResponse("this name is not mine", 421)(scope, receive, send_with_headers)
        elif not self._is_from_here(request):
            await PlainTextResponse("another page's request", 403)(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _is_ours(self, host: str) -> bool:
        name, colon, port = host.rpartition(":")
        if not colon or not port.isdigit():
            name = host
        if name.lower().rstrip(".") in self._names:
            return True
        try:
            ipaddress.ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
        except ValueError:
            return False
        return True

    @staticmethod
    def _is_from_here(request: Request) -> bool:
        """Whether no other page has sent it, as far as the browser says."""
        origin = request.headers.get("origin")
        return origin is None or origin.partition("://")[2] == request.headers.get("host")


def _read_files() -> dict[str, bytes]:
    """Return the files of the page: these, and no other path, are answered."""
    folder = resources.files(__package__) / "page"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name.rpartition(".")[2] in _TYPES}


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else ""


def _is_known(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


def _refusal() -> Response:
    return PlainTextResponse("the token is missing, or another run's", 403)


async def _body(request: Request) -> bytes:
    """Return the body, or as much of it as shows that it is too long (S4)."""
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > MAX_BODY_BYTES:
            break
    return content


def _reason(body: bytes) -> str | None:
    if len(body) > MAX_BODY_BYTES:
        return None
    try:
        fields: Any = json.loads(body)
    except (ValueError, RecursionError):  # the latter for what is nested too deeply
        return None
    match fields:
        case {"reason": str() as reason}:
            return reason.strip()[:MAX_REASON] or "cancelled from the dashboard"
        case _:
            return None
