"""How tracks are named and taken for something, and what `inspect` says of a song that is not what it seems."""

import json
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midi_rwkv.commands.cli import main
from midi_rwkv.fill.arguments import parse_as, parse_pitch, parse_tracks
from midi_rwkv.fill.places import parse_bars
from midi_rwkv.score.describe import heading, instrument_text, keeps_to_a_beat, looks_like_drums, remarks
from midi_rwkv.score.instruments import PROGRAM_NAMES, find_program
from midi_rwkv.score.midi import read_midi
from midi_rwkv.score.score import Note, ProgramChange, Score, Track

BAR = 1920


def song(*tracks):
    """A score of one-note tracks, each (name, program) or (name, "Drums")."""
    return Score(
        480,
        tuple(
            Track(name, 0 if p == "Drums" else p, (Note(0, 60, 1, 1),), is_drum=p == "Drums", chunk=0, channel=c)
            for c, (name, p) in enumerate(tracks)
        ),
        name="song.mid",
    )


BAND = song(("", 0), ("", 33), ("Strings, low", 48), ("", "Drums"), ("Lead", 73), ("Vox, high, dry", 54), ("8", 40))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2", [1]),
        ("Electric Bass (finger)", [1]),
        ("electric  bass (FINGER) ", [1]),
        ("2 Electric Bass (finger)", [1]),
        ("bass", [1]),
        ("Drums", [3]),
        ("4 Drums", [3]),
        ("Strings, low", [2]),
        ("strings,low", [2]),
        ("3 Strings, low", [2]),
        ("3 Strings, low (String Ensemble 1)", [2]),
        ("low", [2]),
        ("Strings, low,Drums , 1", [2, 3, 0]),
        ("1, 2,Vox, high, dry, Strings, low", [0, 1, 5, 2]),
        ("Flute", [4]),
        ("Lead (Flute)", [4]),
        ("Lead,Flute", [4]),
        ("violin", [6]),
        ("8", [6]),  # a name, as there is no track 8
        ("ALL", list(range(7))),
    ],
)
def test_whatever_is_shown_names_a_track(text, expected):
    assert parse_tracks(text, BAND) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("²", "no track '²'; song.mid has 1 Acoustic Grand Piano, 2 Electric Bass (finger), 3 Strings, low"),
        ("٢", "no track '٢'"),
        ("2 Flute", "no track '2 Flute'"),
        ("0", "no track '0'"),
        ("", "no track ''"),
        ("1,,2", "no track ''"),
        ("9" * 5000, "no track '999"),
        ("high, wet", "no track 'wet'"),
        (
            "o",
            "several tracks match 'o': 1 Acoustic Grand Piano, 3 Strings, low, 6 Vox, high, dry; "
            "name one by its number",
        ),
    ],
)
def test_what_names_no_track_or_several_is_a_line(text, words):
    with pytest.raises(ValueError, match="^" + re.escape(words)) as said:
        parse_tracks(text, BAND)
    assert "\n" not in str(said.value)


def test_alike_tracks_are_told_apart_by_number():
    hands = song(("Piano", 0), ("Piano", 0), ("", 0), ("", 0))
    with pytest.raises(ValueError, match="several tracks match 'piano': 1 Piano, 2 Piano; name"):
        parse_tracks("piano", hands)
    with pytest.raises(ValueError, match="3 Acoustic Grand Piano, 4 Acoustic Grand Piano"):
        parse_tracks("Acoustic Grand Piano", hands)
    assert parse_tracks("2 Piano, 4 Acoustic Grand Piano", hands) == [1, 3]
    with pytest.raises(ValueError, match=r"12 x and 28 more; name one") as said:
        parse_tracks("x", song(*[("x", 0)] * 40))
    assert len(str(said.value)) < 200


def test_numbers_go_before_names_that_are_numbers():
    score = song(("2", 0), ("1", 0), ("1,2", 0), ("3, 4 and 5", 0))
    assert parse_tracks("1", score) == [0]
    assert parse_tracks("2,1", score) == [1, 0]
    assert parse_tracks("1,2", score) == [0, 1]
    assert parse_tracks("3, 4 and 5", score) == [3]


@given(
    st.lists(
        st.tuples(st.text("abC 1,()=", max_size=9).map(str.strip), st.integers(0, 127) | st.just("Drums")),
        min_size=1,
        max_size=6,
    )
)
def test_every_heading_names_its_track(tracks):
    """What `inspect` prints before each row is understood, whatever the names."""
    score = song(*tracks)
    for i in range(len(tracks)):
        assert parse_tracks(heading(score, i), score) == [i]
        assert parse_tracks(str(i + 1), score) == [i]


