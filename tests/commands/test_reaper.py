"""REAPER's script as its users meet it: in a small REAPER (`mock_reaper.lua`), with the real `midi-rwkv infill`.

Skipped where no Lua is installed, unless pytest is told --need-lua, as `.ci/run` does.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from midi_rwkv.commands import reaper
from midi_rwkv.commands.cli import main
from midi_rwkv.errors import RequestError
from midi_rwkv.fill.places import parse_places
from midi_rwkv.score.midi import read_midi

MOCK = Path(__file__).with_name("mock_reaper.lua")
SLOW = [{"qn": 0, "bpm": 120, "num": 4, "den": 4}]
METRES = [*SLOW, {"qn": 8, "bpm": 90, "num": 3, "den": 4}, {"qn": 17, "bpm": 90, "num": 6, "den": 8}]


@pytest.fixture(scope="session")
def lua(request):
    path = shutil.which("lua5.4") or shutil.which("lua")
    if path is None:
        if request.config.getoption("--need-lua"):
            pytest.fail("no lua5.4 is installed, and --need-lua was given")
        pytest.skip("no lua5.4 is installed")
    return path


def literal(value) -> str:
    """A value as Lua writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"[{literal(k)}] = {literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "{" + ", ".join(map(literal, value)) + "}"
    return json.dumps(value, ensure_ascii=False)


