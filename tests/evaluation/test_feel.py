"""Feel: a player's own notes lie within the player's own spread, and notes on the grid do not."""

import numpy as np
import pytest

from midi_rwkv.evaluation.cases import Case, share_on_grid
from midi_rwkv.evaluation.feel import distances, feel
from midi_rwkv.evaluation.musical import musical_markdown, summarise_musical
from midi_rwkv.score.score import Note, Score, TimeSignature, Track

BAR = 1920


@pytest.fixture(scope="module")
def drummer():
    """Forty bars of eighths, late by 20 ticks give or take 8, offbeats late by 45 and softer."""
    rng = np.random.default_rng(0)
    notes = []
    for k in range(40 * 8):
        late, loud = (45, 60) if k % 2 else (20, 100)
        notes.append(Note(k * 240 + round(rng.normal(late, 8)), 42, 60, round(rng.normal(loud, 6))))
    return Score(480, (Track("d", 0, tuple(sorted(notes)), is_drum=True),), (TimeSignature(0, 4, 4),))


CASE = Case("played", 0, "a/x.mid", (0,), 16, 4)


def own(score):
    return [n for b in range(16, 20) for n in score.notes_in(0, b)]


def test_the_players_own_bars_lie_within_the_spread(drummer):
    of = feel(CASE, drummer, {0: own(drummer)})
    assert of["timing"] < 4
    assert of["velocity"] < 4
    assert of["on_grid"] < 0.3


def test_a_fill_on_the_grid_and_of_one_velocity_does_not(drummer):
    stiff = [Note(16 * BAR + k * 240, 42, 60, 80) for k in range(32)]
    of = feel(CASE, drummer, {0: stiff})
    assert of["on_grid"] == 1
    assert of["timing_distance"] == pytest.approx(32.5 / 480, abs=0.006)  # 20 and 45 ticks late, half of each
    assert of["velocity_distance"] == pytest.approx(20, abs=2)
    assert of["timing"] > 5
    assert of["velocity"] > 5


def test_places_are_compared_with_the_same_places(drummer):
    """Right on average, but early where the player is late."""
    swapped = [Note(16 * BAR + k * 240 + (20 if k % 2 else 45), 42, 60, 60 if k % 2 else 100) for k in range(32)]
    assert feel(CASE, drummer, {0: swapped})["timing_distance"] == pytest.approx(25 / 480, abs=0.006)


def test_the_distance_of_offsets_by_hand():
    some = np.array([0, 0, 2]), np.array([0.0, 0.1, 0.05]), np.array([80.0, 80.0, 60.0])
    others = np.array([0, 2, 3]), np.array([0.0, 0.0, 0.2]), np.array([90.0, 60.0, 1.0])
    assert distances(some, others) == pytest.approx(((2 * 0.05 + 0.05) / 3, 2 * 10 / 3))
    assert np.isnan(distances(some, tuple(x[2:] for x in others))).all()


def test_too_few_notes_tell_nothing(drummer):
    assert feel(CASE, drummer, {0: own(drummer)[:5]}) is None
    assert np.isnan(share_on_grid(drummer, []))


def test_the_report_tells_fills_beside_the_originals(drummer):
    """Two tracks, of which one has hardly any spread: the ratio is that of the mean distances."""

    class Songs:
        def read(self, name):
            if name == "a/x.mid":
                return drummer
            return drummer.with_notes(0, [Note(k * 240 + 7 + k % 2, 42, 60, 80 + k % 3) for k in range(320)])

    stiff = [[16 * BAR + k * 240, 42, 60, 80] for k in range(32)]
    cases = [CASE, Case("played", 1, "a/y.mid", (0,), 16, 4)]
    records = {c.id: {"notes": {"0": stiff}, "original_notes": 32} for c in cases}
    told = summarise_musical(cases, {"m": records}, Songs(), systems=["m"], seed=0)
    of = told["m"]["feel"]
    assert of["tracks"] == 2
    assert of["fill"]["on_grid"] == 1
    assert of["fill"]["timing"] == pytest.approx(of["fill"]["timing_distance"] / of["fill"]["timing_halves"], rel=0.02)
    assert of["original"]["timing"] < of["fill"]["timing"] / 3
    assert "### m, feel: 2 tracks off the grid" in musical_markdown(told)
