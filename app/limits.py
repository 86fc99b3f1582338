"""ASGI middleware that limits the size and time of requests, and blocks the parts of Gradio that are not used.

Gradio has many endpoints that the page does not need: recordings that pass through ffmpeg, a proxy, fetching of pages
on request, code editing. Only the endpoints in `SERVED` are reachable.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import anyio.to_thread

from .guard import read_headers, refuse
from .uploads import Full, Uploads

MOST_BODY = 4 * 2**20  # bytes of a request other than an upload; the page's largest has about 1.5 million
MOST_UPLOAD = 64 * 2**20  # bytes of one upload, which may contain several files
PATIENCE = 30.0  # seconds until the next part of a body must arrive
WHOLE_BODY = 60.0  # seconds for the body of a request other than an upload
WHOLE_UPLOAD = 600.0
MOST_SLOW = 16  # uploads in progress
SERVED = re.compile(
    r"/(login/?|logout|config/?|theme\.css|favicon\.ico|manifest\.json|robots\.txt|(assets|static|svelte)/.*"
    r"|gradio_api/(info/?|openapi\.json|theme\.css|startup-events|app_id/?|user/?|token/?|login_check/?"
    r"|upload|upload_progress|file=(?!https?:).*|call/.*|run/.*|api/.*|queue/(join|data|status)|component_server/?"
    r"|cancel|reset/?|heartbeat/.*|mcp/?)|api/.*|parts/.*)?",
    re.DOTALL | re.IGNORECASE,
)


class Limits:
    """ASGI middleware that limits bodies and uploads in size and time, and refuses addresses to fetch files from."""

    def __init__(self, app: Any, uploads: Uploads) -> None:
        self.app = app
        self.uploads = uploads
        self._under_way = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif not SERVED.fullmatch(scope["path"]):
            await refuse(scope, send, 404, "there is no such page")
        elif scope["path"] == "/gradio_api/upload":
            await self._upload(scope, receive, send)
        else:
            await self._ask(scope, receive, send)

    async def _ask(self, scope: Any, receive: Any, send: Any) -> None:
        """Handles a request other than an upload: its body is read completely before it is passed on."""
        length = _length(scope)
        if length is not None and length > MOST_BODY:
            await refuse(scope, send, 413, f"a request may have at most {MOST_BODY:,} bytes, this one has {length:,}")
            return
        if length is None and not _is_chunked(scope):
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(PATIENCE) as deadline:
                body = await _read(_patient(receive, deadline, WHOLE_BODY))
        except TimeoutError:
            await refuse(scope, send, 408, "the rest of the request did not come in time")
            return
        if body is None:
            await refuse(scope, send, 413, f"a request may have at most {MOST_BODY:,} bytes")
            return
        if _names_address(body):
            await refuse(scope, send, 403, "files are not fetched from addresses; upload the file itself")
            return
        await self.app(scope, _replay(body, receive), send)

    async def _upload(self, scope: Any, receive: Any, send: Any) -> None:
        length = _length(scope)
        if length is None:
            await refuse(scope, send, 411, "an upload must say its length (Content-Length)")
        elif length > MOST_UPLOAD:
            await refuse(scope, send, 413, f"an upload may have at most {MOST_UPLOAD:,} bytes, this one has {length:,}")
        elif self._under_way >= MOST_SLOW:
            await refuse(scope, send, 503, f"busy: {self._under_way} uploads are under way; try again in a moment")
        else:
            self._under_way += 1
            try:
                await self._take(scope, receive, send, length)
            finally:
                self._under_way -= 1

    async def _take(self, scope: Any, receive: Any, send: Any, length: int) -> None:
        """Accepts an upload of that many bytes if there is room."""
        try:
            await anyio.to_thread.run_sync(self.uploads.reserve, length)
        except Full:
            limit = f"{self.uploads.limit // 2**20} MB"
            await refuse(scope, send, 413, f"the uploads of the last hour fill their {limit}; try again in an hour")
            return
        try:
            async with asyncio.timeout(PATIENCE) as deadline:
                await self.app(scope, _patient(receive, deadline, WHOLE_UPLOAD), send)
        except TimeoutError:
            await refuse(scope, send, 408, "the rest of the upload did not come in time")
        finally:
            self.uploads.release(length)


def _length(scope: Any) -> int | None:
    values = read_headers(scope).get(b"content-length")
    return int(values[0]) if values else None  # the server has already checked that it is a number


def _is_chunked(scope: Any) -> bool:
    return b"transfer-encoding" in read_headers(scope)


def _patient(receive: Any, deadline: asyncio.Timeout, seconds: float) -> Any:
    """A `receive` that extends the deadline with every part of the body, up to a total number of seconds.

    There is no deadline after the body is complete.
    """
    loop = asyncio.get_running_loop()
    last = loop.time() + seconds

    async def patient() -> Any:
        message = await receive()
        whole = message["type"] != "http.request" or not message.get("more_body", False)
        deadline.reschedule(None if whole else min(loop.time() + PATIENCE, last))
        return message

    return patient


async def _read(receive: Any) -> bytes | None:
    """The whole body, or None if it is too long."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MOST_BODY:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Any) -> Any:
    """A `receive` for a request whose body has been read."""
    given = False

    async def replay() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _names_address(body: bytes) -> bool:
    """Whether a JSON text contains a file whose path is an address, which Gradio would fetch."""
    try:
        rest = [json.loads(body)]
    except (ValueError, RecursionError):  # not JSON, or not JSON that Gradio reads
        return False
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str) and path.strip().lower().startswith(("http:", "https:")):
                return True
            rest += value.values()
        elif isinstance(value, list):
            rest += value
    return False
