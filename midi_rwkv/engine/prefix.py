"""Reads several token sequences from one state, and reads what they have in common at the beginning only once.

A cut changes not a single bit where an engine's blocks begin anyway (`Engine.block_tokens`), so readings branch only
there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .engine import Floats, R, TokenEngine


def read_from(engine: TokenEngine[R], state: R, sequences: Sequence[Sequence[int]]) -> tuple[Floats, R]:
    """Reads each sequence from the single row of `state`. Returns logits (sequences, V) and a state with a row for
    each.

    `state` must not be used afterwards.
    """
    if all(ids == sequences[0] for ids in sequences):
        logits = engine.prefill(sequences[0], state)
        return np.repeat(logits, len(sequences), 0), state.repeat(len(sequences))
    at = _common(sequences) // engine.block_tokens * engine.block_tokens
    if at:
        engine.prefill(sequences[0][:at], state)
    branches: dict[tuple[int, ...], list[int]] = {}  # by the block in which they branch
    for i, ids in enumerate(sequences):
        branches.setdefault(tuple(ids[at : at + engine.block_tokens + 1]), []).append(i)
    logits = np.empty((len(sequences), engine.vocab_size), np.float32)
    rows: list[R] = []
    order: list[int] = []
    for members in branches.values():
        logits[members], read = read_from(engine, state.copy(), [sequences[i][at:] for i in members])
        rows.append(read)
        order += members
    return logits, type(state).concat(rows).select(np.argsort(order))


def _common(sequences: Sequence[Sequence[int]]) -> int:
    """The number of tokens that all have in common, but at least one is left for each."""
    first = sequences[0]
    most = min(len(ids) for ids in sequences) - 1
    return next((i for i in range(most) if any(ids[i] != first[i] for ids in sequences)), most)
