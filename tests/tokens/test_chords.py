"""Chords told from notes."""

from __future__ import annotations

from song import song_of, vocabulary

from midi_rwkv.tokens.attributes import DRUMS
from midi_rwkv.tokens.chords import QUALITIES, find_chords


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
