"""The chain of heads of a step model: from a hidden vector to the attributes of the next note.

`make_heads` (make.py) chooses between NumPy, here, and the compiled numba_heads.py, whose docstring has what was
measured. One note written at 8 x 256 in int8, by one candidate, takes in microseconds (a loaded machine, 20th
percentiles): the trunk 1041, heads 5 x 61, choosing 5 x 66, making the step 84, tables 48.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from .engine import Floats, Ids

STAGES = 5  # place, micro-timing, pitch, velocity, duration
_EPSILON = 1e-5  # of PyTorch's layer norm


class Heads(ABC):
    """`model.steps.Heads` for a batch of hidden vectors, one attribute after another.

    Start with z, the hidden vectors; ask for an attribute's logits, choose, and go on with z `given` the choice. The
    logits of an attribute that is known anyway need not be asked for.
    """

    def __init__(self, weights: Mapping[str, Floats]) -> None:
        """weights: those of a step model, by their names in the checkpoint."""
        self._given = [weights[f"heads.given.{i}.weight"].astype(np.float32) for i in range(STAGES - 1)]

    @abstractmethod
    def logits(self, stage: int, z: Floats) -> Floats:
        """(B, classes) of an attribute. z: (B, C)."""

    def given(self, stage: int, z: Floats, chosen: Ids) -> Floats:
        """z for the next attribute, the choices (B,) of this one being known."""
        following: Floats = z + self._given[stage][chosen]
        return following


class NoteHeads(Heads):
    """In NumPy, float32, for where numba cannot run."""

    def __init__(self, weights: Mapping[str, Floats]) -> None:
        super().__init__(weights)

        def each(kind: str, count: int) -> list[Floats]:
            return [np.ascontiguousarray(weights[f"heads.{kind}.{i}.weight"].T, np.float32) for i in range(count)]

        self._out = each("out", STAGES)
        self._up, self._down = each("up", STAGES - 1), each("down", STAGES - 1)

    def logits(self, stage: int, z: Floats) -> Floats:
        if stage:
            inner = np.maximum(_normalised(z) @ self._up[stage - 1], 0)
            z = _normalised(z + np.square(inner) @ self._down[stage - 1])
        logits: Floats = z @ self._out[stage]
        return logits


def _normalised(z: Floats) -> Floats:
    centred = z - z.mean(-1, keepdims=True)
    scaled: Floats = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + _EPSILON)
    return scaled
