"""Training rows: what is asked, what is answered, and that nothing else decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from song import random_song, vocabulary

from midi_rwkv.corpus.note_shards import NoteShard
from midi_rwkv.errors import CorpusError
from midi_rwkv.tokens.attributes import MEMORY_COLUMNS, Column, Role
from midi_rwkv.tokens.chords import find_chords
from midi_rwkv.tokens.layout import notes_of, targets_of
from midi_rwkv.tokens.memory import PieceCells
from midi_rwkv.tokens.notes import AT, transposed
from midi_rwkv.training.rows import RowSampler, TrainingRows
from midi_rwkv.training.valid import validation_fills


def test_a_shard_gives_back_its_songs(varied_shards: Path) -> None:
    shard = NoteShard(varied_shards / "games.npz")
    for i in range(5):
        song, other = random_song(i, bars=20), shard[i]
        assert np.array_equal(song.notes, other.notes)
        assert np.array_equal(song.offsets, other.offsets)
        assert np.array_equal(song.programs, other.programs)
        assert [shard.chords(i).in_bar(b) for b in range(20)] == [
            find_chords(song, vocabulary()).in_bar(b) for b in range(20)
        ]


def test_a_row_depends_on_its_number_and_the_seed_alone(varied_shards: Path) -> None:
    one, two = (TrainingRows(varied_shards, vocabulary(), 1024, seed=3) for _ in range(2))
    two[5]
    for a, b in zip(one[7], two[7], strict=True):
        assert np.array_equal(a, b)
    assert not np.array_equal(one[7][0], one[8][0])


def test_rows_are_full_and_hold_answers(varied_shards: Path) -> None:
    rows = TrainingRows(varied_shards, vocabulary(), 1024, seed=0)
    filled = answers = 0
    for i in range(10):
        row, starts = rows[i]
        assert row.shape == (1025, len(Column))
        assert starts[0]
        assert (row >= 0).all()
        assert (np.delete(row < np.array(vocabulary().sizes), Column.CHROMA, 1)).all()
        filled += int((row[:, Column.TOKEN] > 0).sum())
        answers += int((targets_of(row, vocabulary())[1] == Role.ANSWER).sum())
    assert filled > 0.8 * 10 * 1025
    assert answers > 0.05 * filled


@settings(max_examples=40)
@given(st.integers(0, 100_000))
def test_answers_and_kept_notes_are_the_songs_own(seed: int) -> None:
    song = random_song(seed % 7, bars=20)
    drawn = RowSampler(vocabulary()).draw(song, find_chords(song, vocabulary()), np.random.default_rng(seed), 900)
    if drawn is None:
        return
    assert len(drawn) <= 900
    own = {shift: set(map(tuple, transposed(song, shift).notes.tolist())) for shift in range(-6, 7)}
    written = drawn[np.isin(drawn[:, Column.ROLE], (Role.ANSWER, Role.KEPT)) & (drawn[:, Column.VELOCITY] > 0)]
    found = set(map(tuple, notes_of(vocabulary(), written).tolist()))
    assert any(found <= notes for notes in own.values())


def test_every_kind_of_question_is_asked(varied_shards: Path) -> None:
    rows = TrainingRows(varied_shards, vocabulary(), 1024, seed=1)
    seen: set[str] = set()
    for i in range(60):
        steps = rows[i][0]
        seen |= {vocabulary().tokens[t] for t in np.unique(steps[:, Column.TOKEN])}
        seen |= {Role(r).name for r in np.unique(steps[:, Column.ROLE])}
    for name in ("Fill_From", "Fill_Low", "Kept_Start", "Chord_maj", "Chord_min", "Infill_Bar"):
        assert name in seen
    assert any(n.startswith("ACBarNoteDensity") for n in seen)
    assert {"KEPT", "ANSWER", "CONTEXT"} <= seen


@pytest.mark.parametrize("longest", [8, 16])
def test_regions_are_of_resting_tracks_too_and_as_long_as_asked(longest: int) -> None:
    song = random_song(0, bars=40)
    song = song.with_cells({(1, b): song.cell(1, b)[:0] for b in range(40)})
    sampler, rng = RowSampler(vocabulary(), longest=longest), np.random.default_rng(0)
    regions = [r for _ in range(200) if (r := sampler._region(song, rng, 4000, (0, 40)))]
    assert {last - first for _, first, last in regions} >= {1, 4, longest}
    assert max(last - first for _, first, last in regions) == longest
    assert 10 < sum(1 in tracks for tracks, _, _ in regions) < 60
    assert any(len(tracks) == song.n_tracks for tracks, _, _ in regions)


def test_transposing_leaves_drums_alone() -> None:
    song = random_song(0)
    moved = transposed(song, 3)
    assert (moved.cell(0, 1)[:, AT.pitch] - song.cell(0, 1)[:, AT.pitch] == 3).all()
    assert np.array_equal(moved.cell(2, 1), song.cell(2, 1))


def test_validation_fills_are_the_same_each_time(varied_shards: Path) -> None:
    one, two = (validation_fills(NoteShard(varied_shards / "valid.npz"), vocabulary(), per_source=4) for _ in range(2))
    assert [f.notes for f in one] == [f.notes for f in two]
    assert all(np.array_equal(a.steps, b.steps) for a, b in zip(one, two, strict=True))
    assert len(one) == 4


def test_a_source_that_is_not_there_is_one_line(varied_shards: Path) -> None:
    with pytest.raises(CorpusError, match="no shard for jazz"):
        TrainingRows(varied_shards, vocabulary(), 1024, seed=0, weights={"jazz": 1.0})


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_a_memory_changes_its_own_columns_alone(seed: int) -> None:
    song, pieces = random_song(seed), [PieceCells(random_song(seed + k)) for k in (1, 2)]
    samples = []
    for share in (0.0, 1.0):
        sampler = RowSampler(vocabulary(), plain=True, memory_share=share)
        samples.append(sampler.draw(song, None, np.random.default_rng(seed), 1024, lambda: pieces))
    plain, remembering = samples
    if plain is None:
        assert remembering is None
        return
    own = list(MEMORY_COLUMNS)
    assert not plain[:, own].any()
    assert not remembering[remembering[:, Column.ROLE] != Role.ANSWER][:, own].any()
    assert np.array_equal(np.delete(plain, own, 1), np.delete(remembering, own, 1))
    starts = remembering[:, Column.TOKEN] == vocabulary().id("FillBar_Start")
    assert (remembering[starts][:, Column.MEMORY_NEXT] > 0).all()
