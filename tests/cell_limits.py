"""Small cells, whose every content can be listed."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from midi_rwkv.fill.limits import CellLimits

PITCHES, POSITIONS = (60, 61, 64), 3


@st.composite
def small_limits(draw):
    """Limits of a cell of three positions and three pitches, whose every content can be listed."""
    allowed = np.zeros((POSITIONS, 128), bool)
    allowed[:, PITCHES] = draw(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=3, max_size=3))
    low = draw(st.integers(1, 4))
    fewest = draw(st.integers(0, 7))
    places = [(p, q) for p in range(POSITIONS) for q in PITCHES]
    locked = draw(st.sets(st.sampled_from(places), max_size=3))
    density = (fewest, fewest + draw(st.integers(0, 3)))
    return CellLimits(allowed, density, (low, low + draw(st.integers(0, 2))), tuple(sorted(locked)))


def answers(limits):
    """Every content that the limits allow, as (3, 3) booleans; by listing them all."""
    every = (np.arange(512)[:, None] >> np.arange(9) & 1).astype(bool).reshape(-1, 3, 3)
    columns = list(PITCHES)
    ok = ~(every & ~limits.allowed[:, columns]).any((1, 2))
    for position, pitch in limits.locked:
        ok &= every[:, position, columns.index(pitch)]
    struck, total = every.sum(2), every.sum((1, 2))
    ok &= ((struck == 0) | ((struck >= limits.polyphony[0]) & (struck <= limits.polyphony[1]))).all(1)
    return every[ok & (total >= limits.density[0]) & (total <= limits.density[1])]
