"""The judge: it cannot tell originals from originals, and tells shuffled notes at once."""

import numpy as np
import pytest

from midi_rwkv.evaluation.cases import Case
from midi_rwkv.evaluation.features import features
from midi_rwkv.evaluation.judge import Pair, auc, judge
from midi_rwkv.evaluation.music import harmonies
from midi_rwkv.score.score import Note, Score, TimeSignature, Track

BAR, SONGS = 1920, 40


def made_up(seed):
    """Sixteen bars: a tune that walks by steps and repeats its bars, over a bass."""
    rng = np.random.default_rng(seed)
    bars = [np.cumsum(rng.choice([-2, -1, 1, 2], 8)) + 66 for _ in range(4)]
    tune = [
        Note(b * BAR + k * 240, int(bars[i][k]), 240, 70 + 10 * (k % 2))
        for b, i in enumerate(rng.integers(0, 4, 16))
        for k in range(8)
    ]
    bass = [Note(b * BAR, 40 + int(rng.integers(0, 5)), BAR, 80) for b in range(16)]
    return Score(480, (Track("t", 0, tuple(tune)), Track("b", 32, tuple(bass))), (TimeSignature(0, 4, 4),))


def told(score, first, change=lambda notes: notes):
    case = Case("song", 0, "x", (0,), first, 4)
    return features(case, score, {0: change(case.original(score)[0])}, harmonies(case, score))


def shuffled(notes, seed=0):
    pitches = np.random.default_rng(seed).permutation([n.pitch for n in notes]).tolist()
    return [n._replace(pitch=p) for n, p in zip(notes, pitches, strict=True)]


@pytest.fixture(scope="module")
def scores():
    pytest.importorskip("sklearn")
    return [made_up(i) for i in range(SONGS)]


def test_originals_are_not_told_from_originals(scores):
    """Two places of each song, one of which passes for the fill."""
    rng = np.random.default_rng(1)
    pairs = [Pair(str(i), *(told(s, int(b)) for b in rng.permutation([4, 8]))) for i, s in enumerate(scores)]
    verdict = judge(pairs)
    assert verdict["low"] < 0.5 < verdict["high"]
    assert verdict["auc"] == pytest.approx(0.5, abs=0.16)
    assert (verdict["fills"], verdict["songs"]) == (SONGS, SONGS)


def test_shuffled_notes_are_told_at_once_and_why(scores):
    pairs = [Pair(str(i), told(s, 4, shuffled), told(s, 8)) for i, s in enumerate(scores)]
    verdict = judge(pairs)
    assert verdict["auc"] > 0.97
    assert verdict["low"] > 0.9
    strongest = {f["name"] for f in verdict["features"][:6]}
    assert strongest & {"interval", "steps", "like the most similar bar", "bars quoted", "repeats beside nearby"}
    assert judge(pairs) == verdict  # the same pairs, the same verdict


def test_a_song_is_judged_by_others_alone():
    """A feature that is the song's number tells nothing, though it would within a song."""
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    pairs = [
        Pair(str(i), {"song": i + side, "blank": np.nan}, {"song": i + 0.5 - side})
        for i in range(30)
        for side in rng.permutation([0.0, 0.5])
    ]
    assert judge(pairs)["auc"] < 0.7


def test_few_songs_are_not_judged():
    assert judge([Pair("one", {"a": 1.0}, {"a": 0.0})] * 100) is None


def test_the_auc_by_hand():
    assert auc(np.array([1, 1, 0, 0]), np.array([0.9, 0.4, 0.4, 0.1])) == 3.5 / 4


def test_the_originals_own_notes_are_not_looked_at():
    """What stood in the cells changes no feature of a fill."""
    score, other = made_up(0), made_up(1)
    case = Case("song", 0, "x", (0,), 4, 4)
    notes = {0: case.original(other)[0]}
    replaced = score.with_notes(0, [n for n in score.tracks[0].notes if not 4 <= n.onset_ticks // BAR < 8] + notes[0])
    one, two = (features(case, s, notes, harmonies(case, s)) for s in (score, replaced))
    assert one == pytest.approx(two, nan_ok=True)
