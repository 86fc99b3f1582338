"""Decoding: read a prompt once, then write many candidates at once. The engine knows nothing about notes.

    engine = make_engine(weights)                  # RWKV-LM's names -> float32 arrays
    state = engine.new_state()
    logits = engine.prefill(prompt, state)         # (1, V)
    state = state.repeat(8)                        # eight candidates from here on
    logits = engine.step(chosen, state)            # (8, V)

Three engines do the same: "numba" (engine_numba.py: one compiled function, no torch), "torch" (engine_torch.py, for
where numba cannot run) and "triton" (engine_triton.py, on a GPU). Neither torch nor numba is imported before an engine
is made. A Transformer's weights get an engine of their own (engine_attention.py).
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .config import check_threads
from .errors import RequestError

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

BACKENDS = ("auto", "numba", "torch", "triton")
PRECISIONS = ("auto", "float32", "int8")
MOST_THREADS = 2  # of the numba engine: one reads and writes, the other helps it

log = logging.getLogger(__name__)


class Rows(ABC):
    """All that a model remembers of the tokens so far, one row a candidate. Engines write it in place."""

    @property
    @abstractmethod
    def batch(self) -> int:
        """How many rows."""

    @abstractmethod
    def select(self, rows: ArrayLike) -> Self:
        """A copy of some rows, in that order; a row may be taken more than once."""

    @classmethod
    @abstractmethod
    def concat(cls, states: Sequence[Self]) -> Self:
        """The rows of several states, one state after another."""

    def copy(self) -> Self:
        return self.select(np.arange(self.batch))

    def repeat(self, count: int) -> Self:
        """Each row `count` times, one after another."""
        return self.select(np.repeat(np.arange(self.batch), count))


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


def make_engine(
    weights: Mapping[str, Floats],
    head_size: int = 64,
    *,
    backend: str = "auto",
    threads: int = 1,
    on_choice: Callable[[str], None] = log.info,
    precision: str = "float32",
) -> Engine:
    """An engine over `weights`: RWKV-LM's names, float32 arrays.

    backend: "numba", "torch", "triton" (a GPU, which "auto" never takes), or "auto": numba unless it is not installed
        or the model's shape does not suit it.
    threads: cores; 1-2 for numba, for torch as many as there are. `on_choice` is told which engine was taken and why.
    precision: of the matrices: "float32"; "int8" with a scale a row, a quarter of the memory, numba and RWKV-7 only; or
        "auto": int8 where it can be had.

    Raises:
        RequestError: an unknown backend or precision, more threads than can be used, weights of another kind, or a
            choice that cannot run them.
    """
    if backend not in BACKENDS:
        raise RequestError(f"backend must be one of {', '.join(BACKENDS)}, given {backend!r}")
    if precision not in PRECISIONS:
        raise RequestError(f"precision must be one of {', '.join(PRECISIONS)}, given {precision!r}")
    if precision == "int8" and (backend in ("torch", "triton") or is_transformer(weights)):
        what = backend if backend in ("torch", "triton") else "a Transformer"
        raise RequestError(f"int8 is for the numba engine and RWKV-7, given {what}; use precision='float32'")
    if is_transformer(weights):
        if backend in ("numba", "triton"):
            raise RequestError(
                f"the {backend} engine runs RWKV-7 only, these are a Transformer's weights; use backend='torch'"
            )
        from .engine_attention import AttentionEngine

        on_choice("decoding a Transformer with torch")
        check_threads(threads)
        return AttentionEngine(weights, head_size, threads)
    if backend == "triton":
        if reason := _no_triton():
            raise RequestError(f"the triton engine cannot run here: {reason}; use backend='auto'")
        from .engine_triton import TritonEngine

        on_choice("decoding with triton, as asked")
        check_threads(threads)
        return TritonEngine(weights, head_size, threads)
    if backend != "torch":
        reason = _no_numba(weights, head_size)
        if not reason:
            from .engine_numba import NumbaEngine

            check_threads(threads, most=MOST_THREADS)
            precision = "int8" if precision == "auto" else precision
            on_choice("decoding with numba" + (" in int8" if precision == "int8" else ""))
            return NumbaEngine(weights, head_size, threads, precision)
        if backend == "numba":
            raise RequestError(f"the numba engine cannot run here: {reason}; use backend='torch'")
        if precision == "int8":
            raise RequestError(f"int8 needs the numba engine, but {reason}; use precision='float32'")
        on_choice(f"decoding with torch: {reason}")
    else:
        on_choice("decoding with torch, as asked")
    from .engine_torch import TorchEngine

    check_threads(threads)
    return TorchEngine(weights, head_size, threads)


def is_transformer(weights: Mapping[str, Floats]) -> bool:
    """Tells the two architectures apart by their parameters' names."""
    return "blocks.0.att.query.weight" in weights


def _no_numba(weights: Mapping[str, Floats], head_size: int) -> str:
    """Why the numba engine cannot run, or nothing."""
    if find_spec("numba") is None:
        return "numba is not installed"
    if head_size % 16:
        return f"its heads must have a multiple of 16 channels, these have {head_size}"
    return ""


def _no_triton() -> str:
    """Why the triton engine cannot run, or nothing."""
    if find_spec("triton") is None:
        return "triton is not installed"
    import torch

    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return "" if torch.cuda.is_available() or interpreted else "there is no GPU that torch can use"
