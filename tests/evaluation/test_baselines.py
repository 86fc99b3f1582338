"""Copies of other bars: what is copied, and where from."""

from typing import Any

import pytest
from song import vocabulary

from midi_rwkv import Note, Score, Track
from midi_rwkv.evaluation.baselines import CellNotes, copied_notes, source_bar
from midi_rwkv.score.score import Cell, TimeSignature
from midi_rwkv.tokens.notes import encode

BAR = 1920


# -- what is copied ---------------------------------------------------------------------------------------------------


def test_notes_move_by_whole_bars():
    notes = (Note(0, 60, 480, 80), Note(1440, 64, 480, 70), Note(1920, 67, 960, 60), Note(5000, 50, 10, 90))
    score = Score(480, (Track("a", 0, notes),), (TimeSignature(0, 4, 4),), end_ticks=8 * BAR)
    assert copied_notes(score, 0, 0, first=4, n_bars=2) == [
        Note(4 * BAR, 60, 480, 80),
        Note(4 * BAR + 1440, 64, 480, 70),
        Note(5 * BAR, 67, 960, 60),
    ]
    assert copied_notes(score, 0, 2, first=0, n_bars=1) == [Note(5000 - 2 * BAR, 50, 10, 90)]
    assert copied_notes(score, 0, 4, first=0, n_bars=2) == []


def test_a_longer_bar_is_cut_and_nothing_sounds_beyond_the_region():
    """Two bars of 4/4 into two of 3/4: what begins on the fourth beat has no place, what rings on ends with them."""
    first = 4 * BAR  # where 3/4 begins
    notes = (Note(0, 60, 5000, 80), Note(1440, 62, 100, 80), Note(1920 + 960, 64, 960, 80))
    signatures = (TimeSignature(0, 4, 4), TimeSignature(first, 3, 4))
    score = Score(480, (Track("a", 0, notes),), signatures, end_ticks=first + 4 * 1440)
    assert copied_notes(score, 0, 0, first=4, n_bars=2) == [
        Note(first, 60, 2880, 80),
        Note(first + 1440 + 960, 64, 480, 80),
    ]


def test_a_shorter_bar_keeps_its_beats():
    """Two bars of 3/4 into two of 4/4: the fourth beats stay empty."""
    first = 2 * 1440
    notes = (Note(0, 60, 480, 80), Note(960, 62, 480, 80), Note(1440, 64, 480, 80))
    signatures = (TimeSignature(0, 3, 4), TimeSignature(first, 4, 4))
    score = Score(480, (Track("a", 0, notes),), signatures, end_ticks=first + 2 * BAR)
    assert copied_notes(score, 0, 0, first=2, n_bars=2) == [
        Note(first, 60, 480, 80),
        Note(first + 960, 62, 480, 80),
        Note(first + BAR, 64, 480, 80),
    ]


# -- where from -------------------------------------------------------------------------------------------------------

PHRASES = {  # (beat, pitch) of the second track, in two bars
    "P": [[(0, 40), (1, 42), (2, 47)], [(1, 43), (2, 44), (3, 45)]],
    "Q": [[(0, 52), (1, 55)], [(0, 50), (3, 57)]],
    "R": [[(1, 64), (3, 62)], [(0, 66), (2, 69)]],
}


def phrased(order: str, melody=lambda bar: 70 + bar) -> Score:
    """A second track of two-bar phrases under a first whose bars are all different."""
    bars = [bar for phrase in order for bar in PHRASES[phrase]]
    lead = tuple(Note(b * BAR, melody(b), 480, 80) for b in range(len(bars)))
    low = tuple(Note(b * BAR + k * 480, pitch, 240, 80) for b, bar in enumerate(bars) for k, pitch in bar)
    tracks = (Track("lead", 0, lead), Track("low", 32, low))
    return Score(480, tracks, (TimeSignature(0, 4, 4),), end_ticks=len(bars) * BAR)


def similar(score, first, window=None, tracks=(0,), n_bars=2):
    cells = CellNotes(encode(vocabulary(), score))
    return source_bar("copy similar", cells, tracks, first=first, n_bars=n_bars, window=window or (0, len(score.bars)))


def test_before_and_after_are_the_neighbours_in_the_window():
    unread: Any = None  # the song, at which only "copy similar" looks

    def at(kind, first, window, n_bars=4):
        return source_bar(kind, unread, [0], first=first, n_bars=n_bars, window=window)

    assert at("copy before", 8, (0, 20)) == 4
    assert at("copy before", 8, (4, 20)) == 4
    assert at("copy before", 8, (5, 20)) is None
    assert at("copy before", 4, (0, 20)) == 0
    assert at("copy after", 8, (0, 20)) == 12
    assert at("copy after", 8, (0, 16)) == 12
    assert at("copy after", 8, (0, 15)) is None
    assert at("copy after", 8, (0, 8)) is None  # a continuation
    with pytest.raises(ValueError, match="a copy must be one of copy before, copy after, copy similar, got 'copy'"):
        at("copy", 8, (0, 20))


def test_similar_is_where_the_same_stands_around():
    """P between two Qs is at bars 2 and 14, P between two Rs at bar 8."""
    score = phrased("QPQRPRQPQ")
    assert similar(score, 2) == 14
    assert similar(score, 14) == 2
    assert similar(score, 14, window=(6, 18)) == 8  # the better one may not be read
    assert similar(score, 8) in (2, 14)
    assert similar(score, 2, window=(0, 4)) == 0
    assert similar(score, 2, window=(2, 5)) is None


def test_similar_does_not_read_what_is_hidden():
    """The lead's bars 2-3 are in truth those of bars 8-9; that must not be known."""
    score = phrased("QPQRPRQPQ", melody=lambda bar: 70 + bar + 6 * (bar in (2, 3)))
    assert similar(score, 2) == 14
    assert similar(score, 2, tracks=(0, 1)) == 14  # by the neighbours alone


def test_of_several_alike_the_nearest_is_taken():
    """What stands beside the region has the hidden cells beside it, and so is less like it than what stands apart."""
    score = phrased("PPPPPPPPP", melody=lambda _: 70)
    assert similar(score, 8) == 4
    assert similar(score, 8, window=(8, 18)) == 10
    assert similar(score, 8, window=(6, 12)) == 6


def test_cell_notes_are_the_songs_notes():
    score = phrased("PQR")
    cells = CellNotes(encode(vocabulary(), score))
    assert cells.of(Cell(1, 1)) == {(24, 43), (48, 44), (72, 45)}
    for b in range(6):
        for t in range(2):
            found = {((n.onset_ticks - b * BAR) // 20, n.pitch) for n in score.notes_in(t, b)}
            assert cells.of(Cell(t, b)) == found
