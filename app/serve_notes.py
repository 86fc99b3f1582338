"""`midi-rwkv serve`: the API of notes_api.py without the page."""

from __future__ import annotations

import argparse
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from typing import Any

from midi_rwkv.errors import RequestError

from .serve import FIRST_PORT, add_server_options, checked, guarded
from .uploads import Uploads, upload_folder

PORTS = 100  # that are tried


def add_serve_command(commands: Any) -> None:
    """Adds the command's parser."""
    p = commands.add_parser(
        "serve",
        help="answer programs over HTTP: notes in, notes out",
        description="Serve POST /api/infill and the like on this machine, without the page; docs/daw.md.",
    )
    p.set_defaults(run=run_serve)
    add_server_options(p)


def run_serve(options: argparse.Namespace) -> None:
    """Serves until Ctrl-C. Raises RequestError for impossible options."""
    hosts, auth = checked(options)
    if not hosts.are_this_machine and auth is None:
        raise RequestError("other machines could use this server; add --auth USER:PASSWORD")
    if find_spec("gradio") is None:  # which brings FastAPI and uvicorn
        raise ModuleNotFoundError("No module named 'gradio'", name="gradio")
    import uvicorn
    from fastapi import FastAPI

    from midi_rwkv.model.checkpoint import load_checkpoint
    from midi_rwkv.model.config import usual_threads

    from .notes_api import notes_api
    from .work import Worker

    with _listening(options.host, options.port) as listening:
        worker = Worker(load_checkpoint(options.checkpoint), options.threads or usual_threads())

        @asynccontextmanager
        async def lifespan(app: Any) -> AsyncIterator[None]:
            app.middleware_stack = guarded(app.middleware_stack, hosts, Uploads(upload_folder()), auth)
            yield

        app = FastAPI(openapi_url=None, lifespan=lifespan)
        vars(app).update(tokens={}, cookie_id="none")  # where the login looks for the page's cookies
        app.mount("/api", notes_api(worker))
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        line = f"midi-rwkv answers at http://{shown}:{port}/api/, which openapi.json there describes; Ctrl-C ends it"
        print(line, flush=True)
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
        with suppress(KeyboardInterrupt):  # Ctrl-C is how it ends
            uvicorn.Server(config).run(sockets=[listening])


def _listening(host: str, port: int | None) -> socket.socket:
    """A socket at the port, or at the first free one. Raises RequestError if there is none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in range(FIRST_PORT, FIRST_PORT + PORTS) if port is None else [port]:
        try:
            return socket.create_server((host.strip("[]"), number), family=family)
        except OSError as error:
            why = error.strerror or str(error)
    asked = f"{FIRST_PORT}-{FIRST_PORT + PORTS - 1}" if port is None else str(port)
    raise RequestError(f"cannot listen at {host}, port {asked}: {why}; choose another with --port")
