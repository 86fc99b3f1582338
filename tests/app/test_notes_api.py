"""Notes in, notes out over HTTP: what is answered, streamed, cancelled and refused; `midi-rwkv serve`."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from midi_rwkv import Ask, Region, SamplingConfig
from midi_rwkv.commands.cli import main
from midi_rwkv.fill.infill import Infiller
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.score.clip import note_row, notes_json
from midi_rwkv.score.from_notes import Part, score_of
from midi_rwkv.score.midi import read_midi

BAND = Path(__file__).parents[2] / "app" / "examples" / "pop_band.mid"
SONG = json.loads(notes_json(read_midi(BAND)))
ASKED = {"song": SONG, "tracks": [2], "bars": "8-10", "candidates": 2, "seed": 1, "density": "4-8"}
EVENTS = {"Accept": "text/event-stream"}


CALLER = """
import sys, urllib.request
headers = {"Content-Type": "application/json", "Accept": sys.argv[2]}
urllib.request.urlopen(urllib.request.Request(sys.argv[1], sys.stdin.buffer.read(), headers)).read()
"""


class Server:
    """`midi-rwkv serve` in a process of its own."""

    def __init__(self, folder, *arguments):
        command = [sys.executable, "-m", "midi_rwkv", "serve", *map(str, arguments)]
        environment = {**os.environ, "XDG_DATA_HOME": str(folder)}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
        line = self.process.stdout.readline()
        self.port = int(re.search(r":(\d+)/api/", line)[1])
        self.url = f"http://127.0.0.1:{self.port}/api/"

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(20)


@pytest.fixture(scope="module")
def server(checkpoint_folder, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("data"), "--checkpoint", checkpoint_folder, "--port", free_port())
    yield server
    server.stop()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def post(url, body, **headers):
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    return urllib.request.urlopen(request, timeout=60)


def refusal(url, body, **headers):
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(url, body, **headers)
    return caught.value.code, caught.value.read().decode()


def events_of(answer):
    """(event, data) of a stream to its end."""
    text = answer.read().decode()
    blocks = [dict(line.split(": ", 1) for line in b.split("\n")) for b in text.split("\n\n") if b.startswith("event")]
    return [(b["event"], json.loads(b["data"])) for b in blocks]


def test_a_song_from_notes_is_the_song_that_was_written():
    """Whatever stands in a file comes back from its notes, to a tick of 960 a quarter."""
    score = read_midi(BAND)
    parts = [Part(t["name"], t["program"], t["drums"], [tuple(n) for n in t["notes"]]) for t in SONG["tracks"]]
    again = score_of(parts, SONG["tempo"], SONG["metre"], SONG["name"])
    assert [(b.numerator, b.denominator) for b in again.bars] == [(b.numerator, b.denominator) for b in score.bars]
    for told, track in zip(json.loads(notes_json(again))["tracks"], SONG["tracks"], strict=True):
        assert [told[k] for k in ("name", "program", "drums")] == [track[k] for k in ("name", "program", "drums")]
        np.testing.assert_allclose(told["notes"], track["notes"], atol=2e-3)


def test_overlapping_notes_of_a_pitch_become_what_midi_can_say():
    part = Part("x", 0, drums=False, notes=[(0.0, 60, 4.0, 80), (1.0, 60, 1.0, 70), (1.0, 60, 0.5, 90)])
    assert [tuple(n) for n in score_of([part]).tracks[0].notes] == [(0, 60, 960, 80), (960, 60, 960, 70)]


def test_the_answer_is_the_infillers(server, checkpoint_folder):
    with post(f"{server.url}infill", ASKED) as answer:
        told = json.load(answer)
    parts = [Part(t["name"], t["program"], t["drums"], [tuple(n) for n in t["notes"]]) for t in SONG["tracks"]]
    score = score_of(parts, SONG["tempo"], SONG["metre"], SONG["name"])
    region = Region.rectangle([1], [(7, 10)])
    ask = Ask(region, SamplingConfig(density=(4, 8)), candidates=2, seed=1)
    expected = [
        [note_row(n, 960) for n in c.fills[1]] for c in Infiller(load_checkpoint(checkpoint_folder))(score, ask)
    ]
    assert [c["tracks"] for c in told["candidates"]] == [[{"number": 2, "notes": notes}] for notes in expected]
    assert told["seed"] == 1
    assert told["candidates"][0]["training_run"] is None


def test_notes_come_as_they_are_written(server):
    with post(f"{server.url}infill", ASKED, **EVENTS) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = events_of(answer)
    assert [kind for kind, _ in events] == ["bar", "bar", "bar", "answer"]
    assert [e["bar"] for _, e in events[:-1]] == [8, 9, 10]
    assert [(e["done"], e["total"]) for _, e in events[:-1]] == [(1, 3), (2, 3), (3, 3)]
    assert len(events[-1][1]["candidates"]) == 2


def test_the_song_is_looked_at(server):
    with post(f"{server.url}inspect", {"song": SONG}) as answer:
        told = json.load(answer)
    assert (told["first_bar"], told["last_bar"]) == (1, 48)
    assert [t["name"] for t in told["tracks"]] == [t["name"] for t in SONG["tracks"]]
    with post(f"{server.url}chords", {"song": SONG}) as answer:
        assert json.load(answer)[0]["name"] == "Em7"
    with urllib.request.urlopen(f"{server.url}styles", timeout=60) as answer:
        assert json.load(answer) == []
    with urllib.request.urlopen(f"{server.url}openapi.json", timeout=60) as answer:
        assert {"/infill", "/inspect", "/chords", "/styles", "/personalize"} <= set(json.load(answer)["paths"])


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"bars": "80-90"}, 400, "bars 80-90 are out of range: pop_band.mid has bars 1-48"),
        ({"tracks": [99]}, 400, "tracks must be 1-"),
        ({"key": "H"}, 400, "key must be"),
        ({"chords": "Am H"}, 400, "'H' in bar 1 of chords is no chord"),
        ({"chords": "file"}, 400, "those of a MIDI file"),
        ({"candidates": 99}, 400, "candidates must be 1-"),
        ({"style": "nobody"}, 400, "no style is called 'nobody'"),
        ({"tempos": 1}, 422, "tempos: Extra inputs are not permitted"),
        ({"bars": 8}, 422, "bars: Input should be a valid string, got 8"),
        ({"song": {"tracks": []}}, 400, "the song has no tracks"),
        ({"song": {"tracks": [{"notes": [[0, 200, 1, 1]]}]}}, 400, "pitches 0-127"),
        ({"song": {"tracks": [{"notes": [[-1, 60, 1, 1]]}]}}, 400, "beats of track 1 must lie in 0-"),
        ({"song": {"tracks": [{}], "metre": [[0, "4/5"]]}}, 400, "a metre must be like 4/4"),
        ({"song": {"tracks": [{}], "tempo": [[4, 100]]}}, 400, "tempo must begin at beat 0"),
        ({"song": {"tracks": [{}], "tempo": [[0, 0]]}}, 400, "the tempo at beat 0 must be 1-1000"),
    ],
)
def test_what_cannot_be_is_one_line(server, change, code, words):
    found, body = refusal(f"{server.url}infill", {**ASKED, **change})
    line = json.loads(body)["error"]
    assert (found, "\n" in line) == (code, False)
    assert words in line


def test_a_refusal_while_writing_is_an_event(server):
    held = {"name": "x", "notes": [[0, 60, 64, 80], *[[b * 4, 60, 1, 80] for b in range(16)]]}
    asked = {"song": {"tracks": [held]}, "tracks": [1], "bars": "3", "pitch_range": "61-61", "key": "C major"}
    code, body = refusal(f"{server.url}infill", asked)
    with post(f"{server.url}infill", asked, **EVENTS) as answer:
        [(kind, told)] = events_of(answer)
    assert (code, kind, json.loads(body)) == (400, "error", told)


def test_other_pages_and_names_are_refused(server):
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        assert refusal(f"{server.url}infill", ASKED, **headers)[0] == 403


def test_four_at_once_are_all_answered(server):
    answers = []

    def ask(seed):
        with post(f"{server.url}infill", {**ASKED, "seed": seed}, **EVENTS) as answer:
            answers.append(events_of(answer)[-1])

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert sorted(told["seed"] for kind, told in answers if kind == "answer") == [0, 1, 2, 3]


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
def test_a_caller_that_has_gone_frees_the_server(server, accept):
    """A long fill is given up within a second of its caller's end, so that the next one need not wait for it."""
    long = {**ASKED, "tracks": list(range(1, len(SONG["tracks"]) + 1)), "bars": "1-48", "candidates": 8}
    caller = subprocess.Popen([sys.executable, "-c", CALLER, f"{server.url}infill", accept], stdin=subprocess.PIPE)
    caller.stdin.write(json.dumps(long).encode())
    caller.stdin.close()
    time.sleep(2)
    assert caller.poll() is None  # it is still being written
    caller.kill()
    caller.wait()
    time.sleep(1)
    with post(f"{server.url}infill", ASKED, **EVENTS) as answer:
        assert [kind for kind, _ in events_of(answer)] == ["bar", "bar", "bar", "answer"]  # none was waited for


