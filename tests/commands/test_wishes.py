"""What can be asked for on the command line, and the `Ask` that it makes."""

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import midi_rwkv.fill.infill
import midi_rwkv.fill.origin
from midi_rwkv import Like
from midi_rwkv.commands.cli import main
from midi_rwkv.fill.infill import Candidate
from midi_rwkv.fill.origin import Origin
from midi_rwkv.fill.places import beat_ticks, parse_places
from midi_rwkv.fill.quotes import SharedRun
from midi_rwkv.score.midi import read_midi
from midi_rwkv.score.score import Note, Score, TimeSignature, Track

BAR = 1920


@pytest.fixture(scope="module")
def song(build_midi, note, tmp_path_factory):
    """Eight bars of 4/4, then four of 6/8: Lead (four notes a bar, the last off the beat), Bass, Bass: high."""
    head = [(0, bytes.fromhex("ff58040402" + "1808")), (8 * BAR, bytes.fromhex("ff58040603" + "1808"))]
    head += [(0, b"\xff\x06\x02Dm"), (0, bytes.fromhex("ff510307a120")), (4 * BAR, bytes.fromhex("ff510306ddd0"))]
    lead = [e for b in range(8) for at in (0, 480, 960, 1680) for e in note(b * BAR + at, 60 + at // 240, 240)]
    bass = [e for b in range(8) for e in note(b * BAR, 36 + b % 7, 960, channel=1)]
    high = [e for b in range(8) for e in note(b * BAR, 60, 960, channel=2)]
    rest = note(8 * BAR, 64, 4 * 1440)
    names = [(0, b"\xff\x03" + bytes([len(n)]) + n) for n in (b"Lead", b"Bass", b"Bass: high")]
    pedal = [(4 * BAR, b"\xb0\x40\x7f"), (5 * BAR - 10, b"\xb0\x40\x00")]
    lead = sorted([(0, b"\xc0\x49"), *lead, *rest, *pedal], key=lambda e: e[0])
    path = tmp_path_factory.mktemp("song") / "song.mid"
    path.write_bytes(
        build_midi([sorted(head), [names[0], *lead], [names[1], (0, b"\xc1\x21"), *bass], [names[2], *high]])
    )
    return path


@pytest.fixture
def command(song, checkpoint_folder, tmp_path, capsys):
    """command("--bars", "3") -> (exit code, stdout, stderr)."""

    def call(*arguments, output="out.mid"):
        base = ["infill", str(song), "--checkpoint", str(checkpoint_folder), "-o", str(tmp_path / output)]
        return main([*base, "--seed", "1", *map(str, arguments)]), *capsys.readouterr()

    return call


@pytest.fixture
def asked(command, monkeypatch):
    """asked("--only", "C4-C7") -> the Ask that reaches the model, which answers with what stands there."""
    asks = []

    class Repeating:
        def __init__(self, *_, **__):
            pass

        def __call__(self, score, ask, **_):
            asks.append(ask)
            there = {t: [] for t in ask.region.tracks}
            for t, b in sorted(ask.region.cells):
                there[t] += score.notes_in(t, b) if b < len(score.bars) else []
            return [Candidate(score, there)] * ask.candidates

    monkeypatch.setattr(midi_rwkv.fill.infill, "Infiller", Repeating)

    def ask(*arguments):
        assert command("--overwrite", *arguments)[::2] == (0, "")
        return asks[-1]

    return ask


@pytest.mark.parametrize(
    ("bars", "ranges", "within"),
    [
        ("3-4", [(2, 4)], None),
        ("3.1-4.4", [(2, 4)], None),
        ("3.2-3.4,3.1", [(2, 3)], None),
        ("3.3", [(2, 3)], [(2 * BAR + 960, 2 * BAR + 1440)]),
        ("3.3-4.2", [(2, 4)], [(2 * BAR + 960, 3 * BAR + 960)]),
        ("3.3-4", [(2, 4)], [(2 * BAR + 960, 4 * BAR)]),
        ("3-4.2", [(2, 4)], [(2 * BAR, 3 * BAR + 960)]),
        ("9.4-9.6", [(8, 9)], [(8 * BAR + 720, 8 * BAR + 1440)]),
        ("6,3.4", [(2, 3), (5, 6)], [(2 * BAR + 1440, 3 * BAR), (5 * BAR, 6 * BAR)]),
        ("13.1-13.2", [(12, 13)], [(8 * BAR + 4 * 1440, 8 * BAR + 4 * 1440 + 480)]),
    ],
)
def test_bars_and_beats(asked, bars, ranges, within):
    ask = asked("--tracks", "all", "--bars", bars)
    assert ask.region.bar_runs() == ranges
    assert ask.within == (None if within is None else tuple(within))


@given(st.data())
def test_every_beat_is_its_own(data):
    """Whatever the metre, the beats of a bar follow one another from its start to its end."""
    beat = data.draw(st.sampled_from([24, 96, 120, 480, 960]))
    metre = data.draw(st.integers(1, 13)), data.draw(st.sampled_from([2, 4, 8, 16]))
    score = Score(beat, (Track("x", 0, (Note(beat * 100, 60, 1, 1),)),), (TimeSignature(0, *metre),))
    bar = data.draw(st.integers(0, len(score.bars) - 1))
    beats = [beat_ticks(score, bar, k + 1, "--bars") for k in range(metre[0])]
    assert beats[0][0] == score.bar(bar).start_ticks
    assert beats[-1][1] == score.bar(bar).end_ticks
    assert all(a[1] == b[0] for a, b in pairwise(beats))
    with pytest.raises(ValueError, match=f"bar {bar + 1} of song has"):
        beat_ticks(score, bar, metre[0] + 1, "--bars")
    low, high = sorted(data.draw(st.lists(st.integers(1, metre[0]), min_size=2, max_size=2)))
    places = parse_places([f"{bar + 1}.{low}-{bar + 1}.{high}"], score)
    assert (places.within is None) == (high - low + 1 == metre[0])
    assert (places.within or (score.bar(bar)[:2],)) == ((beats[low - 1][0], beats[high - 1][1]),)


def test_part_of_the_pitches(asked):
    ask = asked("--bars", "3", "--only", "C4-C7")
    assert (ask.only, ask.spare, ask.keep) == ((60, 96), None, frozenset())
    ask = asked("--bars", "3", "--keep", "C1-B3", "--keep", "rhythm,velocities")
    assert (ask.only, ask.spare, ask.keep) == (None, (24, 59), {"rhythm", "velocities"})


def test_locked_notes(asked):
    ask = asked("--bars", "3-4", "--tracks", "Lead", "--lock", "3.1:C4", "--lock", "4.4.5 67", "--lock", "3.1 C4")
    notes = {(n.onset_ticks, n.pitch) for n in ask.locked[0]}
    assert notes == {(2 * BAR, 60), (3 * BAR + 1680, 67)}
    assert len(ask.locked[0]) == 2


def test_what_is_followed(asked, song, tmp_path):
    def like(text):
        return asked("--bars", "3", "--like", text).like

    assert like("1-4") == Like(((0, 4),))
    assert like("1-2,5") == Like(((0, 2), (4, 5)))
    assert like("Lead:5-8") == Like(((4, 8),), 0)
    assert like("2:5") == Like(((4, 5),), 1)
    assert like("Lead") == like("Lead:") == Like((), 0)
    assert like("Bass: high") == Like((), 2)
    assert like("Bass: high:2-3") == Like(((1, 3),), 2)
    assert like("itself") == Like(itself=True)
    other = tmp_path / "other.mid"
    other.write_bytes(song.read_bytes())
    score = read_midi(other)
    assert like(str(other)) == Like((), None, score)
    assert like(f"{other}:3-4") == Like(((2, 4),), None, score)
    assert like(f"{other}:Lead") == Like((), 0, score)
    assert like(f"{other}:Bass: high:3-4") == Like(((2, 4),), 2, score)
    ask = asked("--bars", "3", "--like", "none")
    assert (ask.like, ask.sampling.follow) == (None, 0)


def test_chords(asked):
    ask = asked("--bars", "3-4.2", "--chords", "Am F | C/G", "--chords-bass", "free")
    assert [(c.name, c.start_ticks, c.end_ticks) for c in ask.chords] == [
        ("Am", 2 * BAR, 2 * BAR + 960),
        ("F", 2 * BAR + 960, 3 * BAR),
        ("C/G", 3 * BAR, 4 * BAR),
    ]
    assert ask.free_bass
    assert [c.name for c in asked("--bars", "3", "--chords", "file").chords] == ["Dm"]


def test_chords_that_the_other_tracks_play(build_midi, note, tmp_path, capsys):
    """The bass plays the roots of chords that are new to the song, by the real model."""
    roots = [48, 57, 53, 55] * 2 + [56, 63, 58, 61]
    keys = [e for b, r in enumerate(roots) for k in (0, 4, 7) for e in note(b * BAR, r + 12 + k, 1800)]
    bass = [e for b, r in enumerate(roots) for q in range(4) for e in note(b * BAR + q * 480, r - 12, 400, channel=1)]
    path, out = tmp_path / "song.mid", tmp_path / "out.mid"
    chunks = [[(0, b"\xff\x03\x04Keys"), *keys], [(0, b"\xff\x03\x04Bass"), (0, b"\xc1\x21"), *bass]]
    path.write_bytes(build_midi([sorted(c, key=lambda e: e[0]) for c in chunks]))
    asked = ["infill", str(path), "--bars", "9-12", "--tracks", "Bass", "--seed", "1", "-o", str(out)]
    assert main([*asked, "--chords", "auto"]) == 0
    downbeats = [n.pitch % 12 for n in read_midi(out).tracks[1].notes if n.onset_ticks % BAR == 0]
    assert downbeats[8:] == [r % 12 for r in roots[8:]]
    assert main([*asked[:-2], "-o", str(tmp_path / "x.mid"), "--tracks", "all", "--chords", "auto"]) == 2
    assert "--chords auto: no chord is clear from the other tracks in these bars" in capsys.readouterr().err


def test_other_wishes(asked):
    plain = asked("--bars", "3")
    assert (plain.feel, plain.vary, plain.again, plain.quotes, plain.free_bass) == ("track", None, False, None, False)
    ask = asked("--bars", "3", "--vary", "0.3", "--again", "--feel", "grid", "--no-quotes", "12", "--density", "busy")
    assert (ask.vary, ask.again, ask.feel, ask.quotes, ask.sampling.density) == (0.3, True, "grid", 12, "busy")
    assert asked("--bars", "3", "--feel", "5-8").feel == ((4, 8),)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bars", "8.5"], "--bars 8.5: bar 8 of song.mid has beats 1-4"),
        (["--bars", "9.7"], "--bars 9.7: bar 9 of song.mid has beats 1-6"),
        (["--bars", "8.0"], "--bars 8.0: bar 8"),
        (["--bars", "8.3-4"], "did you mean 8.3-8.4?"),
        (["--bars", "8.4-8.2"], "did you mean 8.2-8.4?"),
        (["--bars", "8.2.5"], "--bars must be like 8-12, 8 or 8.3-9.2, got '8.2.5'"),
        (["--only", "C7-C4"], "--only must rise"),
        (["--only", "x"], "--only must be LOW-HIGH"),
        (
            ["--keep", "melody"],
            "--keep takes rhythm, pitches, contour, velocities, or pitches like C1-B3, got 'melody'",
        ),
        (["--keep", "C1-B2", "--keep", "C5-C6"], "--keep takes one range of pitches"),
        (["--keep", "velocities"], "add one of them to keep"),
        (["--lock", "9 C4"], "--lock must be a bar, a beat and a pitch like 9.1:C4, got '9 C4'"),
        (["--lock", "3.1 H4"], "--lock must be a bar, a beat and a pitch"),
        (["--lock", "3.5 C4"], "--lock 3.5: bar 3 of song.mid has beats 1-4"),
        (["--lock", "99.1 C4"], "--lock 99.1 C4: song.mid has bars 1-12"),
        (["--lock", "3.2:C4"], "the nearest are 3.2:D4 (1 Lead)"),
        (["--lock", "4.1:C4"], "the nearest are "),  # outside the region
        (["--lock", "3.1:C4"], "several notes match: 3.1:C4 (1 Lead), 3.1:C4 (3 Bass: high); name the track"),
        (["--vary", "2"], "--vary must be more than 0 and at most 1, got 2"),
        (["--chords", "Am H"], "--chords"),
        (["--chords", "Am | F"], "--chords has 2 bars, but the region has 1 bar"),
        (["--chords-bass", "free"], "--chords-bass is for chords that are asked for; give --chords too"),
        (["--like", "Oboe:1-4"], "--like: no track 'Oboe'"),
        (["--like", "9-20"], "--like 9-20: song.mid has bars 1-12"),
        (["--like", "all:1-4"], "--like follows one track or each its own"),
        (["--like", "nowhere.mid:1-4"], "there is no file nowhere.mid"),
        (["--feel", "loose"], "--feel must be model, grid, track or bars like 5-8, got 'loose'"),
        (["--feel", "90"], "--feel 90: song.mid has bars 1-12"),
        (["--no-quotes", "3"], "--no-quotes must be"),
        (["--density", "lots"], "--density must be sparse, normal, busy or LOW-HIGH like 2-6, got 'lots'"),
    ],
)
def test_what_cannot_be_asked_is_one_line(command, tmp_path, arguments, words):
    bars = [] if "--bars" in arguments else ["--bars", "3"]
    code, out, err = command(*bars, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("out*"))


