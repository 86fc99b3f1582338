"""The MCP tools, called with the official client: songs as content and as files of one folder, and nothing else."""

import asyncio
import base64
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from midi_rwkv.score.midi import read_midi

ROOT = Path(__file__).parents[2]
SONG = ROOT / "app" / "examples" / "string_quartet.mid"
CONTENT = base64.b64encode(SONG.read_bytes()).decode()
ASKED = {"tracks": [1], "bars": [4, 5], "num_candidates": 2, "seed": 7}
PASSWORD = "pass:word"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("songs")
    shutil.copy(SONG, folder / "quartet.mid")
    (folder / "sub").mkdir()
    shutil.copy(SONG, folder / "sub" / "second movement.mid")
    outside = folder.parent / f"{folder.name}-secret"  # its name begins like the folder's
    outside.mkdir()
    shutil.copy(SONG, outside / "secret.mid")
    (folder / "link.mid").symlink_to(outside / "secret.mid")
    (folder / "out").symlink_to(outside)
    (folder / "inside.mid").symlink_to(folder / "quartet.mid")
    (folder / "broken.mid").write_bytes(b"nothing")
    os.mkfifo(folder / "pipe.mid")
    with (folder / "long.mid").open("wb") as file:
        file.truncate(17 * 2**20)
    return folder


@pytest.fixture(scope="module")
def app(start_app, checkpoint_folder, folder):
    arguments = ["--checkpoint", checkpoint_folder, "--mcp", "--mcp-files", folder, "--auth", f"me:{PASSWORD}"]
    app = start_app(*arguments)
    yield app
    app.stop()


@pytest.fixture(scope="module")
def closed_app(start_app, checkpoint_folder):
    """Without a folder, and without a password."""
    app = start_app("--checkpoint", checkpoint_folder, "--mcp")
    yield app
    app.stop()


def calls(app, *wanted, headers=None):
    """What each of (tool, arguments) answers, or the names of the tools without any."""

    async def main():
        given = headers if headers is not None else {"Authorization": f"Bearer {PASSWORD}"}
        async with (
            httpx.AsyncClient(headers=given, timeout=120) as http,
            streamable_http_client(f"{app.url}gradio_api/mcp/", http_client=http) as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            if not wanted:
                return (await session.list_tools()).tools
            return [await session.call_tool(name, arguments) for name, arguments in wanted]

    return asyncio.run(main())


def refusal(app, song, tool="inspect_song", **others):
    (answer,) = calls(app, (tool, {"song": song, **others}))
    assert answer.isError
    (text,) = answer.content
    assert "\n" not in text.text
    assert "Traceback" not in text.text
    return text.text


def test_the_tools_and_what_they_take(app):
    tools = {tool.name: tool for tool in calls(app)}
    assert set(tools) == {"inspect_song", "infill_file", "infill_notes", "learn_style", "list_styles"}
    taken = tools["infill_file"].inputSchema["properties"]
    assert taken["song"]["type"] == "string"
    assert taken["bars"]["type"] == "array"
    assert {kind["type"] for kind in taken["like_song"]["anyOf"]} == {"string", "null"}
    assert taken.keys() >= {"beats", "only", "keep", "lock", "vary", "chords", "like", "again", "feel", "no_quotes"}
    assert "everything else in the file stays" in tools["infill_file"].description


def test_content_comes_in_and_goes_out(app, check_fill, tmp_path):
    about, answer, again = calls(
        app,
        ("inspect_song", {"song": CONTENT}),
        ("infill_file", {"song": CONTENT, **ASKED}),
        ("infill_file", {"song": f"data:audio/midi;base64,{CONTENT}", **ASKED}),
    )
    assert [t["name"] for t in about.structuredContent["tracks"]] == [t.name for t in read_midi(SONG).tracks]
    files = answer.structuredContent["files"]
    score = read_midi(SONG)
    span = (score.bar(4).start_ticks, score.bar(5).end_ticks)
    for file in files:
        path = tmp_path / file["name"]
        path.write_bytes(base64.b64decode(file["content"]))
        assert check_fill(SONG, path, [(score.tracks[1].chunk, score.tracks[1].channel, *span)]) == []
    assert len(files) == 2
    assert again.structuredContent["files"] == files


def test_files_come_in_and_go_out(app, folder):
    before = {p.name for p in folder.iterdir()}
    first, second, by_link, absolute = calls(
        app,
        ("infill_file", {"song": "quartet.mid", **ASKED}),
        ("infill_file", {"song": "quartet.mid", **ASKED}),
        ("inspect_song", {"song": "inside.mid"}),
        ("inspect_song", {"song": str(folder / "sub" / "second movement.mid")}),
    )
    names = [[file["name"] for file in a.structuredContent["files"]] for a in (first, second)]
    assert names == [["quartet-1.mid", "quartet-2.mid"], ["quartet-1 (2).mid", "quartet-2 (2).mid"]]
    assert {p.name for p in folder.iterdir()} - before == {*names[0], *names[1]}
    for a, b in zip(*names, strict=True):
        assert (folder / a).read_bytes() == (folder / b).read_bytes() != SONG.read_bytes()
    assert (folder / "quartet.mid").read_bytes() == SONG.read_bytes()
    assert not by_link.isError
    assert not absolute.isError


@pytest.mark.parametrize(
    "name",
    [
        "../{name}-secret/secret.mid",
        "{folder}-secret/secret.mid",
        "sub/../../{name}-secret/secret.mid",
        "link.mid",
        "out/secret.mid",
        "/etc/passwd",
        "~/song.mid",
        "nowhere.mid",
        "",
        ".",
        "sub",
        "pipe.mid",
        "quartet.mid\0",
        "x" * 5000,
        "a\nb.mid",
    ],
)
def test_no_other_file_is_read(app, folder, name):
    for tool, others in (("inspect_song", {}), ("infill_file", ASKED)):
        words = refusal(app, name.format(folder=folder, name=folder.name), tool, **others)
        assert "in the folders that midi-rwkv app --mcp-files DIR opens" in words


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:1/a.mid", "HTTPS://127.0.0.1/a.mid", "ftp://a/b.mid", "file:///etc/passwd", "smb://a/b"],
)
def test_no_address_is_fetched(app, address):
    assert "files are not fetched from addresses" in refusal(app, address)


