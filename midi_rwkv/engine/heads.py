"""The chain of heads of a step model, in NumPy: from a hidden vector to the attributes of the next note."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

STAGES = 5  # place, micro-timing, pitch, velocity, duration
_EPSILON = 1e-5  # of PyTorch's layer norm


class NoteHeads:
    """`model.steps.Heads` for a batch of hidden vectors, one attribute after another.

    Start with z, the hidden vectors; ask for an attribute's logits, choose, and go on with z `given` the choice.
    """

    def __init__(self, weights: Mapping[str, np.ndarray]):
        """weights: those of a step model, by their names in the checkpoint."""

        def each(kind: str, count: int) -> list[np.ndarray]:
            return [np.ascontiguousarray(weights[f"heads.{kind}.{i}.weight"].T, np.float32) for i in range(count)]

        self._out = each("out", STAGES)
        self._up, self._down = each("up", STAGES - 1), each("down", STAGES - 1)
        self._given = [weights[f"heads.given.{i}.weight"].astype(np.float32) for i in range(STAGES - 1)]

    def logits(self, stage: int, z: np.ndarray) -> np.ndarray:
        """(B, classes) of an attribute. z: (B, C)."""
        if stage:
            inner = np.maximum(_normalised(z) @ self._up[stage - 1], 0)
            z = _normalised(z + np.square(inner) @ self._down[stage - 1])
        logits: np.ndarray = z @ self._out[stage]
        return logits

    def given(self, stage: int, z: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """z for the next attribute, the choices (B,) of this one being known."""
        following: np.ndarray = z + self._given[stage][chosen]
        return following


def _normalised(z: np.ndarray) -> np.ndarray:
    centred = z - z.mean(-1, keepdims=True)
    scaled: np.ndarray = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + _EPSILON)
    return scaled
