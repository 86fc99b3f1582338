"""The tables of a step model, in NumPy: from steps to the vectors that an engine reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from midi_rwkv.tokens.attributes import DRUMS, IMPLIED_SIZES, INTERVALS, PITCH_CLASSES, POSITIONS_PER_QUARTER, Column

from .engine import Floats


class ColumnTables:
    """`model.steps.ColumnTables`: the sum of a row for each of some columns of a step, and of one for each bit of
    CHROMA."""

    def __init__(self, weight: Floats, columns: Sequence[Column], sizes: Sequence[int]):
        """weight (sum(sizes), C). sizes: of the columns."""
        starts = dict(zip(columns, np.cumsum([0, *sizes]).tolist(), strict=False))
        self._weight = weight
        self._columns = [c for c in columns if c != Column.CHROMA]
        self._offsets = np.array([starts[c] for c in self._columns])
        chroma = starts.get(Column.CHROMA)
        self._bits = None if chroma is None else weight[chroma : chroma + PITCH_CLASSES]

    def __call__(self, steps: np.ndarray) -> Floats:
        """steps (n, columns), all of a step's -> (n, C)."""
        rows = (steps[:, self._columns] + self._offsets).T
        out: Floats = self._weight[rows[0]]
        for row in rows[1:]:
            out += self._weight[row]
        if self._bits is not None and steps[:, Column.CHROMA].any():
            sounds = (steps[:, Column.CHROMA, None] >> np.arange(PITCH_CLASSES)) & 1
            out += sounds.astype(np.float32) @ self._bits
        return out


class StepTables(ColumnTables):
    """`model.steps.Tables`. What a position or a pitch implies is added to its own row once, when they are loaded."""

    def __init__(self, weights: Mapping[str, np.ndarray], sizes: Sequence[int]):
        """weights: those of a step model, by their names in the checkpoint. sizes: of the vocabulary's columns."""
        whole = weights["tables.weight"].astype(np.float32)
        *tables, within, quarter, pitch_class, alike, interval, degree = np.split(
            whole, np.cumsum([*sizes, *IMPLIED_SIZES])[:-1]
        )
        for column, implied in ((Column.POSITION, {0: within, 1: quarter}), (Column.PITCH, {2: pitch_class})):
            steps = np.zeros((sizes[column], len(sizes)), np.int64)
            steps[:, column] = np.arange(sizes[column])
            found = implied_columns(steps)
            for n, table in implied.items():
                tables[column] += table[found[:, n]]
        super().__init__(whole[: sum(sizes)], list(Column), sizes)  # the tables are parts of it
        self._relative = alike, interval, degree

    def __call__(self, steps: np.ndarray) -> Floats:
        out = super().__call__(steps)
        for table, found in zip(self._relative, relative_columns(steps), strict=True):
            out += table[found]
        return out


def implied_columns(steps: np.ndarray) -> np.ndarray:
    """The first three of `IMPLIED_SIZES`, (n, 3). steps: (n, columns)."""
    position, pitch = steps[:, Column.POSITION].astype(np.int64), steps[:, Column.PITCH].astype(np.int64)
    at, pitched = position > 0, (pitch > 0) & (pitch <= DRUMS)
    within = np.where(at, 1 + (position - 1) % POSITIONS_PER_QUARTER, 0)
    quarter = np.where(at, 1 + (position - 1) // POSITIONS_PER_QUARTER, 0)
    return np.stack([within, quarter, np.where(pitched, 1 + (pitch - 1) % 12, 0)], 1)


def relative_columns(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The last three of `IMPLIED_SIZES`, (n,) each."""
    columns = (Column.PITCH, Column.THERE_PITCH, Column.BEFORE, Column.LOWEST)
    pitch, there, before, lowest = (steps[:, c].astype(np.int64) for c in columns)
    has_there = steps[:, Column.THERE_VELOCITY] > 0
    known = (steps[:, Column.NEXT_THERE] > 0) & (steps[:, Column.POSITION] > 0)
    alike = np.where(known, np.where(has_there, np.where(there == pitch, 1, 2), 3), 0)
    moved = 1 + INTERVALS + np.clip(pitch - before, -INTERVALS, INTERVALS)
    interval = np.where((before > 0) & (pitch > 0), moved, 0)
    degree = np.where((pitch > 0) & (pitch <= DRUMS) & (lowest > 0), 1 + (pitch - lowest) % PITCH_CLASSES, 0)
    return alike, interval, degree
