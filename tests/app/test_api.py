"""The app's endpoints, called as programs call them: gradio_client, plain HTTP, MCP."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file

from midi_rwkv.score.midi import read_midi

EXAMPLES = Path(__file__).parents[2] / "app" / "examples"
SONG = EXAMPLES / "string_quartet.mid"


@pytest.fixture(scope="module")
def app(start_app, checkpoint_folder):
    app = start_app("--checkpoint", checkpoint_folder, "--mcp")
    yield app
    app.stop()


@pytest.fixture(scope="module")
def client(app):
    return Client(app.url, verbose=False, httpx_kwargs={"timeout": 120})


def post(url, body, headers=()):
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json", **dict(headers)}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return answer.read().decode()


def test_only_the_four_are_offered_and_each_is_described(app):
    with urllib.request.urlopen(f"{app.url}gradio_api/info") as answer:
        info = json.load(answer)
    assert set(info["named_endpoints"]) == {"/inspect", "/infill", "/personalize", "/styles"}
    assert info["unnamed_endpoints"] == {}
    infill = info["named_endpoints"]["/infill"]
    names = [p["parameter_name"] for p in infill["parameters"]]
    assert names[:7] == ["song", "tracks", "bars", "num_candidates", "temperature", "top_p", "seed"]
    assert infill["parameters"][0]["type"]["properties"].keys() >= {"path", "meta"}
    assert "everything else in the file stays" in infill["description"]


def test_inspect(client):
    report = client.predict(song=handle_file(SONG), api_name="/inspect")
    score = read_midi(SONG)
    assert [t["name"] for t in report["tracks"]] == [t.name for t in score.tracks]
    assert [sum(t["notes_per_bar"]) for t in report["tracks"]] == [len(t.notes) for t in score.tracks]
    assert report["time_signatures"][0] == "3/4"


def test_infill_changes_what_was_asked_for_alone(client, check_fill):
    request = {"song": handle_file(SONG), "tracks": [1, 2], "bars": [4, 5], "num_candidates": 2, "seed": 7}
    files, report = client.predict(**request, api_name="/infill")
    score = read_midi(SONG)
    span = (score.bar(4).start_ticks, score.bar(5).end_ticks)
    mask = [(score.tracks[t].chunk, score.tracks[t].channel, *span) for t in (1, 2)]
    answers = [Path(f) for f in files]
    assert [p.name for p in answers] == ["string_quartet-1.mid", "string_quartet-2.mid"]
    for answer, count in zip(answers, report["notes"], strict=True):
        assert check_fill(SONG, answer, mask) == []
        filled = read_midi(answer)
        assert sum(len(filled.notes_in(t, b)) for t in (1, 2) for b in (4, 5)) == count
    again, _ = client.predict(**request, api_name="/infill")
    assert [Path(f).read_bytes() for f in again] == [p.read_bytes() for p in answers]
    assert (report["seed"], report["tracks"], report["bars"]) == (7, [1, 2], [4, 5])


def test_a_track_is_taken_for_what_is_asked(client, build_midi, note, tmp_path, check_fill):
    """Drums on channel 1 are pointed out; taken for drums, only pads of a kit are struck, and on channel 1."""
    path = tmp_path / "kit.mid"
    hits = [e for b in range(8) for k in range(8) for e in note(b * 1920 + k * 240, (36, 42, 38, 42)[k % 4], 60)]
    path.write_bytes(build_midi([[(0, b"\xff\x03\x05Drums"), *hits]]))
    said = client.predict(song=handle_file(path), api_name="/inspect")
    assert [(t["track"], t["instrument"], t["from_bar"]) for t in said["tracks"]] == [(0, "Acoustic Grand Piano", 0)]
    assert len(said["warnings"]) == 1
    assert said["warnings"][0].endswith("name an instrument for it in `instruments`")
    asked = {"song": handle_file(path), "instruments": {"0": "Drums"}}
    said = client.predict(**asked, api_name="/inspect")
    assert (said["tracks"][0]["instrument"], said["warnings"]) == ("Drums", [])
    [file], report = client.predict(**asked, tracks=[0], bars=[2, 3], seed=1, api_name="/infill")
    assert report["warnings"] == []
    assert check_fill(path, file, [(0, 0, 2 * 1920, 4 * 1920)]) == []
    assert all(35 <= n.pitch <= 59 for n in read_midi(file).tracks[0].notes)


def test_controls_are_met(client):
    wanted = {"density": [3, 3], "polyphony": [1, 1], "pitch_range": [60, 72], "key": "C major"}
    files, _ = client.predict(song=handle_file(SONG), tracks=[0], bars=[2, 3], seed=1, **wanted, api_name="/infill")
    score = read_midi(files[0])
    for b in (2, 3):
        notes = score.notes_in(0, b)
        assert len(notes) == 3
        assert all(60 <= n.pitch <= 72 and n.pitch % 12 in (0, 2, 4, 5, 7, 9, 11) for n in notes)


def test_wishes_have_the_commands_words(client):
    score = read_midi(SONG)
    asked = {"song": handle_file(SONG), "tracks": [0], "bars": [], "seed": 1}
    files, report = client.predict(**asked, beats="5.2-5.3", density="busy", feel="grid", api_name="/infill")
    assert report["bars"] == [4]
    first = score.bar(4).start_ticks + score.ticks_per_beat
    before, after = ([n for n in s.notes_in(0, 4) if n.onset_ticks < first] for s in (score, read_midi(files[0])))
    assert [n[:2] for n in before] == [n[:2] for n in after]

    there = score.notes_in(0, 4)[0]
    lock = f"5.1:{there.pitch}"
    wishes = {"lock": [lock], "like": "1-4", "like_song": handle_file(SONG), "only": "C2-C8", "clip": True}
    asked |= {"bars": [4, 5]}
    files, _ = client.predict(**asked, **wishes, api_name="/infill")
    clip = read_midi(files[0])
    assert [t.name for t in clip.tracks] == [score.tracks[0].name]
    assert clip.tracks[0].notes[0] == there._replace(onset_ticks=there.onset_ticks - score.bar(4).start_ticks)
    files, report = client.predict(**asked, **wishes, format="json", api_name="/infill")
    assert files[0].endswith("string_quartet-1.json")
    told = json.loads(Path(files[0]).read_text())
    assert [b[0] for b in told["bars"]] == [5, 6]
    assert [len(t["notes"]) for t in told["tracks"]] == report["notes"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"tracks": [9]}, "tracks must be 0-3"),
        ({"bars": []}, "the region is empty"),
        ({"num_candidates": 9}, "num_candidates must be 1-8, got 9"),
        ({"temperature": -1}, "temperature must lie in"),
        ({"density": [3]}, "density must be two numbers"),
        ({"key": "H moll"}, "^key must be a tonic"),
        ({"style": "nobody"}, "nobody"),
        ({"instruments": {"Violin": "Drums"}}, "instruments must be by 0-based track number"),
        ({"instruments": {"9": "Drums"}}, "track must be 0-3"),
        ({"instruments": {"0": "kazoo"}}, "no General MIDI instrument is called 'kazoo'"),
        ({"style": "/etc/mine.safetensors"}, "no style is called '/etc/mine.safetensors'"),
        ({"style": "../mine:0.5"}, r"no style is called '\.\./mine'"),
        ({"style": "mine", "style_file": handle_file(SONG)}, "not both"),
        ({"style_file": handle_file(SONG)}, "cannot be read as a style"),
        ({"seed": 2**70}, "seed must be 0-9223372036854775807, got 1180591620717411303424"),
        ({"seed": -2}, "seed must be"),
        ({"seed": "x"}, "seed must be whole numbers"),
        ({"tracks": ["1"]}, "tracks must be whole numbers"),
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"density": "lots"}, "density must be sparse, normal, busy or LOW-HIGH"),
        ({"beats": "2.1"}, "give bars or beats, not both"),
        ({"bars": [], "beats": "2.9"}, "beats 2.9: bar 2 of string_quartet.mid has beats 1-3"),
        ({"keep": ["melody"]}, "keep takes rhythm, pitches"),
        ({"keep": "rhythm"}, "keep must be text"),
        ({"lock": ["2.1:C9"]}, "lock 2.1:C9: no such note"),
        ({"vary": 3}, "vary must be more than 0 and at most 1"),
        ({"like": "other.mid"}, "like takes bars of this song, none or itself"),
        ({"like": "1-4", "like_song": str(SONG)}, "no uploaded file"),
        ({"feel": "loose"}, "feel must be"),
        ({"no_quotes": 2}, "no_quotes must be"),
        ({"chords_bass": "x"}, "chords_bass must be root or free"),
        ({"format": "xml"}, "format must be midi or json"),
    ],
)
def test_bad_requests_get_a_line(client, wrong, words):
    request = {"song": handle_file(SONG), "tracks": [0], "bars": [1], **wrong}
    with pytest.raises(Exception, match=words):
        client.predict(**request, api_name="/infill")


def test_files_that_were_not_uploaded_are_not_read(app, client, tmp_path):
    broken = tmp_path / "broken.mid"
    broken.write_bytes(b"nothing")
    with pytest.raises(Exception, match=r"broken\.mid"):
        client.predict(song=handle_file(broken), api_name="/inspect")
    for song in ({"path": str(SONG)}, {"path": str(SONG), "meta": {"_type": "gradio.FileData"}}, str(SONG), None):
        event = json.loads(post(f"{app.url}gradio_api/call/inspect", {"data": [song]}))["event_id"]
        with urllib.request.urlopen(f"{app.url}gradio_api/call/inspect/{event}", timeout=120) as answer:
            text = answer.read().decode()
        assert "event: error" in text
        assert "Violin" not in text


@pytest.mark.slow
def test_personalize_and_the_style_it_makes(start_app, checkpoint_folder, build_midi, note, tmp_path):
    app = start_app("--checkpoint", checkpoint_folder)
    client = Client(app.url, verbose=False, httpx_kwargs={"timeout": 120})
    files = []
    for i in range(3):
        pitches = [60 + (i + 2 * b + 3 * k) % 12 for b in range(24) for k in range(4)]
        files.append(tmp_path / f"mine{i}.mid")
        files[-1].write_bytes(build_midi([[e for k, p in enumerate(pitches) for e in note(k * 480, p, 240)]]))
    files.append(tmp_path / "broken.mid")
    files[-1].write_bytes(b"nothing")
    request: dict[str, Any] = {"files": [handle_file(f) for f in files], "name": "mine"}
    made = client.predict(**request, api_name="/personalize")
    assert made["style"] == "mine"
    assert made["held_out_after"] < made["held_out_before"]
    assert "broken.mid" in made["skipped"]
    assert [s["name"] for s in client.predict(api_name="/styles")] == ["mine"]
    with pytest.raises(Exception, match="mine is taken"):
        client.predict(**request, api_name="/personalize")
    request = {"song": handle_file(SONG), "tracks": [0], "bars": [3], "seed": 1}
    plain, styled, none = (
        Path(client.predict(**request, **style, api_name="/infill")[0][0]).read_bytes()
        for style in ({}, {"style": "mine"}, {"style": "mine", "style_strength": 0})
    )
    assert styled != plain == none
    app.stop()


def test_by_plain_http(app):
    event = json.loads(post(f"{app.url}gradio_api/call/styles", {"data": []}))["event_id"]
    with urllib.request.urlopen(f"{app.url}gradio_api/call/styles/{event}", timeout=120) as answer:
        assert "event: complete\ndata: [[]]" in answer.read().decode()


def test_as_mcp_tools(app):
    headers = {"Accept": "application/json, text/event-stream"}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    answer = post(f"{app.url}gradio_api/mcp/", call, headers)
    tools = json.loads(answer.split("data: ", 1)[-1])["result"]["tools"]
    assert {t["name"] for t in tools} == {"inspect_song", "infill_file", "infill_notes", "learn_style", "list_styles"}
    infill = next(t for t in tools if t["name"] == "infill_file")
    assert infill["inputSchema"]["properties"]["bars"]["type"] == "array"


def test_what_cannot_be_served_is_said(capsys):
    from midi_rwkv.commands.cli import main

    for wrong, words in (
        (["--auth", "me"], "--auth must be USER:PASSWORD"),
        (["--threads", "0"], "--threads must lie in 1-2"),
        (["--port", "70000"], "--port must be 1-65535"),
        (["--soundfont", "nowhere.sf2"], "there is no soundfont nowhere.sf2"),
        (["--checkpoint", "nowhere"], "nowhere"),
    ):
        assert main(["app", *wrong]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert words in err
        assert err.count("\n") == 1
