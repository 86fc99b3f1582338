"""The chain of heads of a step model: from a hidden vector to the attributes of the next note.

`make_heads` (make.py) chooses between NumPy, here, and the compiled numba_heads.py, whose docstring has what was
measured. One note written at 8 x 256 in int8, by one candidate, takes in microseconds (a loaded machine, 20th
percentiles): the trunk 1041, heads 5 x 61, choosing 5 x 66, making the step 84, tables 48.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from midi_rwkv.tokens.attributes import AT_PITCH, AT_PLACE

from .engine import Floats, Ids
from .marks import Marks
from .tables import ColumnTables

STAGES = 5  # place, micro-timing, pitch, velocity, duration
_EPSILON = 1e-5  # of PyTorch's layer norm


class Heads(ABC):
    """`model.steps.Heads` for a batch of hidden vectors, one attribute after another.

    Start with z, the hidden vectors; ask for an attribute's logits, choose, and go on with z `given` the choice. The
    logits of an attribute that is known anyway need not be asked for.
    """

    def __init__(self, weights: Mapping[str, Floats], sizes: Sequence[int]) -> None:
        """weights: those of a step model, by their names in the checkpoint. sizes: of the vocabulary's columns."""
        self._given = [weights[f"heads.given.{i}.weight"].astype(np.float32) for i in range(STAGES - 1)]
        self._marks = Marks(weights)
        self._around = {
            stage: ColumnTables(
                weights[f"heads.around.{i}.weight"].astype(np.float32), columns, [sizes[c] for c in columns]
            )
            for i, (stage, columns) in enumerate(((0, AT_PLACE), (2, AT_PITCH)))
        }

    def logits(self, stage: int, z: Floats, known: np.ndarray, follow: float = 1.0, recall: float = 1.0) -> Floats:
        """(B, classes) of an attribute. z: (B, C).

        known: of the place (B, 6), `pointers.places_known`; of the others (B, columns), steps whose columns say what
        stands around the note as far as it is chosen. follow: how much of what the sources point at is added.
        recall: of what the memory points at.
        """
        out = self.unmarked(stage, z)
        self._marks.add(stage, z, out, known, follow, recall)
        return out

    @abstractmethod
    def unmarked(self, stage: int, z: Floats) -> Floats:
        """The same without what is pointed at; a new array."""

    def given(self, stage: int, z: Floats, chosen: Ids, around: np.ndarray) -> Floats:
        """z for the next attribute, the choices (B,) of this one being known.

        around (B, columns): steps whose columns say what stands around the place, and from the pitch on the pitch, that
        was chosen.
        """
        following: Floats = z + self._given[stage][chosen]
        if stage in self._around:
            following += self._around[stage](around)
        return following


class NoteHeads(Heads):
    """In NumPy, float32, for where numba cannot run."""

    def __init__(self, weights: Mapping[str, Floats], sizes: Sequence[int]) -> None:
        super().__init__(weights, sizes)

        def each(kind: str, count: int) -> list[Floats]:
            return [np.ascontiguousarray(weights[f"heads.{kind}.{i}.weight"].T, np.float32) for i in range(count)]

        self._out = each("out", STAGES)
        self._up, self._down = each("up", STAGES - 1), each("down", STAGES - 1)

    def unmarked(self, stage: int, z: Floats) -> Floats:
        if stage:
            inner = np.maximum(_normalised(z) @ self._up[stage - 1], 0)
            z = _normalised(z + np.square(inner) @ self._down[stage - 1])
        logits: Floats = z @ self._out[stage]
        return logits


def _normalised(z: Floats) -> Floats:
    centred = z - z.mean(-1, keepdims=True)
    scaled: Floats = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + _EPSILON)
    return scaled
