"""Chords told from notes."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from song import song_of, vocabulary

from midi_rwkv.score.progression import UNSURE, format_chords, parse_chords
from midi_rwkv.score.score import Note, Score, TimeSignature, Track
from midi_rwkv.tokens import chords as chord_detection
from midi_rwkv.tokens.attributes import DRUMS
from midi_rwkv.tokens.chords import QUALITIES, chord_spans, find_chords

QUALITY_COUNT = len(QUALITIES)


def chords_of(bars: list[list[tuple[int, ...]]]) -> list[list[tuple[str, int]]]:
    """What is found in a song whose bars hold chords of equal length."""
    notes = []
    for b, chords in enumerate(bars):
        length = 16 // len(chords)
        for k, pitches in enumerate(chords):
            notes += [(16 * b + length * k, p, length) for p in pitches]
    found = find_chords(song_of([(0, notes)], len(bars)), vocabulary())
    return [[(c.quality, c.root) for c in found.in_bar(b)] for b in range(len(bars))]


def test_the_usual_qualities_are_told_apart_at_every_root() -> None:
    for quality in ("maj", "min", "7dom", "7maj", "dim"):
        for root in range(12):
            pitches = tuple(48 + root + step for step in QUALITIES[quality])
            assert chords_of([[pitches]] * 2)[1] == [(quality, root)]


def test_chords_change_where_the_notes_do() -> None:
    c, f, g, a = (48, 52, 55), (48, 53, 57), (47, 50, 55), (45, 48, 52)
    assert chords_of([[c], [a], [f, g], [c]]) == [[("maj", 0)], [("min", 9)], [("maj", 5), ("maj", 7)], [("maj", 0)]]


def test_a_passing_note_is_no_chord() -> None:
    lead = [(0, 72, 3), (3, 74, 1), (4, 76, 4), (8, 79, 8)]
    pad = [(0, p, 16) for p in (48, 52, 55)]
    found = find_chords(song_of([(0, lead), (48, pad)], 1), vocabulary()).in_bar(0)
    assert [(c.quality, c.root) for c in found] == [("maj", 0)]


def test_the_bass_of_an_inversion() -> None:
    [chord] = find_chords(song_of([(0, [(0, p, 16) for p in (40, 48, 55, 60)])], 1), vocabulary()).in_bar(0)
    assert (chord.quality, chord.root, chord.bass) == ("maj", 0, 4)


def test_drums_are_no_chord() -> None:
    [chord] = find_chords(song_of([(DRUMS, [(k, 36, 1) for k in range(16)])], 1), vocabulary()).in_bar(0)
    assert chord.quality == ""


def score_of(bars: list[str]) -> Score:
    """A song in 4/4 whose bars hold these chords, evenly, as close notes from C3 on and the bass below."""
    empty = Score(480, (), (TimeSignature(0, 4, 4),), end_ticks=1920 * len(bars))
    notes = []
    for c in parse_chords(" | ".join(bars), empty, [(0, len(bars))]):
        length = c.end_ticks - c.start_ticks
        notes += [Note(c.start_ticks, 48 + tone, length, 80) for tone in c.tones]
        notes += [Note(c.start_ticks, 36 + c.bass, length, 80)] if c.tones else []
    return Score(480, (Track("", 0, tuple(sorted(notes))),), (TimeSignature(0, 4, 4),), end_ticks=1920 * len(bars))


@pytest.mark.parametrize(
    "bars",
    [
        ["Am F", "C G/B", "N.C.", "F Em Dm"],
        ["Bbmaj7", "Gm7", "Eb Cm", "F7 Bb"],
        ["E", "A C#m", "F#m B7", "E/G#"],
        ["Am", "Bm7b5 E7", "Am Am/C", "G#dim7 Am"],
    ],
)
def test_chords_are_named_as_they_were_written(bars: list[str]) -> None:
    score = score_of(bars)
    spans = chord_spans(score, vocabulary())
    found = [text.replace("?", "") for text in format_chords(spans, score, range(len(bars)))]
    assert found == [b.replace("Am Am/C", "Am") for b in bars]
    assert [s.end_ticks for s in spans[:-1]] == [s.start_ticks for s in spans[1:]]


def test_confidence_falls_as_another_chord_fits_better() -> None:
    def confidence(*others: int) -> float:
        score = score_of(["C"])
        notes = [*score.tracks[0].notes, *(Note(0, pitch, 1920, 80) for pitch in others)]
        [span] = chord_spans(score.with_notes(0, sorted(notes)), vocabulary())
        return span.confidence

    clear, doubtful, unclear = confidence(), confidence(69), confidence(69, 65, 62)
    assert 1 >= clear > doubtful > unclear >= 0
    assert clear > 0.9
    assert unclear < UNSURE


def test_a_margin_is_that_of_the_best_sequence_with_another_chord() -> None:
    """Every sequence over three beats is tried."""
    rng = np.random.default_rng(1)
    at_bar = np.array([True, False, True])
    columns = [0, 5, QUALITY_COUNT * 3, QUALITY_COUNT * 12]
    fits = np.full((3, QUALITY_COUNT * 12 + 1), -99.0)
    fits[:, columns] = rng.random((3, 4))

    def total(path: tuple[int, ...]) -> float:
        cost = [0, *(chord_detection._CHANGE_AT_BAR if at else chord_detection._CHANGE_IN_BAR for at in at_bar[1:])]
        changes = [0, *(a != b for a, b in pairwise(path))]
        return sum(fits[i, c] - cost[i] * changes[i] for i, c in enumerate(path))

    best = chord_detection._viterbi(fits, at_bar)
    margins = chord_detection._margins(fits, at_bar, best)
    paths = list(product(columns, repeat=3))
    assert total(tuple(best)) == pytest.approx(max(map(total, paths)))
    for i in range(3):
        others = max(total(p) for p in paths if p[i] != best[i])
        assert margins[i] == pytest.approx(total(tuple(best)) - others)
