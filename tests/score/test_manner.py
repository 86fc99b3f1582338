"""Details that tokens leave out come from the track itself."""

from __future__ import annotations

import numpy as np

from midi_rwkv.model.checkpoint import load_vocabulary
from midi_rwkv.score.manner import with_own_durations
from midi_rwkv.score.score import Note, Track
from midi_rwkv.tokens.notes import duration_edges

EDGES = duration_edges(load_vocabulary(), 480)


def test_durations_are_drawn_from_the_tracks_own_of_that_kind() -> None:
    track = Track("lead", 0, tuple(Note(480 * i, 60, d, 80) for i, d in enumerate([238, 238, 238, 245, 455])))
    notes = [Note(480 * i, 64, 240, 80) for i in range(400)]
    drawn = [n.duration_ticks for n in with_own_durations(track, notes, EDGES, np.random.default_rng(0))]
    assert set(drawn) == {238, 245}
    assert 0.65 < np.mean(np.array(drawn) == 238) < 0.85
    quarters = [Note(0, 64, 460, 80), Note(480, 64, 480, 80)]
    kept = with_own_durations(track, quarters, EDGES, np.random.default_rng(0))
    assert [n.duration_ticks for n in kept] == [455, 480]  # the track has no quarter held to its end


def test_notes_struck_together_end_together() -> None:
    track = Track("piano", 0, tuple(Note(480 * i, 60, 236 + i, 80) for i in range(9)))
    chord = [Note(0, pitch, 240, 80) for pitch in (60, 64, 67)]
    for seed in range(20):
        drawn = with_own_durations(track, chord, EDGES, np.random.default_rng(seed))
        assert len({n.duration_ticks for n in drawn}) == 1
        assert [n.pitch for n in drawn] == [60, 64, 67]
