"""The cookie by which a browser's session is found again."""

from __future__ import annotations

import secrets
from typing import Any

from starlette.datastructures import URL
from starlette.requests import HTTPConnection

SECONDS = 31_536_000


def cookie_name(url: URL) -> str:
    """Of the session's cookie. Browsers send a cookie to every port of a machine, so the name carries the port."""
    return f"midi-rwkv-session-{url.port or 80}"


class SessionCookie:
    """ASGI middleware: gives every browser that opens the page its cookie."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http" or scope["path"] != "/":
            await self.app(scope, receive, send)
            return
        request = HTTPConnection(scope)
        name = cookie_name(request.url)

        async def send_with_cookie(message: Any) -> None:
            if message["type"] == "http.response.start" and name not in request.cookies:
                cookie = f"{name}={secrets.token_hex(16)}; Path=/; Max-Age={SECONDS}; HttpOnly; SameSite=Strict"
                message["headers"] = [*message.get("headers", ()), (b"set-cookie", cookie.encode())]
            await send(message)

        await self.app(scope, receive, send_with_cookie)
