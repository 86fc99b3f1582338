"""The DAWproject of a song: that it keeps to the published schema (1.0), and that the song comes back from it.

The rules are what Project.xsd and MetaData.xsd of the format say of the elements that are written.
"""

from __future__ import annotations

import io
import re
import zipfile
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import pytest

from midi_rwkv.commands.cli import main
from midi_rwkv.score.dawproject import dawproject
from midi_rwkv.score.midi import read_midi

BAR = 1920
NAMED = {"name", "color", "comment"}
REFERABLE = {*NAMED, "id"}
TIMELINE = {*REFERABLE, "timeUnit", "track"}
# By element: its children in their order, and whether each may come any number of times ("*"), once at most ("?") or
# exactly once; the attributes that it must have, and those that it may have.
RULES: dict[str, tuple[str, set[str], set[str]]] = {
    "Project": ("Application Transport? Structure? Arrangement? Scenes?", {"version"}, set()),
    "Application": ("", {"name", "version"}, set()),
    "Transport": ("Tempo? TimeSignature?", set(), set()),
    "Tempo": ("", {"unit"}, {*REFERABLE, "parameterID", "max", "min", "value"}),
    "TimeSignature": ("", {"numerator", "denominator"}, {*REFERABLE, "parameterID"}),
    "Structure": ("Track*", set(), set()),
    "Track": ("Channel? Track*", set(), {*REFERABLE, "contentType", "loaded"}),
    "Channel": (
        "Devices? Mute? Pan? Sends? Volume?",
        set(),
        {*REFERABLE, "audioChannels", "destination", "role", "solo"},
    ),
    "Arrangement": ("Lanes? Markers? TempoAutomation? TimeSignatureAutomation?", set(), REFERABLE),
    "Clips": ("Clip*", set(), TIMELINE),
    "Clip": ("Notes?", {"time"}, {*NAMED, "duration", "contentTimeUnit", "playStart", "playStop", "enable"}),
    "Notes": ("Note*", set(), TIMELINE),
    "Note": ("", {"time", "duration", "channel", "key"}, {"vel", "rel"}),
    "Points": ("Target RealPoint*", set(), {*TIMELINE, "unit"}),
    "TempoAutomation": ("Target RealPoint*", set(), {*TIMELINE, "unit"}),
    "TimeSignatureAutomation": ("Target TimeSignaturePoint*", set(), {*TIMELINE, "unit"}),
    "Target": ("", set(), {"parameter", "expression", "channel", "key", "controller"}),
    "RealPoint": ("", {"time", "value"}, {"interpolation"}),
    "TimeSignaturePoint": ("", {"time", "numerator", "denominator"}, set()),
    "MetaData": ("Title?", set(), set()),
    "Title": ("", set(), set()),
}
VALUES = {
    "unit": "linear|normalized|percent|decibel|hertz|semitones|seconds|beats|bpm",
    "timeUnit": "beats|seconds",
    "role": "regular|master|effect|submix|vca",
    "contentType": "(?:(?:^| )(?:audio|automation|notes|video|markers|tracks))+",
    "interpolation": "hold|linear",
    "expression": "channelController|channelPressure|polyPressure|pitchBend|programChange",
    "loaded": "true|false",
    "vel": r"0|1|0\.\d+",
    **dict.fromkeys(("time", "duration", "playStart", "value"), r"\d+(?:\.\d+)?"),
    **dict.fromkeys(("channel", "key", "controller", "audioChannels", "numerator", "denominator"), r"\d+"),
    "id": r"[A-Za-z_][\w.-]*",
}


def check_schema(root: ElementTree.Element) -> None:
    """Fails where an element breaks RULES, a value is none of its type, or a reference leads nowhere."""
    ids = [e.attrib["id"] for e in root.iter() if "id" in e.attrib]
    assert len(ids) == len(set(ids))
    for element in root.iter():
        # Lanes may hold timelines of any kind, in any order.
        lanes = ("(?:Lanes|Notes|Clips|Points)*", set(), TIMELINE)
        children, needed, allowed = lanes if element.tag == "Lanes" else RULES[element.tag]
        if element.tag == "Lanes":
            assert {child.tag for child in element} <= {"Lanes", "Notes", "Clips", "Points"}
        else:
            pattern = "".join(re.sub(r"(\w+)", r"(?:\1 )", child) for child in children.split())
            assert re.fullmatch(pattern, "".join(f"{child.tag} " for child in element)), element.tag
        assert needed <= element.attrib.keys() <= needed | allowed, element.attrib
        for name, value in element.attrib.items():
            assert re.fullmatch(VALUES.get(name, ".*"), value), (element.tag, name, value)
            if name in ("track", "parameter", "destination"):
                assert value in ids


