"""`midi-rwkv mcp`: the tools of mcp_tools.py for a program that starts it and talks over standard input and output."""

from __future__ import annotations

import argparse
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from midi_rwkv.errors import RequestError
from midi_rwkv.model.config import check_threads, usual_threads

from .uploads import Uploads, upload_folder


def add_mcp_command(commands: Any) -> None:
    """Adds the command's parser."""
    p = commands.add_parser(
        "mcp",
        help="offer the tools to an assistant (Model Context Protocol)",
        description="Offer inspect_song, infill_file, infill_notes, learn_style and list_styles on standard input, as "
        "MCP clients start them; docs/daw.md.",
    )
    p.set_defaults(run=run_mcp)
    p.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="whose songs may be read, and filled beside")
    p.add_argument("--checkpoint", metavar="DIR", help="the model (default: the one that ships)")
    p.add_argument("--threads", type=int, metavar="N", help="CPU threads of the model, 1-2 (default: 2)")


def run_mcp(options: argparse.Namespace) -> None:
    """Serves until standard input ends. Raises RequestError for impossible options."""
    for folder in options.folders:
        if not folder.is_dir():
            raise RequestError(f"folders must be there, got {folder}")
    if options.threads is not None:
        from midi_rwkv.engine.make import MOST_THREADS

        check_threads(options.threads, "--threads", MOST_THREADS)
    for needed in ("gradio", "mcp"):
        if find_spec(needed) is None:
            raise ModuleNotFoundError(f"No module named '{needed}'", name=needed)
    from midi_rwkv.model.checkpoint import load_checkpoint

    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    uploads = Uploads(upload_folder())
    uploads.open()
    os.environ["GRADIO_TEMP_DIR"] = str(uploads.folder)  # where songs that are given as content are kept for a while

    from .mcp_tools import mcp_server
    from .work import Worker

    worker = Worker(load_checkpoint(options.checkpoint), options.threads or usual_threads())
    mcp_server(worker, options.folders, "midi-rwkv mcp FOLDER").run("stdio")