@pytest.fixture
def open_reaper(lua, checkpoint_folder, tmp_path):
    """open_reaper(tracks, markers=SLOW, **spec): the project after a run of the installed script (see mock_reaper.lua).

    `inputs` are the fields of the dialog by the first word of their captions; the checkpoint and a seed are among the
    other options unless it has these."""
    assert main(["reaper", "--install", str(tmp_path)]) == 0
    folder = tmp_path / "resources"

    def run(tracks, markers=SLOW, **spec):
        if spec.get("inputs") is not False:
            other = f'--checkpoint "{checkpoint_folder}" --seed 1'
            spec["inputs"] = {"candidates": "1", "other": other} | spec.get("inputs", {})
        spec = literal({"tracks": tracks, "markers": markers, **spec})
        code = f"io.write(dofile({literal(str(MOCK))}).run({spec}, {literal(str(tmp_path / reaper.NAME))}, ...))"
        done = subprocess.run([lua, "-", str(folder)], input=code, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        return SimpleNamespace(**json.loads(done.stdout))

    run.files = lambda: sorted(p.name for p in folder.rglob("*") if p.is_file())
    return run


def item(low, high, notes=None, **more):
    """An item with a quarter note on each quarter, or with these notes."""
    if notes is None:
        notes = [[k, 0.5, 60 + k % 5, 80, 2] for k in range(int(high - low))]
    return {"from": low, "to": high, "notes": notes, **more}


def track(name, *items, **more):
    return {"name": name, "items": list(items), **more}


def outside(take, low, high):
    return [n for n in take["notes"] if not low <= n[0] < high]


def inside(take, low, high):
    return [n for n in take["notes"] if low <= n[0] < high]


def test_selected_items_become_takes_in_one_undo_block(open_reaper):
    """The item is bars 3-4 of 8; every candidate is a take, and the first is the active one."""
    lead = [item(0, 8), item(8, 16, selected=True), item(16, 32)]
    done = open_reaper([track("Lead", *lead), track("Bass", item(0, 32))], inputs={"candidates": "3"}, pool=True)
    assert done.messages == []
    assert done.undo == ["midi-rwkv: fill bars 3-4"]
    first, filled, last = done.tracks[0]
    assert [len(i["takes"]) for i in (first, filled, last, done.tracks[1][0])] == [1, 4, 1, 1]
    old, *new = filled["takes"]
    assert old["notes"] == [[8 + k, 0.5, 60 + k % 5, 80, 2] for k in range(8)]
    assert [t["name"] for t in new] == ["Lead - fill 1", "Lead - fill 2", "Lead - fill 3"]
    assert filled["active"] == 2
    assert filled["selected"]
    assert not first["selected"]
    assert len({json.dumps(t["notes"]) for t in filled["takes"]}) == 4
    for take in new:
        assert inside(take, 8, 16)
        assert outside(take, 8, 16) == []
        assert {n[4] for n in take["notes"]} == {2}  # the channel of the item's notes
        assert max(n[0] + n[1] for n in take["notes"]) <= 16 + 1e-9
    assert open_reaper.files() == []


def test_a_time_selection_on_two_tracks(open_reaper):
    """The lead's long item has it inside, and a downbeat that comes early; the pad has no MIDI, and gets an item."""
    early = [7670 / 960, 0.5, 67, 80, 2]
    notes = [[k, 0.5, 60 + k % 5, 80, 2] for k in range(32) if k != 8]
    tracks = [
        track("Lead", item(0, 32, [*notes, early], group=1), selected=True),
        track("Pad", selected=True),
        track("Bass", item(0, 32, group=1)),
    ]
    done = open_reaper(tracks, time=[8, 12], inputs={"candidates": "2"}, grouping=True)
    assert done.messages == []
    assert done.undo == ["midi-rwkv: fill bars 3-3"]
    [[lead], [pad], [bass]] = done.tracks
    old, *new = lead["takes"]
    assert len(new) == len(pad["takes"]) == 2
    assert len(bass["takes"]) == 1  # though it is grouped with the lead's
    assert done.grouping
    assert early in old["notes"]
    for take in new:
        assert outside(take, 7.95, 12) == outside(old, 7.95, 12)
        assert inside(take, 7.95, 12) != inside(old, 7.95, 12)
        assert early not in take["notes"]
    assert (pad["from"], pad["to"], pad["active"]) == (8, 12, 1)
    for take in pad["takes"]:
        assert take["notes"] == inside(take, 8, 12) != []


def test_beats_after_a_metre_change(open_reaper):
    """Bar 4 is 3/4 from quarter 11; the selection begins on its second beat and ends within the third."""
    tracks = [track("Lead", item(0, 20, [[k / 2, 0.5, 60, 80, 0] for k in range(40)], selected=True))]
    done = open_reaper(tracks, METRES, time=[12, 13.5])
    assert done.messages == []
    assert done.undo == ["midi-rwkv: fill bars 4.2-4.3"]
    [[filled]] = done.tracks
    old, new = filled["takes"]
    assert outside(new, 12, 13.5) == outside(old, 12, 13.5)
    assert inside(new, 12, 13.5) != inside(old, 12, 13.5)


def test_notes_that_stay_keep_their_events(open_reaper):
    """Those of a kept pitch do, one muted, one twice at once; all others are new, also where one is doubled."""
    notes = [*([k, 1, 64, 90, 0] for k in range(8)), [2, 1, 64, 90, 9]]
    kept = [[1, 0.25, 60, 33, 5], [3, 0.25, 60, 34, 6, True], [5, 0.5, 60, 35, 7], [5, 0.25, 60, 36, 8]]
    done = open_reaper([track("Lead", item(0, 8, notes + kept, selected=True))], inputs={"keep": "60-60"})
    assert done.messages == []
    new = done.tracks[0][0]["takes"][1]["notes"]
    assert sorted(n for n in new if n[2] == 60) == sorted(n[:5] for n in kept)
    assert not [n for n in new if n in notes]


def test_pitch_bends_go_with_their_notes(open_reaper):
    """Channel 0's do, and the last comes back after the region; a note of channel 1 stays, and so do its bends."""
    bends = [[tick, 0xE0, channel, 5, high] for tick, high in ((0, 70), (4800, 80), (6720, 90)) for channel in (0, 1)]
    notes = [*([k, 1, 64, 90, 0] for k in range(12)), [4.5, 1, 60, 90, 1]]
    tracks = [track("Lead", item(0, 12, notes, ccs=[*bends, [4800, 0xB0, 0, 64, 127]], selected=True))]
    done = open_reaper(tracks, time=[4, 8], inputs={"keep": "60-60"})
    assert done.messages == []
    old, new = done.tracks[0][0]["takes"]
    assert sorted(old["ccs"]) == sorted([*bends, [4800, 0xB0, 0, 64, 127]])
    there = [[0, 0xE0, 0, 5, 70], [3840, 0xE0, 0, 0, 64], [7680, 0xE0, 0, 5, 90]]
    assert sorted(c for c in new["ccs"] if c[1:3] == [0xE0, 0]) == there
    assert [c for c in new["ccs"] if c[1:3] != [0xE0, 0]] == [c for c in old["ccs"] if c[1:3] != [0xE0, 0]]


WISHES = [
    ({"keep": "rhythm; pitches"}, "the same rhythm with the same pitches"),
    ({"temperature": "hot"}, "invalid float value: 'hot'"),
    ({"style": "nobody's"}, "nobody's"),
    ({"instruments": "7=Drums"}, "of tracks with MIDI (1), got '7=Drums'"),
    ({"other": "--tra 2"}, "Other options cannot have --tra"),
]


@pytest.mark.parametrize(("inputs", "words"), WISHES)
def test_a_bad_wish_is_one_line(open_reaper, inputs, words):
    tracks = [track("Lead", item(0, 8, selected=True))]
    done = open_reaper(tracks, inputs=inputs)
    [message] = done.messages
    assert words in message
    assert "\n" not in message
    assert (done.undo, len(done.tracks[0][0]["takes"])) == ([], 1)
    assert open_reaper.files() == []


@pytest.mark.parametrize("cancel", ["start", "cells"])
def test_cancelling_leaves_all_as_it_was(open_reaper, cancel):
    """By closing the window at once, or with Esc while bars are written: midi-rwkv ends and deletes its files."""
    tracks = [track("Lead", item(0, 256, selected=True))]
    done = open_reaper(tracks, inputs={"candidates": "32"}, cancel=cancel)
    assert (done.messages, done.undo, done.window) == ([], [], False)
    assert (done.progress != "") == (cancel == "cells")
    assert len(done.tracks[0][0]["takes"]) == 1
    until = time.monotonic() + 60
    while open_reaper.files() and time.monotonic() < until:
        time.sleep(0.1)
    assert open_reaper.files() == []


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"meddle": True}, "The items were changed meanwhile, and stay so; run midi-rwkv again."),
        ({"locked": True}, 'REAPER copies no take of "Lead"; is the item locked?'),
    ],
)
def test_items_that_are_changed_meanwhile_or_locked_stay(open_reaper, spec, words):
    done = open_reaper([track("Lead", item(0, 8, selected=True, **spec))], **spec)
    assert done.messages == [words]
    assert (done.undo, len(done.tracks[0][0]["takes"])) == ([], 1)
    assert open_reaper.files() == []


