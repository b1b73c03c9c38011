"""How large a request may be, and what every response says to the browser. Plain ASGI, so that nothing is buffered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prefloop.web.settings import WebSettings

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)
"""No inline script or style, no other host, no frame: what a text smuggles in has nothing to run and nobody to call."""

HEADERS: Mapping[str, str] = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
KEPT = (b"cache-control", b"public, max-age=31536000, immutable")
NOT_KEPT = (b"cache-control", b"no-store")
LARGE = ("/lead/import", "/api/v1/questions")
"""Where files and many questions come in."""


class TooLarge(Exception):
    """The body went on after the limit."""


class Limits:
    """Refuses large bodies (413) and foreign host names (421), and sets the headers of every response."""

    def __init__(self, app: ASGIApp, settings: WebSettings) -> None:
        self.app = app
        self.settings = settings
        secure = {"strict-transport-security": "max-age=31536000"} if settings.secure else {}
        self.headers = [(name.encode(), value.encode()) for name, value in {**HEADERS, **secure}.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(scope, message)
            await send(message)

        if not self._known_host(headers.get(b"host", b"").decode("latin-1")):
            await _refuse(sending, 421, "this app is not known under that host name; prefloop serve --allow-host NAME")
            return
        limit = self._limit(scope["path"])
        announced = headers.get(b"content-length", b"0")
        if not announced.isdigit() or int(announced[:18]) > limit or len(announced) > 18:
            await _refuse(sending, 413, f"a request here may have {limit:,} bytes")
            return
        read = 0

        async def receiving() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise TooLarge
            return message

        try:
            await self.app(scope, receiving, sending)
        finally:
            form = scope.get("state", {}).get("form")
            if form is not None:
                await form.close()  # an upload's temporary file goes now and not when somebody collects garbage

    def _limit(self, path: str) -> int:
        return self.settings.import_bytes if path in LARGE else self.settings.body_bytes

    def _known_host(self, host: str) -> bool:
        if "*" in self.settings.hosts:
            return True
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        return name.lower() in self.settings.hosts

    def _add_headers(self, scope: Scope, message: Message) -> None:
        present = {name for name, _ in message["headers"]}
        cache = KEPT if "/static/" in scope["path"] else NOT_KEPT
        message["headers"] = [
            *message["headers"],
            *(pair for pair in (*self.headers, cache) if pair[0] not in present),
        ]


async def _refuse(send: Send, status: int, words: str) -> None:
    body: dict[str, Any] = {"error": words}
    content = json.dumps(body).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"connection", b"close"),  # the rest of the body is not read
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
