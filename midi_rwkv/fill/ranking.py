"""The order in which candidates are shown: the best first, then those that it does not stand for.

What the model would write at a place is known from what it wrote there: all candidates, each weighted by how probable
the model found it. The first shown is the one that is most like them; each further one makes what is shown most like
them, so that a candidate equal to an earlier one comes last. docs/decisions.md has what this gains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from midi_rwkv.score.score import Note, Region, Score

from .ask import Ask

ONSETS_PER_QUARTER = 8  # in which onsets are compared
SHARPNESS = 2.0  # of the weights, per nat of surprise
MORE = 2  # candidates that are written beside those to show
Fill = Mapping[int, Sequence[Note]]  # by track
Order = Callable[[Score, Region, Sequence[Fill]], list[int]]  # the indices of fills, given as ranked here, reordered


def to_write(ask: Ask) -> int:
    """How many candidates are written: more than shown in a region of one track, where reading takes most of the time.

    Where copies are forbidden a candidate can fail, so that only those that are asked for are written.
    """
    return ask.candidates + (MORE if len(ask.region.tracks) == 1 and ask.quotes is None else 0)


def ranked(fills: Sequence[Fill], surprise: Sequence[float], ticks_per_beat: int) -> list[int]:
    """Indices of the candidates in the order in which to show them; those that nothing tells apart, as given.

    surprise: the nats that each cost to write, per note.
    """
    likeness = _likeness(fills, ticks_per_beat)
    weights = np.exp(-SHARPNESS * (np.asarray(surprise) - min(surprise)))
    order: list[int] = []
    nearest = np.zeros(len(fills))  # of each candidate, to those shown so far
    while len(order) < len(fills):
        shown = np.maximum(nearest, likeness) @ weights
        shown[order] = -1
        order.append(int(np.round(shown, 9).argmax()))  # rounding noise decides nothing
        nearest = np.maximum(nearest, likeness[order[-1]])
    return order


def _likeness(fills: Sequence[Fill], ticks_per_beat: int) -> np.ndarray:
    """(n, n): the mean of two F1, of the notes' onsets with their pitches and of the onsets alone; 1 for equals."""
    places = [
        {
            (t, round(n.onset_ticks * ONSETS_PER_QUARTER / ticks_per_beat), n.pitch)
            for t, notes in f.items()
            for n in notes
        }
        for f in fills
    ]
    onsets = [{place[:2] for place in own} for own in places]
    out = np.eye(len(fills))
    for i, j in combinations(range(len(fills)), 2):
        out[i, j] = out[j, i] = (_f1(places[i], places[j]) + _f1(onsets[i], onsets[j])) / 2
    return out


def _f1(a: set[Any], b: set[Any]) -> float:
    return 2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0