NOT_STARTED = {
    "nothing selected": ([track("Lead", item(0, 8))], {}, "Select MIDI items, or tracks and a time selection"),
    "no track selected": ([track("Lead", item(0, 8))], {"time": [0, 4]}, "Select MIDI items, or tracks and a time"),
    "two regions": (
        [track("Lead", item(0, 8, selected=True)), track("Bass", item(4, 8, selected=True))],
        {},
        "Select the same bars on all tracks: ",
    ),
    "loop": ([track("Lead", item(0, 8, selected=True, loop=True, length=4))], {}, '"Lead" repeats its MIDI; glue it'),
    "dialog closed": ([track("Lead", item(0, 8, selected=True))], {"inputs": False}, None),
    "no process": ([track("Lead", item(0, 8, selected=True))], {"broken": True}, "REAPER could not run "),
}


@pytest.mark.parametrize("case", NOT_STARTED)
def test_what_cannot_be_filled_starts_nothing(open_reaper, case):
    tracks, spec, words = NOT_STARTED[case]
    done = open_reaper(tracks, **spec)
    assert (done.started, done.undo, len(done.tracks[0][0]["takes"])) == (0, [], 1)
    assert [m[: len(words)] for m in done.messages] == ([words] if words else [])
    assert all("\n" not in m for m in done.messages)
    assert open_reaper.files() == []