def test_a_style_is_learned_from_files(server, build_midi, note):
    [bad] = refusal(f"{server.url}personalize", {"name": "mine", "files": [{"content": "%%"}]})[1:]
    assert "the base64 of song.mid is damaged" in bad
    few = base64.b64encode(build_midi([note(0, 60, 240)])).decode()
    asked = {"name": "mine", "files": [{"name": "a.mid", "content": few}]}
    assert "too few to learn from" in refusal(f"{server.url}personalize", asked)[1]


def test_others_need_a_password(checkpoint_folder, tmp_path, capsys):
    assert main(["serve", "--host", "0.0.0.0"]) == 2
    assert "add --auth USER:PASSWORD" in capsys.readouterr().err
    server = Server(tmp_path, "--checkpoint", checkpoint_folder, "--auth", "me:secret", "--port", free_port())
    assert refusal(f"{server.url}chords", {"song": SONG})[0] == 401
    with post(f"{server.url}chords", {"song": SONG}, Authorization="Bearer secret") as answer:
        assert answer.status == 200
    assert main(["serve", "--port", str(server.port)]) == 2
    assert f"port {server.port}" in capsys.readouterr().err
    assert server.stop() == 0


def test_the_app_has_it_too(start_app, checkpoint_folder):
    app = start_app("--checkpoint", checkpoint_folder)
    with post(f"{app.url}api/infill", ASKED) as answer:
        assert len(json.load(answer)["candidates"]) == 2
    app.stop()


def block(name):
    """The block of docs/daw.md after a marker."""
    page = (BAND.parents[2] / "docs" / "daw.md").read_text(encoding="utf-8")
    return re.search(rf"<!-- ci: {name} -->\n\n```\w+\n(.*?)\n```", page, re.S)[1]


def test_the_documented_client_and_curl_work(server, tmp_path):
    script = tmp_path / "client.py"
    script.write_text(block("client"))
    assert len(script.read_text().splitlines()) <= 40
    told = subprocess.run([sys.executable, script, server.url], capture_output=True, text=True, timeout=60)
    assert (told.returncode, told.stderr) == (0, "")
    assert [line.split(":")[0] for line in told.stdout.splitlines()[:2]] == ["bar 5", "bar 6"]
    assert [line[:2] for line in told.stdout.splitlines()[2:]] == ["1 ", "2 "]
    command = block("curl").replace("http://127.0.0.1:7860/api/", server.url)
    told = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    [one, two] = json.loads(told.stdout)["candidates"]
    assert one["tracks"][0]["number"] == 1
    assert two["tracks"][0]["notes"]
