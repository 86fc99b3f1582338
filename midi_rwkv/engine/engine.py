"""Decoding: read a prompt once, then write many candidates at once. The engine knows nothing about notes.

    engine = make_engine(weights)                  # RWKV-LM's names -> float32 arrays
    state = engine.new_state()
    logits = engine.prefill(prompt, state)         # (1, V)
    state = state.repeat(8)                        # eight candidates from here on
    logits = engine.step(chosen, state)            # (8, V)

A step model's trunk has neither embedding nor head; its engine reads vectors and returns what the heads read:

    h = engine.prefill_vectors(vectors, state)     # (T, C) -> (1, C)
    h = engine.step_vectors(chosen, state)         # (8, C) -> (8, C)

Three engines run an RWKV-7: "numba" (numba_engine.py: one compiled function, no torch), "torch" (torch_engine.py: the
model itself, where numba cannot run) and "triton" (triton_engine.py, on a GPU). tests/engine/test_agreement.py compares
all of them with `model/rwkv7.py`. Neither torch nor numba is imported before an engine is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from midi_rwkv.model.config import ModelConfig, config_of
from midi_rwkv.model.rows import Rows

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

R = TypeVar("R", bound=Rows)


class VectorEngine(Protocol[R]):
    """Reads and writes vectors in place of tokens' embeddings, and returns what heads read: the last layer's normalised
    output. Its states hold one row per candidate and are updated in place.

    A row's prefill may be cut at any multiple of `block_tokens` without changing a bit of the result.
    """

    name: str
    vocab_size: int  # 0: no tokens
    block_tokens: int

    def new_state(self, batch: int = 1, wkv0: Floats | None = None) -> R:
        """The state before anything: zeros, or `wkv0` (L, H, K, V), a tuned initial state, in each row."""

    def prefill_vectors(self, vectors: Floats, state: R) -> Floats:
        """Reads the same vectors (T, C) into every row of `state`. Returns the output after the last one, (B, C)."""

    def step_vectors(self, vectors: Floats, state: R) -> Floats:
        """Reads one vector per row, (B, C). Returns the output (B, C)."""


class Engine(VectorEngine[R], Protocol[R]):
    """A `VectorEngine` that reads the tokens of a whole RWKV-7, too. Of a trunk's weights, which have neither embedding
    nor head, it reads vectors alone."""

    def prefill(self, tokens: Sequence[int], state: R) -> Floats:
        """Reads the same tokens into every row of `state`. Returns the logits after the last one, (B, V)."""

    def step(self, tokens: ArrayLike, state: R) -> Floats:
        """Reads one token per row, (B,). Returns the logits (B, V)."""


@dataclass
class State(Rows):
    """The state of an RWKV-7 in numpy: float32, contiguous."""

    att_shift: Floats  # (L, B, C) last input of each time mix
    ffn_shift: Floats  # (L, B, C) last input of each channel mix
    wkv: Floats  # (L, B, H, K, V)

    def __post_init__(self) -> None:
        self.att_shift, self.ffn_shift, self.wkv = (
            np.ascontiguousarray(x, np.float32) for x in (self.att_shift, self.ffn_shift, self.wkv)
        )

    @classmethod
    def new(cls, config: ModelConfig, batch: int, wkv0: Floats | None) -> State:
        """See `Engine.new_state`. Raises ValueError if the shape of `wkv0` is not the model's."""
        c = config
        shift = np.zeros((c.n_layer, batch, c.n_embd), np.float32)
        wkv = np.zeros((c.n_layer, batch, c.n_head, c.head_size, c.head_size), np.float32)
        if wkv0 is not None:
            if wkv0.shape != (c.n_layer, *wkv.shape[2:]):
                raise ValueError(f"wkv0 must have shape {(c.n_layer, *wkv.shape[2:])}, given {wkv0.shape}")
            wkv[:] = wkv0[:, None]
        return cls(shift, shift.copy(), wkv)

    @property
    def batch(self) -> int:
        return int(self.wkv.shape[1])

    def select(self, rows: ArrayLike) -> State:
        taken = np.asarray(rows, dtype=np.intp)
        return State(self.att_shift[:, taken], self.ffn_shift[:, taken], self.wkv[:, taken])

    @classmethod
    def concat(cls, states: Sequence[State]) -> State:
        kinds = ("att_shift", "ffn_shift", "wkv")
        return cls(*(np.concatenate([getattr(state, kind) for state in states], 1) for kind in kinds))


def shape_of(weights: Mapping[str, Floats], head_size: int) -> ModelConfig:
    """The shape of an RWKV-7 with heads of this size. Raises ValueError for another model or other heads."""
    config = config_of(weights)
    if bool(config.vocab_size) != ("head.weight" in weights):
        raise ValueError("the weights have only one of emb.weight and head.weight; give both, or neither for a trunk")
    if config.head_size != head_size:
        raise ValueError(f"the weights have heads of {config.head_size} channels, given head_size={head_size}")
    return config


def check_tokens(tokens: ArrayLike, vocab_size: int, count: int | None = None) -> Ids:
    """The tokens as an array. Raises ValueError if there are none, not `count`, or some outside the vocabulary."""
    if not vocab_size:
        raise ValueError("the weights are a trunk without an embedding; read vectors in place of tokens")
    ids = np.asarray(tokens, dtype=np.int64)
    if ids.ndim != 1 or not len(ids):
        raise ValueError(f"tokens must be a sequence of at least one id, given shape {ids.shape}")
    if count is not None and len(ids) != count:
        raise ValueError(f"there must be one token for each of the state's {count} rows, given {len(ids)}")
    if ids.min() < 0 or ids.max() >= vocab_size:
        wrong = int(ids.min() if ids.min() < 0 else ids.max())
        raise ValueError(f"token ids must lie in 0-{vocab_size - 1}, given {wrong}")
    return ids


def check_vectors(vectors: ArrayLike, size: int, count: int | None = None) -> Floats:
    """The vectors as float32. Raises ValueError if there are none, not `count`, or they have not `size` numbers."""
    x = np.asarray(vectors, dtype=np.float32)
    if x.ndim != 2 or not len(x) or x.shape[1] != size:
        raise ValueError(f"vectors must be one or more of {size} numbers each, given shape {x.shape}")
    if count is not None and len(x) != count:
        raise ValueError(f"there must be one vector for each of the state's {count} rows, given {len(x)}")
    return x