def test_what_is_no_song_gets_a_line(app):
    assert "broken.mid" in refusal(app, "broken.mid")
    assert "17,825,792 bytes" in refusal(app, "long.mid")
    assert "base64 is damaged" in refusal(app, "TVRoZ!!!")
    assert "song.mid" in refusal(app, base64.b64encode(b"MThd nothing").decode())
    assert "num_candidates must be 1-8, got 9" in refusal(app, CONTENT, "infill_file", **{**ASKED, "num_candidates": 9})
    assert "tracks must be 0-3" in refusal(app, CONTENT, "infill_file", **{**ASKED, "tracks": [9]})
    (answer,) = calls(app, ("learn_style", {"files": ["/etc/passwd"], "name": "x"}))
    assert answer.isError
    assert "in the folders that midi-rwkv app --mcp-files DIR opens" in answer.content[0].text


def test_without_a_folder_no_file_is_read(closed_app):
    for name in ("quartet.mid", str(SONG)):
        assert "no folder is open for files here" in refusal(closed_app, name)


def test_the_password_is_asked_for(app):
    basic = "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    assert len(calls(app, headers={"Authorization": basic})) == 5
    hello = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    accept = {"Accept": "application/json, text/event-stream"}
    for path in ("gradio_api/mcp", "gradio_api/mcp/"):
        assert httpx.post(app.url + path, json=hello, headers=accept, timeout=120).status_code == 401
        answer = httpx.post(app.url + path, json=hello, headers={**accept, "Authorization": basic}, timeout=120)
        assert answer.status_code == 200
        assert "inspect" in answer.text


def test_another_page_reaches_no_tool(closed_app):
    hello = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    accept = {"Accept": "application/json, text/event-stream"}
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"Origin": "null"}):
        answer = httpx.post(f"{closed_app.url}gradio_api/mcp/", json=hello, headers={**accept, **headers}, timeout=120)
        assert answer.status_code == 403


def test_the_example_of_the_documentation_runs(closed_app, tmp_path):
    text = (ROOT / "docs" / "daw.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import asyncio\n.*?)```", text, re.DOTALL)
    assert "http://127.0.0.1:7860/" in code
    shutil.copy(SONG, tmp_path / "song.mid")
    (tmp_path / "example.py").write_text(code.replace("http://127.0.0.1:7860/", closed_app.url), encoding="utf-8")
    run = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-2:] == ["song-1.mid", "song-2.mid"]
    assert read_midi(tmp_path / "song-2.mid")


def test_over_standard_input(checkpoint_folder, folder, tmp_path):
    """As clients start it: a file of a folder, one outside of it, and notes."""
    arguments = ["-m", "midi_rwkv", "mcp", str(folder), "--checkpoint", str(checkpoint_folder)]
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    started = StdioServerParameters(command=sys.executable, args=arguments, env=environment)
    notes = [[b * 4 + k, 40 + k, 0.9, 80] for b in range(6) for k in range(4)]
    song = {"tracks": [{"program": 33, "notes": notes}]}

    async def main():
        async with stdio_client(started) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            names = {tool.name for tool in (await session.list_tools()).tools}
            request = {"song": song, "tracks": [1], "bars": "3-4", "candidates": 2, "seed": 1}
            calls = (
                ("inspect_song", {"song": "quartet.mid"}),
                ("inspect_song", {"song": "/etc/passwd"}),
                ("infill_notes", {"request": request}),
                ("infill_notes", {"request": {**request, "bars": "99"}}),
            )
            return names, [await session.call_tool(*call) for call in calls]

    names, (seen, outside, filled, wrong) = asyncio.run(main())
    assert names == {"inspect_song", "infill_file", "infill_notes", "learn_style", "list_styles"}
    assert len(seen.structuredContent["tracks"]) == 4
    assert "in the folders that midi-rwkv mcp FOLDER opens" in outside.content[0].text
    assert len(filled.structuredContent["candidates"]) == 2
    assert wrong.isError
    assert "bars 99 is out of range" in wrong.content[0].text or "bars 99" in wrong.content[0].text


def test_a_folder_that_cannot_be_is_said(capsys, tmp_path):
    from midi_rwkv.commands.cli import main

    for wrong, words in (
        (["--mcp-files", tmp_path], "--mcp-files is about the MCP tools; add --mcp"),
        (["--mcp", "--mcp-files", tmp_path / "nowhere"], "--mcp-files must be a folder"),
        (["--mcp", "--allow-host", "http://a"], "--allow-host must be NAME or NAME:PORT"),
    ):
        assert main(["app", *map(str, wrong)]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert words in err
