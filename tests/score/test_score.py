from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midi_rwkv.score.score import Cell, Note, Region, Score, Tempo, TimeSignature, Track, bar_grid


def song(signatures=(), end=0, notes=(), tpq=480):
    return Score(tpq, (Track("Piano", 0, tuple(sorted(notes))),), tuple(signatures), (), end_ticks=end)


def test_bars_follow_the_time_signatures():
    score = song([TimeSignature(0, 3, 4), TimeSignature(1440 * 2, 7, 8)], end=1440 * 2 + 1681)
    assert [b.start_ticks for b in score.bars] == [0, 1440, 2880, 4560]
    assert score.bars[-1].end_ticks == 2880 + 2 * 1680
    assert (score.bars[2].numerator, score.bars[2].denominator) == (7, 8)


def test_without_signature_the_metre_is_four_four_and_an_empty_song_has_one_bar():
    assert [(b.start_ticks, b.end_ticks) for b in song().bars] == [(0, 1920)]


def test_an_end_on_the_bar_line_does_not_begin_a_bar():
    assert len(song(end=1920).bars) == 1
    assert len(song(end=1921).bars) == 2


def test_a_signature_inside_a_bar_cuts_it():
    score = song([TimeSignature(0, 4, 4), TimeSignature(2400, 3, 4)], end=5000)
    assert [(b.start_ticks, b.end_ticks) for b in score.bars] == [(0, 1920), (1920, 2400), (2400, 3840), (3840, 5280)]


def test_a_pickup_is_bar_zero():
    score = song([TimeSignature(0, 1, 4), TimeSignature(480, 4, 4)], end=480 + 3 * 1920)
    assert score.has_pickup
    assert (score.first_bar_number, score.last_bar_number) == (0, 3)
    assert (song(end=4000).first_bar_number, song(end=4000).last_bar_number) == (1, 3)


def test_bars_go_on_beyond_the_end_in_the_last_metre():
    score = song([TimeSignature(0, 3, 4)], end=2880)
    assert len(score.bars) == 2
    assert score.bar(2)[:2] == (2880, 4320)
    assert score.bar(5)[:2] == (7200, 8640)
    assert score.bar_index_at(7199) == 4
    assert score.bar_index_at(7200) == 5


@given(
    st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 12), st.sampled_from([1, 2, 4, 8, 16])), max_size=5),
    st.integers(0, 20_000),
    st.sampled_from([1, 24, 480]),
)
def test_bars_tile_the_song(signatures, end, tpq):
    bars = bar_grid([TimeSignature(*s) for s in signatures], tpq, end)
    assert bars[0].start_ticks == 0
    assert all(a.end_ticks == b.start_ticks for a, b in pairwise(bars))
    assert all(b.start_ticks < b.end_ticks for b in bars)
    assert bars[-1].start_ticks < max(end, 1) <= bars[-1].end_ticks
    score = song([TimeSignature(*s) for s in {s[0]: s for s in signatures}.values()], end, tpq=tpq)
    for i in range(len(score.bars) + 3):
        bar = score.bar(i)
        assert score.bar_index_at(bar.start_ticks) == score.bar_index_at(bar.end_ticks - 1) == i


def test_too_many_bars_are_refused_at_once():
    with pytest.raises(ValueError, match="20000 bars"):
        bar_grid([TimeSignature(0, 1, 128)], 32, 470_000_000)


def test_notes_belong_to_the_bar_of_their_onset():
    notes = [Note(0, 60, 4000, 80), Note(1899, 127, 10, 80), Note(1900, 0, 10, 80), Note(3840, 60, 1, 80)]
    score = song(notes=notes)
    assert [score.notes_in(0, bar) for bar in range(4)] == [notes[:2], notes[2:3], notes[3:], []]


def test_tempo_in_force():
    score = Score(480, (), (), (Tempo(100, 600_000), Tempo(200, 300_000)), end_ticks=480)
    assert [score.tempo_at(t) for t in (0, 100, 199, 200)] == [120, 100, 100, 200]


def test_regions():
    region = Region.rectangle([2, 0], [(3, 5), (7, 8)])
    assert region.tracks == (0, 2)
    assert region.bars == (3, 4, 7)
    uneven = Region(frozenset({Cell(0, 1), Cell(0, 2), Cell(1, 2), Cell(1, 3), Cell(1, 9)}))
    assert uneven.bar_runs() == [(1, 4), (9, 10)]
    assert uneven.bar_runs(0) == [(1, 3)]
    assert uneven.bar_runs(1) == [(2, 4), (9, 10)]
    with pytest.raises(ValueError, match="empty"):
        Region(frozenset())
    assert all(isinstance(cell, Cell) for cell in Region(frozenset({(0, 1)})).cells)  # type: ignore[arg-type]


def test_a_fill_replaces_the_notes_of_the_cells_alone():
    notes = [Note(b * 1920 + k * 960, 60 + b, 480, 80) for b in range(3) for k in range(2)]
    score = song(notes=notes)
    assert score.note_counts() == [[2, 2, 2]]
    new = Note(1920 + 100, 72, 50, 90)
    filled = score.with_fill(Region.rectangle([0], [(1, 2)]), {0: [new]})
    assert filled.tracks[0].notes == (*notes[:2], new, *notes[4:])
    assert filled.note_counts() == [[2, 1, 2]]
