"""Requests that the server answers: those of the page itself, within limits of size."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vae.app.uploads import MAX_BYTES, waiting

LOOPBACK = frozenset(("127.0.0.1", "localhost", "::1"))

# All that the page asks Gradio for. The rest of Gradio's routes read files, fetch URLs, cancel
# events of other visitors, edit the program or describe its functions.
PATHS = re.compile(
    r"/(config|theme\.css|favicon\.ico|robots\.txt|manifest\.json|(assets|static)/.+"
    r"|gradio_api/(queue/join|queue/data|run/predict|upload|heartbeat/\w+|startup-events|app_id))?"
)
UPLOAD = "/gradio_api/upload"
# Answers that need nothing of Gradio. It would serve the uploaded file, for a preview before the
# event's answer; and keep a record of each upload that is asked for, for ever.
PREVIEW, PROGRESS = "/gradio_api/file=", "/gradio_api/upload_progress"
DONE = 'data: {"msg": "done"}\n\n'

MAX_MESSAGE = 2**20  # bytes of an event's inputs, which Gradio keeps for each visitor
MULTIPART = 2**16  # bytes around the file of an upload
MAX_WAITING = 2**30  # bytes of uploads that no event has read yet
MAX_WAITING_FILES = 1000
LONGEST_UPLOAD = 300  # seconds

# Gradio's page has inline scripts and styles, and components that draw from blob: URLs.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; connect-src 'self' data: blob:; "
    "font-src 'self' data:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)


class Guard:
    """ASGI middleware: refuses requests that the page does not make, and adds safety headers.

    Args:
        app: the application within.
        hosts: the names that a request may be addressed to; None for all. Another name is that
            of a site whose address was changed to this machine's (DNS rebinding).
        folder: of uploads.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None, folder: Path) -> None:
        self.app, self.hosts, self.folder = app, hosts, folder
        self.uploading = 0  # requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        answer = self._answer(scope)
        if answer is not None:
            await answer(scope, receive, send_with_headers)
        elif scope["path"] == UPLOAD:
            await self._upload(scope, receive, send_with_headers)
        else:
            await self.app(scope, receive, send_with_headers)

    def _answer(self, scope: Scope) -> Response | None:
        """Return the answer to a request that Gradio does not get; None for others."""
        method, path, headers = scope["method"], scope["path"], Headers(scope=scope)
        if self.hosts is not None and _name(headers.get("host", "")) not in self.hosts:
            return PlainTextResponse("This page is served under another name.", 403)
        if _is_foreign(method, headers):
            return PlainTextResponse("A request of another site.", 403)
        if path.startswith(PREVIEW):
            return Response(status_code=204)
        if path == PROGRESS:
            return PlainTextResponse(DONE, media_type="text/event-stream")
        if PATHS.fullmatch(path) is None or method not in ("GET", "HEAD", "POST"):
            return PlainTextResponse("Not found", 404)
        if method != "POST":
            return None
        length = headers.get("content-length", "")
        if "transfer-encoding" in headers or not re.fullmatch(r"\d{1,18}", length):
            return PlainTextResponse("The size is not given.", 411)
        if int(length) > (MAX_BYTES + MULTIPART if path == UPLOAD else MAX_MESSAGE):
            return PlainTextResponse(f"Too large: a file has at most {MAX_BYTES >> 20} MB.", 413)
        return None

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        files, size = waiting(self.folder)
        if files >= MAX_WAITING_FILES or size + self.uploading * MAX_BYTES > MAX_WAITING:
            busy = PlainTextResponse("Too many uploads at once. Try again in a minute.", 503)
            await busy(scope, receive, send)
            return
        self.uploading += 1
        try:
            with suppress(ClientDisconnect, asyncio.TimeoutError):  # the file is removed by its age
                await asyncio.wait_for(self.app(scope, receive, send), LONGEST_UPLOAD)
        finally:
            self.uploading -= 1


def allowed_hosts(host: str, share: bool) -> frozenset[str] | None:
    """Return the names of a server that only this machine reaches; None for others."""
    name = host.strip("[]")
    local = name.startswith("127.") or name in LOOPBACK
    return LOOPBACK | {name} if local and not share else None


def _name(host: str) -> str | None:
    """Return the name of `name:port` in lower case."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _is_foreign(method: str, headers: Headers) -> bool:
    """Return whether a page of another site makes a request. A link to this page is none.

    Browsers tell it by Sec-Fetch-Site, except to addresses on the network without https.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        follows_link = method == "GET" and headers.get("sec-fetch-mode") == "navigate"
        return site not in ("same-origin", "none") and not follows_link
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host")
