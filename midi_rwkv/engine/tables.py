"""The tables of a step model, in NumPy: from steps to the vectors that an engine reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from midi_rwkv.tokens.attributes import DRUMS, IMPLIED_SIZES, POSITIONS_PER_QUARTER, Column

from .engine import Floats


class StepTables:
    """`model.steps.Tables`. What a position or a pitch implies is added to its own row once, when they are loaded."""

    def __init__(self, weights: Mapping[str, np.ndarray], sizes: Sequence[int]):
        """weights: those of a step model, by their names in the checkpoint. sizes: of the vocabulary's columns."""
        whole = weights["tables.weight"].astype(np.float32)
        *tables, within, quarter, pitch_class = np.split(whole, np.cumsum([*sizes, *IMPLIED_SIZES])[:-1])
        for column, implied in ((Column.POSITION, {0: within, 1: quarter}), (Column.PITCH, {2: pitch_class})):
            steps = np.zeros((sizes[column], len(sizes)), np.int64)
            steps[:, column] = np.arange(sizes[column])
            found = implied_columns(steps)
            for n, table in implied.items():
                tables[column] += table[found[:, n]]
        self._weight = whole[: sum(sizes)]  # the tables are parts of it
        self._offsets = np.cumsum([0, *sizes])[:-1]

    def __call__(self, steps: np.ndarray) -> Floats:
        """steps (n, columns) -> vectors (n, C)."""
        rows = (steps + self._offsets).T
        out: Floats = self._weight[rows[0]]
        for row in rows[1:]:
            out += self._weight[row]
        return out


def implied_columns(steps: np.ndarray) -> np.ndarray:
    """`IMPLIED_SIZES`, (n, 3). steps: (n, columns)."""
    position, pitch = steps[:, Column.POSITION].astype(np.int64), steps[:, Column.PITCH].astype(np.int64)
    at, pitched = position > 0, (pitch > 0) & (pitch <= DRUMS)
    within = np.where(at, 1 + (position - 1) % POSITIONS_PER_QUARTER, 0)
    quarter = np.where(at, 1 + (position - 1) // POSITIONS_PER_QUARTER, 0)
    return np.stack([within, quarter, np.where(pitched, 1 + (pitch - 1) % 12, 0)], 1)
