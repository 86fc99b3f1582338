"""ASGI middleware that refuses requests under a foreign host name, and requests from other web pages.

A browser sends whatever any page tells it to send. Two things distinguish our own page's requests: the Host header,
which is a foreign name if another page made its own name resolve to this machine (DNS rebinding), and the Origin,
Referer and Sec-Fetch-Site headers, which name the page that sends (https://web.dev/articles/fetch-metadata). Programs
(curl, gradio_client, MCP clients) do not send the latter and are accepted.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from midi_rwkv.errors import RequestError

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
HOST_NAME = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?")
DEFAULT_PORTS = {"http": 80, "https": 443}
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

Headers = dict[bytes, list[str]]
Place = tuple[str, int | None]  # name and port, as in the browser's address bar


@dataclass(frozen=True)
class Hosts:
    """The names under which this server answers."""

    listen: str = "127.0.0.1"
    allowed: frozenset[Place] = frozenset()  # from --allow-host; None is any port

    @classmethod
    def of(cls, listen: str, allowed: Iterable[str] = ()) -> Hosts:
        """From the values of --host and --allow-host. Raises RequestError for an invalid name."""
        places = set()
        for text in allowed:
            place = _place(text)
            if place is None:
                raise RequestError(
                    f"--allow-host must be NAME or NAME:PORT, as in the browser's address bar, got {text}"
                )
            places.add(place)
        return cls(bracketed(listen.lower()), frozenset(places))

    @property
    def are_this_machine(self) -> bool:
        """Whether nobody on another machine can open the page."""
        return self.listen in LOOPBACK and not self.allowed

    def know(self, place: Place, server: tuple[str, int]) -> bool:
        """Whether a Host header names this machine. `server` is the address and port that received the request."""
        name, port = place
        if place in self.allowed or (name, None) in self.allowed:
            return True
        own = {*LOOPBACK, self.listen}
        if self.listen in ("0.0.0.0", "[::]"):  # any address of the machine: use the one that received the request
            own.add(bracketed(server[0]))
        return name in own and (80 if port is None else port) == server[1]

    def are_origin(self, origin: str, host: Place) -> bool:
        """Whether an Origin or Referer header names the page that this server serves under that Host."""
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        default = DEFAULT_PORTS.get(parts.scheme)
        place = _place(parts.netloc)
        if default is None or place is None:  # also "null", which a sandboxed page or a file sends
            return False
        # A proxy may use another Host than the browser; --allow-host then has the browser's.
        return any(_with_port(place, default) == _with_port(ours, default) for ours in (host, *self.allowed))


class Guard:
    """ASGI middleware that answers requests from other pages or under other names with a 403 and one line."""

    def __init__(self, app: Any, hosts: Hosts) -> None:
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See the ASGI specification."""
        if scope["type"] in ("http", "websocket"):
            why = self.objection(scope)
            if why:
                await refuse(scope, send, 403, why)
                return
        await self.app(scope, receive, send)

    def objection(self, scope: Any) -> str | None:
        """One line that says why a request is refused, or None."""
        headers = read_headers(scope)
        hosts = headers.get(b"host", [])
        host = _place(hosts[0]) if len(hosts) == 1 else None
        if host is None or not self.hosts.know(host, scope["server"]):
            shown = printable(", ".join(hosts)) or "no Host"
            return f"{shown} is not this server's name; if it should be, start it with --allow-host NAME"
        method = scope.get("method", "GET")
        origins = headers.get(b"origin", [])
        if not origins and (method not in SAFE_METHODS or scope["type"] == "websocket"):
            origins = headers.get(b"referer", [])
        for origin in origins:
            if not self.hosts.are_origin(origin, host):
                return f"another page asked ({printable(origin)}); only this server's own page and programs may"
        if any(site not in ("same-origin", "none") for site in headers.get(b"sec-fetch-site", [])):
            followed_link = (
                method in ("GET", "HEAD")
                and scope["path"] == "/"
                and headers.get(b"sec-fetch-mode") == ["navigate"]
                and headers.get(b"sec-fetch-dest") == ["document"]
            )
            if not followed_link:
                return "another page asked; only this server's own page and programs may"
        return None


async def refuse(scope: Any, send: Any, status: int, line: str, *, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Answers with one line of plain text. A websocket is closed before it opens, which the server makes a 403."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": line[:120]})
        return
    body = (line + "\n").encode()
    fixed = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"connection", b"close"),  # the rest of the body is not read
    ]
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def read_headers(scope: Any) -> Headers:
    """The headers of a request by lower-case name."""
    found: Headers = {}
    for name, value in scope["headers"]:
        found.setdefault(name.lower(), []).append(value.decode("latin-1"))
    return found


def bracketed(host: str) -> str:
    """An address as written in a URL, with IPv6 in brackets."""
    try:
        return f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
    except ValueError:
        return host


def printable(text: str) -> str:
    """Text from an untrusted sender, made safe for one line."""
    return "".join(c if c.isprintable() else "?" for c in text[:100])


def _place(text: str) -> Place | None:
    match = HOST_NAME.fullmatch(text.strip().lower())
    return (match[1], int(match[2]) if match[2] else None) if match else None


def _with_port(place: Place, default: int) -> Place:
    return place[0], place[1] or default