@pytest.fixture
def asked(open_reaper, tmp_path):
    """asked(tracks, ...) -> the song that midi-rwkv would read, and the arguments it would get."""

    def ask(tracks, markers=SLOW, **spec):
        open_reaper(tracks, markers, broken=True, copy=str(tmp_path / "copy"), **spec)
        return read_midi(tmp_path / "copy.mid"), reaper.arguments_of(tmp_path / "copy.job")

    return ask


def test_the_song_that_midi_rwkv_reads_is_the_project(asked):
    """Metres and tempos change, an item is looped, one is muted, and one begins in the middle of its source."""
    gradual = [*METRES, {"qn": 20, "bpm": 60, "linear": True}, {"qn": 24, "bpm": 100}]
    tracks = [
        track("Solo", item(0, 4, ccs=[[0, 192, 2, 73, 0]]), item(11, 14, selected=True), item(14, 17, muted=True)),
        track("Audio"),
        track("Bass Guitar", item(0, 7, [[0, 1, 40, 90, 0], [3, 2, 43, 90, 0]], loop=True, length=4, res=480)),
        track("Drum kit", item(2, 6, [[0, 1, 36, 64, 3], [1, 1, 38, 64, 3], [4.5, 4, 40, 64, 3]], offset=1)),
    ]
    song, arguments = asked(tracks, gradual, inputs={"instruments": "4 = Steel Drums", "keep": "contour, velocities"})
    assert [(s.tick, s.numerator, s.denominator) for s in song.time_signatures] == [
        (0, 4, 4), (8 * 960, 3, 4), (11 * 960, 3, 4)
    ]  # fmt: skip
    assert [(t.tick / 960, round(t.beats_per_minute)) for t in song.tempos] == [
        (0, 120), (8, 90), (17, 90), (20, 60), (21, 60), (22, 60), (23, 60), (24, 100)
    ]  # fmt: skip
    solo, bass, kit = ([(n.onset_ticks / 960, n.pitch, n.duration_ticks / 960) for n in t.notes] for t in song.tracks)
    assert [on for on, _, _ in solo] == [0, 1, 2, 3, 11, 12, 13]
    assert bass == [(0, 40, 1), (3, 43, 1), (4, 40, 1)]
    assert kit == [(2, 38, 1), (5.5, 40, 0.5)]
    assert [(t.name, t.program) for t in song.tracks] == [("Solo", 73), ("Bass Guitar", 0), ("Drum kit", 0)]
    assert "--as=2=Electric Bass (finger)" in arguments
    assert "--as=3=Steel Drums" in arguments
    assert not [a for a in arguments if a.startswith("--as=1")]
    assert {"--tracks=1", "--bars=4-4", "--keep=contour", "--keep=velocities"} <= set(arguments)


PICKUP = [{"qn": 0, "bpm": 120, "num": 1, "den": 4}, {"qn": 1, "bpm": 120, "num": 4, "den": 4}]
CUT = [*SLOW, {"qn": 6, "bpm": 120, "num": 4, "den": 4}]  # two quarters into bar 2


