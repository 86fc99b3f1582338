"""Reads several sequences of vectors from one state, and what they have in common at the beginning only once.

A cut changes not a single bit where an engine's blocks begin anyway (`VectorEngine.block_tokens`), so readings branch
only there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .engine import Floats, R, VectorEngine


def read_from(engine: VectorEngine[R], state: R, sequences: Sequence[Floats]) -> tuple[Floats, R]:
    """Reads each sequence of vectors (T, C) from the single row of `state`. Returns what heads read, (sequences, C),
    and a state with a row for each.

    `state` must not be used afterwards.
    """
    first = sequences[0]
    if all(np.array_equal(x, first) for x in sequences):
        last = engine.prefill_vectors(first, state)
        return np.repeat(last, len(sequences), 0), state.repeat(len(sequences))
    block = engine.block_tokens
    at = _common(sequences) // block * block
    if at:
        engine.prefill_vectors(first[:at], state)
    branches: dict[bytes, list[int]] = {}  # by the block in which they branch
    for i, x in enumerate(sequences):
        branches.setdefault(x[at : at + block + 1].tobytes(), []).append(i)
    read = [read_from(engine, state.copy(), [sequences[i][at:] for i in rows]) for rows in branches.values()]
    order = np.argsort([i for rows in branches.values() for i in rows])
    return np.concatenate([last for last, _ in read])[order], type(state).concat([s for _, s in read]).select(order)


def _common(sequences: Sequence[Floats]) -> int:
    """How many inputs all have in common, but at least one is left for each."""
    most = min(map(len, sequences)) - 1
    differs = np.zeros(most, bool)
    for x in sequences[1:]:
        differs |= (x[:most] != sequences[0][:most]).any(tuple(range(1, x.ndim)))
    return int(differs.argmax()) if differs.any() else most
