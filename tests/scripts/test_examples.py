"""The example pieces: what the script composes is what is committed, and each shows what it is there for."""

import io
from pathlib import Path

import mido
import pytest

from midi_rwkv.score.midi import read_midi

FOLDER = Path(__file__).parents[2] / "app" / "examples"
PIECES = ["piano.mid", "pop_band.mid", "string_quartet.mid"]


def test_the_script_makes_the_committed_bytes(script, tmp_path):
    script("make_examples").main(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == PIECES
    for name in PIECES:
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), f"run scripts/make_examples.py: {name}"


@pytest.mark.parametrize("name", PIECES)
def test_every_player_is_heard_and_no_note_hangs(name):
    score = read_midi(FOLDER / name)
    for track in score.tracks:
        assert track.name
        assert len(track.notes) > 60
    sounding = 0
    for message in mido.merge_tracks(mido.MidiFile(file=io.BytesIO((FOLDER / name).read_bytes())).tracks):
        sounding += (message.type == "note_on") - (message.type == "note_off")
        assert sounding >= 0
    assert sounding == 0


def test_pop_band():
    score = read_midi(FOLDER / "pop_band.mid")
    assert len(score.bars) == 48
    assert [t.name for t in score.tracks] == ["Drums", "Bass", "Electric Guitar", "Electric Piano", "Strings", "Lead"]
    assert [t.is_drum for t in score.tracks] == [True] + [False] * 5


def test_string_quartet():
    score = read_midi(FOLDER / "string_quartet.mid")
    assert len(score.bars) == 40
    assert [t.program for t in score.tracks] == [40, 40, 41, 42]
    for track, lowest in zip(score.tracks, (55, 55, 48, 36), strict=True):
        assert min(note.pitch for note in track.notes) >= lowest


def test_piano():
    score = read_midi(FOLDER / "piano.mid")
    assert (score.first_bar_number, score.last_bar_number) == (0, 40)
    assert len({(s.numerator, s.denominator) for s in score.time_signatures}) == 4
    assert len({t.microseconds_per_beat for t in score.tempos}) > 6
    assert [t.channel for t in score.tracks] == [0, 0]
    assert b"\xb0\x40\x7f" in (FOLDER / "piano.mid").read_bytes()
