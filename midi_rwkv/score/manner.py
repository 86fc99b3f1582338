"""The manner of a track, in details that a model does not write."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from .score import Note, Track


def in_the_manner_of(track: Track, notes: Sequence[Note], within: int) -> list[Note]:
    """Restores details that tokens leave out, from the track itself.

    A velocity becomes the one that the track uses most `within` so much of it, half a level of the vocabulary. A drum
    hit is as long as that drum's hits mostly are in the track, else as the track's hits are.
    """
    used = Counter(n.velocity for n in track.notes)
    lengths: dict[int, Counter[int]] = defaultdict(Counter)
    for n in track.notes if track.is_drum else ():
        lengths[n.pitch][n.duration_ticks] += 1
        lengths[-1][n.duration_ticks] += 1
    out = []
    for n in notes:
        near = [(count, -abs(v - n.velocity), v) for v, count in used.items() if abs(v - n.velocity) <= within]
        of_its_kind = lengths.get(n.pitch) or lengths.get(-1)
        out.append(
            n._replace(
                velocity=max(near)[2] if near else n.velocity,
                duration_ticks=of_its_kind.most_common(1)[0][0] if of_its_kind else n.duration_ticks,
            )
        )
    return out


def with_own_durations(track: Track, notes: Sequence[Note], edges: np.ndarray, rng: np.random.Generator) -> list[Note]:
    """Pitched notes as long as the track's own, drawn among those that tokens don't tell from what was written.

    Notes struck together get the same duration if tokens don't tell theirs apart. Where the track has none of a kind,
    notes stay as long as they are.

    Args:
        edges: ascending, in ticks, what separates the durations that tokens tell apart.
    """
    own = np.array([n.duration_ticks for n in track.notes], np.int64)
    kinds = np.searchsorted(edges, own)
    drawn: dict[tuple[int, int], int] = {}
    out = []
    for n in notes:
        kind = int(np.searchsorted(edges, n.duration_ticks))
        place = n.onset_ticks, kind
        if place not in drawn:
            alike = own[kinds == kind]
            drawn[place] = int(rng.choice(alike)) if len(alike) else n.duration_ticks
        out.append(n._replace(duration_ticks=drawn[place]))
    return out