def test_only_the_clip(asked, song, tmp_path):
    asked("--bars", "5-6", "--tracks", "Lead,Bass", "--clip")
    clip, whole = read_midi(tmp_path / "out.mid"), read_midi(song)
    assert [t.name for t in clip.tracks] == ["Lead", "Bass"]
    assert [t.program for t in clip.tracks] == [73, 33]
    assert (clip.tempo_at(0), len(clip.bars), clip.bars[0][2:]) == (whole.tempo_at(4 * BAR), 2, (4, 4))
    for t in (0, 1):
        there = [n for b in (4, 5) for n in whole.notes_in(t, b)]
        assert list(clip.tracks[t].notes) == [n._replace(onset_ticks=n.onset_ticks - 4 * BAR) for n in there]


def test_a_clip_across_metres_has_them_and_its_pedal(asked, tmp_path):
    asked("--bars", "8-9", "--tracks", "Lead", "--clip")
    clip = read_midi(tmp_path / "out.mid")
    assert [(b.start_ticks, *b[2:]) for b in clip.bars[:2]] == [(0, 4, 4), (BAR, 6, 8)]
    asked("--bars", "1-12", "--tracks", "Lead", "--clip")
    clip = read_midi(tmp_path / "out.mid")
    assert [round(t.beats_per_minute) for t in clip.tempos] == [120, 133]


