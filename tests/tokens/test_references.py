"""What the song says elsewhere is found, and nothing hidden leaks into the search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from song import random_song, repeating_song, song_of

from midi_rwkv.tokens.attributes import DRUMS
from midi_rwkv.tokens.memory import PieceCells, PieceMemory
from midi_rwkv.tokens.notes import AT
from midi_rwkv.tokens.references import RunIndex


def test_the_bar_with_the_same_surroundings_is_found() -> None:
    song = repeating_song()
    hidden = [(0, b) for b in (8, 9, 10, 11)]
    index = RunIndex(song, (8, 12), hidden)
    for track, bar in hidden:
        reference = index.sources(track, bar)[0]
        assert np.array_equal(reference.notes, song.cell(track, bar))
        assert reference.bar is not None
        assert reference.bar % 4 == bar % 4 or bar % 2 == 0  # A comes twice in four bars
        index.write(track, bar, song.cell(track, bar))


def test_what_was_just_written_serves_where_there_is_nothing_else() -> None:
    song = repeating_song()
    for hidden, others in (([8, 9], True), (range(song.n_bars), False)):
        index = RunIndex(song, (8, 10), [(0, b) for b in hidden])
        index.write(0, 8, song.cell(0, 7))
        assert any(r.bar == 8 for r in index.sources(0, 9))
        alone = [r.bar for r in index.sources(0, 9, written=False)]
        assert (8 in alone) != others
        assert bool(alone)


def test_a_bar_in_which_the_part_rests_is_told_first() -> None:
    lead = [(16 * b + k, 60 + k, 1) for b in range(16) for k in range(0, 16, 4) if b % 4 != 3]
    bass = [(16 * b, 36 + b % 4, 16) for b in range(16)]
    found = RunIndex(song_of([(0, lead), (32, bass)], 16), (11, 12), [(0, 11)]).sources(0, 11)
    likeness = [r.likeness for r in found]
    assert likeness == sorted(likeness, reverse=True)
    assert not len(found[0].notes)
    assert found[0].bar is not None
    assert found[0].bar % 4 == 3


@pytest.mark.parametrize("octave", [0, 12, -12])
def test_a_track_that_doubles_another_lends_its_cell(octave: int) -> None:
    rng = np.random.default_rng(0)
    line = [(4 * k, int(p), 4) for k, p in enumerate(rng.integers(48, 72, 64))]
    song = song_of([(40, line), (73, [(at, p + octave, n) for at, p, n in line])], 16)
    reference = RunIndex(song, (8, 9), [(0, 8)]).sources(0, 8)[-1]
    assert (reference.bar, reference.likeness) == (8, 1)
    assert np.array_equal(reference.notes[:, AT.pitch], song.cell(0, 8)[:, AT.pitch])


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(0, 10), st.integers(1, 4))
def test_an_index_that_was_written_to_is_an_index_of_what_was_written(seed: int, first: int, bars: int) -> None:
    song = random_song(seed)
    run = first, min(first + bars, song.n_bars)
    hidden = [(t, b) for t in range(song.n_tracks) for b in range(*run)]
    index = RunIndex(song, run, hidden)
    for track, bar in hidden[:-1]:
        index.write(track, bar, song.cell(track, bar))
    fresh = RunIndex(song, run, hidden[-1:])
    for bar in range(*run):
        assert index.likeness(bar) == pytest.approx(fresh.likeness(bar))


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(0, 10))
def test_what_is_hidden_changes_nothing(seed: int, first: int) -> None:
    song, other = random_song(seed), random_song(seed + 1)
    hidden = [(0, first), (1, first), (0, first + 1)]
    changed = song.with_cells({(t, b): other.cell(t, b) for t, b in hidden})
    for track, bar in hidden[:2]:
        before, after = (RunIndex(s, (first, first + 2), hidden).sources(track, bar) for s in (song, changed))
        assert [(r.likeness, r.notes.tolist(), r.bar) for r in before] == [
            (r.likeness, r.notes.tolist(), r.bar) for r in after
        ]


def test_another_piece_lends_its_cell_in_our_key_and_register() -> None:
    song = repeating_song()
    chords = [(16 * b + 8 * k, p, 8) for b in range(16) for k in range(2) for p in (60, 64, 67)]
    lead = [(16 * b + 4 * k, 79, 4) for b in range(16) for k in range(4)]
    piece = song_of([(0, [(at, p + 14, n) for at, p, n in lead]), (48, [(a, p + 2, n) for a, p, n in chords])], 16)
    index = RunIndex(song, (8, 9), [(0, 8)])
    reference, *others = PieceMemory([PieceCells(piece)], index).find(0, 8)
    assert reference.bar is None
    assert len(others) == 31
    assert reference.likeness == max(r.likeness for r in others)
    assert reference.notes[:, AT.position].tolist() == [0, 24, 48, 72]
    assert abs(float(reference.notes[:, AT.pitch].mean()) - 66) < 8


def test_drums_are_lent_to_drums_alone() -> None:
    song = repeating_song()
    kit = song_of([(DRUMS, [(4 * k, 36, 1) for k in range(64)])], 16)
    assert PieceMemory([PieceCells(kit)], RunIndex(song, (8, 9), [(0, 8)])).find(0, 8) == []


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 10))
def test_a_memory_knows_nothing_of_what_is_hidden(seed: int, first: int) -> None:
    song, other = random_song(seed), random_song(seed + 1)
    pieces = [PieceCells(random_song(seed + k)) for k in (2, 3)]
    hidden = [(0, first), (1, first), (0, first + 1)]
    changed = song.with_cells({(t, b): other.cell(t, b) for t, b in hidden})
    for track, bar in hidden:
        before, after = (
            PieceMemory(pieces, RunIndex(s, (first, first + 2), hidden)).find(track, bar) for s in (song, changed)
        )
        assert [(r.likeness, r.notes.tolist()) for r in before] == [(r.likeness, r.notes.tolist()) for r in after]


def test_a_song_of_which_nothing_is_shown_is_in_the_key_of_its_first_piece() -> None:
    song = repeating_song()
    hidden = [(t, b) for t in range(song.n_tracks) for b in range(song.n_bars)]
    in_d, in_e = (
        song_of([(0, [(4 * k, p + move, 4) for k, p in enumerate((60, 64, 67, 72) * 16)])], 16) for move in (2, 4)
    )
    found = PieceMemory([PieceCells(in_d), PieceCells(in_e)], RunIndex(song, (8, 9), hidden)).find(0, 8)
    assert {int(p) % 12 for r in found for p in r.notes[:, AT.pitch]} == {2, 6, 9}
