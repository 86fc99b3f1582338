"""`--auth`: ASGI middleware that requires the password, around Gradio's own login.

Gradio requires its login cookie at most of its endpoints, but not at all of them and not at what is mounted beside them
(MCP). Here only the login page is open without it. Programs may send the password with each request instead
(`Authorization: Basic`, or `Bearer` and the password).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import math
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from starlette.requests import cookie_parser

from .guard import read_headers, refuse

FREE_TRIES = 5  # wrong passwords before an address has to wait
LONGEST_WAIT = 60.0  # seconds
FORGET_AFTER = 900.0  # seconds without a wrong password
MOST_ADDRESSES = 1024
OPEN = re.compile(  # startup-events: Gradio requests it from itself at start
    r"/(login/?|theme\.css|favicon\.ico|manifest\.json|gradio_api/startup-events|(assets|static|svelte)/.*)?", re.DOTALL
)
ASK = ((b"www-authenticate", b'Basic realm="midi-rwkv", charset="UTF-8"'),)


class Attempts:
    """Counts wrong passwords by address. After a few, each doubles the time that the address has to wait."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()  # count, time of the last

    def wait(self, address: str) -> int:
        """Whole seconds until this address may try again."""
        count, last = self._known(address)
        if count < FREE_TRIES:
            return 0
        pause = min(2.0 ** (count - FREE_TRIES), LONGEST_WAIT)
        return max(0, math.ceil(last + pause - self._clock()))

    def add(self, address: str) -> None:
        """Counts a wrong password from this address."""
        count, _ = self._known(address)
        self._wrong[_network(address)] = (count + 1, self._clock())
        self._wrong.move_to_end(_network(address))
        while len(self._wrong) > MOST_ADDRESSES:
            self._wrong.popitem(last=False)

    def take_back(self, address: str) -> None:
        """Takes back the last one counted, which turned out to be right."""
        count, last = self._known(address)
        self._wrong[_network(address)] = (max(0, count - 1), last)

    def _known(self, address: str) -> tuple[int, float]:
        count, last = self._wrong.get(_network(address), (0, 0.0))
        return (0, 0.0) if self._clock() - last > FORGET_AFTER else (count, last)


class Login:
    """ASGI middleware that answers 401 without the login cookie or the password, and 429 to an address that guesses."""

    def __init__(self, app: Any, user: str, password: str, attempts: Attempts | None = None) -> None:
        self.app = app
        self.user = user
        self.password = password
        self.attempts = attempts or Attempts()
        self._token = secrets.token_urlsafe(32)  # identifies to Gradio a program that sends the password itself

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See the ASGI specification."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = read_headers(scope)
        given = headers.get(b"authorization")
        address = scope["client"][0] if scope.get("client") else ""
        logs_in = scope.get("method") == "POST" and scope["path"] in ("/login", "/login/")
        if given or logs_in:
            seconds = self.attempts.wait(address)
            if seconds:
                line = f"too many wrong passwords; try again in {seconds} s"
                await refuse(scope, send, 429, line, headers=[(b"retry-after", str(seconds).encode())])
                return
        if given:
            if self._is_right(given):
                await self.app(self._known(scope, headers), receive, send)
            else:
                self.attempts.add(address)
                await refuse(scope, send, 401, "wrong user or password", headers=ASK)
        elif logs_in:
            self.attempts.add(address)  # count at once, because many may be sent together
            await self.app(scope, receive, self._watch(send, address))
        elif OPEN.fullmatch(scope["path"]) or self._has_cookie(scope, headers):
            await self.app(scope, receive, send)
        else:
            ask = (
                ASK if scope["path"].startswith(("/gradio_api/mcp", "/api/")) else ()
            )  # elsewhere browsers would show a dialog
            line = "log in first, or send the user and the password (Authorization: Basic)"
            await refuse(scope, send, 401, line, headers=ask)

    def _is_right(self, given: list[str]) -> bool:
        kind, _, value = given[0].partition(" ")
        value = value.strip()
        if len(given) == 1 and kind.lower() == "bearer":
            return _equal(value.encode("latin-1"), self.password)
        if len(given) == 1 and kind.lower() == "basic":
            try:
                return _equal(base64.b64decode(value, validate=True), f"{self.user}:{self.password}")
            except (binascii.Error, ValueError):
                return False
        return False

    def _known(self, scope: Any, headers: dict[bytes, list[str]]) -> Any:
        """The request with a login cookie added, as Gradio's own endpoints require."""
        app = scope["app"]
        app.tokens[self._token] = self.user
        cookies = [*headers.get(b"cookie", []), f"access-token-{app.cookie_id}={self._token}"]
        others = [h for h in scope["headers"] if h[0].lower() not in (b"cookie", b"authorization")]
        return {**scope, "headers": [*others, (b"cookie", "; ".join(cookies).encode("latin-1"))]}

    def _has_cookie(self, scope: Any, headers: dict[bytes, list[str]]) -> bool:
        app = scope["app"]
        cookies = cookie_parser("; ".join(headers.get(b"cookie", [])))
        names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
        return any(cookies.get(name) in app.tokens for name in names)

    def _watch(self, send: Any, address: str) -> Any:
        """A `send` that observes whether Gradio accepts the password."""

        async def watch(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                self.attempts.take_back(address)
            await send(message)

        return watch


def _equal(given: bytes, right: str) -> bool:
    return hmac.compare_digest(given, right.encode())


def _network(address: str) -> str:
    """The network that an address belongs to: for IPv6 the /64, all of which has one owner."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if parsed.version == 6 and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)