def test_notes_in_beats(asked, song, tmp_path):
    asked("--bars", "5-6", "--tracks", "Lead", "--format", "json", "--clip")
    told = json.loads((tmp_path / "out.mid").read_text())
    assert told["bars"] == [[5, 0, 4], [6, 4, 8]]
    assert told["metre"] == [[0, "4/4"]]
    assert told["tempo"] == [[0, 133.333]]
    [track] = told["tracks"]
    assert (track["number"], track["name"], track["program"], track["drums"]) == (1, "Lead", 73, False)
    assert track["notes"][:4] == [[0, 60, 0.5, 80], [1, 62, 0.5, 80], [2, 64, 0.5, 80], [3.5, 67, 0.5, 80]]
    asked("--bars", "5-6", "--tracks", "Lead", "--format", "json")
    told = json.loads((tmp_path / "out.mid").read_text())
    assert [len(t["notes"]) for t in told["tracks"]] == [len(t.notes) for t in read_midi(song).tracks]
    assert (told["bars"][-1][0], told["metre"]) == (12, [[0, "4/4"], [32, "6/8"]])


def test_the_report_tells_what_was_asked(command):
    code, out, _ = command("--bars", "5.2-5.4", "--tracks", "Bass", "--density", "1-4", "--json", "--candidates", 2)
    report = json.loads(out)
    assert code == 0
    assert report["seed"] == 1
    assert re.fullmatch("[0-9a-f]{16}", report["checkpoint"]["hash"])
    given = report["options"]
    assert (given["bars"], given["tracks"], given["density"], given["candidates"]) == (["5.2-5.4"], "Bass", "1-4", 2)
    assert given.keys() == {"bars", "tracks", "density", "candidates", "seed", "checkpoint"}
    assert [f["new_notes"] for f in report["fills"]] == [n - 1 for n in report["notes_after"]]  # the first beat stays


