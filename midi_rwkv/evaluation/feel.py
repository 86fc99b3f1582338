"""Feel: how a fill's notes lie beside the grid and how loud they are, against the player's own.

A note's place is its sixteenth of the quarter, its offset how far it lies from that, in quarters. Two groups of notes
are compared place by place, by the 1-D Wasserstein distance of their offsets (or velocities) and its mean over places,
weighted by the first group's notes. Notes whose place does not occur in the second group do not count.

A fill is compared with the track's other bars. Its distance is told as a ratio to that between the first and the second
half of these bars. A few bars differ from many more than two halves do, so read the fill's ratio beside the ratio of
the bars that stood there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from midi_rwkv.score.score import Note, Score

from .cases import Case, share_on_grid
from .music import Notes

PLACES = 4  # a quarter
FEWEST_NOTES = 8
MEASURES = {
    "timing": "Distance of the offsets from the grid, to that of two halves",
    "velocity": "Distance of the velocities, to that of two halves",
    "timing_distance": "The same distance, quarters",
    "velocity_distance": "The same distance, MIDI velocities",
    "timing_halves": "Distance of two halves' offsets, quarters",
    "velocity_halves": "Distance of two halves' velocities",
    "on_grid": "Notes exactly on the grid of 24 positions a quarter",
}


def touch(score: Score, track: int, notes: Sequence[Note]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n,) place, offset in quarters, and velocity of notes of a track."""
    bars = [score.bar_of(track, n.onset_ticks) for n in notes]
    starts = np.array([score.bar(b).start_ticks for b in bars], float)
    quarters = (np.array([n.onset_ticks for n in notes], float) - starts) / score.ticks_per_beat
    nearest = np.rint(quarters * PLACES)
    return (
        nearest.astype(np.int64) % PLACES,
        quarters - nearest / PLACES,
        np.array([n.velocity for n in notes], float),
    )


def distances(
    some: tuple[np.ndarray, np.ndarray, np.ndarray], others: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> tuple[float, float]:
    """Of offsets and of velocities; nan where no place has notes of both."""
    from scipy.stats import wasserstein_distance

    sums, count = np.zeros(2), 0
    for place in range(PLACES):
        a, b = some[0] == place, others[0] == place
        if a.any() and b.any():
            apart = [wasserstein_distance(x[a], y[b]) for x, y in zip(some[1:], others[1:], strict=True)]
            sums += np.array(apart) * int(a.sum())
            count += int(a.sum())
    timing, velocity = sums / count if count else (np.nan, np.nan)
    return float(timing), float(velocity)


def feel(case: Case, score: Score, notes: Notes) -> dict[str, float] | None:
    """Every measure of `MEASURES` for the case's one track; None where it has too few notes to tell."""
    [track] = case.tracks
    own = set(case.original(score)[track])
    rest = [n for n in score.tracks[track].notes if n not in own]
    bars = np.array([score.bar_of(track, n.onset_ticks) for n in rest])
    if len(rest) < 2 * FEWEST_NOTES or len(notes[track]) < FEWEST_NOTES:
        return None
    middle = np.median(np.unique(bars))
    halves = [[n for n, late in zip(rest, bars >= middle, strict=True) if late == wanted] for wanted in (False, True)]
    usual = distances(*(touch(score, track, half) for half in halves))
    here = distances(touch(score, track, notes[track]), touch(score, track, rest))
    return {
        "timing": here[0] / usual[0] if usual[0] > 0 else np.nan,
        "velocity": here[1] / usual[1] if usual[1] > 0 else np.nan,
        "timing_distance": here[0],
        "velocity_distance": here[1],
        "timing_halves": usual[0],
        "velocity_halves": usual[1],
        "on_grid": share_on_grid(score, notes[track]),
    }
