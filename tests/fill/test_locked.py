"""Locked notes: the model comes by every one of them, and the fill has them as they are."""

from __future__ import annotations

import numpy as np
import pytest

from midi_rwkv import Ask
from midi_rwkv.fill.blank import blank_cells
from midi_rwkv.fill.encoder import Encoder
from midi_rwkv.fill.infill import infill
from midi_rwkv.fill.limits import CellLimits
from midi_rwkv.fill.locked import with_locked
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.score.score import Cell, Note, Region, Score, TimeSignature, Track

BAR = 1920


@pytest.fixture(scope="module")
def score():
    lead = tuple(Note(b * BAR + k * 480, 60 + (b + k) % 7, 480, 80) for b in range(8) for k in range(4))
    chords = tuple(sorted(Note(b * BAR, p, 1920, 70) for b in range(8) for p in (48, 52, 55)))
    return Score(480, (Track("lead", 0, lead), Track("chords", 0, chords)), (TimeSignature(0, 4, 4),))


def test_locks_beyond_the_limits_are_refused():
    """Three notes at once are locked, two are allowed; five in all, four."""
    allowed = np.zeros((48, 128), bool)
    allowed[:, 60:68] = True
    four = ((12, 60), (12, 62), (12, 64), (24, 61))
    together = CellLimits(allowed, (1, 4), (1, 2), four)
    assert together.conflict() == "3 locked notes begin together and the polyphony allows 2"
    assert CellLimits(allowed, (1, 3), locked=four).conflict() == "4 notes are locked and the density allows 3"


def test_places_are_the_grids(checkpoint_folder, score):
    """A note off the grid stands where the model would write it."""
    encoder = Encoder(load_checkpoint(checkpoint_folder).vocabulary)
    region = Region.rectangle([0, 1], [(2, 4)])
    locked = {0: [Note(2 * BAR + 485, 64, 100, 90), Note(3 * BAR, 71, 100, 90)], 1: [Note(3 * BAR + 960, 50, 10, 9)]}
    found = blank_cells(encoder, score, Ask(region, locked=locked)).places
    assert found == {Cell(0, 2): [(24, 64)], Cell(0, 3): [(0, 71)], Cell(1, 3): [(48, 50)]}
    assert blank_cells(encoder, score, Ask(region)).places == {}
    for wrong in ({0: [Note(4 * BAR, 64, 100, 90)]}, {2: [Note(2 * BAR, 64, 100, 90)]}):
        with pytest.raises(ValueError, match="a locked note must begin inside the region"):
            blank_cells(encoder, score, Ask(region, locked=wrong))


def test_a_fill_has_its_locked_notes_as_they_are(checkpoint_folder, score):
    """In every candidate and both runs, off the grid, in a pitch and loudness of their own, ringing past their bar."""
    region = Region(frozenset({Cell(0, 2), Cell(0, 3), Cell(1, 3), Cell(0, 6)}))
    locked = {0: [Note(2 * BAR + 485, 87, 101, 3), Note(6 * BAR, 30, 2500, 90)], 1: [Note(3 * BAR, 50, 333, 77)]}
    sampling = SamplingConfig(pitch_range=(55, 70))
    found = infill(
        score, Ask(region, sampling, candidates=3, seed=5, locked=locked), load_checkpoint(checkpoint_folder)
    )
    assert len({str(c.fills) for c in found}) == 3
    for candidate in found:
        for t, notes in locked.items():
            assert set(notes) <= set(candidate.fills[t])
            assert set(notes) <= set(candidate.score.tracks[t].notes)
            others = [n for n in candidate.fills[t] if n not in notes]
            assert all(55 <= n.pitch <= 70 for n in others)
            assert not [n for n in others for k in notes if (n.onset_ticks, n.pitch) == (k.onset_ticks, k.pitch)]


def test_new_notes_make_way(score):
    """On a track of single notes, and of chords."""
    new = {0: [Note(4 * BAR, 70, 960, 80), Note(4 * BAR + 480, 71, 240, 80), Note(5 * BAR, 72, 240, 80)]}
    locked = {0: [Note(4 * BAR + 480, 64, 480, 99)]}
    assert with_locked(score, new, locked, {0})[0] == [
        Note(4 * BAR, 70, 480, 80),  # the lead has single notes: this one ends where the locked one begins
        Note(4 * BAR + 480, 64, 480, 99),
        Note(5 * BAR, 72, 240, 80),
    ]
    chords = score.with_notes(0, [Note(0, 60, 480, 80), Note(0, 64, 480, 80)])
    assert with_locked(chords, new, locked, ())[0] == sorted([*new[0], *locked[0]])
    assert with_locked(chords, {0: [Note(4 * BAR + 600, 64, 99, 80)]}, locked, ())[0] == locked[0]
    off_grid = {0: [Note(4 * BAR + 495, 64, 480, 99)]}  # the model's own copy stands at 480
    assert with_locked(chords, {0: [Note(4 * BAR + 480, 64, 99, 80)]}, off_grid, ())[0] == off_grid[0]
    short = {0: [Note(4 * BAR + 470, 64, 4, 99)]}  # over before the model's copy begins
    assert with_locked(chords, {0: [Note(4 * BAR + 480, 64, 99, 80)]}, short, ())[0] == short[0]
