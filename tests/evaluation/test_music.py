"""What a musician notices, counted by hand on made-up bars."""

import numpy as np
import pytest

from midi_rwkv.evaluation.cases import Case
from midi_rwkv.evaluation.music import Count, compare_counts, count_music, harmonies, line_of
from midi_rwkv.score.score import Note, Score, TimeSignature, Track

BAR, BEAT = 1920, 480


def bar_of_notes(bar, pitches, length=BEAT):
    """One note a beat."""
    return [Note(bar * BAR + k * BEAT, p, length, 80) for k, p in enumerate(pitches) if p]


@pytest.fixture(scope="module")
def score():
    """Twelve bars of C major: chords below, a tune above, a bass that rests in bars 4 and 5."""
    chords = [Note(b * BAR, p, BAR, 70) for b in range(12) for p in (48, 52, 55)]
    tune = [n for b in range(12) for n in bar_of_notes(b, (60, 62, 64, 67))]
    bass = [n for b in range(12) if b not in (4, 5) for n in bar_of_notes(b, (36, 0, 43, 0))]
    tracks = tuple(
        Track(name, program, tuple(sorted(n)))
        for name, program, n in (("c", 0, chords), ("t", 73, tune), ("b", 32, bass))
    )
    return Score(BEAT, tracks, (TimeSignature(0, 4, 4),))


def counts(score, tracks, notes, first=4, n_bars=2):
    case = Case("song", 0, "a/x.mid", tracks, first, n_bars)
    return count_music(case, score, notes, harmonies(case, score))


def test_a_line_is_the_highest_note_at_each_onset():
    assert line_of([Note(0, 60, 9, 1), Note(0, 64, 9, 1), Note(5, 50, 9, 1)]) == [(0, 64), (5, 50)]


def test_repeats_fourths_and_leaps(score):
    """60 60 65 72 | 72 72 72 52: five pairs of one pitch... the next bar begins with 60."""
    tune = bar_of_notes(4, (60, 60, 65, 72)) + bar_of_notes(5, (72, 72, 72, 52))
    of = counts(score, (1,), {1: tune})
    assert of["repeated"] == Count(4, 7)
    assert of["fourths_fifths"] == Count(2, 7)  # 60-65 and 65-72
    assert of["leaps_out"] == Count(1, 1)  # 52 to 60
    assert counts(score, (1,), {1: tune[:-1]})["leaps_out"] == Count(1, 1)  # 72 to 60
    assert counts(score, (1,), {1: bar_of_notes(5, (67,))})["leaps_out"] == Count(0, 1)
    assert counts(score, (1,), {1: []})["leaps_out"] == Count(0, 0)


def test_chords_are_no_melody(score):
    chords = [n for p in (48, 48, 53) for n in bar_of_notes(4, (p, p, p, p))]
    of = counts(score, (0,), {0: chords})
    assert of["repeated"] == of["leaps_out"] == Count(0, 0)
    assert of["chord_tones"].of == 6  # on beats one and three


def test_cells_that_are_empty_and_notes_where_the_original_rests(score):
    of = counts(score, (2,), {2: bar_of_notes(4, (36, 36, 36, 0))})
    assert (of["empty"], of["in_rests"]) == (Count(1, 2), Count(3, 2))
    own = Case("song", 0, "x", (2,), 4, 2).original(score)
    assert counts(score, (2,), own)["in_rests"] == Count(0, 2)
    assert counts(score, (2,), {2: []}, first=6)["in_rests"] == Count(0, 0)


def test_thin_places_made_thick(score):
    """Bars 4 and 5 of a song that has but its tune there."""
    thin = score.with_notes(0, [n for n in score.tracks[0].notes if n.onset_ticks // BAR not in (4, 5)])
    full = {0: bar_of_notes(4, (48,)), 1: bar_of_notes(4, (60,)), 2: bar_of_notes(4, (36,)) + bar_of_notes(5, (36,))}
    of = counts(thin, (0, 1, 2), full)
    assert of["sounding_thin"] == Count(4, 2)
    assert of["tutti"] == Count(0, 2)  # all three play in the bars around
    around = thin.with_notes(2, [])
    assert counts(around, (0, 1, 2), full)["tutti"] == Count(1, 2)
    assert counts(thin, (1,), {1: full[1]})["tutti"] == Count(0, 0)


def test_chord_tones_on_strong_beats(score):
    """C major sounds: of beats one and three, F and E; the Gs and As on the others do not count."""
    of = counts(score, (1,), {1: bar_of_notes(4, (65, 67, 64, 69))})
    assert of["chord_tones"] == of["chord_tones_original"] == Count(1, 2)
    alone = score.with_notes(0, []).with_notes(2, [])
    assert counts(alone, (1,), {1: bar_of_notes(4, (65, 67, 64, 69))})["chord_tones"] == Count(0, 0)


def test_a_difference_is_pooled_and_its_interval_holds_it():
    rng = np.random.default_rng(0)
    fills = [Count(int(rng.binomial(n, 0.4)), int(n)) for n in rng.integers(1, 30, 80)]
    originals = [Count(int(rng.binomial(n, 0.2)), int(n)) for n in rng.integers(1, 30, 80)]
    of = compare_counts(fills, originals)
    assert of["fills"] == pytest.approx(sum(f.hits for f in fills) / sum(f.of for f in fills), abs=1e-4)
    assert 0 < of["low"] < of["difference"] < of["high"] < 0.4
    same = compare_counts(fills, fills)
    assert (same["difference"], same["low"], same["high"]) == (0, 0, 0)  # paired: resampled together
    assert compare_counts([Count(0, 0)], [Count(0, 0)]) is None
