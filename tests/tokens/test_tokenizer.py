"""Notes -> ids -> notes, on generated scores; base tokens and ids kept apart; agreement with MidiTok itself."""

import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midi_rwkv.score.manner import in_the_manner_of
from midi_rwkv.score.score import Bar, Cell, Note, Score, TimeSignature, Track
from midi_rwkv.tokens.tokenizer import Tokenizer

TPQ = 480
STEP = TPQ // 12
METRES = [(4, 4), (3, 4), (7, 8), (2, 2), (5, 16), (3, 2), (6, 8), (1, 4)]


@st.composite
def scores(draw):
    """Grid-aligned songs of a few bars: drums, odd metres, a pickup, chords, silent bars."""
    metres = draw(st.lists(st.sampled_from(METRES), min_size=1, max_size=4))
    signatures, tick = [], 0
    for n, d in metres:
        signatures.append(TimeSignature(tick, n, d))
        tick += TPQ * 4 * n // d * draw(st.integers(1, 3))
    tracks = []
    for i in range(draw(st.integers(1, 3))):
        places = draw(
            st.lists(
                st.tuples(st.integers(0, tick // STEP - 1), st.integers(0, 126)), unique=True, min_size=1, max_size=30
            )
        )
        notes = [
            Note(
                p * STEP,
                pitch,
                draw(st.sampled_from([1, 3, 6, 12, 24, 48])) * STEP,
                draw(st.sampled_from([7, 63, 127])),
            )
            for p, pitch in places
        ]
        drum = draw(st.booleans())
        tracks.append(Track(f"t{i}", 0 if drum else draw(st.integers(0, 127)), tuple(sorted(notes)), is_drum=drum))
    return Score(TPQ, tuple(tracks), tuple(signatures))


@given(score=scores())
@settings(max_examples=80)
def test_round_trip_on_the_grid_is_exact(tokenizer, score):
    song = tokenizer.encode(score)
    for t, track in enumerate(score.tracks):
        out = [
            n
            for b, bar in enumerate(score.bars)
            for n in tokenizer.decode_cell(song.cell(Cell(t, b)), bar, TPQ, is_drum=track.is_drum)
        ]
        want = [n._replace(duration_ticks=TPQ // 4) if track.is_drum else n for n in track.notes]
        assert out == want


@given(score=scores())
@settings(max_examples=20)
def test_every_cell_stands_in_its_own_bar(tokenizer, score):
    song = tokenizer.encode(score)
    assert song.n_bars == len(score.bars)
    for t in range(len(score.tracks)):
        for b, bar in enumerate(score.bars):
            bases = [i for k in song.cell(Cell(t, b)) for i in tokenizer.expansions[k]]
            pitches = sum(tokenizer.base_names[i].startswith("Pitch") for i in bases)
            assert pitches == len(score.notes_in(t, b))
            assert bar.end_ticks > bar.start_ticks


def test_positions_are_twelfths_of_a_quarter_in_every_metre(tokenizer):
    for n, d in METRES:
        bar = Bar(0, TPQ * 4 * n // d, n, d)
        assert tokenizer.positions_in(bar, TPQ) == 48 * n // d
        [text] = tokenizer.cell_texts(np.array([[STEP * 2, 60, STEP * 3, 80]]), [bar], TPQ, is_drum=False)
        ids = tokenizer.encode_cells([text])[0]
        assert tokenizer.decode_cell(ids, bar, TPQ, is_drum=False)[0].onset_ticks == STEP * 2


def test_a_note_just_before_the_bar_line_counts_as_on_it(tokenizer):
    bars = [Bar(0, 1920, 4, 4), Bar(1920, 3840, 4, 4)]
    texts = tokenizer.cell_texts(np.array([[1915, 60, 480, 80]]), bars, TPQ, is_drum=False)
    assert texts[0] == ""
    assert tokenizer.decode_cell(tokenizer.encode_cells(texts)[1], bars[1], TPQ, is_drum=False)[0].onset_ticks == 1920


def test_base_tokens_and_ids_are_different_spaces(tokenizer):
    longer = [i for i, e in enumerate(tokenizer.expansions) if len(e) > 1]
    assert longer, "the fixture should have learned merges"
    assert tokenizer.vocab_size == 1024 > len(tokenizer.base_names)
    for name in ("Position_0", "Pitch_60", "FillBar_End", "Program_-1"):
        assert tokenizer.expansions[tokenizer.id(name)] == (tokenizer.base_ids[name],)
    cell = tokenizer.encode_cells(
        tokenizer.cell_texts(np.array([[0, 60, 240, 80]]), [Bar(0, 1920, 4, 4)], TPQ, is_drum=False)
    )[0]
    names = [tokenizer.base_names[b] for i in cell for b in tokenizer.expansions[i]]
    assert [n.split("_")[0] for n in names] == ["Position", "Pitch", "Velocity", "Duration"]


def test_a_metre_outside_the_vocabulary_becomes_the_nearest_in_length(tokenizer):
    assert tokenizer.time_signature(Bar(0, TPQ * 4, 32, 32), TPQ) == "TimeSig_16/16"
    assert tokenizer.time_signature(Bar(0, 31 * TPQ // 2, 31, 8), TPQ) == "TimeSig_16/4"


def test_the_vocabulary_survives_a_save(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t.json")
    again = Tokenizer.load(tmp_path / "t.json")
    assert (again.base_names, again.expansions, again.grid) == (tokenizer.base_names, tokenizer.expansions, "quarter")


def test_agrees_with_miditok_where_both_can_say_it():
    """In plain 4/4, MidiTok's own MMM encoding of the same notes has the same tokens, bar by bar."""
    from miditok import MMM
    from symusic import Note as SymusicNote
    from symusic import Score as SymusicScore
    from symusic import TimeSignature as SymusicTimeSignature
    from symusic import Track as SymusicTrack

    from midi_rwkv.tokens.vocabulary import base_tokenizer, miditok_config

    base, theirs = base_tokenizer(), MMM(miditok_config())
    rng = np.random.default_rng(1)
    notes = sorted(
        {(int(p) * STEP, int(q)): None for p, q in zip(rng.integers(0, 96, 40), rng.integers(40, 80, 40), strict=True)}
    )
    rows = [(onset, pitch, STEP * int(rng.choice([3, 6, 12])), 63) for onset, pitch in notes]
    rows = [r for i, r in enumerate(rows) if not any(s[1] == r[1] and s[0] < r[0] < s[0] + s[2] for s in rows[:i])]
    rows = [r for r in rows if not any(s[1] == r[1] and r[0] < s[0] < r[0] + r[2] for s in rows)]
    song: Any = SymusicScore(TPQ)
    song.time_signatures.append(SymusicTimeSignature(0, 4, 4))
    track: Any = SymusicTrack("x", 5, is_drum=False)
    for onset, pitch, duration, velocity in rows:
        track.notes.append(SymusicNote(onset, duration, pitch, velocity))
    song.tracks.append(track)
    tokens = theirs.encode(song, concatenate_track_sequences=True).tokens
    kinds = ("Position_", "Pitch_", "Velocity_", "Duration_")
    text = re.sub(r"Position_0 Tempo_\S+", "", " ".join(tokens))  # MidiTok says the tempo inside the track
    want = [[t for t in bar.split() if t.startswith(kinds)] for bar in text.split("Bar_None")[1:]]
    bars = [Bar(i * 1920, (i + 1) * 1920, 4, 4) for i in range(len(want))]
    texts = base.cell_texts(np.array(rows), bars, TPQ, is_drum=False)
    ours = [[base.base_names[b] for i in ids for b in base.expansions[i]] for ids in base.encode_cells(texts)]
    assert ours == want


def test_velocities_are_given_back_where_the_track_tells_them():
    track = Track("x", 0, (Note(0, 60, 1, 80), Note(1, 60, 1, 80), Note(2, 60, 1, 78)))
    out = in_the_manner_of(track, [Note(5, 60, 9, 79), Note(6, 60, 9, 127)], 4)
    assert [n.velocity for n in out] == [80, 127]
    assert [n.duration_ticks for n in out] == [9, 9]


def test_drum_hits_are_as_long_as_the_tracks_own():
    kit = Track(
        "x", 0, (Note(0, 36, 10, 80), Note(1, 36, 10, 80), Note(2, 38, 30, 80), Note(3, 36, 12, 80)), is_drum=True
    )
    out = in_the_manner_of(kit, [Note(5, 36, 120, 80), Note(6, 38, 120, 80), Note(7, 42, 120, 80)], 4)
    assert [n.duration_ticks for n in out] == [10, 30, 10]


def test_an_answer_that_does_not_parse_is_refused(tokenizer):
    bar = Bar(0, 1920, 4, 4)
    with pytest.raises(ValueError, match="out of place"):
        tokenizer.decode_cell([tokenizer.id("Pitch_60")], bar, TPQ, is_drum=False)
    with pytest.raises(ValueError, match="ends within"):
        tokenizer.decode_cell([tokenizer.id("Position_0"), tokenizer.id("Pitch_60")], bar, TPQ, is_drum=False)


def test_a_miditok_file_with_beat_grid_loads(tokenizer):
    """A file without our marker (the paper's) has MidiTok's grid: twelve positions to the metre's own beat."""
    params = json.loads(json.dumps({k: v for k, v in tokenizer.params.items() if k != "midi_rwkv"}))
    theirs = Tokenizer(params)
    assert theirs.grid == "beat"
    assert theirs.positions_in(Bar(0, 1440, 6, 8), TPQ) == 72
