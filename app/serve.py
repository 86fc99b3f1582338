"""Starts the app: `midi-rwkv app`, `python -m midi_rwkv.app`."""

from __future__ import annotations

import argparse
import os
import secrets
from collections.abc import Sequence
from typing import Any

MAX_UPLOAD = "16mb"
MOST_QUEUED = 64


class SessionCookie:
    """ASGI middleware: gives every browser a cookie by which its session is found again."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See the ASGI specification."""
        from .desk import COOKIE

        known = any(name == b"cookie" and COOKIE.encode() + b"=" in value for name, value in scope.get("headers", ()))

        async def send_with_cookie(message: Any) -> None:
            if message["type"] == "http.response.start":
                cookie = f"{COOKIE}={secrets.token_hex(16)}; Path=/; Max-Age=31536000; HttpOnly; SameSite=Strict"
                message["headers"] = [*message.get("headers", ()), (b"set-cookie", cookie.encode())]
            await send(message)

        page = scope["type"] == "http" and scope["path"] == "/"
        await self.app(scope, receive, send_with_cookie if page and not known else send)


def add_app_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    p.add_argument("--port", type=int, help="default: the first free one from 7860")
    p.add_argument("--open", action="store_true", help="open the page in the browser")
    p.add_argument("--auth", metavar="USER:PASSWORD", help="ask for these first")
    p.add_argument("--soundfont", metavar="FILE.sf2", help="what plays (default: the system's, else a small one)")
    p.add_argument("--checkpoint", metavar="DIR", help="another model than the one that ships")
    p.add_argument("--threads", type=int, metavar="N", help="CPU threads of the model (default: 2)")
    p.add_argument("--mcp", action="store_true", help="also serve the API as MCP tools")


def run_app(options: argparse.Namespace) -> None:
    """Serve until Ctrl-C. ValueError on options that cannot be."""
    auth = None
    if options.auth is not None:
        user, colon, password = options.auth.partition(":")
        if not (user and colon and password):
            raise ValueError("--auth must be USER:PASSWORD")
        auth = (user, password)
    if options.threads is not None and options.threads < 1:
        raise ValueError(f"--threads must be 1 or more, got {options.threads}")
    if options.port is not None and not 1 <= options.port <= 65535:
        raise ValueError(f"--port must be 1-65535, got {options.port}")
    for name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ[name] = "False" if name.startswith("GRADIO") else "1"
    from starlette.middleware import Middleware

    from midi_rwkv.checkpoint import load_checkpoint

    from .audio import find_soundfont
    from .desk import Desk
    from .session import Sessions
    from .ui import CSS, build, theme
    from .work import Worker

    worker = Worker(load_checkpoint(options.checkpoint), options.threads or min(2, os.cpu_count() or 1))
    desk = Desk(worker, Sessions(), find_soundfont(options.soundfont))
    page = build(desk)
    page.queue(default_concurrency_limit=16, max_size=MOST_QUEUED)
    page.launch(
        server_name=options.host,
        server_port=options.port,
        inbrowser=options.open,
        auth=auth,
        share=False,
        max_file_size=MAX_UPLOAD,
        mcp_server=options.mcp,
        app_kwargs={"middleware": [Middleware(SessionCookie)]},
        theme=theme(),
        css=CSS,
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m midi_rwkv.app", description="The app, on localhost.")
    add_app_options(parser)
    run_app(parser.parse_args(arguments))