def test_the_report_tells_where_notes_come_from(asked, command, monkeypatch):
    """The stand-in for the model repeats what stands there: each bar of the lead is like all the others."""
    asked("--bars", "5", "--tracks", "Lead")
    code, out, _ = command("--bars", "5-6", "--tracks", "Lead", "--json", "--overwrite")
    [fill] = json.loads(out)["fills"]
    others = [1, 2, 3, 4, 7, 8]
    assert fill["quoted_bars"] == [{"track": 1, "bar": b, "of": others} for b in (5, 6)]
    assert fill["training_run"] is None  # this checkpoint has no fingerprint
    assert fill["style_run"] is None  # nor is there a style
    runs = {0: SharedRun(around=20, alone=14), 1: SharedRun(around=30, alone=12)}
    origin = Origin({}, runs, {0: SharedRun(around=13, alone=13)})
    monkeypatch.setattr(midi_rwkv.fill.origin, "origins", lambda *_: [origin])
    code, out, _ = command("--bars", "5-6", "--tracks", "Lead", "--json", "--overwrite")
    [fill] = json.loads(out)["fills"]
    assert fill["training_run"][0] == {"track": 1, "new": 14, "with_context": 20}
    assert fill["style_run"] == [{"track": 1, "new": 13, "with_context": 13}]
    code, out, _ = command("--bars", "5-6", "--tracks", "Lead", "--overwrite")
    assert code == 0
    assert "a run of 14 new notes may be in the training music too" in out
    assert "a run of 13 new notes is in the style's pieces" in out