def opened(data: bytes) -> ElementTree.Element:
    """The checked project in a .dawproject."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == ["metadata.xml", "project.xml"]
        texts = {name: archive.read(name) for name in archive.namelist()}
    assert all(text.startswith(b"<?xml version='1.0' encoding='UTF-8'?>") for text in texts.values())
    root, metadata = (ElementTree.fromstring(texts[name]) for name in ("project.xml", "metadata.xml"))
    assert (root.tag, root.attrib["version"], metadata.tag) == ("Project", "1.0", "MetaData")
    for tree in (root, metadata):
        check_schema(tree)
    return root


def ticks(text: str, ticks_per_beat: int) -> int:
    """The tick that a time in beats means; fails if it is off by more than a hundredth of a tick."""
    exact = Fraction(text) * ticks_per_beat
    assert abs(exact - round(exact)) <= Fraction(1, 50)
    return round(exact)


def notes_of(root: ElementTree.Element, ticks_per_beat: int) -> dict[str, list[tuple[int, ...]]]:
    """By the name of each track, its notes as (onset and duration in ticks, pitch, velocity, channel)."""
    names = {t.attrib["id"]: t.attrib["name"] for t in root.iter("Track")}
    found = {}
    lanes = root.find("Arrangement/Lanes")
    assert lanes is not None
    assert lanes.attrib["timeUnit"] == "beats"
    for lane in lanes.findall("Lanes"):
        [clip] = lane.findall("Clips/Clip")
        start, end = (ticks(clip.attrib[a], ticks_per_beat) for a in ("time", "duration"))
        rows = []
        for note in clip.iter("Note"):
            time, duration = (ticks(note.attrib[a], ticks_per_beat) for a in ("time", "duration"))
            assert time + duration <= end
            velocity = round(float(note.attrib["vel"]) * 127)
            rows.append((start + time, duration, int(note.attrib["key"]), velocity, int(note.attrib["channel"])))
        found[names[lane.attrib["track"]]] = rows
    return found


@pytest.fixture(scope="module")
def song(build_midi, note):
    """Four bars of 4/4 at 120, then two of 6/8 at 133; a lead with every velocity, a pedal and a bend; drums."""
    head = [(0, bytes.fromhex("ff58040402" + "1808")), (0, bytes.fromhex("ff510307a120"))]
    head += [(4 * BAR, bytes.fromhex("ff58040603" + "1808")), (4 * BAR, bytes.fromhex("ff510306ddd0"))]
    lead = [e for v in range(1, 128) for e in note(61 * v, 30 + v % 60, 7 + v, v)]
    lead += [(10, b"\xb0\x40\x7f"), (900, b"\xb0\x40\x00"), (20, b"\xe0\x00\x40"), (30, b"\xe0\x7f\x7f")]
    lead += [(0, b"\xb0\x00\x05"), (0, b"\xc0\x28"), (40, b"\xd0\x7f")]
    drums = note(6 * BAR - 200, 38, 700, 99, channel=9)
    name = "Für <Elise> & ピアノ".encode()
    lead = sorted([(0, b"\xff\x03" + bytes([len(name)]) + name), *lead], key=lambda e: e[0])
    return build_midi([head, lead, drums])


def test_the_song_comes_back(song):
    root = opened(dawproject(song, "my \x1b song.mid"))
    score = read_midi(song)
    want = {
        name: [(n.onset_ticks, n.duration_ticks, n.pitch, n.velocity, track.channel) for n in track.notes]
        for name, track in zip(("Für <Elise> & ピアノ", "Drums"), score.tracks, strict=True)
    }
    assert notes_of(root, 480) == want
    assert [t.attrib["contentType"] for t in root.iter("Track")] == ["notes", "notes", "audio"]
    assert [c.attrib["role"] for c in root.iter("Channel")] == ["regular", "regular", "master"]


def test_tempo_and_metre_are_those_of_the_song(song, build_midi, note):
    root = opened(dawproject(song, "song"))
    transport, arrangement = root.find("Transport"), root.find("Arrangement")
    tempo, metre = transport.find("Tempo"), transport.find("TimeSignature")
    assert (tempo.attrib["unit"], tempo.attrib["value"]) == ("bpm", "120")
    assert (metre.attrib["numerator"], metre.attrib["denominator"]) == ("4", "4")
    changes = arrangement.find("TempoAutomation")
    assert changes.find("Target").attrib == {"parameter": tempo.attrib["id"]}
    assert [(p.attrib["time"], p.attrib["value"], p.attrib["interpolation"]) for p in changes.iter("RealPoint")] == [
        ("0", "120", "hold"),
        ("16", "133.333333", "hold"),
    ]
    changes = arrangement.find("TimeSignatureAutomation")
    assert changes.find("Target").attrib == {"parameter": metre.attrib["id"]}
    rows = [
        tuple(p.attrib[a] for a in ("time", "numerator", "denominator")) for p in changes.iter("TimeSignaturePoint")
    ]
    assert rows == [("0", "4", "4"), ("16", "6", "8")]
    plain = opened(dawproject(build_midi([note(0, 60, 480)]), "song"))
    assert plain.find("Transport/Tempo").attrib["value"] == "120"
    assert [child.tag for child in plain.find("Arrangement")] == ["Lanes"]
    late = opened(dawproject(build_midi([[(960, bytes.fromhex("ff510306ddd0"))], note(0, 60, 480)]), "song"))
    assert [p.attrib["value"] for p in late.iter("RealPoint")] == ["120", "133.333333"]


def test_pedal_bends_and_pressure_are_automation_of_the_track(song):
    root = opened(dawproject(song, "song"))
    found = {}
    for points in root.iter("Points"):
        target = dict(points.find("Target").attrib)
        assert (target.pop("channel"), points.attrib["unit"]) == ("0", "normalized")
        rows = [(ticks(p.attrib["time"], 480), float(p.attrib["value"])) for p in points.iter("RealPoint")]
        found[tuple(target.values())] = rows
    assert found == {
        ("channelController", "64"): [(10, 1.0), (900, 0.0)],
        ("pitchBend",): [(20, 0.5), (30, 1.0)],
        ("channelPressure",): [(40, 1.0)],
    }


@pytest.mark.parametrize("ticks_per_beat", [24, 96, 960, 15360, 32767])
def test_times_are_exact_at_any_resolution(build_midi, note, ticks_per_beat):
    onsets = [0, 1, ticks_per_beat - 1, 1999 * ticks_per_beat + 1]
    data = build_midi([[e for t in onsets for e in note(t, 60, 1)]], ticks_per_beat)
    [(_, notes)] = notes_of(opened(dawproject(data, "song")), ticks_per_beat).items()
    assert [(n[0], n[1]) for n in notes] == [(t, 1) for t in onsets]


def test_the_schema_is_checked(song):
    """The checker of these tests sees what is wrong."""
    for path, change in (
        ("Arrangement/Lanes", lambda e: e.set("timeUnit", "bars")),
        ("Arrangement/Lanes/Lanes", lambda e: e.set("track", "nobody")),
        ("Arrangement", lambda e: e.insert(0, e.find("TempoAutomation"))),
        ("Transport/Tempo", lambda e: e.attrib.pop("unit")),
        ("Structure/Track", lambda e: e.set("id", "id0")),
        ("Arrangement/TempoAutomation", lambda e: e.append(e.find("Target"))),
    ):
        root = opened(dawproject(song, "song"))
        change(root.find(path))
        with pytest.raises(AssertionError):
            check_schema(root)


def test_the_command_writes_one(song, checkpoint_folder, tmp_path):
    path: Path = tmp_path / "song.mid"
    path.write_bytes(song)
    command = ["infill", str(path), "--bars", "2-3", "--seed", "1", "--checkpoint", str(checkpoint_folder)]
    assert main([*command, "-o", str(tmp_path / "out.mid")]) == 0
    assert main([*command, "--format", "dawproject"]) == 0
    filled = {
        t.name or "Drums": [(n.onset_ticks, n.duration_ticks, n.pitch, n.velocity, t.channel) for n in t.notes]
        for t in read_midi(tmp_path / "out.mid").tracks
    }
    whole = (tmp_path / "song-infill.dawproject").read_bytes()
    assert notes_of(opened(whole), 480) == filled
    assert main([*command, "--format", "dawproject", "--overwrite"]) == 0
    assert (tmp_path / "song-infill.dawproject").read_bytes() == whole
    clip = tmp_path / "clip.dawproject"
    assert main([*command, "--format", "dawproject", "--clip", "-o", str(clip)]) == 0
    [(name, notes)] = notes_of(opened(clip.read_bytes()), 480).items()
    assert name == "Für <Elise> & ピアノ"
    assert [n[0] + BAR for n in notes] == [n[0] for n in filled[name] if BAR <= n[0] < 3 * BAR]
    assert main([*command, "--format", "dawproject", "--candidates", "2"]) == 0
    for i in (1, 2):
        assert opened((tmp_path / f"song-infill-{i}.dawproject").read_bytes()).find("Arrangement/Lanes") is not None
