"""Decoding: read a prompt once, then write many candidates at once. The engine knows nothing about notes.

    engine = make_engine(weights)                  # RWKV-LM's names -> float32 arrays
    state = engine.new_state()
    logits = engine.prefill(prompt, state)         # (1, V)
    state = state.repeat(8)                        # eight candidates from here on
    logits = engine.step(chosen, state)            # (8, V)

Three engines do the same: "numba" (numba_engine.py: one compiled function, no torch), "torch" (torch_engine.py, for
where numba cannot run) and "triton" (triton_engine.py, on a GPU). Neither torch nor numba is imported before an engine
is made. A Transformer's weights get an engine of their own (attention_engine.py).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from midi_rwkv.model.rows import Rows

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


log = logging.getLogger(__name__)


@dataclass
class State(Rows):
    """An RWKV-7's. Float32, contiguous."""

    att_shift: Floats  # (L, B, C) last input of each time mix
    ffn_shift: Floats  # (L, B, C) last input of each channel mix
    wkv: Floats  # (L, B, H, K, V)

    def __post_init__(self) -> None:
        self.att_shift, self.ffn_shift, self.wkv = (
            np.ascontiguousarray(x, np.float32) for x in (self.att_shift, self.ffn_shift, self.wkv)
        )

    @property
    def batch(self) -> int:
        return self.wkv.shape[1]

    def select(self, rows: ArrayLike) -> State:
        taken = np.asarray(rows, dtype=np.intp)
        att_shift, ffn_shift, wkv = (
            np.ascontiguousarray(x[:, taken]) for x in (self.att_shift, self.ffn_shift, self.wkv)
        )
        return State(att_shift, ffn_shift, wkv)

    @classmethod
    def concat(cls, states: Sequence[State]) -> State:
        kinds = ("att_shift", "ffn_shift", "wkv")
        return cls(*(np.concatenate([getattr(state, kind) for state in states], 1) for kind in kinds))


class Engine:
    """What the engines have in common; `make_engine` makes one."""

    name = "engine"
    vocab_size: int
    block_tokens = 128  # a row's `prefill` may be cut at a multiple of this without changing a bit of what it gives

    def __init__(self, weights: Mapping[str, Floats], head_size: int) -> None:
        """ValueError when `weights` are not an RWKV-7's in RWKV-LM's names, or don't divide into heads of that size."""
        missing = [
            x for x in ("emb.weight", "head.weight", "blocks.0.att.r_k", "blocks.0.ln0.weight") if x not in weights
        ]
        if missing:
            raise ValueError(f"the weights have no {missing[0]}: not the state dict of an RWKV-7 in RWKV-LM's names")
        self.vocab_size, self.n_embd = weights["emb.weight"].shape
        self.head_size = head_size
        self.n_head = self.n_embd // head_size
        self.n_layer = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
        if weights["blocks.0.att.r_k"].shape != (self.n_head, head_size):
            found = weights["blocks.0.att.r_k"].shape[-1]
            raise ValueError(f"the weights have heads of {found} channels, given head_size={head_size}")

    def new_state(self, batch: int = 1, wkv0: Floats | None = None) -> Any:
        """The state before any token: zeros, or `wkv0` (L, H, K, V), a tuned initial state, in each row."""
        shift = np.zeros((self.n_layer, batch, self.n_embd), np.float32)
        wkv = np.zeros((self.n_layer, batch, self.n_head, self.head_size, self.head_size), np.float32)
        if wkv0 is not None:
            if wkv0.shape != (self.n_layer, *wkv.shape[2:]):
                raise ValueError(f"wkv0 must have shape {(self.n_layer, *wkv.shape[2:])}, given {wkv0.shape}")
            wkv[:] = wkv0[:, None]
        return State(shift, shift.copy(), wkv)

    def prefill(self, tokens: Sequence[int], state: Any) -> Floats:
        """Read the same tokens into every row of `state`, in place -> logits after the last one, (B, V)."""
        raise NotImplementedError

    def step(self, tokens: ArrayLike, state: Any) -> Floats:
        """Read one token a row, (B,), in place -> logits (B, V)."""
        raise NotImplementedError

    def check_tokens(self, tokens: ArrayLike, count: int | None = None) -> Ids:
        """The tokens as an array. ValueError: none, not `count`, or outside the vocabulary."""
        ids = np.asarray(tokens, dtype=np.int64)
        if ids.ndim != 1 or not len(ids):
            raise ValueError(f"tokens must be a sequence of at least one id, given shape {ids.shape}")
        if count is not None and len(ids) != count:
            raise ValueError(f"there must be one token for each of the state's {count} rows, given {len(ids)}")
        if ids.min() < 0 or ids.max() >= self.vocab_size:
            wrong = int(ids.min() if ids.min() < 0 else ids.max())
            raise ValueError(f"token ids must lie in 0-{self.vocab_size - 1}, given {wrong}")
        return ids