def test_all_instruments_of_a_track_name_it():
    changes = (ProgramChange(8 * BAR, 73), ProgramChange(12 * BAR, 33), ProgramChange(16 * BAR, 68))
    notes = tuple(Note(b * BAR, 60, 100, 80) for b in range(16))
    score = Score(
        480,
        (
            Track("Solo", 33, notes, chunk=0, channel=0, program_changes=changes),
            Track("", 0, notes, chunk=1, channel=1),
        ),
    )
    text = (
        "Electric Bass (finger), then Flute from bar 9, then Electric Bass (finger) from bar 13, then Oboe from bar 17"
    )
    assert instrument_text(score, 0) == text
    for name in ("Flute", "1 Flute", "oboe", "solo (flute)", f"1 Solo ({text})"):
        assert parse_tracks(name, score) == [0]
    restless = tuple(ProgramChange((b + 1) * BAR, 40 + b % 2) for b in range(15))
    score = Score(480, (Track("", 33, notes, chunk=0, channel=0, program_changes=restless),))
    assert (
        instrument_text(score, 0).endswith("then Viola from bar 12 and 4 more") or len(instrument_text(score, 0)) < 400
    )


@pytest.mark.parametrize("name", [*PROGRAM_NAMES, "0", "127", " flute "])
def test_each_instrument_is_found_by_its_full_name(name):
    program, is_drum = find_program(name)
    assert not is_drum
    assert name.strip().isdigit() or PROGRAM_NAMES[program].lower() == name.strip().lower()


def test_parts_of_instruments_names():
    assert find_program("violin") == (40, False)
    assert find_program("electric bass (f") == (33, False)
    assert find_program("Drums") == find_program("drum  kit") == (0, True)
    with pytest.raises(
        ValueError, match=r"several General MIDI instruments are called 'sax': Soprano Sax, Alto Sax, Te"
    ):
        find_program("sax")
    for wrong in ("²", "128", "", "kazoo"):
        with pytest.raises(ValueError, match="0-127"):
            find_program(wrong)


def test_digits_that_are_not_ascii_are_refused_in_a_line():
    with pytest.raises(ValueError, match="--bars must be like"):
        parse_bars(["٢"], BAND)
    with pytest.raises(ValueError, match="is not a pitch"):
        parse_pitch("²")


def test_tracks_are_taken_for_something_else():
    taken = parse_as(["1=Drums", "Strings, low=33", "4, Lead=Oboe"], BAND).tracks
    assert [(t.program, t.is_drum, t.channel) for t in taken] == [
        (0, True, 0), (33, False, 1), (33, False, 2), (68, False, 3), (68, False, 4), (54, False, 5), (40, False, 6)
    ]  # fmt: skip
    assert parse_as([], BAND) == BAND
    assert parse_as(["1=Drums", "1=drums"], BAND).tracks[0].is_drum
    assert parse_as(["a=b=Flute"], song(("a=b", 0))).tracks[0].program == 73
    for wrong, words in (
        ("Drums", "--as must be TRACK=INSTRUMENT"),
        ("=Drums", "--as must be TRACK=INSTRUMENT"),
        ("1=", "--as must be TRACK=INSTRUMENT"),
        ("1=Kazoo", "no General MIDI instrument is called 'Kazoo'"),
        ("1=128", "program must be 0-127"),
        ("Oboe=Drums", "no track 'Oboe'"),
    ):
        with pytest.raises(ValueError, match=words):
            parse_as([wrong], BAND)
    with pytest.raises(ValueError, match="takes track 1 Acoustic Grand Piano for two instruments"):
        parse_as(["1=Drums", "Acoustic Grand Piano=Flute"], BAND)


@pytest.fixture
def kit_on_channel_1(build_midi, note, tmp_path):
    """A type 0 file: a drummer who is a little loose, on channel 1 without a name."""
    rnd = random.Random(3)
    hits = [(b * BAR + s * 240, 42) for b in range(12) for s in range(8)]
    hits += [(b * BAR + q, p) for b in range(12) for q, p in ((0, 36), (480, 38), (720, 36), (1440, 38))]
    events = [e for at, p in hits for e in note(max(0, at + rnd.randint(-9, 9)), p, 60, rnd.randint(60, 110))]
    path = tmp_path / "kit.mid"
    path.write_bytes(build_midi([sorted(events, key=lambda e: e[0])], kind=0))
    return path