@pytest.mark.parametrize(
    ("markers", "span", "bars"),
    [
        (METRES, (0, 8), "1-2"),
        (METRES, (7, 9), "2.4-3.1"),
        (METRES, (17, 23), "6-7"),
        (METRES, (17.5, 19), "6.2-6.4"),
        (METRES, (30.5, 32), "10.4-10.6"),  # after all notes
        (PICKUP, (0, 1), "0-0"),
        (PICKUP, (1, 9), "1-2"),
        (CUT, (4, 6), "2-2"),
        (CUT, (6, 10.001), "3-3"),
    ],
)
def test_bars_are_counted_as_midi_rwkv_counts_them(asked, markers, span, bars):
    song, arguments = asked([track("Lead", item(0, 16), selected=True)], markers, time=span)
    assert f"--bars={bars}" in arguments
    places = parse_places([bars], song)
    ticks = places.within or [(song.bar(low).start_ticks, song.bar(high - 1).end_ticks) for low, high in places.bars]
    assert list(ticks) == [(span[0] * 960, round(span[1]) * 960 if markers is CUT else span[1] * 960)]
    assert places.bars[0][1] <= len(song.bars)


def test_what_tracks_without_notes_play(asked):
    tracks = [track(name, selected=True) for name in ("Violin 1", "Drums", "Track 3")]
    _, arguments = asked([*tracks, track("Lead", item(0, 8))], time=[0, 8], inputs={"instruments": "3=40"})
    assert [a for a in arguments if a.startswith("--new-track")] == [
        "--new-track=Violin",
        "--new-track=Drums",
        "--new-track=40",
    ]
    assert not [a for a in arguments if a.startswith("--tracks")]


def test_other_options_are_words_of_a_command_line(asked):
    other = """--seed 4 --like 'Left hand:1-4' --key="A minor" --chords-bass free"""
    _, arguments = asked([track("Lead", item(0, 8, selected=True))], inputs={"other": other, "chords": "Am | E7"})
    assert arguments[2:] == [
        "--chords=Am | E7", "--seed", "4", "--like", "Left hand:1-4", "--key=A minor", "--chords-bass", "free",
        "--as=1=Lead 1 (square)", "--tracks=1", "--bars=1-2", "--candidates=1", "--format=json", "--progress",
        arguments[-1],
    ]  # fmt: skip


def test_install(monkeypatch, tmp_path, capsys):
    for name in ("HOME", "XDG_CONFIG_HOME", "APPDATA"):
        monkeypatch.setenv(name, str(tmp_path))
    assert main(["reaper", "--install"]) == 2
    said = capsys.readouterr().err
    assert "there is no REAPER folder" in said
    assert "midi-rwkv reaper --install FOLDER" in said
    assert said.count("\n") == 1
    with pytest.raises(RequestError):
        reaper.scripts_folder()
    folder = Path(re.search(r"folder (.*REAPER);", said)[1])
    folder.mkdir(parents=True)
    assert main(["reaper", "--install"]) == 0
    script = folder / "Scripts" / reaper.NAME
    assert script.read_text(encoding="utf-8") == reaper.script()
    assert f'local PYTHON = "{sys.executable}"' in reaper.script()
    assert main(["reaper", "--install"]) == 0  # the same again
    script.write_text("-- mine")
    capsys.readouterr()
    assert main(["reaper", "--install"]) == 2
    said = capsys.readouterr().err
    assert "exists already" in said
    assert said.count("\n") == 1
    assert script.read_text() == "-- mine"
    assert main(["reaper", "--install", "--overwrite"]) == 0
    assert script.read_text(encoding="utf-8") == reaper.script()
    assert main(["reaper", "--install", str(tmp_path / "gone")]) == 2
    capsys.readouterr()
    assert main(["reaper"]) == 0
    assert capsys.readouterr().out == reaper.script()


def test_the_script_reads_the_path_of_any_python(lua, monkeypatch):
    path = r'C:\new "Python"\python.exe'
    monkeypatch.setattr(sys, "executable", path)
    line = next(line for line in reaper.script().splitlines() if line.startswith("local PYTHON"))
    done = subprocess.run([lua, "-"], input=f"{line}\nio.write(PYTHON)", capture_output=True, text=True)
    assert done.stdout == path
