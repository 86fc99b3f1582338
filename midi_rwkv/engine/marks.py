"""`model.marks` in NumPy, for a few candidates."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from midi_rwkv.tokens.attributes import DRUMS, MEMORY, PITCH_CLASSES, THERE, Column
from midi_rwkv.tokens.pointers import (
    BEFORE_REACH,
    EDGES,
    FIRST_POSITION,
    GATES,
    MEMORY_GATES,
    PITCH_PARTS,
    PITCH_STAGE,
    POINTED_PLACES,
    SOURCE_GATES,
    STRUCK,
    THERE_REACH,
)

from .engine import Floats

_CLASSES = np.arange(DRUMS) % PITCH_CLASSES


class Marks:
    """The gates of every stage."""

    def __init__(self, weights: Mapping[str, Floats]):
        """weights: those of a step model, by their names in the checkpoint."""
        self._gates = [weights[f"heads.marks.gates.{i}.weight"].astype(np.float32).T for i in range(len(GATES))]

    def add(
        self, stage: int, z: Floats, logits: Floats, known: np.ndarray, follow: float = 1.0, recall: float = 1.0
    ) -> None:
        """Adds to the logits (B, classes) what is pointed at.

        z: (B, C). known: as for `model.marks.Marks.forward`. follow, recall: how much of what the sources and the
        memory point at.
        """
        gates = z @ self._gates[stage]
        gates[:, SOURCE_GATES[stage]] *= follow
        gates[:, MEMORY_GATES[stage]] *= recall
        if stage == 0:
            for row, gate, (*pointed, position) in zip(logits, gates, known.tolist(), strict=True):
                for of_place, place in zip(gate, pointed, strict=False):
                    _point(row, of_place, place)
                _from_base(row, gate[POINTED_PLACES:], position + FIRST_POSITION + 1)
            return
        if stage == PITCH_STAGE:
            self._add_pitches(gates, logits, known)
            return
        more = [STRUCK[stage]] if stage in STRUCK else []
        pointed = (known[:, [THERE[stage - 1], *more, MEMORY[stage - 1]]] - 1).tolist()
        for row, gate, classes in zip(logits, gates, pointed, strict=True):
            for of_one, at in zip(gate, classes, strict=True):
                _point(row, of_one, at)

    @staticmethod
    def _add_pitches(gates: Floats, logits: Floats, known: np.ndarray) -> None:
        pointed = (known[:, Column.THERE_PITCH] - 1).tolist()
        of_memory = (known[:, [Column.MEMORY_PITCH, Column.MEMORY_SECOND]] - 1).tolist()
        columns = known[:, [Column.THERE_SECOND, Column.BEFORE, Column.CHROMA, *EDGES]].tolist()
        for row, gate, there, recalled, (other, before, chroma, *edges) in zip(
            logits, gates, pointed, of_memory, columns, strict=True
        ):
            second, from_there, from_before, *from_edges, sounding, memory = np.split(gate, np.cumsum(PITCH_PARTS)[:-1])
            _point(row, second[0], other - 1)
            for of_one, at in zip(memory, recalled, strict=True):
                _point(row, of_one, at)
            if there >= 0:
                _from_base(row, from_there, there - THERE_REACH)
            if before > 0:
                _from_base(row, from_before, before - 1 - BEFORE_REACH)
            pitch_classes = sounding * ((chroma >> np.arange(PITCH_CLASSES)) & 1).astype(np.float32)
            for of_edge, edge in zip(from_edges, edges, strict=True):
                if edge > 0:
                    pitch_classes += np.roll(of_edge, (edge - 1) % PITCH_CLASSES)
            row[:DRUMS] += pitch_classes[_CLASSES]


def _point(row: Floats, gate: np.floating, at: int) -> None:
    if at >= 0:
        row[at] += gate


def _from_base(row: Floats, gates: Floats, first: int) -> None:
    """Adds the gates from a class on, as far as there are classes."""
    low, high = max(0, first), min(len(row), first + len(gates))
    if low < high:
        row[low:high] += gates[low - first : high - first]
