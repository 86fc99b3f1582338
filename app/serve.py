"""Starts the app: `midi-rwkv app`, `python -m midi_rwkv.app`."""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midi_rwkv.errors import RequestError
from midi_rwkv.model.config import check_threads, usual_threads

from .guard import Guard, Hosts
from .uploads import Uploads, upload_folder

if TYPE_CHECKING:
    from .desk import Desk

MAX_UPLOAD = "16mb"
MOST_QUEUED = 64
FIRST_PORT = 7860  # Gradio's


def add_server_options(p: argparse.ArgumentParser) -> None:
    """Adds what `app` and `serve` have in common."""
    p.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    p.add_argument("--port", type=int, help=f"port to listen on (default: the first free one from {FIRST_PORT})")
    p.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="also answer under this name, as in the browser's address bar; may be repeated",
    )
    p.add_argument("--auth", metavar="USER:PASSWORD", help="require this user and password")
    p.add_argument("--checkpoint", metavar="DIR", help="the model (default: the one that ships)")
    p.add_argument("--threads", type=int, metavar="N", help="CPU threads of the model, 1-2 (default: 2)")


def add_app_options(p: argparse.ArgumentParser) -> None:
    """Adds the options of `midi-rwkv app`."""
    add_server_options(p)
    p.add_argument("--open", action="store_true", help="open the page in the browser")
    p.add_argument(
        "--soundfont", metavar="FILE.sf2", help="the soundfont to play with (default: the system's, else a small one)"
    )
    p.add_argument("--mcp", action="store_true", help="also serve the API as MCP tools")
    p.add_argument(
        "--mcp-files", metavar="DIR", type=Path, help="let the MCP tools read and add files here (default: nowhere)"
    )


def checked(options: argparse.Namespace) -> tuple[Hosts, tuple[str, str] | None]:
    """The names to answer under, and the user and password. Raises RequestError for impossible options."""
    auth = None
    if options.auth is not None:
        user, colon, password = options.auth.partition(":")
        if not (user and colon and password):
            raise RequestError("--auth must be USER:PASSWORD")
        auth = (user, password)
    if options.threads is not None:
        from midi_rwkv.engine.make import MOST_THREADS

        check_threads(options.threads, "--threads", MOST_THREADS)
    if options.port is not None and not 1 <= options.port <= 65535:
        raise RequestError(f"--port must be 1-65535, got {options.port}")
    return Hosts.of(options.host, options.allow_host), auth


def run_app(options: argparse.Namespace) -> None:
    """Serves until Ctrl-C. Raises RequestError for impossible options."""
    hosts, auth = checked(options)
    if options.mcp_files is not None:
        if not options.mcp:
            raise RequestError("--mcp-files is about the MCP tools; add --mcp")
        if not options.mcp_files.is_dir():
            raise RequestError(f"--mcp-files must be a folder, got {options.mcp_files}")
    for needed in ("gradio", "mcp") if options.mcp else ("gradio",):  # before all that takes its time
        if find_spec(needed) is None:
            raise ModuleNotFoundError(f"No module named '{needed}'", name=needed)
    for name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ[name] = "False" if name.startswith("GRADIO") else "1"
    from midi_rwkv.model.checkpoint import load_checkpoint
    from midi_rwkv.sound.soundfont import find_soundfont
    from midi_rwkv.style.choices import Choices

    from .work import Worker

    worker = Worker(load_checkpoint(options.checkpoint), options.threads or usual_threads())
    soundfont = find_soundfont(options.soundfont)
    uploads = Uploads(upload_folder())
    os.umask(0o077)  # only this user can read songs, uploads and styles
    uploads.open()
    os.environ["GRADIO_TEMP_DIR"] = str(uploads.folder)  # Gradio reads it on import
    from .desk import Desk
    from .store import Sessions
    from .taste_desk import TasteDesk
    from .ui import CSS, build, theme

    choices = Choices() if hosts.are_this_machine and not auth else None
    desk = Desk(worker, Sessions(), soundfont, TasteDesk(choices, worker.checkpoint.vocabulary))
    page = build(desk)
    page.queue(default_concurrency_limit=16, max_size=MOST_QUEUED)
    tools = None
    if options.mcp:
        from .mcp_tools import mcp_server

        tools = mcp_server(worker, [options.mcp_files] if options.mcp_files else [], "midi-rwkv app --mcp-files DIR")
    page.launch(
        server_name=hosts.listen,
        server_port=options.port,
        inbrowser=options.open,
        auth=auth,
        share=False,
        max_file_size=MAX_UPLOAD,
        mcp_server=False,  # our tools are among the routes
        run_history=False,
        app_kwargs=_surroundings(desk, hosts, uploads, auth, tools),
        theme=theme(),
        css=CSS,
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        _frontend=False,  # else it ends where its own first request takes more than 3 s, as on a busy machine
    )


def _surroundings(
    desk: Desk, hosts: Hosts, uploads: Uploads, auth: tuple[str, str] | None, tools: Any
) -> dict[str, Any]:
    """The app's arguments: our middleware outside of Gradio's, and the routes for programs and for what is dragged."""
    import asyncio

    from starlette.routing import Mount

    from .cookie import SessionCookie
    from .notes_api import notes_api
    from .parts import parts

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        app.middleware_stack = guarded(SessionCookie(app.middleware_stack), hosts, uploads, auth)
        cleaning = asyncio.create_task(uploads.clean_hourly())
        async with tools.session_manager.run() if tools else nullcontext():
            yield
        cleaning.cancel()

    own = [Mount("/api", notes_api(desk.worker)), parts(desk.sessions)]
    if tools is None:
        return {"lifespan": lifespan, "routes": own}
    from .mcp_tools import routes

    return {"lifespan": lifespan, "routes": [*own, *routes(tools)]}


def guarded(app: Any, hosts: Hosts, uploads: Uploads, auth: tuple[str, str] | None) -> Any:
    """An ASGI application behind what limits requests, asks for the password and refuses other pages."""
    from .limits import Limits
    from .login import Login

    inner = Limits(app, uploads)
    return Guard(Login(inner, *auth) if auth else inner, hosts)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m midi_rwkv.app", description="Serve the app on localhost.")
    add_app_options(parser)
    run_app(parser.parse_args(arguments))
