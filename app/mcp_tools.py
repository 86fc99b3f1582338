"""The endpoints as MCP tools: at /gradio_api/mcp/ of the app (`--mcp`), or over standard input (mcp_stdio.py).

Gradio could serve them too, but its tools fetch files from any address they are given, and call the server back without
a password. Here a song is given as its content, as a file in a folder that the user has opened, or as notes.
"""

from __future__ import annotations

import base64
import binascii
import functools
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio.to_thread
import gradio as gr
from mcp.server.fastmcp import FastMCP
from mcp.server.fastmcp.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from starlette.routing import Route

from midi_rwkv.errors import RequestError
from midi_rwkv.files import shown, whole_file

from .api import endpoints, keep_upload
from .faults import one_line
from .notes_api import answer_of
from .notes_models import Answer, InfillRequest
from .work import Worker

PATH = "/gradio_api/mcp"
LARGEST = 16 * 2**20  # bytes of a file, as of an upload
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
CONTENT = re.compile(r"data:[^,]*;base64,|(?=TVRoZ|UklGR)", re.IGNORECASE)  # the base64 of MThd and RIFF
ABOUT = """Rewrites chosen bars of chosen tracks of a MIDI song and leaves everything else in the file as it was. Call
`inspect_song` first: it lists the tracks and bars. A song is given as its content in base64, or as the path of a file
in a folder that the user has opened to you; the answer comes in the same way, a file's answers as new files beside it.
Where there is no file, `infill_notes` takes the notes themselves."""
NAMES = {"inspect": "inspect_song", "infill": "infill_file", "personalize": "learn_style", "styles": "list_styles"}


class ToolFiles:
    """Finds the songs that tools are given, and returns their answers."""

    def __init__(self, folders: Sequence[Path], option: str) -> None:
        """folders: those whose files may be named. option: how the user opens them."""
        self.folders, self.option = [folder.resolve(strict=True) for folder in folders], option

    def find(self, song: Any) -> Path:
        """A song's file: one in the folder, or its content stored like an upload. Raises RequestError."""
        if not isinstance(song, str):
            raise RequestError("a song must be a path or the content of a MIDI file in base64")
        if ADDRESS.match(song):
            raise RequestError("files are not fetched from addresses; give the content of the file in base64")
        start = CONTENT.match(song)
        if not start:
            return self._in_folder(song)
        try:
            return keep_upload("song.mid", base64.b64decode(song[start.end() :], validate=True))
        except binascii.Error as error:
            raise RequestError(f"the song's base64 is damaged ({error})") from None

    def is_path(self, song: Any) -> bool:
        """Whether a song is given as a file in the folder rather than as its content."""
        return isinstance(song, str) and not CONTENT.match(song)

    def _in_folder(self, name: str) -> Path:
        if not self.folders:
            raise RequestError(
                f"no folder is open for files here ({self.option} opens one); give the content of the file in base64"
            )
        path = next((found for folder in self.folders if (found := _inside(folder, name))), None)
        if path is None:  # the same message for a missing file and for one elsewhere
            raise RequestError(f"there is no file {shown(name[:200])} in the folders that {self.option} opens")
        if path.stat().st_size > LARGEST:
            raise RequestError(f"{shown(path.name)} has {path.stat().st_size:,} bytes; at most {LARGEST:,} are taken")
        return path

    def answer(self, song: str, name: str, data: bytes) -> dict[str, str]:
        """An answer in the form in which its song was given: as a new file beside it, or as content."""
        if not self.is_path(song):
            return {"name": name, "content": base64.b64encode(data).decode()}
        folder = self.find(song).parent
        stem, ending = Path(name).stem, Path(name).suffix
        for number in itertools.count(1):
            path = folder / (name if number == 1 else f"{stem} ({number}){ending}")
            try:
                with whole_file(path, overwrite=False) as partial:
                    partial.write_bytes(data)
            except FileExistsError:
                continue
            return {"name": path.name, "path": str(path)}
        raise AssertionError("count() does not end")


def _inside(folder: Path, name: str) -> Path | None:
    """The file of that name in a folder, links followed; None where it is none, or lies elsewhere."""
    try:
        path = (folder / name).resolve(strict=True)
        return path if path.is_relative_to(folder) and path.is_file() else None
    except (OSError, ValueError, RuntimeError):
        return None


def mcp_server(worker: Worker, folders: Sequence[Path], option: str) -> FastMCP:
    """The MCP server with the tools, each of which works in a thread of its own. For the rest see `ToolFiles`."""
    server = FastMCP(
        "midi-rwkv",
        instructions=ABOUT,
        stateless_http=True,
        log_level="WARNING",
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),  # guard.py's work
    )
    songs = ToolFiles(folders, option)
    inspect, infill, personalize, styles = endpoints(worker, songs.find, lambda name, data: (name, data))

    @functools.wraps(infill)
    def infill_with_files(**asked: Any) -> dict[str, Any]:
        answers, report = infill(**asked)
        return {**report, "files": [songs.answer(asked["song"], name, data) for name, data in answers]}

    def infill_notes(request: InfillRequest) -> Answer:
        """Write some bars of some tracks of a song that is given as notes in beats. Tracks and bars count from 1."""
        return answer_of(worker, request)

    infill_with_files.__annotations__["return"] = dict[str, Any]
    server.add_tool(_tool(infill_notes))
    for function in (inspect, infill_with_files, personalize, styles):
        for name, kind in (("song", str), ("files", list[str]), ("style_file", str | None), ("like_song", str | None)):
            if name in function.__annotations__:
                function.__annotations__[name] = kind
        server.add_tool(_tool(function), NAMES[function.__name__])
    return server


def routes(server: FastMCP) -> list[Route]:
    """The routes of the tools, with and without a final slash. `server.session_manager` must be running."""
    server.streamable_http_app()  # creates the session manager

    class Endpoint:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await server.session_manager.handle_request(scope, receive, send)

    return [Route(path, Endpoint()) for path in (PATH, PATH + "/")]


def _tool(function: Callable[..., Any]) -> Callable[..., Any]:
    """An endpoint as a tool, which runs in a thread and has one-line errors."""

    @functools.wraps(function)
    async def tool(**asked: Any) -> Any:
        try:
            return await anyio.to_thread.run_sync(functools.partial(function, **asked))
        except gr.Error as error:
            raise ToolError(error.message) from None
        except Exception as error:
            raise ToolError(one_line(error)) from None

    return tool
