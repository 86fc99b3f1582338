"""Small cells, whose every content can be listed, and what writes one from heads that say anything."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from midi_rwkv.fill.limits import CellLimits
from midi_rwkv.fill.note_writer import NoteWriter
from midi_rwkv.model.config import SamplingConfig

PITCHES, POSITIONS = (60, 61, 64), 3
CLASSES = (386, 26, 256, 32, 240)  # of the heads, by stage
ANY = SamplingConfig(temperature=1.0, top_p=1.0, min_p=0.0)


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


def finish(writer: NoteWriter, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """The notes of a cell from heads that say anything."""
    for _ in range(2000):
        for stage, classes in enumerate(CLASSES):
            writer.choose(stage, rng.normal(0, 3, classes))
            if writer.done:
                return list(writer.notes)
            if stage == 3 and writer.is_drum:
                break
    raise AssertionError("the cell does not end")
