"""A song's notes as attributes: what goes in comes out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midi_rwkv.score.score import Note, Score, TimeSignature, Track
from midi_rwkv.tokens.attributes import DRUMS, Vocabulary, make_vocabulary, miditok_config
from midi_rwkv.tokens.notes import AT, BarGrid, decode_cell, encode

TICKS = 480
UNIT = TICKS / 240  # ticks of a micro-timing step


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return make_vocabulary()


def score_of(notes: list[Note], *, is_drum: bool = False, signatures: tuple[TimeSignature, ...] = ()) -> Score:
    """A song of one track."""
    return Score(TICKS, (Track("Part", 0, tuple(sorted(notes)), is_drum=is_drum),), signatures)


def round_trip(vocabulary: Vocabulary, score: Score) -> list[Note]:
    """Every cell of the first track, encoded and decoded."""
    song = encode(vocabulary, score)
    grid = BarGrid(vocabulary, score.bars, score.ticks_per_beat)
    out = []
    for bar in range(song.n_bars):
        out += decode_cell(
            vocabulary,
            grid,
            song.cell(0, bar),
            bar=bar,
            ticks_per_beat=score.ticks_per_beat,
            is_drum=score.tracks[0].is_drum,
        )
    return sorted(out)


notes = st.builds(
    Note,
    onset_ticks=st.integers(0, 16 * TICKS),
    pitch=st.integers(0, 127),
    duration_ticks=st.integers(1, 32 * TICKS),
    velocity=st.integers(1, 127),
)


@settings(max_examples=60)
@given(st.lists(notes, min_size=1, max_size=40, unique_by=lambda n: (round(n.onset_ticks / UNIT), n.pitch)))
def test_every_note_comes_back_within_the_grid(vocabulary: Vocabulary, written: list[Note]) -> None:
    written.sort()
    back = round_trip(vocabulary, score_of(written))
    assert len(back) == len(written)
    for pitch in {n.pitch for n in written}:
        before, after = ([n for n in some if n.pitch == pitch] for some in (written, back))
        for a, b in zip(before, after, strict=True):
            assert abs(a.onset_ticks - b.onset_ticks) <= 1  # 240ths of a quarter are 2 ticks
            assert abs(a.velocity - b.velocity) <= 2
            finest = 1 if a.duration_ticks <= 4 * TICKS else 2 if a.duration_ticks <= 8 * TICKS else 6
            assert abs(a.duration_ticks - b.duration_ticks) <= max(20, finest * 20 / 2 + 1)


@pytest.mark.parametrize("length", [20 * k for k in (1, 2, 3, 6, 8, 12, 16, 24, 36, 48, 72, 96)])
def test_durations_on_the_grid_are_exact(vocabulary: Vocabulary, length: int) -> None:
    assert [n.duration_ticks for n in round_trip(vocabulary, score_of([Note(0, 60, length, 80)]))] == [length]


def test_a_rushed_downbeat_is_an_early_position_0_of_the_bar_it_leads_into(vocabulary: Vocabulary) -> None:
    downbeats = [Note(4 * TICKS * bar - 15, 36, 60, 100) for bar in range(1, 9)]
    score = score_of([Note(0, 36, 60, 100), *downbeats], is_drum=True)
    song = encode(vocabulary, score)
    for bar in range(1, 9):
        [note] = song.cell(0, bar).tolist()
        assert note[AT.position] == 0
        assert note[AT.micro] in (-8, -7)
    assert [n.onset_ticks for n in round_trip(vocabulary, score)][1:] == pytest.approx(
        [n.onset_ticks for n in downbeats], abs=1
    )


def test_a_flam_is_two_notes(vocabulary: Vocabulary) -> None:
    song = encode(vocabulary, score_of([Note(482, 38, 30, 40), Note(486, 38, 60, 110)], is_drum=True))
    assert song.cell(0, 0)[:, AT.micro].tolist() == [1, 3]


def test_of_doubles_the_loudest_is_read(vocabulary: Vocabulary) -> None:
    song = encode(vocabulary, score_of([Note(0, 60, 30, 40), Note(0, 60, 60, 110)]))
    assert vocabulary.velocities[song.cell(0, 0)[:, AT.velocity]].tolist() == [111]


def test_a_bar_longer_than_the_positions_is_coarser_but_whole(vocabulary: Vocabulary) -> None:
    late = Note(4 * TICKS * 7 + 120, 60, 120, 80)  # in the 29th quarter of a bar of 32
    score = score_of([Note(0, 60, 120, 80), late], signatures=(TimeSignature(0, 8, 1),))
    assert len(score.bars) == 1
    assert round_trip(vocabulary, score)[1].onset_ticks == late.onset_ticks


def test_the_program_of_a_drum_track(vocabulary: Vocabulary) -> None:
    song = encode(vocabulary, score_of([Note(0, 60, 30, 40)], is_drum=True))
    assert song.is_drum(0)
    assert song.program(0, 0) == DRUMS
    assert song.cell(0, 0)[0, AT.duration] == 0


def test_cells_can_be_replaced(vocabulary: Vocabulary) -> None:
    song = encode(vocabulary, score_of([Note(0, 60, 30, 40), Note(4 * TICKS, 62, 30, 40)]))
    other = song.with_cells({(0, 0): song.cell(0, 1), (0, 1): song.cell(0, 1)[:0]})
    assert np.array_equal(other.cell(0, 0), song.cell(0, 1))
    assert len(other.cell(0, 1)) == 0
    assert len(song.cell(0, 1)) == 1


def test_miditok_reads_the_same_notes(vocabulary: Vocabulary) -> None:
    """The tokens that MidiTok makes of a plain song in 4/4 say the same as our attributes."""
    import symusic
    from miditok import MMM

    ours = [Note(120 * k, 60 + k % 5, 120 * (1 + k % 3), 79) for k in range(64)]
    song = encode(vocabulary, score_of(ours))
    theirs = symusic.Score(TICKS)
    theirs.tempos.append(symusic.Tempo(0, 120.0))
    track = symusic.Track(program=0)
    for n in ours:
        track.notes.append(symusic.Note(n.onset_ticks, n.duration_ticks, n.pitch, n.velocity))
    theirs.tracks.append(track)
    tokens = MMM(miditok_config())(theirs).tokens
    found, bar, position = [], -1, 0
    names = iter(tokens if isinstance(tokens[0], str) else tokens[0])
    for name in names:
        kind, _, value = name.partition("_")
        if kind == "Bar":
            bar += 1
        elif kind == "Position":
            position = int(value)
        elif kind == "Pitch":
            velocity, duration = next(names), next(names)
            found.append((bar, position, int(value), velocity, duration))
    expected = []
    for bar in range(song.n_bars):
        for note in song.cell(0, bar).tolist():
            beats, part = divmod(int(vocabulary.durations[note[AT.duration]]), 24)
            expected.append(
                (
                    bar,
                    note[AT.position],
                    note[AT.pitch],
                    f"Velocity_{vocabulary.velocities[note[AT.velocity]]}",
                    f"Duration_{beats}.{part}.24",
                )
            )
    assert found == expected
