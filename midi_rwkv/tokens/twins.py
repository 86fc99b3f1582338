"""Which tracks double which: a singer and the highest notes of the piano, violins and a flute an octave above them.

Of another track all notes may be the same as a track's own, or the highest or the lowest at each place alone; at the
same pitch or one or two octaves off. How well is counted in the bars around a bar, never in the bar itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .notes import AT

MOST_TWINS = 3  # for each bar of a track
TWIN_REACH = 8  # bars on either side
_LEAST = 3  # notes that they have in common there
_LEAST_LIKENESS = 0.2
_OCTAVES = np.array([0, 12, -12, 24, -24])  # semitones to add
_LINES = 3  # all notes, the highest, the lowest
_GRAIN = 3  # positions that count as one place: an eighth of a quarter


@dataclass(frozen=True)
class Twins:
    """By track and bar, (T, B, MOST_TWINS), the best first: what is doubled (`kinds`, -1 for nothing), and how well:
    twice the notes that both have by the notes of both."""

    kinds: np.ndarray
    likeness: np.ndarray


def doubled_track(kind: int) -> int:
    """The other track."""
    return kind // (_LINES * len(_OCTAVES))


def places(notes: np.ndarray) -> np.ndarray:
    """Where notes (n, 5) stand, coarsely: positions that count as one place share a number."""
    found: np.ndarray = (notes[:, AT.position].astype(np.int64) + 1) // _GRAIN
    return found


def doubled(kind: int, notes: np.ndarray) -> np.ndarray:
    """Of the notes of the other track's cell, (n, 5) in the order of position and pitch, those that are doubled, at the
    pitch of the track that doubles them."""
    line, octave = divmod(kind % (_LINES * len(_OCTAVES)), len(_OCTAVES))
    if line and len(notes):
        edge = notes[1:, AT.position] != notes[:-1, AT.position]
        notes = notes[np.append(edge, True) if line == 1 else np.append(True, edge)]
    notes = notes.copy()
    notes[:, AT.pitch] += _OCTAVES[octave].astype(notes.dtype)
    return notes[(notes[:, AT.pitch] >= 0) & (notes[:, AT.pitch] < 128)]


def find_twins(
    bar: np.ndarray, track: np.ndarray, notes: np.ndarray, shown: np.ndarray, of: np.ndarray | None = None
) -> Twins:
    """From the notes (n, 5) of pitched tracks that are shown, their bars and tracks. shown: (T, B) bool.

    of: the tracks to find twins of; None: all.
    """
    n_tracks, n_bars = shown.shape
    found = Twins(np.full((*shown.shape, MOST_TWINS), -1), np.zeros((*shown.shape, MOST_TWINS), np.float32))
    pitch = notes[:, AT.pitch].astype(np.int64)
    place = bar * 1024 + places(notes)
    order = np.lexsort((pitch, track, place))
    bar, track, pitch, place = (x[order] for x in (bar, track, pitch, place))
    edge = np.flatnonzero(np.diff(place * n_tracks + track)) if len(place) else np.zeros(0, np.int64)
    lines = np.zeros((_LINES, len(place)), bool)
    lines[0] = True
    lines[1, edge], lines[1, -1:] = True, True
    lines[2, edge + 1], lines[2, :1] = True, True
    starts = np.searchsorted(place, place, side="left")
    counts = np.searchsorted(place, place, side="right") - starts
    own = np.repeat(np.arange(len(place)), counts)
    other = np.arange(len(own)) - np.repeat(np.cumsum(counts) - counts, counts) + starts[own]
    wanted = track[own] != track[other]
    if of is not None:
        wanted &= np.isin(track[own], of)
    own, other = own[wanted], other[wanted]
    shift = _SHIFT[pitch[own] - pitch[other]]
    own, other, shift = (x[shift >= 0] for x in (own, other, shift))
    kinds, bars = [], []
    for line in range(_LINES):
        on = lines[line, other]
        o, t = other[on], own[on]
        kinds.append(((track[t] * n_tracks + track[o]) * _LINES + line) * len(_OCTAVES) + shift[on])
        bars.append(bar[t])
    every, index = np.unique(np.concatenate(kinds), return_inverse=True)
    often = np.bincount(index, minlength=len(every)) >= _LEAST
    if not often.any():
        return found
    number = np.cumsum(often) - 1
    index, at = index[often[index]], np.concatenate(bars)[often[index]]
    every = every[often]
    shared = np.bincount(number[index] * n_bars + at, minlength=len(every) * n_bars).reshape(-1, n_bars)
    one, two, lines_of, _ = np.unravel_index(every, (n_tracks, n_tracks, _LINES, len(_OCTAVES)))
    sizes = np.stack(
        [np.bincount(track[x] * n_bars + bar[x], minlength=shown.size).reshape(shown.shape) for x in lines]
    )
    both = shown[one] & shown[two]
    counted = _around(shared)
    of_both = _around((sizes[0, one] + sizes[lines_of, two]) * both)
    likeness = np.where(counted >= _LEAST, 2 * counted / np.maximum(1, of_both), 0).astype(np.float32)
    likeness = np.minimum(1, likeness) * shown[two] * (sizes[0, two] > 0) * (likeness >= _LEAST_LIKENESS)
    pairs = np.flatnonzero(np.diff(one * n_tracks + two, prepend=-1))
    ends = np.append(pairs[1:], len(one))
    best = np.stack([first + likeness[first:end].argmax(0) for first, end in zip(pairs, ends, strict=True)])
    value = np.take_along_axis(likeness, best, 0)
    own_track = one[pairs]
    for t in np.unique(own_track).tolist():
        rows = np.flatnonzero(own_track == t)
        top = np.argsort(-value[rows], axis=0, kind="stable")[:MOST_TWINS]
        k = min(MOST_TWINS, len(rows))
        liked = np.take_along_axis(value[rows], top, 0)
        kind = every[np.take_along_axis(best[rows], top, 0)] % (n_tracks * _LINES * len(_OCTAVES))
        found.kinds[t, :, :k] = np.where(liked > 0, kind, -1).T
        found.likeness[t, :, :k] = liked.T
    return found


def _around(count: np.ndarray) -> np.ndarray:
    """Sums over the bars on either side of each, (n, B)."""
    total = np.pad(np.cumsum(count, 1), ((0, 0), (1, 0)))
    bars = np.arange(count.shape[1])
    high, low = np.minimum(bars + TWIN_REACH + 1, len(bars)), np.maximum(bars - TWIN_REACH, 0)
    out: np.ndarray = total[:, high] - total[:, low] - count
    return out


_SHIFT = np.full(257, -1)  # by the difference of two pitches, negative ones from the end: the octave's number
_SHIFT[_OCTAVES] = np.arange(len(_OCTAVES))
