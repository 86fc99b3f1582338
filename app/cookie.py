"""The cookie that identifies a browser's session."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import URL
from starlette.requests import HTTPConnection

SECONDS = 31_536_000
COOKIE = re.compile(r"midi-rwkv-session(?:-([0-9]{1,5}))?")  # older cookies had no port
ID = re.compile(r"[0-9a-f]{32}")


def cookie_name(url: URL) -> str:
    """The name of the session's cookie. It includes the port, because browsers send cookies to every port of a host."""
    return f"midi-rwkv-session-{url.port or 80}"


def browser_names(cookies: Mapping[str, str]) -> list[str]:
    """The names by which this server and other servers on this machine know the browser."""
    return [value for name, value in cookies.items() if COOKIE.fullmatch(name) and ID.fullmatch(value)]


def browser_name(cookies: Mapping[str, str], url: URL, tab: str) -> str:
    """The browser's name from the page's cookie; without cookies each tab is on its own."""
    return str(cookies.get(cookie_name(url), tab))


class SessionCookie:
    """ASGI middleware that gives a cookie to every browser that opens the page."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http" or scope["path"] != "/":
            await self.app(scope, receive, send)
            return
        request = HTTPConnection(scope)
        name = cookie_name(request.url)
        if name in request.cookies:
            await self.app(scope, receive, send)
            return
        session = secrets.token_hex(16)

        async def send_with_cookie(message: Any) -> None:
            if message["type"] == "http.response.start":
                cookie = f"{name}={session}; Path=/; Max-Age={SECONDS}; HttpOnly; SameSite=Strict"
                message["headers"] = [*message.get("headers", ()), (b"set-cookie", cookie.encode())]
            await send(message)

        await self.app(scope, receive, send_with_cookie)