def test_drums_on_another_channel_are_pointed_out_and_taken_as_asked(
    kit_on_channel_1, checkpoint_folder, capsys, tmp_path, check_fill
):
    path = str(kit_on_channel_1)
    assert main(["inspect", path]) == 0
    out = capsys.readouterr().out
    [line] = [line for line in out.splitlines() if line.startswith("warning: ")]
    assert "1 Acoustic Grand Piano looks like drums but is not on channel 10" in line
    assert '--as "1=Drums" takes it for drums' in line
    assert main(["inspect", path, "--as", "1=Drums", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(t["instrument"], t["program"], t["channel"]) for t in report["tracks"]] == [("Drums", None, 0)]
    assert report["warnings"] == []

    output, options = tmp_path / "o.mid", ["--checkpoint", str(checkpoint_folder), "--seed", "1", "--bars", "5-6"]
    command = ["infill", path, *options, "-o", str(output), "--overwrite"]
    assert main([*command, "--as", "1=Drums"]) == 0
    out, err = capsys.readouterr()
    assert "bars 5-6 of 1 Drums" in out
    assert err == ""
    assert check_fill(path, output, [(0, 0, 4 * BAR, 6 * BAR)]) == []
    assert main([*command, "--tracks", "Drums"]) == 2
    assert main([*command, "--as", "1=Drums", "--tracks", "Drums"]) == 0
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().err.startswith("midi-rwkv: warning: 1 Acoustic Grand Piano looks like drums")
    assert main([*command, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert len(json.loads(out)["warnings"]) == 1
    assert main([*command, "--as", "1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_row_for_each_instrument_of_a_track(build_midi, note, tmp_path, capsys):
    notes = [e for b in range(8) for e in note(b * BAR, 60, 240)]
    changes = [(0, b"\xc0\x21"), (4 * BAR, b"\xc0\x49"), (6 * BAR, b"\xc0\x21")]
    path = tmp_path / "solo.mid"
    path.write_bytes(build_midi([sorted([*changes, *notes], key=lambda e: e[0]), note(0, 40, 240, channel=1)]))
    assert main(["inspect", str(path)]) == 0
    assert "1 Electric Bass (finger), then Flute from bar 5, then Electric Bass (finger) from bar 7" in (
        capsys.readouterr().out
    )
    assert main(["inspect", str(path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["tracks"]
    assert [(r["number"], r["instrument"], r["program"], r["from_bar"], r["notes"]) for r in rows] == [
        (1, "Electric Bass (finger)", 33, 1, 6),
        (1, "Flute", 73, 5, 2),
        (2, "Acoustic Grand Piano", 0, 1, 1),
    ]
    assert [r["notes_per_bar"] for r in rows[:2]] == [[1, 1, 1, 1, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1, 0, 0]]


def track(name="", program=0, pitches=(60, 64, 67), length=240, step=240, count=64):
    return Track(name, program, tuple(Note(i * step, pitches[i % len(pitches)], length, 80) for i in range(count)))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (track("Drums"), True),
        (track("my drum kit 2"), True),
        (track("Hi-Hat", pitches=(42,)), True),
        (track("Steel Drums", 114), False),
        (track("Taiko Drum", 116), False),
        (track("Drumsticks"), False),
        (track("Percussive Organ", 17), False),
        (track("Piano"), False),
        (track("", 33, pitches=(36, 38, 41, 43, 45, 46, 48)), False),  # a bass in F
        (track("", 33, pitches=(35, 37, 38, 40, 42, 44, 45, 47)), False),
    ],
)
def test_what_looks_like_drums(given, expected):
    assert looks_like_drums(given, 480) == expected


def performance(seed, beat=480.0, drift=0.0, jitter=0.0, steps=(0.5,), notes=400):
    """A player's notes: `beat` ticks to the beat, which changes by about `drift` of it a note; each a little off."""
    rnd, at, out = random.Random(seed), 0.0, []
    for i in range(notes):
        onset = max(0, round(at + rnd.gauss(0, jitter)))
        out.append(Note(onset, 60 + i % 12, 100, 80))
        at += beat * steps[i % len(steps)]
        beat *= 1 + rnd.gauss(0, drift)
    return Score(480, (Track("Piano", 0, tuple(sorted(out))),))


@pytest.mark.parametrize("seed", range(5))
def test_a_recording_without_a_click_is_told_from_a_loose_hand(seed):
    free = [performance(seed, beat, 0.03, 5) for beat in (431.0, 480.0, 523.0)]
    free.append(performance(seed, 471.3))  # at another tempo than the file's
    assert not any(keeps_to_a_beat(s) for s in free)
    assert all("no beat grid" in remarks(s)[0] for s in free)
    swing = performance(seed, jitter=25, steps=(0.64, 0.36))
    triplets = performance(seed, jitter=15, steps=(1 / 3,))
    sixteenths = performance(seed, jitter=20, steps=(0.25,))  # 10 ms at 125 beats a minute
    few = performance(seed, 431.0, 0.1, notes=20)
    for s in (swing, triplets, sixteenths, few):
        assert remarks(s) == []


def test_the_command_warns_of_a_recording_without_a_click(build_midi, note, checkpoint_folder, tmp_path, capsys):
    free = performance(2, 431.0, 0.03)
    events = sorted((e for n in free.tracks[0].notes for e in note(*n)), key=lambda e: e[0])
    path = tmp_path / "free.mid"
    path.write_bytes(build_midi([events]))
    assert main(["inspect", str(path)]) == 0
    assert capsys.readouterr().out.count("warning: no beat grid") == 1
    options = ["--bars", "4", "--seed", "1", "--checkpoint", str(checkpoint_folder), "-o", str(tmp_path / "o.mid")]
    assert main(["infill", str(path), *options]) == 0
    err = capsys.readouterr().err
    assert err.startswith("midi-rwkv: warning: no beat grid")
    assert err.count("\n") == 1
    assert len(read_midi(tmp_path / "o.mid").tracks) == 1
