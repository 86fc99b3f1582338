"""Reads several sequences of tokens or vectors from one state, and what they have in common at the beginning only once.

A cut changes not a single bit where an engine's blocks begin anyway (`Engine.block_tokens`), so readings branch only
there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .engine import Engine, Floats, R, TokenEngine


def read_from(engine: TokenEngine[R], state: R, sequences: Sequence[Sequence[int]]) -> tuple[Floats, R]:
    """Reads each sequence of tokens from the single row of `state`. Returns logits (sequences, V) and a state with a
    row for each.

    `state` must not be used afterwards.
    """
    return _read(engine.prefill, engine.block_tokens, state, [np.asarray(ids, np.int64) for ids in sequences])


def read_vectors_from(engine: Engine[R], state: R, sequences: Sequence[Floats]) -> tuple[Floats, R]:
    """`read_from` for vectors (T, C): what heads read, (sequences, C)."""
    return _read(engine.prefill_vectors, engine.block_tokens, state, sequences)


def _read(
    prefill: Callable[[Any, R], Floats], block: int, state: R, sequences: Sequence[NDArray[Any]]
) -> tuple[Floats, R]:
    first = sequences[0]
    if all(np.array_equal(x, first) for x in sequences):
        last = prefill(first, state)
        return np.repeat(last, len(sequences), 0), state.repeat(len(sequences))
    at = _common(sequences) // block * block
    if at:
        prefill(first[:at], state)
    branches: dict[bytes, list[int]] = {}  # by the block in which they branch
    for i, x in enumerate(sequences):
        branches.setdefault(x[at : at + block + 1].tobytes(), []).append(i)
    read = [_read(prefill, block, state.copy(), [sequences[i][at:] for i in rows]) for rows in branches.values()]
    order = np.argsort([i for rows in branches.values() for i in rows])
    return np.concatenate([last for last, _ in read])[order], type(state).concat([s for _, s in read]).select(order)


def _common(sequences: Sequence[NDArray[Any]]) -> int:
    """How many inputs all have in common, but at least one is left for each."""
    most = min(map(len, sequences)) - 1
    differs = np.zeros(most, bool)
    for x in sequences[1:]:
        differs |= (x[:most] != sequences[0][:most]).any(tuple(range(1, x.ndim)))
    return int(differs.argmax()) if differs.any() else most
